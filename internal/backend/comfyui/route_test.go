package comfyui_test

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
)

// TestRoute: what a custom node answers is passed on with its type, and nothing else is: no redirect, no status.
func TestRoute(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /pack/list", func(w http.ResponseWriter, r *http.Request) {
		if len(r.Cookies()) > 0 || r.Header.Get("Authorization") != "" {
			t.Error("somebody's credentials went to a custom node")
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Set-Cookie", "x=y")
		io.WriteString(w, r.URL.Path+"?"+r.URL.RawQuery)
	})
	mux.HandleFunc("GET /pack/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
	})
	mux.HandleFunc("GET /pack/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	d := at(time.Second)(t, mux)
	defer d.Close()
	router := d.(backend.Router)
	body, kind, err := router.Route(t.Context(), "/pack/list", "a=1&b=%2F")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if text, err := io.ReadAll(body); err != nil || string(text) != "/pack/list?a=1&b=%2F" || kind != "application/json" {
		t.Errorf("%q, %s, %v", text, kind, err)
	}
	if _, _, err := router.Route(t.Context(), "/pack/away", ""); !fault.Is(err, fault.Missing) {
		t.Errorf("a redirect: %v", err)
	}
	if _, _, err := router.Route(t.Context(), "/pack/none", ""); !fault.Is(err, fault.Missing) {
		t.Errorf("nothing there: %v", err)
	}
	if _, _, err := router.Route(t.Context(), "/pack/broken", ""); !errors.Is(err, backend.ErrUnreachable) {
		t.Errorf("a custom node that fails: %v", err)
	}
}
