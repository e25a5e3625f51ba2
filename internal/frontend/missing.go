package frontend

import (
	_ "embed"
	"net/http"
	"path"

	dom "maragu.dev/gomponents"
	"maragu.dev/gomponents/html"
)

//go:embed missing.css
var missingStyle string

// missingPage says how to bring the editor of a version; empty: of the one that is pinned.
func missingPage(version string) dom.Node {
	const heading = "The editor is not installed yet"
	command := "comfyume frontend install"
	if version != "" {
		command += " " + version
	}
	return html.Doctype(html.HTML(html.Lang("en"),
		html.Head(
			html.Meta(html.Charset("utf-8")),
			html.Meta(html.Name("viewport"), html.Content("width=device-width, initial-scale=1")),
			html.TitleEl(dom.Text(heading)),
			html.StyleEl(dom.Raw(missingStyle)),
		),
		html.Body(html.Main(
			html.H1(dom.Text(heading)),
			html.Div(
				html.P(dom.Text("The studio runs, and programs can use it already. The official ComfyUI page that people see here is brought by one "+
					"command on the machine of the studio:")),
				html.Code(dom.Text(command)),
				html.P(dom.Text("Then load this page again. If the machine is not yours, tell the operator.")),
			),
		)),
	))
}

// missing answers with the command to type.
func (s *Server) missing(w http.ResponseWriter) {
	version := s.choice
	if version == "auto" || isFolder(version) {
		version = ""
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusServiceUnavailable)
	if err := missingPage(version).Render(w); err != nil {
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
