package comfyserver

import (
	"encoding/json"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

// inputs are the names of the person's input files as nodes offer them.
func (s *Server) inputs(c *call) ([]string, error) {
	list, err := s.Files.List(c.Context(), c.user(), file.Input)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for i, f := range list {
		names[i] = path.Join(f.Subfolder, f.Name)
	}
	return names, nil
}

// objectInfo answers GET /object_info from bytes that are encoded and packed already.
func (s *Server) objectInfo(w http.ResponseWriter, c *call) error {
	names, err := s.inputs(c)
	if err != nil {
		return err
	}
	e := s.catalog(c).ObjectInfo(names)
	h := w.Header()
	h.Add("Vary", "Accept-Encoding")
	h.Set("ETag", e.ETag)
	if e.ETag != "" && matches(c.Header.Get("If-None-Match"), e.ETag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	body := e.JSON
	if e.Gzip != nil && takesGzip(c.Header.Get("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
		body = e.Gzip
	}
	return writeJSON(w, http.StatusOK, body)
}

// matches reports whether an If-None-Match header names etag.
func matches(header, etag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		part = strings.TrimPrefix(strings.TrimSpace(part), "W/")
		if part == etag || part == "*" {
			return true
		}
	}
	return false
}

// takesGzip reports whether an Accept-Encoding header allows gzip.
func takesGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name = strings.TrimSpace(name); name != "gzip" && name != "*" {
			continue
		}
		value, found := strings.CutPrefix(strings.TrimSpace(q), "q=")
		weight, err := strconv.ParseFloat(value, 64)
		return !found || err != nil || weight > 0
	}
	return false
}

// objectInfoOne answers GET /object_info/{class}.
func (s *Server) objectInfoOne(w http.ResponseWriter, c *call) error {
	names, err := s.inputs(c)
	if err != nil {
		return err
	}
	class := c.params.get("class")
	info := s.catalog(c).Class(class, names)
	if info == nil {
		return done(w)
	}
	return writeJSON(w, http.StatusOK, pyjson.AppendObject(nil, []pyjson.Member{{Key: class, Value: info}}))
}

// noStats is what the editors need to start while no back end has been seen.
const noStats = `{"system": {"os": "posix", "ram_total": 0, "ram_free": 0, "comfyui_version": "0.3.64", ` +
	`"required_frontend_version": "1.27.10", "installed_templates_version": "", "required_templates_version": "", ` +
	`"python_version": "", "pytorch_version": "", "embedded_python": false, "argv": ["main.py"]}, ` +
	`"devices": [{"name": "none", "type": "cpu", "index": 0, "vram_total": 0, "vram_free": 0, ` +
	`"torch_vram_total": 0, "torch_vram_free": 0}]}`

func (s *Server) systemStats(w http.ResponseWriter, c *call) error {
	return writeJSON(w, http.StatusOK, safe(s.catalog(c).SystemStats(), noStats))
}

func (s *Server) featuresGet(w http.ResponseWriter, _ *call) error {
	return writeJSON(w, http.StatusOK, s.features)
}

func (s *Server) embeddings(w http.ResponseWriter, c *call) error {
	return writeJSON(w, http.StatusOK, pyjson.AppendStrings(nil, s.catalog(c).Embeddings()))
}

func (s *Server) models(w http.ResponseWriter, c *call) error {
	return writeJSON(w, http.StatusOK, pyjson.AppendStrings(nil, s.catalog(c).Folders()))
}

// modelsIn answers GET /models/{folder}.
func (s *Server) modelsIn(w http.ResponseWriter, c *call) error {
	names, ok := s.catalog(c).Models(c.params.get("folder"))
	if !ok {
		return missing("There is no model folder %s.", clip(c.params.get("folder"), 100))
	}
	return writeJSON(w, http.StatusOK, pyjson.AppendStrings(nil, names))
}

// neutral stands in place of a folder's path on a back end, which is nobody's business.
func neutral(folder string) string { return "/models/" + folder }

// hidden are model folders that a real server keeps out of its model library.
var hidden = map[string]bool{"configs": true, "custom_nodes": true}

// modelFolders answers GET /experiment/models.
func (s *Server) modelFolders(w http.ResponseWriter, c *call) error {
	type entry struct {
		Name    string   `json:"name"`
		Folders []string `json:"folders"`
	}
	entries := []entry{}
	for _, f := range s.catalog(c).Folders() {
		if !hidden[f] {
			entries = append(entries, entry{f, []string{neutral(f)}})
		}
	}
	return encode(w, entries)
}

// modelFiles answers GET /experiment/models/{folder}. Sizes and times differ between back ends and are left at zero.
func (s *Server) modelFiles(w http.ResponseWriter, c *call) error {
	names, ok := s.catalog(c).Models(c.params.get("folder"))
	if !ok {
		return missing("There is no model folder %s.", clip(c.params.get("folder"), 100))
	}
	type entry struct {
		Name      string  `json:"name"`
		PathIndex int     `json:"pathIndex"`
		Modified  float64 `json:"modified"`
		Created   float64 `json:"created"`
		Size      int64   `json:"size"`
	}
	entries := make([]entry, len(names))
	for i, n := range names {
		entries[i].Name = n
	}
	return encode(w, entries)
}

// modelPreview and modelMetadata would need the model's own bytes, which stay on the back ends.
func (s *Server) modelPreview(http.ResponseWriter, *call) error {
	return missing("There is no preview of this model.")
}

func (s *Server) modelMetadata(http.ResponseWriter, *call) error {
	return missing("There is no metadata of this model.")
}

// folderPaths answers GET /internal/folder_paths with neutral paths.
func (s *Server) folderPaths(w http.ResponseWriter, c *call) error {
	b := []byte{'{'}
	for i, f := range s.catalog(c).Folders() {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = pyjson.AppendStrings(append(pyjson.AppendString(b, f), ": "...), []string{neutral(f)})
	}
	return writeJSON(w, http.StatusOK, append(b, '}'))
}

// internalFiles answers GET /internal/files/{type}: the person's own names, newest first.
func (s *Server) internalFiles(w http.ResponseWriter, c *call) error {
	typ := c.params.get("type")
	if typ != file.Input && typ != file.Output && typ != file.Temp {
		return jobError(w, http.StatusBadRequest, "Invalid directory type")
	}
	list, err := s.Files.List(c.Context(), c.user(), typ)
	if err != nil {
		return err
	}
	names := []string{}
	for _, f := range list {
		if f.Subfolder == "" && !strings.HasPrefix(f.Name, ".") {
			names = append(names, f.Name)
		}
	}
	return writeJSON(w, http.StatusOK, pyjson.AppendStrings(nil, names))
}

// i18n answers GET /i18n: translations that custom nodes bring.
func (s *Server) i18n(w http.ResponseWriter, c *call) error {
	return writeJSON(w, http.StatusOK, safe(s.catalog(c).WebText("i18n"), "{}"))
}

// subgraphs answers GET /global_subgraphs.
func (s *Server) subgraphs(w http.ResponseWriter, c *call) error {
	return writeJSON(w, http.StatusOK, safe(s.catalog(c).WebText("global_subgraphs"), "{}"))
}

// subgraph answers GET /global_subgraphs/{id}.
func (s *Server) subgraph(w http.ResponseWriter, c *call) error {
	if raw := s.catalog(c).WebText("global_subgraphs/" + c.params.get("id")); raw != nil {
		return writeJSON(w, http.StatusOK, safe(raw, "null"))
	}
	return missing("There is no such subgraph.")
}

// usersGet answers GET /users as a server for one person: who they are is known already.
func (s *Server) usersGet(w http.ResponseWriter, c *call) error {
	s.hub.PageLoads(c.user()) // every editor asks this first
	return writeJSON(w, http.StatusOK, []byte(`{"storage": "server", "migrated": true}`))
}

// usersPost refuses to make accounts: that is for the operator.
func (s *Server) usersPost(http.ResponseWriter, *call) error {
	return fault.New(fault.Denied, "Accounts are made by the operator of this studio.").WithCode("no_accounts_here")
}

// settingsGet answers GET /settings: the studio's defaults with the person's own settings over them.
func (s *Server) settingsGet(w http.ResponseWriter, c *call) error {
	all, err := s.settings(c)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, pyjson.AppendObject(nil, all))
}

// defaults are settings of a new workspace: it opens on a graph and not on a dialog, and asks nobody outside for news.
// The two about the mouse are what the editor itself begins with; told so, 1.27 does not stumble while it sets them.
var defaults = []pyjson.Member{
	{Key: "Comfy.TutorialCompleted", Value: json.RawMessage("true")},
	{Key: "Comfy.Notification.ShowVersionUpdates", Value: json.RawMessage("false")},
	{Key: "Comfy.Canvas.LeftMouseClickBehavior", Value: json.RawMessage(`"panning"`)},
	{Key: "Comfy.Canvas.MouseWheelScroll", Value: json.RawMessage(`"zoom"`)},
}

func (s *Server) settings(c *call) ([]pyjson.Member, error) {
	raw, err := s.Home.Settings(c.user())
	if err != nil {
		return nil, err
	}
	own, err := pyjson.Members(safe(raw, "{}"))
	if err != nil { // a damaged file is as good as none, as on a real server
		own = nil
	}
	known := make(map[string]bool, len(own))
	for _, m := range own {
		known[m.Key] = true
	}
	for _, k := range slices.Sorted(maps.Keys(s.options.Settings)) {
		if !known[k] {
			known[k] = true
			own = append(own, pyjson.Member{Key: k, Value: s.options.Settings[k]})
		}
	}
	for _, m := range defaults {
		if !known[m.Key] {
			own = append(own, m)
		}
	}
	return own, nil
}

// settingsPost merges an object into the person's settings.
func (s *Server) settingsPost(w http.ResponseWriter, c *call) error {
	body, err := s.jsonBody(w, c)
	if err != nil {
		return err
	}
	if _, err := object(body, "The body"); err != nil {
		return err
	}
	if err := s.Home.MergeSettings(c.user(), safe(body, "{}")); err != nil {
		return err
	}
	return done(w)
}

// settingGet answers one setting, null when it was not set.
func (s *Server) settingGet(w http.ResponseWriter, c *call) error {
	all, err := s.settings(c)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Key == c.params.get("id") {
			return writeJSON(w, http.StatusOK, m.Value)
		}
	}
	return writeJSON(w, http.StatusOK, []byte("null"))
}

// settingPost sets one setting to any JSON value.
func (s *Server) settingPost(w http.ResponseWriter, c *call) error {
	id := c.params.get("id")
	if len(id) > 512 {
		return invalid("invalid_setting", "The name of a setting has at most 512 bytes.")
	}
	body, err := s.jsonBody(w, c)
	if err != nil {
		return err
	}
	if err := pyjson.Check(body); err != nil {
		return invalid("invalid_json", "The body is not JSON: %v.", err)
	}
	if err := s.Home.SetSetting(c.user(), id, safe(body, "null")); err != nil {
		return err
	}
	return done(w)
}
