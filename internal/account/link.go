package account

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// NewLink makes a one-time sign-in link for a person and returns its code, for an address /link/CODE. By is who
// makes it and is named to who finds it used up; empty means the operator. The zero life is the service's default.
func (s *Service) NewLink(ctx context.Context, user, by string, life time.Duration) (code string, expires time.Time, err error) {
	if life <= 0 {
		life = s.o.LinkLife
	}
	if _, err := s.store.User(ctx, user); err != nil {
		return "", time.Time{}, err
	}
	code = newLink()
	at := now()
	r := LinkRecord{Hash: hashOf(code), User: user, By: by, Created: at, Expires: at.Add(life)}
	if err := s.store.AddLink(ctx, r); err != nil {
		return "", time.Time{}, err
	}
	return code, r.Expires, nil
}

// UseLink signs a person in by a link. It may be followed again for a while after the first time: mail programs
// look at links, and people press back.
func (s *Service) UseLink(ctx context.Context, code string, a Attempt) (SignedIn, error) {
	origin := addressKey(a.Address)
	if wait := s.guard.address.wait(origin); wait > 0 {
		return SignedIn{}, errThrottled(wait)
	}
	at := now()
	r, ok, err := s.store.UseLink(ctx, hashOf(code), at, s.o.LinkGrace)
	switch {
	case fault.Is(err, fault.Missing):
		s.guard.address.take(origin)
		return SignedIn{}, fault.New(fault.Missing, "This link is not known here.").
			WithRemedy("Check that the whole address was copied, or ask for a new link.").WithCode("no_link")
	case err != nil:
		return SignedIn{}, err
	case !ok && !r.Used.IsZero():
		return SignedIn{}, fault.New(fault.Conflict, "This link has been used; it works once.").
			WithRemedy("Ask %s for a new one.", whom(r.By)).WithCode(CodeLinkUsed)
	case !ok:
		return SignedIn{}, fault.New(fault.Conflict, "This link was good until %s.", r.Expires.Format("2 January 2006")).
			WithRemedy("Ask %s for a new one.", whom(r.By)).WithCode(CodeLinkOver)
	}
	u, err := s.store.User(ctx, r.User)
	if err != nil {
		return SignedIn{}, err
	}
	if u.Suspended {
		return SignedIn{}, errSuspended()
	}
	return s.newSession(ctx, u.Person(), "link", a)
}

func whom(by string) string {
	if by == "" {
		return "the operator"
	}
	return by
}
