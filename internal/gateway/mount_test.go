package gateway_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/gateway"
)

// face returns which face answered and for whom; empty: the door itself did.
func face(t *testing.T, r *http.Response) seen {
	t.Helper()
	var s seen
	if text := body(t, r); r.StatusCode == http.StatusOK {
		ok(t, json.Unmarshal([]byte(text), &s))
	}
	return s
}

// TestMountsByMethod: one address may be a mount's with one method and the workspace's with another.
func TestMountsByMethod(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	for _, c := range [][3]string{
		{"POST", "/api/jobs", "qm"},
		{"GET", "/api/jobs", "comfy"},
		{"DELETE", "/api/jobs", "comfy"},
		{"DELETE", "/api/jobs/1", "qm"},
		{"PATCH", "/api/jobs/1/priority", "qm"},
		{"GET", "/api/jobs/1", "comfy"},
		{"POST", "/api/jobs/1/cancel", "comfy"},
		{"POST", "/u/ann/api/jobs", "comfy"},
		{"GET", "/qm/api/jobs", "qm"},
	} {
		got := face(t, b.do(c[0], c[1], "Authorization", "Bearer "+b.token))
		if got.Face != c[2] || got.Person != "ann" {
			t.Errorf("%s %s went to %q for %q, want %q for ann", c[0], c[1], got.Face, got.Person, c[2])
		}
	}
}

// TestGuests: an address for everybody knows who asks where that can be known, and a wrong credential is told.
func TestGuests(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	worker, _, err := b.accounts.NewToken(t.Context(), "ann", "", account.ScopeWorker, 0)
	ok(t, err)
	for name, c := range map[string]struct {
		headers []string
		status  int
		person  string
	}{
		"nobody":                  {nil, 200, ""},
		"a token":                 {[]string{"Authorization", "Bearer " + b.token}, 200, "ann"},
		"a session":               {b.signedIn(), 200, "ann"},
		"a session that ended":    {[]string{"Cookie", "comfyume-s1=" + b.cookie[1:] + "x"}, 200, ""},
		"a token for other calls": {[]string{"Authorization", "Bearer " + worker}, 200, ""},
		"a token that is none":    {[]string{"Authorization", "Bearer " + b.token[:len(b.token)-1] + "_"}, 401, ""},
	} {
		r := b.do("GET", "/qm/health", c.headers...)
		if got := face(t, r); r.StatusCode != c.status || got.Person != c.person || c.status == 200 && got.Face != "health" {
			t.Errorf("%s: %d, %+v", name, r.StatusCode, got)
		}
	}
}

// TestWorkerTokens: a token of the scope worker is for the calls of workers and nothing else, and nothing else is for
// them.
func TestWorkerTokens(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	worker, _, err := b.accounts.NewToken(t.Context(), "olga", "", account.ScopeWorker, 0)
	ok(t, err)
	operator, _, err := b.accounts.NewToken(t.Context(), "olga", "", account.ScopeAll, 0)
	ok(t, err)
	for _, c := range []struct {
		path, token string
		status      int
	}{
		{"/qm/api/workers/next-job", worker, 200},
		{"/qm/api/workers/next-job", operator, 403},
		{"/qm/api/workers/next-job", b.token, 403},
		{"/qm/api/workers/next-job", "", 401},
		{"/qm/api/jobs", worker, 403},
		{"/studio/api/v1/me", worker, 403},
		{"/metrics", worker, 403},
		{"/queue", worker, 403},
		{"/u/olga/queue", worker, 403},
		{"/me", worker, 403},
	} {
		var headers []string
		if c.token != "" {
			headers = []string{"Authorization", "Bearer " + c.token}
		}
		if r := b.do("GET", c.path, headers...); r.StatusCode != c.status {
			t.Errorf("%s: %d, want %d: %s", c.path, r.StatusCode, c.status, body(t, r))
		}
	}
	if r := b.do("GET", "/k/"+worker+"/queue"); r.StatusCode != http.StatusForbidden {
		t.Errorf("a worker's token has a place of its own: %d", r.StatusCode)
	}
	r := b.post("/me/tokens", map[string][]string{"scope": {"worker"}}, b.signedIn()...)
	if r.StatusCode != http.StatusForbidden {
		t.Errorf("a participant made a worker's token: %d", r.StatusCode)
	}
}

// TestBelow: what lies below a place is at the root of a door of its own, and nobody is sent to pages it does not have.
func TestBelow(t *testing.T) {
	t.Parallel()
	for _, public := range []string{"", "https://lab.example/studio", "https://lab.example/qm"} {
		b := setup(t, gateway.Options{PublicURL: public})
		ask := func(path string, headers ...string) *http.Response {
			r := httptest.NewRequest("GET", "http://127.0.0.1:3000"+path, nil)
			for n := 0; n < len(headers); n += 2 {
				r.Header.Set(headers[n], headers[n+1])
			}
			w := httptest.NewRecorder()
			b.Below("/qm").ServeHTTP(w, r)
			return w.Result()
		}
		got := face(t, ask("/api/jobs/a%2Fb?limit=1", "Authorization", "Bearer "+b.token))
		if got.Face != "qm" || got.Path != "/qm/api/jobs/a/b" || got.RawPath != "/qm/api/jobs/a%2Fb" || got.Query != "limit=1" || got.Person != "ann" {
			t.Errorf("%q: %+v", public, got)
		}
		if got := face(t, ask("/health")); got.Face != "health" {
			t.Errorf("%q: %+v", public, got)
		}
		for _, path := range []string{"/api/jobs", "/signin", "/", "/u/ann/queue"} {
			r := ask(path, "Accept", "text/html")
			if text := body(t, r); r.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(text, `{"detail":"Sign in`) {
				t.Errorf("%q: a browser that asks for %s gets %d, %s, %s", public, path, r.StatusCode, r.Header.Get("Location"), text)
			}
		}
	}
}
