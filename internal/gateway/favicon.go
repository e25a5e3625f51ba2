package gateway

import (
	_ "embed"
	"net/http"
)

//go:embed pages/favicon.svg
var favicon []byte

// icon answers /favicon.ico, which browsers ask for at the root of every origin, signed in or not.
func (g *Gateway) icon(v *visit, r *http.Request, _ string) {
	v.Header().Set("Content-Type", "image/svg+xml")
	v.Header().Set("Cache-Control", "public, max-age=86400")
	if r.Method != http.MethodHead {
		_, _ = v.Write(favicon) // the browser left
	}
}
