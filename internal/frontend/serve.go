package frontend

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ahelme/comfyume/internal/fault"
)

// Server answers requests for the editor's page and its data. It is safe for concurrent use.
type Server struct {
	root   string
	choice string
	log    *slog.Logger
	now    atomic.Pointer[choice]
	mu     sync.Mutex // held while the choice is made anew
}

// choice is what is served at the moment.
type choice struct {
	stamp     string
	page      *bundle // nil: nothing is installed
	earlier   []*bundle
	templates *bundle
	media     []*bundle
	docs      *bundle
}

// New returns a server of what is installed below root. which is auto, a version or a folder with an index.html.
// A missing page is no error: the server then shows the command to type, and takes up what gets installed later.
func New(root, which string, log *slog.Logger) (*Server, error) {
	s := &Server{root: root, choice: which, log: log}
	if isFolder(which) {
		if _, err := os.Stat(filepath.Join(which, "index.html")); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "The frontend folder %s has no index.html.", which).
				WithRemedy("Set frontend to auto, to an installed version, or to the folder that holds the page.")
		}
	}
	return s, s.choose()
}

func isFolder(which string) bool { return strings.ContainsAny(which, `/\`) }

// Version returns the version of the page, "" when there is none or it is a folder.
func (s *Server) Version() string { return s.now.Load().page.versionOf() }

// TemplatesVersion returns the version of the templates, "" when there are none.
func (s *Server) TemplatesVersion() string { return s.now.Load().templates.versionOf() }

// Has reports whether the server has an answer to GET of the path, which is relative to the editor's place.
func (s *Server) Has(urlPath string) bool {
	if isPage(urlPath) {
		return true
	}
	_, _, ok := s.now.Load().find(strings.TrimPrefix(urlPath, "/"))
	return ok
}

// isPage reports whether the path is the page itself.
func isPage(urlPath string) bool {
	return urlPath == "/" || urlPath == "/index.html" || urlPath == "/user-select"
}

// choose looks at what is installed now.
func (s *Server) choose() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.now.Load()
	next := &choice{stamp: s.stamp()}
	if was != nil && was.stamp == next.stamp {
		return nil
	}
	page, err := s.choosePage()
	if err != nil {
		return err
	}
	next.page = page
	if was != nil && was.page != nil { // pages that are open still ask for their own files
		next.earlier = append([]*bundle{was.page}, was.earlier...)
		next.earlier = next.earlier[:min(len(next.earlier), 3)]
	}
	if next.templates, err = s.newest(Templates); err == nil {
		next.docs, err = s.newest(Docs)
	}
	if err == nil {
		next.media, err = s.all(Media)
	}
	if err != nil {
		return err
	}
	s.now.Store(next)
	if next.page != nil {
		s.log.Info("editor page chosen", "version", next.page.versionOf(), "templates", next.templates.versionOf())
	}
	return nil
}

// stamp changes when something was installed, removed or made the default.
func (s *Server) stamp() string {
	var b strings.Builder
	for _, name := range []string{"", "default", "_templates", "_media", "_docs"} {
		if info, err := os.Stat(filepath.Join(s.root, name)); err == nil {
			b.WriteString(strconv.FormatInt(info.ModTime().UnixNano(), 36))
		}
		b.WriteByte(' ')
	}
	return b.String()
}

func (s *Server) choosePage() (*bundle, error) {
	if isFolder(s.choice) {
		return folderBundle(s.choice)
	}
	all, err := List(s.root, Page)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(i Installed) bool {
		return s.choice == "auto" && i.Default || i.Version == s.choice
	})
	if i < 0 {
		return nil, nil
	}
	return openBundle(all[i].Folder)
}

func (s *Server) newest(kind Kind) (*bundle, error) {
	all, err := List(s.root, kind)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return openBundle(all[0].Folder)
}

func (s *Server) all(kind Kind) ([]*bundle, error) {
	list, err := List(s.root, kind)
	if err != nil {
		return nil, err
	}
	var out []*bundle
	for _, one := range list {
		b, err := openBundle(one.Folder)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// find returns the file behind a path without leading slash.
func (c *choice) find(name string) (*bundle, item, bool) {
	if rest, ok := strings.CutPrefix(name, "templates/"); ok {
		return firstWith(rest, append([]*bundle{c.templates}, c.media...))
	}
	if rest, ok := strings.CutPrefix(name, "docs/"); ok {
		return firstWith(rest, []*bundle{c.docs})
	}
	if b, f, ok := firstWith(name, []*bundle{c.page}); ok {
		return b, f, true
	}
	return firstWith(name, c.earlier)
}

func firstWith(name string, bundles []*bundle) (*bundle, item, bool) {
	for _, b := range bundles {
		if b == nil {
			continue
		}
		if f, ok := b.files[name]; ok {
			return b, f, true
		}
	}
	return nil, item{}, false
}

// ServeHTTP answers GET and HEAD of the editor's files. The caller has stripped any prefix from the path.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "405: Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	if isPage(r.URL.Path) {
		name = "index.html"
		if err := s.choose(); err != nil {
			s.log.Error("editor page", "err", err)
		}
		if s.now.Load().page == nil {
			s.missing(w)
			return
		}
	}
	c := s.now.Load()
	b, f, ok := c.find(name)
	if !ok {
		if strings.HasPrefix(name, "templates/") && isPicture(name) && len(c.media) == 0 {
			noPicture(w)
			return
		}
		lost(w, name)
		return
	}
	if rest, ok := strings.CutPrefix(name, "templates/"); ok {
		name = rest
	} else if rest, ok := strings.CutPrefix(name, "docs/"); ok && b == c.docs {
		name = rest
	}
	s.send(w, r, b, name, f)
}

const nothing = `{"error": {"type": "not_found", "message": "There is nothing at this address.", "details": "", "extra_info": {}}, "node_errors": {}}`

// lost says that there is no such file. To a program that asks for what only other servers have, such as a custom node's
// route, it speaks as every route does. The editor must not take it for the list it asked for.
func lost(w http.ResponseWriter, name string) {
	if path.Ext(name) != "" {
		http.Error(w, "404: Not Found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusNotFound)
	_, _ = io.WriteString(w, nothing) // an error means that the client left
}

// send answers with one file in the best form that the browser takes.
func (s *Server) send(w http.ResponseWriter, r *http.Request, b *bundle, name string, f item) {
	h := w.Header()
	h.Set("Content-Type", contentType(name))
	h.Set("Cache-Control", cacheRule(name))
	h.Set("X-Content-Type-Options", "nosniff")
	place, size, tag := path.Join(filesName, name), f.Size, f.Hash
	if b.bare {
		place = name
	}
	if f.Gzip > 0 || f.Zstd > 0 {
		h.Add("Vary", "Accept-Encoding")
		switch form := bestForm(r.Header.Get("Accept-Encoding"), f); form {
		case "zstd":
			place, size, tag = path.Join(packedName, name+".zst"), f.Zstd, tag+"-z"
			h.Set("Content-Encoding", form)
		case "gzip":
			place, size, tag = path.Join(packedName, name+".gz"), f.Gzip, tag+"-g"
			h.Set("Content-Encoding", form)
		}
	}
	file, err := b.root.Open(place)
	if err != nil {
		clear(h)
		if errors.Is(err, fs.ErrNotExist) { // the version was removed meanwhile
			http.Error(w, "404: Not Found", http.StatusNotFound)
			return
		}
		s.log.Error("editor page", "file", name, "err", err)
		http.Error(w, "500: Internal Server Error", http.StatusInternalServerError)
		return
	}
	defer file.Close()
	if b.bare {
		info, err := file.Stat()
		if err != nil || !info.Mode().IsRegular() {
			clear(h)
			http.Error(w, "404: Not Found", http.StatusNotFound)
			return
		}
		http.ServeContent(w, r, name, info.ModTime(), file)
		return
	}
	h.Set("ETag", `"`+tag+`"`)
	if h.Get("Content-Encoding") == "" {
		http.ServeContent(w, r, name, noTime, file)
		return
	}
	if matches(r.Header.Get("If-None-Match"), h.Get("ETag")) {
		h.Del("Content-Type")
		h.Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	if r.Method == http.MethodHead {
		return
	}
	if _, err := io.Copy(w, file); err != nil {
		s.log.Debug("editor page", "file", name, "err", err) // the browser went away
	}
}
