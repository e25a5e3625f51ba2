package gateway_test

import (
	"encoding/base64"
	"net/http/httptest"
	"testing"

	"github.com/ahelme/comfyume/internal/gateway"
)

// Browsers send a remembered name and password with whatever page's request, and tell a plain http server by no more
// than the origin that it is a foreign one.
func TestRememberedPasswordsAreKeptToOurPages(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	basic := func(name, password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
	}
	for what, auth := range map[string]string{"password": basic("ann", "correct horse"), "token": basic("ann", b.token)} {
		for _, c := range []struct {
			method, path, header, value string
			status                      int
		}{
			{"POST", "/prompt", "", "", 200}, // a program
			{"POST", "/prompt", "Origin", "http://studio.test", 200},
			{"POST", "/prompt", "Origin", "http://evil.test", 403},
			{"POST", "/prompt", "Origin", "null", 403},
			{"POST", "/prompt", "Sec-Fetch-Site", "same-site", 403},
			{"GET", "/history", "Origin", "http://evil.test", 200}, // its answer stays unread
			{"GET", "/history", "Sec-Fetch-Site", "cross-site", 403},
			{"GET", "/ws", "Origin", "http://evil.test", 403},
		} {
			r := httptest.NewRequest(c.method, "http://studio.test"+c.path, nil)
			r.Header.Set("Authorization", auth)
			if c.path == "/ws" {
				r.Header.Set("Upgrade", "websocket")
			}
			if c.header != "" {
				r.Header.Set(c.header, c.value)
			}
			w := httptest.NewRecorder()
			b.ServeHTTP(w, r)
			if w.Code != c.status {
				t.Errorf("%s: %s %s with %s: %s: %d, want %d", what, c.method, c.path, c.header, c.value, w.Code, c.status)
			}
		}
	}
}
