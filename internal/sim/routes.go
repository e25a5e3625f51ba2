package sim

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

const (
	get   = http.MethodGet
	post  = http.MethodPost
	patch = http.MethodPatch
)

// newRouter is the table of all routes.
func (s *ComfyUI) newRouter() *router {
	rt := &router{exact: map[string]map[string]handler{}}
	rt.both(get, "/", s.handleRoot)
	rt.both(get, "/ws", func(w http.ResponseWriter, r *http.Request, l *life, _ []string) { s.handleSocket(w, r, l) })

	rt.both(get, "/prompt", s.handleRemaining)
	rt.both(post, "/prompt", s.handlePrompt)
	rt.both(get, "/queue", s.handleQueue)
	rt.both(post, "/queue", s.handleQueueEdit)
	rt.both(post, "/interrupt", s.handleInterrupt)
	rt.both(post, "/free", s.handleFree)
	rt.both(get, "/history", s.handleHistory)
	rt.both(get, "/history/{id}", s.handleHistoryOf)
	rt.both(post, "/history", s.handleHistoryEdit)

	rt.both(get, "/object_info", s.handleObjectInfo)
	rt.both(get, "/object_info/{class}", s.handleObjectInfoOf)
	rt.both(get, "/system_stats", s.handleSystemStats)
	rt.both(get, "/features", func(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
		reply(w, http.StatusOK, s.features())
	})
	rt.both(get, "/embeddings", s.handleEmbeddings)
	rt.both(get, "/extensions", s.handleExtensions)
	rt.both(get, "/models", s.handleModels)
	rt.both(get, "/models/{folder}", s.handleModelsOf)
	rt.both(get, "/experiment/models", s.handleModelFolders)
	rt.both(get, "/experiment/models/{folder}", s.handleModelDetails)
	rt.both(get, "/experiment/models/preview/{folder}/{index}/{…}", s.handleModelPreview)
	rt.both(get, "/view_metadata/{folder}", notThere)
	rt.both(get, "/workflow_templates", constant("{}"))
	rt.both(get, "/i18n", constant("{}"))

	rt.both(get, "/view", s.handleView)
	rt.both(post, "/upload/image", s.handleUpload)
	rt.both(post, "/upload/mask", s.handleUploadMask)

	rt.both(get, "/users", s.handleUsers)
	rt.both(post, "/users", s.handleNewUser)
	rt.both(get, "/settings", s.handleSettings)
	rt.both(post, "/settings", s.handleSettingsEdit)
	rt.both(get, "/settings/{id}", s.handleSetting)
	rt.both(post, "/settings/{id}", s.handleSettingEdit)
	rt.both(get, "/userdata", s.handleUserdataList)
	rt.both(get, "/v2/userdata", s.handleUserdataTree)
	rt.both(get, "/userdata/{file}", s.handleUserdataRead)
	rt.both(post, "/userdata/{file}", s.handleUserdataWrite)
	rt.both(http.MethodDelete, "/userdata/{file}", s.handleUserdataDelete)
	rt.both(post, "/userdata/{file}/move/{dest}", s.handleUserdataMove)

	rt.add(get, "/internal/logs", s.handleLogs)
	rt.add(get, "/internal/logs/raw", s.handleLogsRaw)
	rt.add(patch, "/internal/logs/subscribe", s.handleLogsSubscribe)
	rt.add(get, "/internal/folder_paths", s.handleFolderPaths)
	rt.add(get, "/internal/files/{type}", s.handleFiles)
	if s.modern {
		rt.add(get, "/api/jobs", s.handleJobs)
		rt.add(get, "/api/jobs/{id}", s.handleJob)
		rt.add(post, "/api/jobs/{id}/cancel", s.handleJobCancel)
		rt.add(post, "/api/jobs/cancel", s.handleJobsCancel)
		rt.both(get, "/global_subgraphs", constant("{}"))
		rt.both(get, "/global_subgraphs/{id}", constant("null"))
		rt.both(get, "/node_replacements", constant("{}"))
	}
	return rt
}

// constant answers with always the same JSON.
func constant(body string) handler {
	return func(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
		reply(w, http.StatusOK, []byte(body))
	}
}

func notThere(w http.ResponseWriter, _ *http.Request, _ *life, _ []string) {
	empty(w, http.StatusNotFound)
}

func (s *ComfyUI) handleRemaining(w http.ResponseWriter, _ *http.Request, l *life, _ []string) {
	reply(w, http.StatusOK, fmt.Appendf(nil, `{"exec_info": {"queue_remaining": %d}}`, l.queue.remaining()))
}

func (s *ComfyUI) handleQueue(w http.ResponseWriter, _ *http.Request, l *life, _ []string) {
	running, waiting := l.queue.lists()
	out := []byte(`{"queue_running": [`)
	for i, list := range [][]*item{running, waiting} {
		if i == 1 {
			out = append(out, `], "queue_pending": [`...)
		}
		for j, it := range list {
			if j > 0 {
				out = append(out, ", "...)
			}
			out = it.appendTuple(out, s.modern)
		}
	}
	reply(w, http.StatusOK, append(out, "]}"...))
}

// names calls f for the strings of a list in a request, and for what else Python goes through as through a list.
func names(raw json.RawMessage, f func(string)) error {
	switch pyjson.KindOf(raw) {
	case pyjson.String:
		for _, letter := range pyjson.TextOf(raw) {
			f(string(letter))
		}
		return nil
	case pyjson.Object:
		return pyjson.EachMember(raw, func(key string, _ json.RawMessage, _ int) error {
			f(key)
			return nil
		})
	}
	return pyjson.EachElement(raw, func(v json.RawMessage, _ int) error {
		if id, ok := pyjson.Text(v); ok {
			f(id)
		}
		return nil
	})
}

func (s *ComfyUI) handleQueueEdit(w http.ResponseWriter, r *http.Request, l *life, _ []string) {
	raw, ok := wishes(w, r)
	if !ok {
		return
	}
	if wish, ok := pyjson.Get(raw, "clear"); ok && pyjson.Truthy(wish) {
		l.queue.clear()
	}
	if list, ok := pyjson.Get(raw, "delete"); ok {
		if names(list, func(id string) { l.queue.remove(id) }) != nil {
			broken(w)
			return
		}
	}
	empty(w, http.StatusOK)
}

func (s *ComfyUI) handleHistoryEdit(w http.ResponseWriter, r *http.Request, l *life, _ []string) {
	raw, ok := wishes(w, r)
	if !ok {
		return
	}
	if wish, ok := pyjson.Get(raw, "clear"); ok && pyjson.Truthy(wish) {
		l.queue.wipe()
	}
	if list, ok := pyjson.Get(raw, "delete"); ok {
		if names(list, l.queue.drop) != nil {
			broken(w)
			return
		}
	}
	empty(w, http.StatusOK)
}

func (s *ComfyUI) handleInterrupt(w http.ResponseWriter, r *http.Request, l *life, _ []string) {
	b, ok := body(w, r)
	if !ok {
		return
	}
	if pyjson.Valid(b) {
		if pyjson.KindOf(b) != pyjson.Object {
			broken(w)
			return
		}
		if id, ok := pyjson.Get(b, "prompt_id"); ok && pyjson.Truthy(id) {
			l.queue.whileRuns(pyjson.TextOf(id), func() { l.stop.Store(true) })
			empty(w, http.StatusOK)
			return
		}
	}
	l.stop.Store(true)
	empty(w, http.StatusOK)
}

func (s *ComfyUI) handleFree(w http.ResponseWriter, r *http.Request, l *life, _ []string) {
	raw, ok := object(w, r)
	if !ok {
		return
	}
	unload, _ := pyjson.Get(raw, "unload_models")
	forget, _ := pyjson.Get(raw, "free_memory")
	l.queue.free(pyjson.Truthy(unload), pyjson.Truthy(forget))
	empty(w, http.StatusOK)
}

func (s *ComfyUI) handleHistory(w http.ResponseWriter, r *http.Request, l *life, _ []string) {
	limit, offset := math.MaxInt, -1
	params := query(r)
	for name, into := range map[string]*int{"max_items": &limit, "offset": &offset} {
		if !params.Has(name) {
			continue
		}
		n, err := strconv.Atoi(params.Get(name))
		if err != nil {
			broken(w)
			return
		}
		*into = n
	}
	out := []byte{'{'}
	for i, f := range l.queue.past(limit, offset) {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = f.appendEntry(append(pyjson.AppendString(out, f.item.id), ": "...))
	}
	reply(w, http.StatusOK, append(out, '}'))
}

func (s *ComfyUI) handleHistoryOf(w http.ResponseWriter, _ *http.Request, l *life, args []string) {
	f, ok := l.queue.find(args[0])
	if !ok {
		reply(w, http.StatusOK, []byte("{}"))
		return
	}
	out := append(pyjson.AppendString([]byte{'{'}, f.item.id), ": "...)
	reply(w, http.StatusOK, append(f.appendEntry(out), '}'))
}
