package client_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/fault"
)

// TestRefusals: whoever turns a command away, it says why and what to do.
func TestRefusals(t *testing.T) {
	t.Parallel()
	door := func(kind, sentence, remedy string) string {
		return `{"error": {"type": "` + kind + `", "message": "` + sentence + `", "details": "` + remedy + `", "extra_info": {}}, "node_errors": {}}`
	}
	for name, c := range map[string]struct {
		token  string
		status int
		body   string
		kind   fault.Kind
		says   []string
	}{
		"no token":       {"", 401, door("unauthorized", "Sign in.", "Open /signin"), fault.Denied, []string{"asks for a personal token", "--token"}},
		"a wrong token":  {"cm_x", 401, door("unauthorized", "Sign in.", "Open /signin"), fault.Denied, []string{"does not take this token", "/me"}},
		"a narrow token": {"cm_x", 403, door("scope", "For ComfyUI only.", "Make another."), fault.Denied, []string{"For ComfyUI only.", "Make another."}},
		"the interface":  {"cm_x", 404, `{"status": 404, "title": "Not Found", "detail": "There is no job x."}`, fault.Missing, []string{"There is no job x."}},
		"something else": {"cm_x", 401, `<html>`, fault.Denied, []string{"refused with 401", "address"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer s.Close()
			over, err := client.Over(s.URL, c.token)
			if err != nil {
				t.Fatal(err)
			}
			defer over.Close()
			_, err = over.Status(t.Context())
			sentence, remedy := fault.Public(err)
			for _, part := range c.says {
				if !fault.Is(err, c.kind) || !strings.Contains(sentence+" "+remedy, part) {
					t.Errorf("got %v, which lacks %q", err, part)
				}
			}
		})
	}
}
