package app_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
)

// TestAddressesOfCustomNodes: an address that the operator opened is answered by a back end of the person's group that
// has the pack, at its own path and below /api, as something that can't do anything as a page; nothing else is.
func TestAddressesOfCustomNodes(t *testing.T) {
	t.Parallel()
	behind, err := url.Parse(simulated(t))
	ok(t, err)
	plain := httputil.NewSingleHostReverseProxy(behind)
	gpu := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/extensions":
			io.WriteString(w, `["/extensions/Some-Pack/main.js"]`)
		case "/extensions/Some-Pack/main.js":
			io.WriteString(w, "let pack")
		case "/some_pack/list", "/some_pack_secret", "/other":
			if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
				t.Error("a person's credentials went to a custom node")
			}
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "listed "+r.URL.RawQuery)
		default:
			plain.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(gpu.Close)
	o := options(t, nil)
	o.Settings.Backends = []config.Back{{Name: "gpu1", Driver: "comfyui", URL: gpu.URL, Groups: []string{"red"}}}
	o.Settings.Packs.Routes = map[string][]string{"Some-Pack": {"/some_pack/"}}
	o.Settings.Users = []config.User{{Name: "ann", Role: "participant", Group: "red"}, {Name: "ben", Role: "participant", Group: "blue"}}
	bySocket(t, o, func(s *app.Studio, c *client.Client) {
		tokens := map[string]string{}
		for _, who := range []string{"ann", "ben"} {
			made, err := c.NewToken(t.Context(), who, api.NewToken{})
			ok(t, err)
			tokens[who] = made.Secret
		}
		get := func(who, path string) (*http.Response, string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Address()+path, nil)
			ok(t, err)
			if who != "" {
				req.Header.Set("Authorization", "Bearer "+tokens[who])
			}
			res, err := http.DefaultClient.Do(req)
			ok(t, err)
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			ok(t, err)
			return res, string(text)
		}
		_, err := c.TestBackEnd(t.Context(), "gpu1", false)
		ok(t, err)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(20 * time.Second); ; <-tick.C { // its web files are read in the background
			if _, list := get("ann", "/extensions"); strings.Contains(list, "Some-Pack") {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("extensions: %s", list)
			}
		}
		for _, path := range []string{"/some_pack/list?a=1", "/api/some_pack/list?a=1"} {
			res, text := get("ann", path)
			if res.StatusCode != 200 || text != "listed a=1" || !strings.HasPrefix(res.Header.Get("Content-Security-Policy"), "sandbox") || res.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: %d %q, %v", path, res.StatusCode, text, res.Header)
			}
		}
		for who, paths := range map[string][]string{
			"ann": {"/some_pack_secret", "/other", "/some_pack/../other", "/some_pack/%2e%2e/other", "/some_pack/none"},
			"ben": {"/some_pack/list", "/api/some_pack/list", "/extensions/Some-Pack/main.js"},
			"":    {"/some_pack/list", "/api/some_pack/list"},
		} {
			for _, path := range paths {
				if res, text := get(who, path); strings.Contains(text, "listed") || strings.Contains(text, "let pack") {
					t.Errorf("%q got %s: %d %q", who, path, res.StatusCode, text)
				}
			}
		}
	})
}
