package sim

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/nodes"
)

// lists are the choices that depend on the folders now.
func (s *ComfyUI) lists() nodes.Lists {
	files, err := s.folders.Files("input")
	if err != nil {
		s.log.Warn("input files not listed", "err", err)
	}
	return nodes.Lists{Models: s.models, Files: files}
}

// models are the names of the models in a folder.
func (s *ComfyUI) models(folder string) []string { return s.opts.Models[folder] }

func (s *ComfyUI) handleObjectInfo(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
	reply(w, http.StatusOK, s.classes.Describe(s.lists()))
}

func (s *ComfyUI) handleObjectInfoOf(w http.ResponseWriter, _ *http.Request, _ *life, args []string) {
	reply(w, http.StatusOK, s.classes.DescribeOne(args[0], s.lists()))
}

// features are the flags the server announces.
func (s *ComfyUI) features() []byte {
	return fmt.Appendf(nil, `{"supports_preview_metadata": true, "max_upload_size": %d}`, s.opts.MaxUpload)
}

// memoryTotal is what the simulated machine has besides its device.
const memoryTotal = 64 << 30

func (s *ComfyUI) handleSystemStats(w http.ResponseWriter, _ *http.Request, l *life, _ []string) {
	frontend, templates, platform, more := "1.27.10", "0.1.95", "posix", ""
	if s.modern {
		frontend, templates, platform = "1.53.6", "0.11.73", "linux"
		more = `, "comfy_package_versions": [], "deploy_environment": null`
	}
	used := l.sockets.usedMemory()
	reply(w, http.StatusOK, fmt.Appendf(nil, `{"system": {"os": "%s", "ram_total": %d, "ram_free": %d, "comfyui_version": %s, `+
		`"required_frontend_version": "%s", "installed_templates_version": "%s", "required_templates_version": "%[6]s", `+
		`"python_version": "3.12.0 (simulated)", "pytorch_version": "2.8.0+simulated", "embedded_python": false, "argv": ["main.py"]%[7]s}, `+
		`"devices": [{"name": "cuda:0 Simulated GPU", "type": "cuda", "index": 0, "vram_total": %[8]d, "vram_free": %[9]d, `+
		`"torch_vram_total": %[10]d, "torch_vram_free": 0}]}`,
		platform, int64(memoryTotal), int64(memoryTotal/2), pyjson.Quote(s.opts.Version), frontend, templates, more,
		s.opts.VideoMemory, max(0, s.opts.VideoMemory-used), used))
}

func (s *ComfyUI) handleEmbeddings(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
	var list []string
	for _, name := range s.models("embeddings") {
		list = append(list, strings.TrimSuffix(name, filepath.Ext(name)))
	}
	reply(w, http.StatusOK, pyjson.AppendStrings(nil, list))
}

func (s *ComfyUI) handleModels(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
	var keys []string
	for _, m := range modelFolders {
		keys = append(keys, m.key)
	}
	reply(w, http.StatusOK, pyjson.AppendStrings(nil, keys))
}

func knownFolder(key string) bool {
	for _, m := range modelFolders {
		if m.key == key {
			return true
		}
	}
	return false
}

func (s *ComfyUI) handleModelsOf(w http.ResponseWriter, _ *http.Request, _ *life, args []string) {
	if !knownFolder(args[0]) {
		empty(w, http.StatusNotFound)
		return
	}
	reply(w, http.StatusOK, pyjson.AppendStrings(nil, s.models(args[0])))
}

// paths are the folders a key stands for. Where no folder of models was named they are of this world, but empty.
func (s *ComfyUI) paths(key string) []string {
	root := s.opts.ModelFolder
	if root == "" {
		root = filepath.Join(filepath.Dir(s.folders.Input), "models")
	}
	var out []string
	for _, m := range modelFolders {
		if m.key != key {
			continue
		}
		if key == "custom_nodes" {
			return []string{filepath.Join(filepath.Dir(root), "custom_nodes")}
		}
		for _, dir := range m.folders {
			out = append(out, filepath.Join(root, dir))
		}
	}
	if dir, ok := outputModels[key]; ok {
		out = append(out, filepath.Join(s.folders.Output, dir))
	}
	return out
}

func (s *ComfyUI) handleModelFolders(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
	out := []byte{'['}
	for _, m := range modelFolders {
		if m.key == "configs" || m.key == "custom_nodes" {
			continue
		}
		if len(out) > 1 {
			out = append(out, ", "...)
		}
		out = pyjson.AppendString(append(out, `{"name": `...), m.key)
		out = append(pyjson.AppendStrings(append(out, `, "folders": `...), s.paths(m.key)), '}')
	}
	reply(w, http.StatusOK, append(out, ']'))
}

func (s *ComfyUI) handleModelDetails(w http.ResponseWriter, _ *http.Request, _ *life, args []string) {
	if !knownFolder(args[0]) {
		empty(w, http.StatusNotFound)
		return
	}
	out := []byte{'['}
	for i, name := range s.models(args[0]) {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = fmt.Appendf(out, `{"name": %s, "pathIndex": 0, "modified": 1700000000.0, "created": 1700000000.0, "size": %d}`,
			pyjson.Quote(name), modelSize(name))
	}
	reply(w, http.StatusOK, append(out, ']'))
}

// handleModelPreview looks for a picture of a model: there is none, in any of the folders that there are.
func (s *ComfyUI) handleModelPreview(w http.ResponseWriter, _ *http.Request, _ *life, args []string) {
	if !knownFolder(args[0]) {
		empty(w, http.StatusNotFound)
		return
	}
	if n, err := strconv.Atoi(args[1]); err != nil || n >= len(s.paths(args[0])) {
		broken(w)
		return
	}
	empty(w, http.StatusNotFound)
}

func (s *ComfyUI) handleFolderPaths(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
	out := []byte{'{'}
	for i, m := range modelFolders {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = pyjson.AppendStrings(append(pyjson.AppendString(out, m.key), ": "...), s.paths(m.key))
	}
	reply(w, http.StatusOK, append(out, '}'))
}

func (s *ComfyUI) handleFiles(w http.ResponseWriter, _ *http.Request, _ *life, args []string) {
	dir := s.folders.Dir(args[0])
	if dir == "" {
		reply(w, http.StatusBadRequest, []byte(`{"error": "Invalid directory type"}`))
		return
	}
	names, err := s.folders.Files(args[0])
	if err != nil {
		broken(w)
		return
	}
	age := make(map[string]time.Time, len(names))
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			age[name] = info.ModTime()
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return age[b].Compare(age[a]) })
	reply(w, http.StatusOK, pyjson.AppendStrings(nil, names))
}

// logs are the last lines the server printed, each as the JSON of an entry.
type logs struct {
	mu    sync.Mutex
	lines []logLine
}

type logLine struct{ at, text string }

// maxLogs is how many lines are kept.
const maxLogs = 300

func newLogs() *logs { return &logs{} }

// add keeps a line and returns it as an entry.
func (l *logs) add(text string) []byte {
	line := logLine{time.Now().Format("2006-01-02T15:04:05.000000"), text}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == maxLogs {
		l.lines = slices.Delete(l.lines, 0, 1)
	}
	l.lines = append(l.lines, line)
	return line.entry(nil)
}

func (l logLine) entry(dst []byte) []byte {
	return fmt.Appendf(dst, `{"t": "%s", "m": %s}`, l.at, pyjson.Quote(l.text))
}

func (l *logs) all() []logLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func (s *ComfyUI) handleLogs(w http.ResponseWriter, _ *http.Request, l *life, _ []string) {
	var b strings.Builder
	for _, line := range l.logs.all() {
		b.WriteString(line.at + " - " + line.text)
	}
	reply(w, http.StatusOK, pyjson.Quote(b.String()))
}

func (s *ComfyUI) handleLogsRaw(w http.ResponseWriter, _ *http.Request, l *life, _ []string) {
	out := []byte(`{"entries": [`)
	for i, line := range l.logs.all() {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = line.entry(out)
	}
	reply(w, http.StatusOK, append(out, `], "size": {"cols": 80, "rows": 24}}`...))
}

func (s *ComfyUI) handleLogsSubscribe(w http.ResponseWriter, r *http.Request, l *life, _ []string) {
	raw, ok := object(w, r)
	if !ok {
		return
	}
	id, named := pyjson.Get(raw, "clientId")
	on, said := pyjson.Get(raw, "enabled")
	if !named || !said {
		broken(w)
		return
	}
	l.sockets.watch(pyjson.TextOf(id), pyjson.Truthy(on))
	empty(w, http.StatusOK)
}
