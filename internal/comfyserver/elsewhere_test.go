package comfyserver_test

import (
	"net/http"
	"testing"

	"github.com/ahelme/comfyume/internal/comfyserver"
)

// TestElsewhere: GET of what is no route of a ComfyUI server is offered to custom nodes, with and without /api, and
// nothing else is.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	var asked []string
	s := newStudio(t, comfyserver.Options{Elsewhere: func(w http.ResponseWriter, r *http.Request) bool {
		asked = append(asked, r.URL.Path)
		w.WriteHeader(http.StatusTeapot)
		return true
	}})
	for _, path := range []string{"/some_pack/x", "/api/some_pack/x"} {
		if w, _ := s.do("ann", "GET", path, ""); w.StatusCode != http.StatusTeapot {
			t.Errorf("GET %s: %d", path, w.StatusCode)
		}
	}
	for _, c := range [][2]string{{"POST", "/some_pack/x"}, {"GET", "/queue"}, {"GET", "/api/queue"}} {
		if w, _ := s.do("ann", c[0], c[1], ""); w.StatusCode == http.StatusTeapot {
			t.Errorf("%s %s was passed on", c[0], c[1])
		}
	}
	if w, _ := s.do("", "GET", "/some_pack/x", ""); w.StatusCode == http.StatusTeapot || len(asked) != 2 {
		t.Errorf("nobody's GET: %d; asked %v", w.StatusCode, asked)
	}
}
