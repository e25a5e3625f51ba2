package sim

import (
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/folders"
)

// page says what answers here when there is no editor.
const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Simulated ComfyUI</title>
<body style="font:1.1rem/1.6 system-ui;margin:15vh auto;max-width:34rem;padding:0 1rem">
<h1>Simulated ComfyUI</h1><p>This server speaks ComfyUI's protocol and runs graphs without a GPU. Pictures from its
samplers carry the word SIMULATED. It is for tests, demonstrations and rehearsals.</p></body></html>
`

func (s *ComfyUI) handleRoot(w http.ResponseWriter, r *http.Request, _ *life, _ []string) {
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("Pragma", "no-cache")
	h.Set("Expires", "0")
	if s.opts.FrontEndRoot == "" {
		h.Set("Content-Type", "text/html")
		h.Set("Etag", `"simulated-`+strconv.Itoa(len(page))+`"`)
		http.ServeContent(w, r, "", s.born, strings.NewReader(page))
		return
	}
	sendFile(w, r, filepath.Join(s.opts.FrontEndRoot, "index.html"), "text/html")
}

// static serves the files of the editor.
func (s *ComfyUI) static(w http.ResponseWriter, r *http.Request) {
	name, err := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), "/"))
	if s.opts.FrontEndRoot == "" || err != nil {
		text(w, http.StatusNotFound, "404: Not Found")
		return
	}
	root, err := filepath.Abs(s.opts.FrontEndRoot)
	if err != nil {
		broken(w)
		return
	}
	path, ok := folders.Within(root, filepath.FromSlash(name))
	info, err := os.Stat(path)
	switch {
	case !ok || err != nil:
		text(w, http.StatusNotFound, "404: Not Found")
	case info.IsDir():
		text(w, http.StatusForbidden, "403: Forbidden")
	default:
		sendFile(w, r, path, "")
	}
}

// sendFile sends a file with its validators; ranges and conditions are honoured. An empty kind is found out.
func sendFile(w http.ResponseWriter, r *http.Request, path, kind string) {
	f, err := os.Open(path)
	if err != nil {
		empty(w, http.StatusNotFound)
		return
	}
	defer f.Close() // opened to read
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		empty(w, http.StatusForbidden)
		return
	}
	if kind == "" {
		if kind = folders.ContentType(path); kind == "" {
			kind = "application/octet-stream"
		}
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Etag", `"`+strconv.FormatInt(info.ModTime().UnixNano(), 16)+"-"+strconv.FormatInt(info.Size(), 16)+`"`)
	http.ServeContent(w, r, "", info.ModTime(), f)
}

func (s *ComfyUI) handleExtensions(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
	var list []string
	if root := s.opts.FrontEndRoot; root != "" {
		err := filepath.WalkDir(filepath.Join(root, "extensions"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasSuffix(path, ".js") {
				if rel, err := filepath.Rel(root, path); err == nil {
					list = append(list, "/"+filepath.ToSlash(rel))
				}
			}
			return nil // what can't be read is not listed
		})
		if err != nil {
			s.log.Warn("extensions not listed", "err", err)
		}
		slices.Sort(list)
	}
	reply(w, http.StatusOK, pyjson.AppendStrings(nil, list))
}
