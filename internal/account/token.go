package account

import (
	"context"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// maxTokens is how many personal tokens a person may have.
const maxTokens = 50

// NewToken makes a personal token and returns its secret, which is shown once and not kept. The zero life lasts
// until it is revoked.
func (s *Service) NewToken(ctx context.Context, user, label string, scope Scope, life time.Duration) (string, Token, error) {
	if scope == "" {
		scope = ScopeAll
	}
	if !scope.Valid() {
		return "", Token{}, fault.New(fault.Invalid, "There is no scope “%s”.", scope).
			WithRemedy("Use %s, %s or %s.", ScopeAll, ScopeComfy, ScopeWorker).WithCode("bad_scope")
	}
	label = strings.Join(strings.Fields(label), " ")
	if len(label) > 80 {
		return "", Token{}, fault.New(fault.Invalid, "The label has more than 80 characters.").WithCode("bad_label")
	}
	secret := newToken()
	t := Token{ID: newID(), User: user, Label: label, Scope: scope, Created: now()}
	if life > 0 {
		t.Expires = t.Created.Add(life)
	}
	if err := s.store.AddToken(ctx, TokenRecord{Token: t, Hash: hashOf(secret)}, maxTokens); err != nil {
		return "", Token{}, err
	}
	return secret, t, nil
}

// Tokens returns a person's tokens that are not over, the newest first.
func (s *Service) Tokens(ctx context.Context, user string) ([]Token, error) {
	rows, err := s.store.Tokens(ctx, user)
	if err != nil {
		return nil, err
	}
	at := now()
	out := make([]Token, 0, len(rows))
	for _, r := range rows {
		if e, ok := s.cache.find(cacheKey{KindToken, r.Hash}); ok {
			if seen := time.Unix(0, e.seen.Load()).UTC(); seen.After(r.Used) {
				r.Used = seen
			}
		}
		if r.Expires.IsZero() || at.Before(r.Expires) {
			out = append(out, r.Token)
		}
	}
	return out, nil
}

// RevokeToken ends one token of a person, at once.
func (s *Service) RevokeToken(ctx context.Context, user, id string) error {
	err := s.store.DeleteToken(ctx, user, id)
	if err == nil {
		s.end(user, id)
	}
	return err
}
