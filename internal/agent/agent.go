package agent

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Options of an agent.
type Options struct {
	Version   string
	Name      string        // under which it joined
	Output    *Log          // of its ComfyUI; nil: nothing is known
	Folders   []Disk        // whose free space is told; only Folder and For are set
	StopAfter time.Duration // how long a run may go on when the agent is asked to end; 0: 2 min
	Log       *slog.Logger
}

// Agent joins a ComfyUI to a studio. It is safe for concurrent use.
type Agent struct {
	comfy      ComfyUI
	o          Options
	output     *Log
	background sync.WaitGroup
	life       context.Context // ends with Close
	end        context.CancelFunc
	open       context.Context // ends when nothing new is taken any more
	stop       context.CancelFunc
}

// New returns an agent for a ComfyUI. Close it.
func New(comfy ComfyUI, o Options) *Agent {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.StopAfter <= 0 {
		o.StopAfter = 2 * time.Minute
	}
	a := &Agent{comfy: comfy, o: o, output: o.Output}
	if a.output == nil {
		a.output = &Log{waiter: make(chan struct{})}
	}
	a.life, a.end = context.WithCancel(context.Background())
	a.open, a.stop = context.WithCancel(a.life)
	return a
}

// Close ends what goes on in the background.
func (a *Agent) Close() {
	a.end()
	a.background.Wait()
}

// SetName says under which name the agent joined. It is called before anybody asks.
func (a *Agent) SetName(name string) { a.o.Name = name }

// Status tells how the agent and its ComfyUI are.
func (a *Agent) Status() Status {
	st := a.comfy.Status()
	st.Version, st.Name, st.Stopping = a.o.Version, a.o.Name, a.open.Err() != nil
	st.Disks = make([]Disk, 0, len(a.o.Folders))
	for _, d := range a.o.Folders {
		space, err := spaceOf(d.Folder)
		if err != nil {
			continue // it is not there yet; the check before the start names it
		}
		d.Space = space
		st.Disks = append(st.Disks, d)
	}
	return st
}

// Drain tells that the agent ends, and waits until its ComfyUI has nothing to do, StopAfter has passed or ctx ends.
func (a *Agent) Drain(ctx context.Context) {
	a.stop()
	ctx, cancel := context.WithTimeout(ctx, a.o.StopAfter)
	defer cancel()
	c := client(func(ctx context.Context, _, _ string) (net.Conn, error) { return a.comfy.Dial(ctx) })
	defer c.CloseIdleConnections()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	carried := func() int64 {
		if c, counts := a.comfy.(interface{ Carried() int64 }); counts {
			return c.Carried()
		}
		return 0
	}
	// A run may be between two requests of the studio, and its outputs are fetched after it has left the queue: so the
	// queue has to be found empty more than once, and nothing but small talk on the line.
	before := carried()
	for quiet, told := 0, false; quiet < 4; {
		state := a.comfy.Status().ComfyUI.State
		if state != Ready && state != Frozen {
			return // there is no run that could go on
		}
		switch q := question(ctx, c, OverDial(a.comfy), &pulse{}, false); {
		case q.err == nil && q.waiting == 0 && carried()-before < smallTalk:
			quiet++
		default:
			quiet = 0
			if !told {
				told = true
				a.o.Log.Info("the agent ends when its ComfyUI is idle", "runs", q.waiting, "at_most", a.o.StopAfter)
			}
		}
		before = carried()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// smallTalk is what sockets and questions carry in half a second, in bytes; files carry more.
const smallTalk = 16 << 10

// Guard lets requests through that carry the key as a bearer token or as X-API-Key.
func Guard(key string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(key))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := r.Header.Get("X-API-Key")
		if scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " "); found && strings.EqualFold(scheme, "Bearer") {
			given = strings.TrimSpace(token)
		}
		got := sha256.Sum256([]byte(given))
		if given == "" || subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
			refused(w, fault.New(fault.Denied, "The key is wrong or missing.").WithCode("wrong_key").
				WithRemedy("Send it as Authorization: Bearer KEY. It is the one that --key of the agent names; in the studio's settings it is the back end's key."))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Handler is the agent's own address in one-request mode: jobs at the addresses of runs, all else is the control
// interface, both behind the key. /healthz needs none and tells only whether ComfyUI is ready (200) or not (503), for
// balancers that start requests no sooner. Without a key everybody is let through: only for loopback.
func (a *Agent) Handler(key string, runs, control http.Handler) http.Handler {
	inside := http.NewServeMux()
	for _, path := range []string{"/run", "/runs/", "/info", "/web", "/free"} {
		inside.Handle(path, runs)
	}
	inside.Handle("/", control)
	var door http.Handler = inside
	if key != "" {
		door = Guard(key, inside)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if st := a.comfy.Status().ComfyUI; st.State != Ready || a.open.Err() != nil {
			writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": st.State})
			return
		}
		writeJSON(w, http.StatusOK, map[string]string{"status": Ready})
	})
	mux.Handle("/", door)
	return mux
}

// Serve answers requests at l until ctx ends. Then it takes no new ones, lets those that run end, for at most StopAfter,
// and cuts what is left.
func (a *Agent) Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(a.o.Log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	a.background.Go(func() {
		<-ctx.Done()
		a.stop() // also ends the logs that somebody follows, which would hold it up
		limit, cancel := context.WithTimeout(a.life, a.o.StopAfter)
		defer cancel()
		err := server.Shutdown(limit)
		if err != nil {
			err = server.Close()
		}
		ended <- err
	})
	err := server.Serve(l)
	if !errors.Is(err, http.ErrServerClosed) {
		return fault.Wrap(fault.Internal, err, "The agent can't take connections any more.")
	}
	return <-ended
}
