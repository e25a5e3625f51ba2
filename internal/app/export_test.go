package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// Mounts are the prefixes of the faces with addresses of their own.
func (s *Studio) Mounts() (prefixes []string) {
	for _, m := range s.mounts() {
		prefixes = append(prefixes, m.Prefix)
	}
	return prefixes
}

// OpenAPI describes the REST interface.
func (s *Studio) OpenAPI() ([]byte, error) { return s.apiFace().OpenAPI() }

// Past are things that let a person in once and do no more.
type Past struct{ UsedLink, ExpiredLink, ExpiredToken, EndedCookie string }

// NewPast makes them, as if time had passed.
func (s *Studio) NewPast(ctx context.Context, user string) (p Past, err error) {
	var errs [6]error
	p.UsedLink, _, errs[0] = s.accounts.NewLink(ctx, user, "", 0)
	store := s.stores.accounts
	_, _, errs[1] = store.UseLink(ctx, sha256.Sum256([]byte(p.UsedLink)), time.Now().Add(-20*time.Minute), time.Minute)
	p.ExpiredLink, _, errs[2] = s.accounts.NewLink(ctx, user, "", 1)
	p.ExpiredToken, _, errs[3] = s.accounts.NewToken(ctx, user, "", "", 1)
	p.EndedCookie, _, errs[4] = s.SignIn(ctx, user)
	errs[5] = s.accounts.SignOut(ctx, p.EndedCookie)
	return p, errors.Join(errs[:]...)
}

// SignIn signs a person in and returns the session's cookie and id.
func (s *Studio) SignIn(ctx context.Context, user string) (cookie, id string, err error) {
	code, _, err := s.accounts.NewLink(ctx, user, "", 0)
	if err != nil {
		return "", "", err
	}
	in, err := s.accounts.UseLink(ctx, code, account.Attempt{})
	return in.Cookie, in.ID, err
}

// CookieName is the session cookie's on http.
func (s *Studio) CookieName() string { return "comfyume-" + s.self.ID }

// Tidy clears away what is old in the places of storage, as if it were a time.
func (s *Studio) Tidy(ctx context.Context, now time.Time) {
	for _, address := range s.storages() {
		s.tidyPlace(ctx, address, now)
	}
}

// QueuePort is the address of the queue manager's own port; empty: it has none.
func (s *Studio) QueuePort() string { return s.queuePort }

// SignOut ends the session with this cookie.
func (s *Studio) SignOut(ctx context.Context, cookie string) error {
	return s.accounts.SignOut(ctx, cookie)
}

// Leads reports whether this server gives jobs to back ends.
func (s *Studio) Leads() bool { return !s.follows() }

// WaitAgent waits until an agent's line ends at this server.
func (s *Studio) WaitAgent(ctx context.Context, name string) error { return s.hub.Wait(ctx, name) }

// DialLarge opens a connection for a large file to the ComfyUI of an agent whose line ends at this server.
func (s *Studio) DialLarge(ctx context.Context, name string) (net.Conn, error) {
	return s.hub.Dial(ctx, name, tunnel.Large)
}

// Listens is the address of the main door, whatever the public one is.
func (s *Studio) Listens() string { return "http://" + s.listen }
