package gateway_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/gateway"
)

// runs is ann's: four open jobs, in each state one. It notes what is done.
type runs struct {
	mu   sync.Mutex
	done []string
}

func (*runs) Open(_ context.Context, user string, limit int) ([]gateway.Run, int, error) {
	if user != "ann" {
		return nil, 0, nil
	}
	at := time.Now().Add(-3 * time.Minute)
	list := []gateway.Run{
		{ID: "r1", State: gateway.RunRunning, Where: "gpu1", Since: at},
		{ID: "r2", State: gateway.RunNext, Where: "gpu2", Since: at},
		{ID: "r3", State: gateway.RunWaiting, Line: "3rd in line", Wait: "about 2 to 4 min", Why: "2 jobs go <before> it.", Since: at, First: true},
		{ID: "r4", State: gateway.RunHeld, Why: "You hold it.", Since: at},
	}
	return list[:min(limit, len(list))], 40, nil
}

func (f *runs) Act(_ context.Context, user, id string, act gateway.Act) error {
	if user != "ann" || !strings.HasPrefix(id, "r") {
		return fault.New(fault.Missing, "There is no such job.")
	}
	if id == "r1" && act != gateway.ActCancel {
		return fault.New(fault.Conflict, "It runs already.").WithCode("not_pending")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = append(f.done, string(act)+" "+id)
	return nil
}

// TestMyRuns: a person's own page shows place, band and reason, and its buttons work without a script.
func TestMyRuns(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	text := body(t, b.do("GET", "http://example.com/me", b.signedIn()...))
	for _, part := range []string{
		"Running on gpu1", "Next on gpu2", "3rd in line", "about 2 to 4 min", "2 jobs go &lt;before&gt; it.", "Held", "You hold it.",
		"Sent 3 minutes ago.", "The first 4 of 40.", `action="/me/runs"`,
	} {
		if !strings.Contains(text, part) {
			t.Errorf("/me lacks %q", part)
		}
	}
	if strings.Contains(text, `value="front"`) {
		t.Error("the first of the waiting ones can be put to the front")
	}
	ben, err := b.accounts.SignIn(t.Context(), "ben", "correct horse", account.Attempt{})
	ok(t, err)
	bens := []string{"Cookie", "comfyume-s1=" + ben.Cookie}
	if text := body(t, b.do("GET", "http://example.com/me", bens...)); strings.Contains(text, "Your runs") {
		t.Error("ben sees runs, and has none")
	}
	act := func(id, act string, headers ...string) *http.Response {
		return b.post("http://example.com/me/runs", url.Values{"id": {id}, "act": {act}}, headers...)
	}
	for _, a := range []string{"hold r3", "release r4", "front r3", "cancel r1"} {
		name, id, _ := strings.Cut(a, " ")
		r := act(id, name, b.signedIn()...)
		same(t, []any{r.StatusCode, r.Header.Get("Location")}, []any{303, "/me#runs"})
	}
	for _, c := range []struct {
		what   string
		answer *http.Response
		status int
	}{
		{"what began meanwhile", act("r1", "hold", b.signedIn()...), 400},
		{"what is nothing to do", act("r1", "burn", b.signedIn()...), 400},
		{"another's run", act("r3", "cancel", bens...), 303},
		{"a token", act("r3", "cancel", "X-API-Key", b.token), 403},
		{"a foreign page", act("r3", "cancel", append(b.signedIn(), "Sec-Fetch-Site", "cross-site")...), 403},
	} {
		if c.answer.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", c.what, c.answer.StatusCode, c.status)
		}
	}
	if text := body(t, act("r1", "hold", b.signedIn()...)); !strings.Contains(text, "It runs already.") {
		t.Error("nobody says why it can't be held")
	}
	want := []string{"hold r3", "release r4", "front r3", "cancel r1"}
	if !slices.Equal(b.runs.done, want) {
		t.Errorf("done is %q, want %q", b.runs.done, want)
	}
}
