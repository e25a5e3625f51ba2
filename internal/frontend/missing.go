package frontend

import (
	_ "embed"
	"html/template"
	"net/http"
	"path"
)

//go:embed missing.html
var missingText string

var missingPage = template.Must(template.New("missing").Parse(missingText))

// missing answers with the command to type.
func (s *Server) missing(w http.ResponseWriter) {
	version := s.choice
	if version == "auto" || isFolder(version) {
		version = ""
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusServiceUnavailable)
	if err := missingPage.Execute(w, version); err != nil {
		s.log.Debug("editor page", "err", err) // the browser went away
	}
}

// picture stands for thumbnails of templates where the media packages are not installed.
const picture = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 9"><rect width="16" height="9" fill="#8882"/>` +
	`<path d="M5 6.5l2-2.5 1.5 1.7L9.7 4.4 11.5 6.5z" fill="#8886"/></svg>`

func isPicture(name string) bool {
	switch path.Ext(name) {
	case ".webp", ".png", ".jpg", ".jpeg", ".gif":
		return true
	default:
		return false
	}
}

func noPicture(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "no-cache")
	if _, err := w.Write([]byte(picture)); err != nil {
		return // the browser went away
	}
}
