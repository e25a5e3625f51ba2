package serverless

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// Updates takes the call-backs of containers: POST …/runs/{run}/updates with the token of the run. It is safe for
// concurrent use, and common to all drivers of a studio.
type Updates struct {
	key []byte

	mu      sync.Mutex
	runs    map[string]*listener
	stopped map[string]time.Time // runs that are not wanted any more, and since when
}

// NewUpdates returns what takes call-backs. Tokens follow from the key, so that they hold over a restart of ours.
func NewUpdates(key []byte) *Updates {
	return &Updates{key: key, runs: make(map[string]*listener), stopped: make(map[string]time.Time)}
}

// token is what the container of a run shows when it calls back. It is good for nothing else.
func (u *Updates) token(run string) string {
	h := hmac.New(sha256.New, u.key)
	h.Write([]byte("updates of run " + run)) //nolint:errcheck // a hash takes everything
	return hex.EncodeToString(h.Sum(nil))
}

// Bounds of what waits to be taken by a run, and of how long it may wait.
const (
	maxWaiting = 256
	takeWithin = 5 * time.Second
	stopFor    = 2 * time.Hour
	// handOver is how long a container may be silent before another one that has the run too is taken for its heir.
	handOver = 10 * time.Second
)

// listener is a run that waits for call-backs.
type listener struct {
	events chan oneshot.Event
	done   chan struct{} // closed when nobody listens any more

	mu        sync.Mutex // one call at a time
	container string
	heard     time.Time
	next      int64
	posted    bool

	unwanted atomic.Bool
}

// listen registers a run.
func (u *Updates) listen(run string) *listener {
	l := &listener{events: make(chan oneshot.Event, maxWaiting), done: make(chan struct{})}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.runs[run] = l
	delete(u.stopped, run)
	return l
}

// leave ends what listen began.
func (u *Updates) leave(run string, l *listener) {
	u.mu.Lock()
	if u.runs[run] == l {
		delete(u.runs, run)
	}
	u.mu.Unlock()
	close(l.done)
}

// stop tells whoever calls back for the run to interrupt it.
func (u *Updates) stop(run string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, since := range u.stopped {
		if time.Since(since) > stopFor {
			delete(u.stopped, id)
		}
	}
	u.stopped[run] = time.Now()
}

// ServeHTTP takes one call-back. Its pattern has to name {run}.
func (u *Updates) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	run := r.PathValue("run")
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !hmac.Equal([]byte(token), []byte(u.token(run))) {
		answerFault(w, http.StatusForbidden, fault.New(fault.Denied, "The token is not that of the run.").
			WithRemedy("An agent takes it from the task of its run; nobody else has one."))
		return
	}
	u.mu.Lock()
	l, unwanted := u.runs[run], u.stopped[run]
	u.mu.Unlock()
	if !unwanted.IsZero() {
		answerJSON(w, http.StatusOK, oneshot.Told{Stop: true})
		return
	}
	if l == nil { // perhaps it is taken up again soon
		answerFault(w, http.StatusNotFound, fault.New(fault.Missing, "Nobody waits for the run just now."))
		return
	}
	told, err := l.take(run, w, r)
	switch {
	case errors.Is(err, errBusyRun):
		answerJSON(w, http.StatusOK, told) // the rest comes with the next call
	case err != nil:
		answerFault(w, http.StatusBadRequest, fault.Wrap(fault.Invalid, err, "The body is no report of a run."))
	default:
		answerJSON(w, http.StatusOK, told)
	}
}

var (
	errBusyRun = errors.New("the run has not taken what came before")
	errOther   = errors.New("another container has the run")
)

// take hands the events of a call to the run.
func (l *listener) take(run string, w http.ResponseWriter, r *http.Request) (oneshot.Told, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := time.NewTimer(takeWithin)
	defer until.Stop()
	give := func(e oneshot.Event) error {
		select {
		case l.events <- e:
			return nil
		case <-until.C:
			return errBusyRun
		case <-l.done:
			return errBusyRun
		}
	}
	err := oneshot.ReadUpdates(http.MaxBytesReader(w, r.Body, oneshot.MaxUpdates), func(e oneshot.Event) error {
		switch {
		case e.Hello != nil && e.Hello.Run != run:
			return errOther
		case e.Hello != nil:
			return l.hello(e, give)
		case e.Frame != nil && e.Frame.N < l.next: // it came before
			return nil
		case e.Posted != nil && l.posted:
			return nil
		}
		if err := give(e); err != nil {
			return err
		}
		if e.Frame != nil {
			l.next = e.Frame.N + 1
		}
		l.posted = l.posted || e.Posted != nil
		return nil
	})
	if errors.Is(err, errOther) {
		return oneshot.Told{Stop: true}, nil
	}
	l.heard = time.Now()
	return oneshot.Told{Next: l.next, Stop: l.unwanted.Load()}, err
}

// hello looks at who calls. A run that was given to two containers goes on in the first one, as long as that lives.
func (l *listener) hello(e oneshot.Event, give func(oneshot.Event) error) error {
	h := e.Hello
	if l.container != "" && l.container != h.Container {
		if time.Since(l.heard) < handOver {
			return errOther
		}
		l.next, l.posted = 0, false
		h.Gap = true
	}
	l.container, l.heard = h.Container, time.Now()
	return give(e)
}

// release lets another container have the run: the one that had it lacked something.
func (l *listener) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.container, l.next, l.posted = "", 0, false
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the caller is gone then
}

func answerFault(w http.ResponseWriter, status int, err error) {
	text, remedy := fault.Public(err)
	answerJSON(w, status, map[string]any{"error": map[string]string{"message": text, "remedy": remedy}})
}
