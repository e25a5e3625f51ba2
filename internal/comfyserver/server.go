package comfyserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/comfyserver/room"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Options of a Server. The zero value is good.
type Options struct {
	// MaxUpload is the size of the largest file that is taken, in bytes. 0: 512 MiB.
	MaxUpload int64
	// MaxPrompt is the size of the largest JSON body, in bytes. 0: 64 MiB.
	MaxPrompt int64
	// SocketsPerUser is how many sockets one person may have open. 0: 32.
	SocketsPerUser int
	// Fallback answers GET of paths that are no route of a ComfyUI server: the editor's page and its files.
	// Nil: 404.
	Fallback http.Handler
	// Elsewhere answers GET of paths that are no route of a ComfyUI server, with or without /api, before Fallback, and
	// reports whether it did: addresses of custom nodes. Nil: there are none.
	Elsewhere func(w http.ResponseWriter, r *http.Request) bool
	// Spool is the folder for uploads whose form names their place after the file. "": the system's.
	Spool string
	// Starter is the workflow that opens in a new workspace. Nil: one that fits the back ends.
	Starter json.RawMessage
	// Settings are defaults of the editor's settings for everybody. They lie under what the person set.
	Settings map[string]json.RawMessage
	// SignOut is the address for signing out, relative to the editor's place. "": signout.
	SignOut string
	// IdleStop is after how long without a touch an editor that queues by itself is stopped. 0: never.
	IdleStop time.Duration
	// Several says that other servers serve the same people.
	Several bool
	// Log takes what went wrong. Nil: slog.Default().
	Log *slog.Logger
}

// Server is the ComfyUI server of everybody who is signed in. It is safe for concurrent use.
type Server struct {
	Deps
	options  Options
	log      *slog.Logger
	hub      *room.Hub
	router   *router
	features json.RawMessage
	tuples   *tupleCache
	presence *presence
	memory   *memory // of bodies on their way
	spools   *turns  // big uploads on their way to the disk
	answers  *turns  // long answers
	started  time.Time
}

// New returns a server over d. Run keeps its sockets alive; Close ends them.
func New(d Deps, o Options) (*Server, error) {
	if d.Queue == nil || d.Bus == nil || d.Files == nil || d.Home == nil || d.Pictures == nil || d.Catalog == nil || d.Checker == nil {
		return nil, errors.New("comfyserver: a required part is missing")
	}
	if o.MaxUpload <= 0 {
		o.MaxUpload = 512 << 20
	}
	if o.MaxPrompt <= 0 {
		o.MaxPrompt = 64 << 20
	}
	if o.SignOut == "" {
		o.SignOut = "signout"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Server{
		Deps: d, options: o, log: o.Log, started: time.Now(),
		tuples:   newTupleCache(16 << 20),
		presence: newPresence(),
		memory:   newMemory(o.MaxPrompt*3/2, o.MaxPrompt*12),
		spools:   newTurns(4),
		answers:  newTurns(4),
		features: json.RawMessage(fmt.Sprintf(`{"supports_preview_metadata": true, "max_upload_size": %d}`, o.MaxUpload)),
	}
	s.hub = room.New(d.Queue, d.Bus, room.Options{Features: s.features, SocketsPerUser: o.SocketsPerUser, Several: o.Several, Log: o.Log})
	s.router = newRouter(s.table())
	return s, nil
}

// Run pings sockets and forgets what is over, until ctx ends.
func (s *Server) Run(ctx context.Context) error { return s.hub.Run(ctx) }

// Close tells every socket that the server goes away, and waits at most until ctx ends.
func (s *Server) Close(ctx context.Context) error { return s.hub.Close(ctx) }

// Sockets is how many sockets are open, for metrics.
func (s *Server) Sockets() int { return s.hub.Sockets() }

// Watching reports whether the session of user with that client id is open, so that previews are worth their cost.
func (s *Server) Watching(user, clientID string) bool { return s.hub.Watching(user, clientID) }

// call is one request on its way through a handler.
type call struct {
	*http.Request
	person identity.Person
	params params
	held   int64 // bytes booked for the request
}

// query reads the request's query. A semicolon is part of a value, as in preview=webp;90.
func (c *call) query() url.Values {
	raw := strings.ReplaceAll(c.URL.RawQuery, ";", "%3B")
	values, _ := url.ParseQuery(raw) // what can be read is used, as everywhere else
	return values
}

// user is whose request it is.
func (c *call) user() string { return c.person.Name }

// ServeHTTP answers one request of the person in its context.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	person, ok := identity.From(r.Context())
	if !ok || person.Name == "" {
		s.writeError(w, r, "", fault.New(fault.Denied, "You are not signed in.").
			WithRemedy("Sign in, or send a token.").WithCode(codeNoSignIn))
		return
	}
	path := r.URL.EscapedPath()
	handle, found, allowed := s.router.match(r.Method, path)
	page := found.handler == nil && s.options.Fallback != nil && !strings.HasPrefix(path, "/api/")
	if page {
		allowed = "GET, HEAD, OPTIONS"
	}
	if found.handler == nil && r.Method == http.MethodGet && s.options.Elsewhere != nil && s.options.Elsewhere(w, r) {
		return
	}
	switch {
	case page && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		s.options.Fallback.ServeHTTP(w, r)
		return
	case found.handler == nil && !page:
		s.writeError(w, r, person.Name, missing("There is nothing at %s.", clip(path, 200)))
		return
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", allowed)
		_ = done(w) // a client that left
		return
	case handle == nil:
		w.Header().Set("Allow", allowed)
		s.writeError(w, r, person.Name, fault.New(fault.Invalid, "%s takes %s.", clip(path, 200), allowed).WithCode(codeNoMethod))
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	c := &call{Request: r, person: person, params: found.params}
	defer func() { s.memory.give(c.user(), c.held) }()
	err := handle(w, c)
	if cut, ok := errors.AsType[cutShort](err); ok {
		s.log.Warn("answer was cut short", "user", person.Name, "route", r.URL.Path, "err", cut.error)
	} else if err != nil {
		s.writeError(w, r, person.Name, err)
	}
}

// clip shortens s for a sentence.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// catalog is what the person's group can run.
func (s *Server) catalog(c *call) Catalog { return s.Catalog(c.person.Group) }
