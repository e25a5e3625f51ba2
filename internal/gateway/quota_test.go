package gateway_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/gateway"
)

// quotas are ann's in class-a.
type quotas struct{ broken bool }

func (q *quotas) Meters(_ context.Context, user, group string) ([]gateway.Meter, error) {
	if q.broken {
		return nil, errors.New("no counts")
	}
	if user != "ann" || group != "class-a" {
		return nil, nil
	}
	return []gateway.Meter{
		{Text: "You have used 45 of 60 GPU minutes of this hour; 15 are left until <14:00>.", Percent: 75},
		{Text: "You have sent 7 jobs today.", Percent: -1},
	}, nil
}

// TestMyQuotas: a person's own page shows what is left of their quotas.
func TestMyQuotas(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	text := body(t, b.do("GET", "http://example.com/me", b.signedIn()...))
	for _, part := range []string{
		"You have used 45 of 60 GPU minutes of this hour; 15 are left until &lt;14:00&gt;.", `<progress max="100" value="75">`,
		`<p class="hint">You have sent 7 jobs today.</p>`,
	} {
		if !strings.Contains(text, part) {
			t.Errorf("the page lacks %q", part)
		}
	}
	b.quotas.broken = true
	if r := b.do("GET", "http://example.com/me", b.signedIn()...); r.StatusCode != 500 {
		t.Errorf("without counts the page answers %d", r.StatusCode)
	}
}
