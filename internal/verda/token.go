package verda

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// token is what requests are made with for a while.
type token struct {
	access  string
	refresh string
	until   time.Time // when it is renewed; zero: when it is refused
}

// good reports whether the token can be used, and is not the one that was just refused.
func (t token) good(refused string) bool {
	return t.access != "" && t.access != refused && (t.until.IsZero() || time.Now().Before(t.until))
}

// tokens keeps the present token. Callers that need a new one at the same time share one request for it: the first of
// them makes it, in its own context; when that ends, the next one does.
type tokens struct {
	fetch  func(ctx context.Context, body tokenRequest) (token, error)
	reread func() (Credential, error) // nil: the credential stays

	mu      sync.Mutex
	who     Credential
	now     token
	renewal *renewal // nil: nobody asks for a token
}

// renewal is a request for a token that several callers wait for.
type renewal struct {
	done chan struct{}
	err  error // valid after done
}

// tokenRequest is the body of a request for a token.
type tokenRequest struct {
	Grant   string `json:"grant_type"`
	ID      string `json:"client_id,omitempty"`
	Secret  string `json:"client_secret,omitempty"`
	Refresh string `json:"refresh_token,omitempty"`
}

// get returns a token that is none of refused.
func (t *tokens) get(ctx context.Context, refused string) (string, error) {
	for {
		t.mu.Lock()
		if t.now.good(refused) {
			defer t.mu.Unlock()
			return t.now.access, nil
		}
		if r := t.renewal; r != nil {
			t.mu.Unlock()
			select {
			case <-r.done:
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
			if r.err != nil && !errors.Is(r.err, context.Canceled) && !errors.Is(r.err, context.DeadlineExceeded) {
				return "", r.err
			}
			continue // it has come, or whoever asked gave up
		}
		r := &renewal{done: make(chan struct{})}
		t.renewal = r
		last := t.now
		t.mu.Unlock()

		fresh, err := t.renew(ctx, last)
		t.mu.Lock()
		t.renewal, r.err = nil, err
		if err == nil {
			t.now = fresh
		}
		close(r.done)
		t.mu.Unlock()
		if err != nil {
			return "", err
		}
		return fresh.access, nil
	}
}

// renew asks for a token: with the refresh token where there is one, which may have ended too, else with the credential.
func (t *tokens) renew(ctx context.Context, last token) (token, error) {
	who := t.credential()
	if last.refresh != "" {
		fresh, err := t.fetch(ctx, tokenRequest{Grant: "refresh_token", Refresh: last.refresh, ID: who.ID, Secret: who.Secret})
		if !fault.Is(err, fault.Denied) && !fault.Is(err, fault.Invalid) {
			return fresh, err
		}
	}
	fresh, err := t.fetch(ctx, tokenRequest{Grant: "client_credentials", ID: who.ID, Secret: who.Secret})
	if t.reread == nil || !fault.Is(err, fault.Denied) {
		return fresh, err
	}
	again, rereadErr := t.reread()
	if rereadErr != nil || again == who {
		return fresh, err
	}
	t.mu.Lock()
	t.who = again
	t.mu.Unlock()
	return t.fetch(ctx, tokenRequest{Grant: "client_credentials", ID: again.ID, Secret: again.Secret})
}

func (t *tokens) credential() Credential {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.who
}

// words returns everything that must not be seen by anybody.
func (t *tokens) words() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return []string{t.who.ID, t.who.Secret, t.now.access, t.now.refresh}
}

// fetchToken sends one request for a token. It is harmless to repeat.
func (c *Client) fetchToken(ctx context.Context, body tokenRequest) (token, error) {
	var answer struct {
		Access  string  `json:"access_token"`
		Refresh string  `json:"refresh_token"`
		Life    float64 `json:"expires_in"` // seconds
	}
	began := time.Now()
	err := c.call(ctx, request{
		method: http.MethodPost, path: "/oauth2/token", in: body, out: &answer, open: true, repeatable: true,
		hidden: []string{body.ID, body.Secret, body.Refresh},
	})
	if f, ok := errors.AsType[*fault.Error](err); ok && (f.Kind == fault.Denied || f.Kind == fault.Invalid) {
		return token{}, fault.Wrap(f.Kind, f.Cause, "Verda does not take the credential of the settings.").WithCode("verda_credential").
			WithRemedy("Compare providers.verda.client_id and client_secret with the API credential at Verda; it may be mistyped or deleted.")
	}
	if err != nil {
		return token{}, err
	}
	if answer.Access == "" {
		return token{}, fault.New(fault.Unavailable, "Verda gave an answer without a token.").WithCode("verda_answer").
			WithRemedy("See whether providers.verda.url is the address of Verda's control interface.")
	}
	t := token{access: answer.Access, refresh: answer.Refresh}
	if life := time.Duration(answer.Life * float64(time.Second)); life > 0 {
		t.until = began.Add(life - min(30*time.Second, life/10)) // it must not end on its way
	}
	return t, nil
}
