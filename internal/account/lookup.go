package account

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// useEvery is how fine a use is recorded.
const useEvery = time.Minute

// Session returns who holds the session with this cookie. An error of kind Denied says why nobody does.
func (s *Service) Session(ctx context.Context, cookie string) (Credential, error) {
	if len(cookie) != 43 {
		return Credential{}, errSignedOut()
	}
	return s.lookUp(ctx, cacheKey{KindSession, hashOf(cookie)})
}

// Token returns who holds the personal token. An error of kind Denied says why nobody does.
func (s *Service) Token(ctx context.Context, token string) (Credential, error) {
	if len(token) != len(TokenPrefix)+43 || token[:len(TokenPrefix)] != TokenPrefix {
		return Credential{}, errSignedOut()
	}
	return s.lookUp(ctx, cacheKey{KindToken, hashOf(token)})
}

func (s *Service) lookUp(ctx context.Context, k cacheKey) (Credential, error) {
	at := time.Now()
	if e, ok := s.cache.find(k); ok && at.Sub(e.loaded) < s.o.CacheTTL {
		if e.over(at) {
			return Credential{}, errSignedOut()
		}
		if n := at.UnixNano(); n-e.seen.Load() >= int64(useEvery) {
			e.seen.Store(n)
		}
		return e.cred, nil
	}
	return s.load(ctx, k, at)
}

// load asks the store.
func (s *Service) load(ctx context.Context, k cacheKey, at time.Time) (Credential, error) {
	epoch := s.cache.epoch()
	e, u, err := s.read(ctx, k)
	switch {
	case fault.Is(err, fault.Missing):
		return Credential{}, errSignedOut()
	case err != nil:
		return Credential{}, err
	}
	if old, ok := s.cache.find(k); ok { // uses that are not written yet
		e.seen.Store(max(e.seen.Load(), old.seen.Load()))
	}
	if e.over(at) {
		return Credential{}, errSignedOut()
	}
	if u.Suspended {
		return Credential{}, errSuspended()
	}
	e.loaded = at
	if n := at.UnixNano(); n-e.seen.Load() >= int64(useEvery) {
		e.seen.Store(n)
	}
	s.cache.keep(k, e, epoch)
	return e.cred, nil
}

func (s *Service) read(ctx context.Context, k cacheKey) (*entry, User, error) {
	e := &entry{}
	if k.kind == KindToken {
		r, u, err := s.store.Token(ctx, k.hash)
		if err != nil {
			return nil, User{}, err
		}
		e.cred = Credential{Person: u.Person(), Kind: KindToken, ID: r.ID, Scope: r.Scope}
		e.expires = r.Expires
		e.recall(r.Used)
		return e, u, nil
	}
	r, u, err := s.store.Session(ctx, k.hash)
	if err != nil {
		return nil, User{}, err
	}
	e.cred = Credential{Person: u.Person(), Kind: KindSession, ID: r.ID, Scope: ScopeAll}
	e.expires = r.Expires
	e.idle = int64(s.o.SessionIdle)
	e.recall(r.Seen)
	return e, u, nil
}

// recall sets the last use the store knows.
func (e *entry) recall(seen time.Time) {
	if !seen.IsZero() {
		e.written = seen.UnixNano()
		e.seen.Store(e.written)
	}
}

// passwordTTL is how long a name and password that came with a request are believed. Programs send them with every
// one, and a hash takes 50 ms.
const passwordTTL = 5 * time.Minute

// Password returns who fits name and password, for programs that send both with every request. PINs do not count
// here. Tries are throttled like sign-ins; address is where the request came from.
func (s *Service) Password(ctx context.Context, name, password, address string) (Credential, error) {
	name = Normalize(name)
	mac := hmac.New(sha256.New, s.passwords.key)
	mac.Write([]byte(name))
	mac.Write([]byte{0})
	mac.Write([]byte(password))
	k := cacheKey{kind: KindPassword}
	mac.Sum(k.hash[:0])
	if e, ok := s.cache.find(k); ok && time.Since(e.loaded) < passwordTTL {
		return e.cred, nil
	}
	// A program's first requests come together: one of them pays for the hash and the try. It is not the one
	// whose caller may go away.
	ch := s.passwords.flight.DoChan(string(k.hash[:]), func() (any, error) {
		return s.checkPassword(context.WithoutCancel(ctx), k, name, password, address)
	})
	select {
	case res := <-ch:
		if res.Err != nil {
			return Credential{}, res.Err
		}
		return res.Val.(Credential), nil
	case <-ctx.Done():
		return Credential{}, context.Cause(ctx)
	}
}

func (s *Service) checkPassword(ctx context.Context, k cacheKey, name, password, address string) (Credential, error) {
	epoch := s.cache.epoch()
	r, err := s.prove(ctx, proving{
		name: name, secret: password, address: address, what: "password",
		fits: func(r Record) bool { return r.Proof == Password },
	})
	if err != nil {
		return Credential{}, err
	}
	e := &entry{
		cred:   Credential{Person: r.Person(), Kind: KindPassword, Scope: ScopeAll},
		loaded: time.Now(),
	}
	e.seen.Store(e.loaded.UnixNano())
	s.cache.keep(k, e, epoch)
	return e.cred, nil
}
