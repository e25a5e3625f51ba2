package app_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
)

// TestQuotas: what is too much is answered in the form in which the editor shows it, a person's own page says what is
// left, and a new start forgets nothing.
func TestQuotas(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]string{"queue.quotas.everyone.jobs_per_day": "2", "limits.keep_free": "1MB"})
	o.Settings.Backends = append(o.Settings.Backends, config.Back{Name: "gpu1", Driver: "comfyui", URL: simulated(t)})
	var token string
	ask := func(s *app.Studio, method, path, body string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.Address()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(text)
	}
	send := func(s *app.Studio, n int) (*http.Response, string) {
		return ask(s, "POST", "/prompt", fmt.Sprintf(`{"prompt": {"1": {"class_type": "PrimitiveString", "inputs": {"value": "%d"}},
			"2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`, n))
	}
	refused := func(s *app.Studio) {
		t.Helper()
		res, text := send(s, 3)
		if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" ||
			!strings.Contains(text, `"type": "quota_jobs_day", "message": "You have sent 2 of 2 jobs of today; more tomorrow at 00:00."`) {
			t.Errorf("a third job gives %s, %v: %s", res.Status, res.Header, text)
		}
		if _, page := ask(s, "GET", "/me", ""); !strings.Contains(page, "You have sent 2 of 2 jobs of today; none are left until midnight.") {
			t.Errorf("their page does not say so: %s", page)
		}
	}
	err := run(t, o, func(s *app.Studio) {
		path, err := app.SocketPath(o.Settings.Data, "")
		if err != nil {
			t.Fatal(err)
		}
		c := client.Socket(path)
		defer c.Close()
		made, err := c.NewToken(t.Context(), "ann", api.NewToken{})
		if err != nil {
			t.Fatal(err)
		}
		token = made.Secret
		for n := range 2 {
			if res, text := send(s, n); res.StatusCode != http.StatusOK {
				t.Fatalf("job %d: %s %s", n, res.Status, text)
			}
		}
		refused(s)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t, o, refused); err != nil {
		t.Fatal(err)
	}
}
