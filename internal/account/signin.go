package account

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// keepSessions is how many browsers one person may be signed in with; the one not used for longest goes.
const keepSessions = 50

// Attempt is what is known of the browser that somebody signs in with.
type Attempt struct {
	Address string // where the request came from
	Device  string // such as "Firefox on Linux"
}

// SignedIn is a new session. Cookie is its secret, known here and to the browser only.
type SignedIn struct {
	Person  identity.Person
	ID      string
	Cookie  string
	Expires time.Time
}

// proving is one try to prove to be somebody.
type proving struct {
	name, secret, address, what string
	code                        string            // class code it came by, charged too
	fits                        func(Record) bool // whether this account may come this way at all
}

// prove returns the account that fits name and secret. Whether the name is known can't be told from the answer or
// from the time it takes.
func (s *Service) prove(ctx context.Context, p proving) (Record, error) {
	try, err := s.guard.enter(p.name, p.address, p.code)
	if err != nil {
		return Record{}, err
	}
	r, err := s.store.User(ctx, p.name)
	if err != nil && !fault.Is(err, fault.Missing) {
		try.right()
		return Record{}, err
	}
	known := err == nil && p.fits(r)
	stored := ""
	if known {
		stored = r.Secret
	}
	if len(p.secret) > maxPassword {
		p.secret, stored = "", "" // nobody has one so long; hashing it would only cost time
	}
	ok, stale, err := s.hasher.verify(ctx, stored, p.secret)
	if err != nil {
		try.right()
		return Record{}, err
	}
	if !ok {
		try.wrong()
		return Record{}, errWrong(p.what)
	}
	try.right()
	if r.Suspended {
		return Record{}, errSuspended()
	}
	if stale {
		s.renew(ctx, r, p.secret)
	}
	return r, nil
}

// renew hashes a right secret again at today's cost. The sign-in does not depend on it.
func (s *Service) renew(ctx context.Context, r Record, secret string) {
	hash, err := s.hasher.hash(ctx, secret)
	if err == nil {
		err = s.store.SetSecret(ctx, r.Name, r.Proof, hash, r.Secret)
	}
	if err != nil && !fault.Is(err, fault.Conflict) { // Conflict: it has just been replaced
		s.log.Warn("hash a secret at today's cost", "user", r.Name, "err", err)
	}
}

// SignIn signs a person in by name and password, or by name and the PIN of their class.
func (s *Service) SignIn(ctx context.Context, name, secret string, a Attempt) (SignedIn, error) {
	r, err := s.prove(ctx, proving{
		name: Normalize(name), secret: secret, address: a.Address, what: "password",
		fits: func(Record) bool { return true },
	})
	if err != nil {
		return SignedIn{}, err
	}
	return s.newSession(ctx, r.Person(), string(r.Proof), a)
}

// newSession begins a session. Every sign-in makes a new one, so that a cookie planted before is worth nothing.
func (s *Service) newSession(ctx context.Context, p identity.Person, via string, a Attempt) (SignedIn, error) {
	at := now()
	cookie := newCookie()
	r := SessionRecord{
		Session: Session{
			ID: newID(), User: p.Name, Device: cut(a.Device, 100), Address: cut(a.Address, 64), Via: via,
			Created: at, Seen: at, Expires: at.Add(s.o.SessionMax),
		},
		Hash: hashOf(cookie),
	}
	gone, err := s.store.AddSession(ctx, r, keepSessions)
	if err != nil {
		return SignedIn{}, err
	}
	if len(gone) > 0 {
		s.cache.forget(p.Name, "") // rare; the others are looked up again
	}
	s.log.Info("signed in", "user", p.Name, "via", via, "address", r.Address, "device", r.Device)
	return SignedIn{Person: p, ID: r.ID, Cookie: cookie, Expires: r.Expires}, nil
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 { // not inside a character
		n--
	}
	return s[:n]
}

// SignOut ends the session with this cookie. One that is not there is no error.
func (s *Service) SignOut(ctx context.Context, cookie string) error {
	c, err := s.Session(ctx, cookie)
	if fault.Is(err, fault.Denied) {
		return nil
	}
	if err != nil {
		return err
	}
	err = s.EndSession(ctx, c.Person.Name, c.ID)
	if fault.Is(err, fault.Missing) {
		return nil // another sign-out was quicker
	}
	return err
}

// Sessions returns a person's live sessions, the most recently used first.
func (s *Service) Sessions(ctx context.Context, user string) ([]Session, error) {
	rows, err := s.store.Sessions(ctx, user)
	if err != nil {
		return nil, err
	}
	at := now()
	out := make([]Session, 0, len(rows))
	for _, r := range rows {
		if e, ok := s.cache.find(cacheKey{KindSession, r.Hash}); ok {
			if seen := time.Unix(0, e.seen.Load()).UTC(); seen.After(r.Seen) {
				r.Seen = seen
			}
		}
		if at.Before(r.Expires) && at.Sub(r.Seen) < s.o.SessionIdle {
			out = append(out, r.Session)
		}
	}
	return out, nil
}

// EndSession ends one session of a person, at once.
func (s *Service) EndSession(ctx context.Context, user, id string) error {
	err := s.store.DeleteSession(ctx, user, id)
	if err == nil {
		s.end(user, id)
	}
	return err
}

// EndSessions ends all sessions of a person but the one with the id except, at once.
func (s *Service) EndSessions(ctx context.Context, user, except string) error {
	err := s.store.DeleteSessions(ctx, user, except)
	if err == nil {
		s.end(user, "")
	}
	return err
}

// EndedElsewhere takes in what Options.Ended told another server of the studio, so that nobody is believed from memory
// any longer. Without a person everybody is looked up again: it is not known what ended.
func (s *Service) EndedElsewhere(e Ended) { s.cache.forget(e.User, e.ID) }

// end makes everybody look a person's credentials up again: one, or all for an empty id.
func (s *Service) end(user, id string) {
	s.cache.forget(user, id)
	s.o.Ended(Ended{User: user, ID: id})
}
