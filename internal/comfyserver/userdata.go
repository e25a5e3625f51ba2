package comfyserver

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

// document is what a listing tells of a file. Times are milliseconds, as newer editors expect them; older ones
// only compare them.
type document struct {
	Path     string `json:"path"`
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"`
	Created  int64  `json:"created"`
}

func documentOf(e file.Entry) document {
	created := e.Created
	if created.IsZero() {
		created = e.Modified
	}
	return document{e.Path, e.Size, millis(e.Modified), millis(created)}
}

// reworded gives an error of the person's documents the status and the words of ComfyUI's route.
func reworded(err error, outside, gone string) error {
	f, ok := errors.AsType[*fault.Error](err)
	switch {
	case !ok:
		return err
	case f.Code == file.CodeOutside:
		return fault.New(fault.Denied, "%s", outside).WithCode(file.CodeOutside)
	case f.Kind == fault.Missing:
		return fault.New(fault.Missing, "%s", gone).WithCode("not_found")
	case f.Kind == fault.Conflict:
		return fault.New(fault.Conflict, "File already exists").WithCode("file_exists")
	}
	return err
}

// userdataList answers GET /userdata: the files of a folder.
func (s *Server) userdataList(w http.ResponseWriter, c *call) error {
	values := c.query()
	dir := values.Get("dir")
	if dir == "" {
		return invalid("no_directory", "Directory not provided")
	}
	entries, err := s.Home.ListUserdata(c.user(), dir, values.Get("recurse") == "true")
	if err != nil {
		return reworded(err, "Invalid directory", "Directory not found")
	}
	prefix := strings.Trim(path.Clean("/"+dir), "/") + "/"
	if prefix == "/" {
		prefix = ""
	}
	entries = slices.DeleteFunc(entries, func(e file.Entry) bool { return e.Dir })
	for i := range entries {
		entries[i].Path = strings.TrimPrefix(entries[i].Path, prefix)
	}
	// A real server lists by glob, which leaves out what begins with a dot.
	entries = slices.DeleteFunc(entries, func(e file.Entry) bool {
		return strings.HasPrefix(e.Path, ".") || strings.Contains(e.Path, "/.")
	})
	slices.SortFunc(entries, func(a, b file.Entry) int { return cmp.Compare(a.Path, b.Path) })
	switch {
	case values.Get("full_info") == "true":
		list := make([]document, len(entries))
		for i, e := range entries {
			list[i] = documentOf(e)
		}
		return encode(w, list)
	case values.Get("split") == "true":
		list := make([][]string, len(entries))
		for i, e := range entries {
			list[i] = append([]string{e.Path}, strings.Split(e.Path, "/")...)
		}
		return encode(w, list)
	default:
		list := make([]string, len(entries))
		for i, e := range entries {
			list[i] = e.Path
		}
		return writeJSON(w, http.StatusOK, pyjson.AppendStrings(nil, list))
	}
}

// userdataTree answers GET /v2/userdata: everything below a folder, folders first.
func (s *Server) userdataTree(w http.ResponseWriter, c *call) error {
	dir := c.query().Get("path")
	entries, err := s.Home.ListUserdata(c.user(), dir, true)
	if err != nil {
		if dir == "" && fault.Is(err, fault.Missing) {
			return writeJSON(w, http.StatusOK, []byte("[]"))
		}
		if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == file.CodeOutside {
			return invalid(file.CodeOutside, "Invalid path requested") // 400 in this version of the route
		}
		return reworded(err, "Invalid path", "Requested path not found")
	}
	slices.SortFunc(entries, func(a, b file.Entry) int {
		if a.Dir != b.Dir {
			if a.Dir {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(strings.ToLower(path.Base(a.Path)), strings.ToLower(path.Base(b.Path))), cmp.Compare(a.Path, b.Path))
	})
	type node struct {
		Name     string   `json:"name"`
		Path     string   `json:"path"`
		Type     string   `json:"type"`
		Size     *int64   `json:"size,omitempty"`
		Modified *float64 `json:"modified,omitempty"` // seconds, in this version of the route alone
	}
	list := make([]node, len(entries))
	for i, e := range entries {
		list[i] = node{Name: path.Base(e.Path), Path: e.Path, Type: "directory"}
		if !e.Dir {
			seconds := float64(e.Modified.UnixMicro()) / 1e6
			list[i].Type, list[i].Size, list[i].Modified = "file", &e.Size, &seconds
		}
	}
	return encode(w, list)
}

// documentPath is a path's parameter. As on a real server, what still has a percent sign is unescaped once more.
func documentPath(c *call, name string) string {
	p := c.params.get(name)
	if strings.Contains(p, "%") {
		if again, err := url.PathUnescape(p); err == nil {
			return again
		}
	}
	return p
}

// userdataGet answers with a document. It is never run in the page's origin, except the person's own style sheet.
func (s *Server) userdataGet(w http.ResponseWriter, c *call) error {
	name := documentPath(c, "file")
	entry, content, err := s.Home.OpenUserdata(c.user(), name)
	if err != nil {
		return reworded(err, "Invalid path", "File not found")
	}
	defer content.Close()
	h := w.Header()
	h.Set("Content-Type", contentType(entry.Path))
	h.Set("X-Content-Type-Options", "nosniff")
	if path.Clean(entry.Path) == "user.css" {
		h.Set("Content-Type", "text/css; charset=utf-8")
	} else {
		h.Set("Content-Disposition", disposition("attachment", path.Base(entry.Path)))
	}
	info := file.Info{Size: entry.Size, Modified: entry.Modified}
	h.Set("ETag", `"`+shortHash(info)+`"`)
	return serveContent(w, c, entry.Modified, content)
}

// userdataPost stores the body as a document, whatever it is.
func (s *Server) userdataPost(w http.ResponseWriter, c *call) error {
	body := http.MaxBytesReader(w, c.Body, s.options.MaxPrompt)
	values := c.query()
	entry, err := s.Home.WriteUserdata(c.Context(), c.user(), documentPath(c, "file"), body, values.Get("overwrite") != "false")
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return tooLarge("The document", s.options.MaxPrompt)
		}
		return reworded(err, "Invalid path", "File not found")
	}
	return stored(w, values, entry)
}

// stored answers with where a document is now.
func stored(w http.ResponseWriter, values url.Values, e file.Entry) error {
	if values.Get("full_info") == "true" {
		return encode(w, documentOf(e))
	}
	return writeJSON(w, http.StatusOK, pyjson.Quote(e.Path))
}

func (s *Server) userdataDelete(w http.ResponseWriter, c *call) error {
	if err := s.Home.DeleteUserdata(c.user(), documentPath(c, "file")); err != nil {
		return reworded(err, "Invalid path", "File not found")
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) userdataMove(w http.ResponseWriter, c *call) error {
	values := c.query()
	entry, err := s.Home.MoveUserdata(c.user(), documentPath(c, "file"), documentPath(c, "dest"), values.Get("overwrite") != "false")
	if err != nil {
		return reworded(err, "Invalid path", "File not found")
	}
	return stored(w, values, entry)
}

// templates answers GET /workflow_templates: the studio's and the group's own, then those of custom nodes.
func (s *Server) templates(w http.ResponseWriter, c *call) error {
	var members []pyjson.Member
	if s.Templates != nil {
		packs, err := s.Templates.Templates(c.person.Group)
		if err != nil {
			return err
		}
		for _, p := range packs {
			members = append(members, pyjson.Member{Key: p.Name, Value: pyjson.AppendStrings(nil, p.Names)})
		}
	}
	others, err := pyjson.Members(safe(s.catalog(c).WebText("workflow_templates"), "{}"))
	if err != nil {
		others = nil // the catalog checks what back ends say; without them ours still show
	}
	for _, m := range others {
		if !slices.ContainsFunc(members, func(o pyjson.Member) bool { return o.Key == m.Key }) {
			members = append(members, m)
		}
	}
	return writeJSON(w, http.StatusOK, pyjson.AppendObject(nil, members))
}

// template answers GET /api/workflow_templates/{pack}/{name}.
func (s *Server) template(w http.ResponseWriter, c *call) error {
	pack, name := c.params.get("pack"), c.params.get("name")
	if s.Templates != nil {
		entry, content, err := s.Templates.Template(c.person.Group, pack, name)
		if err == nil {
			defer content.Close()
			return serveFile(w, c, file.Info{Ref: file.Ref{Name: path.Base(entry.Path)}, Size: entry.Size, Modified: entry.Modified}, content)
		}
		if !fault.Is(err, fault.Missing) {
			return asDenied(err)
		}
	}
	if raw := s.catalog(c).WebText("workflow_templates/" + pack + "/" + name); raw != nil && json.Valid(raw) {
		return writeJSON(w, http.StatusOK, raw)
	}
	return missing("There is no such template.")
}
