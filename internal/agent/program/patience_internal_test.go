package program

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPatience: what the studio says holds until it takes that back, and not for ever; what the agent's own driver learned
// is there after a restart.
func TestPatience(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "patience.json")
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		p := newPatience(file, log)
		say := func(method, body string) int {
			w := httptest.NewRecorder()
			p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/patience", strings.NewReader(body)))
			return w.Code
		}
		for _, c := range []struct {
			method, body string
			status       int
			now          time.Duration
		}{
			{http.MethodPost, `{"seconds": 80}`, 200, 80 * time.Second},
			{http.MethodGet, `{"seconds": 90}`, 422, 80 * time.Second},
			{http.MethodPost, `{"seconds": -1}`, 422, 80 * time.Second},
			{http.MethodPost, `{"seconds": 9000}`, 422, 80 * time.Second},
			{http.MethodPost, `nonsense`, 422, 80 * time.Second},
			{http.MethodPost, `{"seconds": 0}`, 200, 0},
			{http.MethodPost, `{"seconds": 1.5}`, 200, 1500 * time.Millisecond},
		} {
			if got := say(c.method, c.body); got != c.status || p.now() != c.now {
				t.Errorf("%s %s: %d, then it is %v", c.method, c.body, got, p.now())
			}
		}
		time.Sleep(16 * time.Minute)
		if p.now() != 0 {
			t.Errorf("long after the studio said so it is %v", p.now())
		}
		for range 3 {
			p.Silent("Slow", 40*time.Second)
		}
		if bound, known := newPatience(file, log).Bound("Slow"); bound != 80*time.Second || !known {
			t.Errorf("after a restart: %v, %v", bound, known)
		}
		if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if bound, _ := newPatience(file, log).Bound("Slow"); bound != 0 {
			t.Errorf("of a file that is broken: %v", bound)
		}
		p.Silent("Other", time.Minute)
		if bound, _ := newPatience(file, log).Bound("Slow"); bound != 80*time.Second {
			t.Errorf("what is known is not written over it: %v", bound)
		}
	})
}
