package comfyserver

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Route is one address of the server. Parameters of a path are in braces and take one segment each, still
// escaped, so that %2F does not end it; {name...} takes the rest.
type Route struct {
	Method string
	Path   string
}

// where says under which addresses a route exists.
type where uint8

const (
	both  where = iota // as written and below /api
	plain              // as written: /internal, /extensions, and what a real server registers only below /api
)

type handler func(w http.ResponseWriter, c *call) error

type routeEntry struct {
	Route
	where where
	run   handler
}

// table is every route there is, in the order of the protocol's description.
func (s *Server) table() []routeEntry {
	get, post := http.MethodGet, http.MethodPost
	return []routeEntry{
		{Route{get, "/ws"}, both, s.socket},
		{Route{get, "/prompt"}, both, s.promptInfo},
		{Route{post, "/prompt"}, both, s.promptPost},
		{Route{get, "/queue"}, both, s.bulky(s.queueGet)},
		{Route{post, "/queue"}, both, s.queuePost},
		{Route{post, "/interrupt"}, both, s.interrupt},
		{Route{post, "/free"}, both, s.free},
		{Route{get, "/history"}, both, s.bulky(s.historyGet)},
		{Route{post, "/history"}, both, s.historyPost},
		{Route{get, "/history/{prompt_id}"}, both, s.bulky(s.historyOne)},
		{Route{get, "/history_v2/{prompt_id}"}, both, s.bulky(s.historyOne)},
		{Route{get, "/api/jobs"}, plain, s.bulky(s.jobsGet)},
		{Route{post, "/api/jobs/cancel"}, plain, s.jobsCancel},
		{Route{get, "/api/jobs/{prompt_id}"}, plain, s.bulky(s.jobOne)},
		{Route{post, "/api/jobs/{prompt_id}/cancel"}, plain, s.jobCancel},
		{Route{get, "/object_info"}, both, s.objectInfo},
		{Route{get, "/object_info/{class}"}, both, s.objectInfoOne},
		{Route{get, "/system_stats"}, both, s.systemStats},
		{Route{get, "/features"}, both, s.featuresGet},
		{Route{get, "/embeddings"}, both, s.embeddings},
		{Route{get, "/extensions"}, both, s.extensions},
		{Route{get, "/models"}, both, s.models},
		{Route{get, "/models/{folder}"}, both, s.modelsIn},
		{Route{get, "/experiment/models"}, both, s.modelFolders},
		{Route{get, "/experiment/models/{folder}"}, both, s.modelFiles},
		{Route{get, "/experiment/models/preview/{folder}/{index}/{name...}"}, both, s.modelPreview},
		{Route{get, "/view_metadata/{folder}"}, both, s.modelMetadata},
		{Route{get, "/view"}, both, s.view},
		{Route{post, "/upload/image"}, both, s.uploadImage},
		{Route{post, "/upload/mask"}, both, s.uploadMask},
		{Route{get, "/users"}, both, s.usersGet},
		{Route{post, "/users"}, both, s.usersPost},
		{Route{get, "/settings"}, both, s.settingsGet},
		{Route{post, "/settings"}, both, s.settingsPost},
		{Route{get, "/settings/{id}"}, both, s.settingGet},
		{Route{post, "/settings/{id}"}, both, s.settingPost},
		{Route{get, "/userdata"}, both, s.userdataList},
		{Route{get, "/v2/userdata"}, both, s.userdataTree},
		{Route{get, "/userdata/{file}"}, both, s.userdataGet},
		{Route{post, "/userdata/{file}"}, both, s.userdataPost},
		{Route{http.MethodDelete, "/userdata/{file}"}, both, s.userdataDelete},
		{Route{post, "/userdata/{file}/move/{dest}"}, both, s.userdataMove},
		{Route{get, "/workflow_templates"}, both, s.templates},
		{Route{get, "/api/workflow_templates/{pack}/{name...}"}, plain, s.template},
		{Route{get, "/i18n"}, both, s.i18n},
		{Route{get, "/global_subgraphs"}, both, s.subgraphs},
		{Route{get, "/global_subgraphs/{id}"}, both, s.subgraph},
		{Route{get, "/internal/logs"}, plain, s.logs},
		{Route{get, "/internal/logs/raw"}, plain, s.logsRaw},
		{Route{http.MethodPatch, "/internal/logs/subscribe"}, plain, s.logsSubscribe},
		{Route{get, "/internal/folder_paths"}, plain, s.folderPaths},
		{Route{get, "/internal/files/{type}"}, plain, s.internalFiles},
		{Route{get, "/extensions/comfyume/{name}"}, plain, s.studioFile},
		{Route{post, "/extensions/comfyume/act"}, plain, s.studioAct},
		{Route{get, "/extensions/{pack}/{name...}"}, plain, s.packFile},
	}
}

// Routes lists every address of a server, twins included, so that tests can try each of them.
func Routes() []Route {
	var all []Route
	for _, e := range (&Server{}).table() {
		all = append(all, e.Route)
		if e.where == both {
			all = append(all, Route{e.Method, "/api" + e.Path})
		}
	}
	return all
}

// params are the values of a path's parameters, unescaped once.
type params [4]struct{ name, value string }

func (p *params) get(name string) string {
	for i := range p {
		if p[i].name == name {
			return p[i].value
		}
	}
	return ""
}

// router finds the handler of a path. Paths without parameters are one look-up.
type router struct {
	exact  map[string]*leaf
	others map[string][]*leaf // by first segment; longer ones first, then those with more fixed segments
}

type leaf struct {
	segments []string
	handlers map[string]handler
	allowed  string
}

// matched is a path's leaf.
type matched struct {
	handler *leaf
	params  params
}

func newRouter(entries []routeEntry) *router {
	r := &router{exact: map[string]*leaf{}, others: map[string][]*leaf{}}
	for _, e := range entries {
		r.add(e.Path, e.Method, e.run)
		if e.where == both {
			r.add("/api"+e.Path, e.Method, e.run)
		}
	}
	return r
}

func (r *router) add(path, method string, run handler) {
	segments := strings.Split(path[1:], "/")
	var l *leaf
	if !strings.Contains(path, "{") {
		if l = r.exact[path]; l == nil {
			l = &leaf{segments: segments, handlers: map[string]handler{}}
			r.exact[path] = l
		}
	} else {
		list := r.others[segments[0]]
		i := slices.IndexFunc(list, func(o *leaf) bool { return slices.Equal(o.segments, segments) })
		if i < 0 {
			l = &leaf{segments: segments, handlers: map[string]handler{}}
			r.others[segments[0]] = append(list, l)
		} else {
			l = list[i]
		}
	}
	l.handlers[method] = run
	methods := []string{http.MethodOptions}
	for m := range l.handlers {
		methods = append(methods, m)
		if m == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
	}
	slices.Sort(methods)
	l.allowed = strings.Join(methods, ", ")
}

// match finds the handler for an escaped path. found is without a leaf when no route has the path; the handler is
// nil when none of its methods is asked for.
func (r *router) match(method, path string) (run handler, found matched, allowed string) {
	found.handler = r.exact[path]
	if found.handler == nil && strings.HasPrefix(path, "/") {
		first, _, _ := strings.Cut(path[1:], "/")
		for _, l := range r.others[first] {
			if p, ok := l.fits(path[1:]); ok {
				found = matched{l, p}
				break
			}
		}
	}
	if found.handler == nil {
		return nil, found, ""
	}
	if method == http.MethodHead {
		method = http.MethodGet
	}
	return found.handler.handlers[method], found, found.handler.allowed
}

// fits compares an escaped path without its first slash to the leaf's segments.
func (l *leaf) fits(path string) (p params, ok bool) {
	n := 0
	for i, want := range l.segments {
		segment, rest, more := strings.Cut(path, "/")
		final := i == len(l.segments)-1
		if name, isParam := strings.CutPrefix(want, "{"); isParam {
			name = strings.TrimSuffix(name, "}")
			if whole, ok := strings.CutSuffix(name, "..."); ok {
				name, segment, more = whole, path, false
			}
			value, err := url.PathUnescape(segment)
			if err != nil || value == "" {
				return p, false
			}
			p[n].name, p[n].value = name, value
			n++
		} else if segment != want {
			return p, false
		}
		if more == final {
			return p, false // too long, or too short
		}
		path = rest
	}
	return p, true
}
