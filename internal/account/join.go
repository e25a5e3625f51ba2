package account

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// NewCode makes a code by which people join a group by themselves. Zero places and life are the service's
// defaults.
func (s *Service) NewCode(ctx context.Context, group, by string, places int, life time.Duration) (Code, error) {
	if places <= 0 {
		places = s.o.CodePlaces
	}
	if life <= 0 {
		life = s.o.CodeLife
	}
	at := now()
	c := Code{Code: newCode(), Group: group, By: by, Places: places, Created: at, Expires: at.Add(life)}
	if err := s.store.AddCode(ctx, c); err != nil {
		return Code{}, err
	}
	return c, nil
}

// Codes returns the class codes of a group, of all for "", the newest first.
func (s *Service) Codes(ctx context.Context, group string) ([]Code, error) {
	return s.store.Codes(ctx, group)
}

// RevokeCode ends a class code. The people who came by it stay.
func (s *Service) RevokeCode(ctx context.Context, code string) error {
	return s.store.DeleteCode(ctx, normalizeCode(code))
}

// Code returns what a typed class code stands for. Wrong codes are counted against the address.
func (s *Service) Code(ctx context.Context, typed, address string) (Code, error) {
	origin := addressKey(address)
	if wait := s.guard.address.wait(origin); wait > 0 {
		return Code{}, errThrottled(wait)
	}
	code := normalizeCode(typed)
	unknown := fault.New(fault.Missing, "There is no class with this code.").
		WithRemedy("Look at it once more; it has eight letters and digits.").WithCode("no_code")
	if code == "" {
		s.guard.address.take(origin)
		return Code{}, unknown
	}
	c, err := s.store.Code(ctx, code)
	if fault.Is(err, fault.Missing) {
		s.guard.address.take(origin)
		return Code{}, unknown
	}
	return c, err
}

// Join makes an account for a newcomer who holds a class code, signs them in, and returns the PIN by which they
// come back. It is shown once and not kept.
func (s *Service) Join(ctx context.Context, typed, name string, a Attempt) (in SignedIn, pin string, err error) {
	c, err := s.Code(ctx, typed, a.Address)
	if err != nil {
		return SignedIn{}, "", err
	}
	name = Normalize(name)
	if err := CheckName(name); err != nil {
		return SignedIn{}, "", err
	}
	if wait := s.guard.newcomers.take(c.Code); wait > 0 {
		e := fault.New(fault.Busy, "Very many people join at this moment.").WithRemedy("Try again in a few seconds.")
		e.RetryAfter = wait
		return SignedIn{}, "", e
	}
	if err := s.free(ctx, name); err != nil { // before the costly hash
		return SignedIn{}, "", err
	}
	pin = newPIN()
	hash, err := s.hasher.hash(ctx, pin)
	if err != nil {
		return SignedIn{}, "", err
	}
	u := User{Name: name, Group: c.Group, Role: identity.Participant, Proof: PIN, Created: now()}
	ok, err := s.store.Join(ctx, c.Code, Record{User: u, Secret: hash})
	switch {
	case fault.Is(err, fault.Conflict):
		return SignedIn{}, "", s.taken(ctx, name)
	case err != nil:
		return SignedIn{}, "", err
	case !ok:
		return SignedIn{}, "", closed(c)
	}
	s.log.Info("joined", "user", name, "group", c.Group)
	in, err = s.newSession(ctx, u.Person(), "code", a)
	return in, pin, err
}

func closed(c Code) error {
	if c.Joined >= c.Places {
		return fault.New(fault.Conflict, "All places of this class are taken.").
			WithRemedy("Ask %s for more. If you were here before, come back with your name and PIN.", whom(c.By)).
			WithCode(CodeClassFull)
	}
	return fault.New(fault.Conflict, "This code let people in until %s.", c.Expires.Format("2 January 2006")).
		WithRemedy("Ask %s for a new one. If you were here before, come back with your name and PIN.", whom(c.By)).
		WithCode(CodeLinkOver)
}

// free refuses a name that is somebody's, or was and still leads to what is theirs.
func (s *Service) free(ctx context.Context, name string) error {
	ok, err := s.isFree(ctx, name)
	if err == nil && !ok {
		return s.taken(ctx, name)
	}
	return err
}

func (s *Service) isFree(ctx context.Context, name string) (bool, error) {
	_, err := s.store.User(ctx, name)
	if !fault.Is(err, fault.Missing) {
		return false, err
	}
	left, err := s.o.Left(ctx, name)
	return err == nil && !left, err
}

// taken says that a name is somebody's, with one that is free.
func (s *Service) taken(ctx context.Context, name string) error {
	e := fault.New(fault.Conflict, "The name “%s” is taken.", name).WithCode(CodeNameTaken).
		WithRemedy("If it is yours, come back with your PIN. Else choose another.")
	for n := 2; n < 10; n++ {
		other := nextName(name, n)
		if ok, err := s.isFree(ctx, other); err == nil && ok {
			return e.WithRemedy("If it is yours, come back with your PIN. Else choose another, such as “%s”.", other)
		}
	}
	return e
}

// Return signs a person of a class in again by their name and PIN.
func (s *Service) Return(ctx context.Context, typed, name, pin string, a Attempt) (SignedIn, error) {
	c, err := s.Code(ctx, typed, a.Address)
	if err != nil {
		return SignedIn{}, err
	}
	r, err := s.prove(ctx, proving{
		name: Normalize(name), secret: strings.Join(strings.Fields(pin), ""), address: a.Address, code: c.Code, what: "PIN",
		fits: func(r Record) bool { return r.Group == c.Group },
	})
	if err != nil {
		return SignedIn{}, err
	}
	return s.newSession(ctx, r.Person(), string(r.Proof), a)
}

// NewPIN gives a person another PIN in place of whatever they signed in with, and ends their sessions.
func (s *Service) NewPIN(ctx context.Context, user string) (string, error) {
	pin := newPIN()
	if err := s.setSecret(ctx, user, PIN, pin); err != nil {
		return "", fmt.Errorf("give %s a PIN: %w", user, err)
	}
	return pin, nil
}
