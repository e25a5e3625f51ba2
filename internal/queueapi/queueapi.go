// Package queueapi is the queue manager's interface, for programs that were written for it: jobs, their order, and
// workers that fetch jobs and bring results. It stands on the same queue as everything else of the studio, so that
// what comes in here waits, runs and is kept like what editors send. Who asks comes in the request's context; what they
// may see and do follows from their role, in rights.go alone.
package queueapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Options of a Face. The zero value is good.
type Options struct {
	SocketsPerUser int           // open sockets of one person; 0: 32
	Lease          time.Duration // how long a worker may be silent about a job; 0: 16 min
	Log            *slog.Logger  // nil: discarded
}

// defaultLease is longer than the 15 minutes after which the worker of old gives a job up by itself: it says nothing
// while it works.
const defaultLease = 16 * time.Minute

// Face answers requests. It is safe for concurrent use.
type Face struct {
	Deps
	o       Options
	log     *slog.Logger
	mux     *http.ServeMux
	workers *workers
	bodies  *bodies
	lounge  *lounge
	totals  totals
}

// New returns the interface. Run keeps its workers' jobs in order; Close ends its sockets.
func New(d Deps, o Options) *Face {
	if o.SocketsPerUser <= 0 {
		o.SocketsPerUser = 32
	}
	if o.Lease <= 0 {
		o.Lease = defaultLease
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f := &Face{Deps: d, o: o, log: o.Log, mux: http.NewServeMux(), bodies: newBodies(), lounge: newLounge()}
	f.workers = newWorkers(f)
	for _, r := range f.table() {
		f.mux.Handle(r.Method+" "+r.Path, f.route(r))
	}
	return f
}

// Route is one address of the interface.
type Route struct{ Method, Path string }

// asker says who may use a route.
type asker uint8

const (
	signedIn asker = iota // who is signed in
	anybody               // who is not, too
	byToken               // who has a token for it; the door sees to that
)

type entry struct {
	Route
	asker asker
	run   func(w http.ResponseWriter, r *http.Request, p identity.Person) error
}

// table is every address there is.
func (f *Face) table() []entry {
	get, post := http.MethodGet, http.MethodPost
	return []entry{
		{Route{get, "/health"}, anybody, f.health},
		{Route{get, "/api/health"}, anybody, f.health},
		{Route{get, "/api/queue/status"}, signedIn, f.status},
		{Route{get, "/api/jobs"}, signedIn, f.list},
		{Route{post, "/api/jobs"}, signedIn, f.submit},
		{Route{get, "/api/jobs/{id}"}, signedIn, f.one},
		{Route{http.MethodDelete, "/api/jobs/{id}"}, signedIn, f.cancel},
		{Route{http.MethodPatch, "/api/jobs/{id}/priority"}, signedIn, f.priority},
		{Route{get, "/api/workers/next-job"}, byToken, f.nextJob},
		{Route{post, "/api/workers/complete-job"}, byToken, f.completeJob},
		{Route{post, "/api/workers/fail-job"}, byToken, f.failJob},
		{Route{post, "/api/workers/heartbeat"}, byToken, f.heartbeat},
		{Route{get, "/ws"}, signedIn, f.socket},
	}
}

// Routes lists every address, so that tests can try each of them.
func Routes() []Route {
	var all []Route
	for _, e := range (&Face{}).table() {
		all = append(all, e.Route)
	}
	return all
}

// OnMain lists those that the studio's main address has too. The others are ComfyUI's there.
func OnMain() []Route {
	return []Route{
		{http.MethodGet, "/api/health"},
		{http.MethodGet, "/api/queue/status"},
		{http.MethodPost, "/api/jobs"},
		{http.MethodDelete, "/api/jobs/"},
		{http.MethodPatch, "/api/jobs/"},
	}
}

// ServeHTTP answers one request.
func (f *Face) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if _, pattern := f.mux.Handler(r); pattern == "" {
		f.noRoute(w, r)
		return
	}
	f.mux.ServeHTTP(w, r)
}

// unseen is how long after its arrival a question for a job that is not there, or is not theirs, is answered. It is
// longer than any look-up, so that the answer's time does not tell the two apart.
const unseen = 20 * time.Millisecond

func (f *Face) route(e entry) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived := time.Now()
		p, ok := identity.From(r.Context())
		if !ok && e.asker != anybody {
			f.fail(w, r, fault.New(fault.Denied, "Nobody is signed in.").WithCode(codeSignedOut).
				WithRemedy("Send a name and password, or a token: Authorization: Bearer cm_…"))
			return
		}
		err := e.run(w, r, p)
		if err == nil {
			return
		}
		if fe, ok := errors.AsType[*fault.Error](err); ok && fe.Code == codeNoJob {
			wait(r.Context(), unseen-time.Since(arrived))
		}
		f.fail(w, r, err)
	})
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
