package gateway

import (
	"net/http"
	"strings"
)

// editorPolicy keeps the editor's page, and what custom nodes add to it, to its own origin: it can load, send and
// frame nothing elsewhere. Within the origin it may do what the page and the packs need: importmap and handlers
// inline, generated code, workers and pictures from memory.
func editorPolicy(host string) string {
	sockets := ""
	if validHost(host) { // 'self' does not cover sockets in older Safari
		sockets = " ws://" + host + " wss://" + host
	}
	return "default-src 'self'; " +
		"script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; " +
		"style-src 'self' 'unsafe-inline'; " +
		"img-src 'self' blob: data:; " +
		"media-src 'self' blob: data:; " +
		"font-src 'self' data:; " +
		"connect-src 'self' blob: data:" + sockets + "; " +
		"worker-src 'self' blob: data:; " +
		"frame-src 'self' blob:; " +
		"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
}

// contentPolicy is for files that people made or uploaded: opened in a tab they show, and run nothing.
const contentPolicy = "default-src 'none'; img-src 'self' data:; media-src 'self' data:; style-src 'unsafe-inline'; sandbox"

// protectContent sets what answers of the person's ComfyUI server need. Scripts of packs are part of the page.
func protectContent(h http.Header, path string, v *visit) {
	p := strings.TrimPrefix(path, "/api")
	switch {
	case p == "/view", strings.HasPrefix(p, "/userdata"), strings.HasPrefix(p, "/v2/userdata"),
		strings.HasPrefix(p, "/viewvideo"), strings.HasPrefix(p, "/experiment/models/preview/"):
		h.Set("Content-Security-Policy", contentPolicy)
	case strings.HasPrefix(p, "/extensions/"):
		h.Set("Content-Security-Policy", editorPolicy(v.host))
	}
}
