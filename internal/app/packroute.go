package app

import (
	"cmp"
	"io"
	"net/http"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/identity"
)

// packRoute answers GET of an address of custom nodes that the operator opened, and reports whether it was one. What
// such an address answers is whatever a custom node makes of it: as a page of its own it may do nothing here.
func (s *Studio) packRoute(w http.ResponseWriter, r *http.Request) bool {
	who, ok := identity.From(r.Context())
	if !ok || r.Method != http.MethodGet {
		return false
	}
	if len(s.cfg.Packs.Routes) == 0 {
		return false
	}
	ready := map[string]bool{}
	for _, b := range s.fleet.BackEnds() {
		ready[b.Name] = b.State == fleet.Ready || b.State == fleet.Trial || b.State == fleet.Busy || b.State == fleet.Drained
	}
	for _, path := range []string{r.URL.Path, strings.TrimPrefix(r.URL.Path, "/api")} {
		body, kind, err := s.packs.Route(r.Context(), who.Group, path, r.URL.RawQuery, func(name string) bool { return ready[name] })
		if fault.Is(err, fault.Missing) {
			continue
		}
		if err != nil {
			s.log.Warn("a custom node's address does not answer", "path", path, "err", err)
			http.Error(w, "No GPU that has these custom nodes answers now.", http.StatusServiceUnavailable)
			return true
		}
		defer body.Close()
		h := w.Header()
		h.Set("Content-Type", cmp.Or(kind, "application/octet-stream"))
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
		h.Set("Cache-Control", "no-store")
		if _, err := io.Copy(w, body); err != nil {
			panic(http.ErrAbortHandler) // what is cut must not look whole
		}
		return true
	}
	return false
}
