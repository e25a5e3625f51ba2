package sim

import (
	"errors"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// handler answers one request. args are the decoded parts of the path that the route leaves open.
type handler func(w http.ResponseWriter, r *http.Request, l *life, args []string)

// router finds routes on the path as it was sent: an encoded slash belongs to its segment.
type router struct {
	exact map[string]map[string]handler // by path, then method
	open  []route
}

type route struct {
	method string
	parts  []string // "" for a part that is left open; "…" at the end takes all that follows
	handle handler
}

// both adds a route with and without /api.
func (rt *router) both(method, path string, h handler) {
	rt.add(method, path, h)
	if path == "/" {
		rt.add(method, "/api/", h)
		return
	}
	rt.add(method, "/api"+path, h)
}

func (rt *router) add(method, path string, h handler) {
	if !strings.Contains(path, "{") {
		if rt.exact[path] == nil {
			rt.exact[path] = map[string]handler{}
		}
		rt.exact[path][method] = h
		return
	}
	parts := strings.Split(path[1:], "/")
	for i, p := range parts {
		switch {
		case p == "{…}":
			parts[i] = "…"
		case strings.HasPrefix(p, "{"):
			parts[i] = ""
		}
	}
	rt.open = append(rt.open, route{method, parts, h})
}

// find returns the handler for a request, or the methods the path would take. The editor's files lie under every
// path, so that it can be read in any case.
func (rt *router) find(method, path string) (h handler, args, allowed []string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if methods := rt.exact[path]; methods != nil {
		if h := methods[method]; h != nil {
			return h, nil, nil
		}
		allowed = slices.Collect(maps.Keys(methods))
	}
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for _, r := range rt.open {
		args, ok := r.match(segments)
		switch {
		case !ok:
		case r.method == method:
			return r.handle, args, nil
		case !slices.Contains(allowed, r.method):
			allowed = append(allowed, r.method)
		}
	}
	for _, m := range []string{http.MethodGet, http.MethodHead} {
		if !slices.Contains(allowed, m) {
			allowed = append(allowed, m)
		}
	}
	slices.Sort(allowed)
	return nil, nil, allowed
}

func (r route) match(segments []string) (args []string, ok bool) {
	for i, p := range r.parts {
		if i >= len(segments) {
			return nil, false
		}
		if p == "…" {
			rest, err := url.PathUnescape(strings.Join(segments[i:], "/"))
			return append(args, rest), err == nil
		}
		if p != "" {
			if p != segments[i] {
				return nil, false
			}
			continue
		}
		part, err := url.PathUnescape(segments[i])
		if err != nil || part == "" {
			return nil, false
		}
		args = append(args, part)
	}
	return args, len(segments) == len(r.parts)
}

// serve is the outermost handler: what stands before the routes of a real server, and the simulated trouble.
func (s *ComfyUI) serve(w http.ResponseWriter, r *http.Request) {
	if s.breathe(r.Context()) != nil {
		return
	}
	l := s.current()
	if l == nil {
		hangUp(w)
		return
	}
	if s.pause(r.Context(), s.opts.Latency) != nil {
		return
	}
	if s.opts.BytesPerSecond > 0 {
		w = &slow{ResponseWriter: w, server: s, request: r}
	}
	w.Header().Set("Server", "simulated-comfyui/"+s.opts.Version)
	if foreign(r) {
		empty(w, http.StatusForbidden)
		return
	}
	if r.Method == http.MethodOptions {
		empty(w, http.StatusOK)
		return
	}
	path := r.URL.EscapedPath()
	h, args, allowed := s.routes.find(r.Method, path)
	switch {
	case h != nil:
		cacheRules(w, path)
		r.Body = http.MaxBytesReader(w, r.Body, s.opts.MaxUpload)
		h(w, r, l, args)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		cacheRules(w, path)
		s.static(w, r)
	default:
		w.Header().Set("Allow", strings.Join(allowed, ","))
		text(w, http.StatusMethodNotAllowed, "405: Method Not Allowed")
	}
}

// hangUp breaks the connection as a process does that is gone.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable) // a connection that can't be taken, such as a test's recorder
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0) // the other side sees a reset; without one it sees the end, which will do
	}
	conn.Close()
}

// foreign reports whether a page of another origin sends the request to a server on the loopback.
func foreign(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || r.Host == "" {
		return false
	}
	o, err := url.Parse(origin)
	if err != nil {
		return false
	}
	host, port := r.Host, ""
	if h, p, err := net.SplitHostPort(r.Host); err == nil {
		host, port = h, p
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return false
	}
	if o.Hostname() == "" {
		return false
	}
	if !strings.EqualFold(strings.Trim(host, "[]"), o.Hostname()) {
		return true
	}
	return port != "" && o.Port() != "" && port != o.Port()
}

// cacheRules sets how long browsers may keep what lies at a path.
func cacheRules(w http.ResponseWriter, path string) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	if strings.HasSuffix(path, ".js") || strings.HasSuffix(path, ".css") || strings.HasPrefix(name, "index") && strings.HasSuffix(name, ".json") {
		w.Header().Set("Cache-Control", "no-cache")
	}
}

// slow is a response that is written no faster than the server's limit.
type slow struct {
	http.ResponseWriter
	server  *ComfyUI
	request *http.Request
}

// Unwrap gives the response below to those that take connections over.
func (s *slow) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Write writes piece by piece with pauses.
func (s *slow) Write(b []byte) (int, error) {
	const piece = 16 << 10
	done := 0
	for len(b) > 0 {
		n := min(piece, len(b))
		wait := time.Duration(float64(n) / float64(s.server.opts.BytesPerSecond) * float64(time.Second))
		if err := s.server.pause(s.request.Context(), wait); err != nil {
			return done, err
		}
		m, err := s.ResponseWriter.Write(b[:n])
		done += m
		if err != nil {
			return done, err
		}
		if err := http.NewResponseController(s.ResponseWriter).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return done, err
		}
		b = b[n:]
	}
	return done, nil
}
