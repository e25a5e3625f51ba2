package comfyui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
)

// run is one attempt on the server.
type run struct {
	d       *Driver
	t       backend.Task
	id      string  // prompt id on the server
	client  string  // client id under which it is posted
	sock    *socket // held; nil: none; Start's alone once it has begun
	seat    *seat   // nil: it was not handed over
	resumed bool
	running bool            // resumed while the server was at it
	result  *backend.Result // known already when resumed after its end

	stop    atomic.Bool   // somebody wants it interrupted
	removed atomic.Bool   // it was taken out of the server's queue
	wake    chan struct{} // look at the above now

	mu      sync.Mutex
	epoch   string // the server's start that has it, or is to have it
	state   runState
	started bool // Start has the socket, and lets go of it itself
	away    bool // over, and the server has put it away
	closed  bool
}

// runState says what the server may have of a run.
type runState uint8

const (
	unposted runState = iota
	posted            // the server was, or may have been, given the prompt
	over              // it ended, or the server knows nothing of it
)

var _ backend.Run = (*run)(nil)

func (d *Driver) newRun(t backend.Task) *run {
	return &run{d: d, t: t, id: t.Attempt.RunID, client: t.Attempt.ClientID, wake: make(chan struct{}, 1)}
}

func (d *Driver) prepare(ctx context.Context, t backend.Task) (backend.Run, error) {
	r := d.newRun(t)
	var err error
	if r.epoch, err = d.epoch(ctx, false); err != nil {
		return nil, err
	}
	if err := d.ensureUploads(ctx, r.epoch, t.Uploads, false); err != nil {
		return nil, err
	}
	if r.sock, err = d.holdCommon(ctx); err != nil {
		return nil, err
	}
	r.client = r.sock.id
	return r, nil
}

func (d *Driver) resume(ctx context.Context, t backend.Task) (backend.Run, error) {
	r := d.newRun(t)
	r.resumed = true
	r.state = posted
	var err error
	if r.epoch, err = d.epoch(ctx, false); err != nil {
		return nil, err
	}
	d.tidy.own(r.id)
	for look := range 2 {
		entry, ok, err := d.history(ctx, r.id)
		if err != nil {
			return nil, err
		}
		if ok {
			result := readEntry(entry)
			r.result = &result
			r.state, r.away = over, true
			return r, nil
		}
		if look == 1 {
			break // neither waiting nor running a moment ago, and not over either
		}
		at, _, err := d.look(ctx, r.id)
		if err != nil {
			return nil, err
		}
		if at != absent {
			if r.sock, err = d.holdSocket(ctx, r.client, nil); err != nil {
				return nil, err
			}
			r.running = at == running
			r.seat = d.row.enter(r.id)
			d.row.settle(r.seat, !r.running) // what waits before it is not known
			d.own.Add(1)
			return r, nil
		}
	}
	return nil, backend.ErrUnknownRun
}

// ready sees to it that what Prepare did still holds: the server may have been restarted while the run waited for
// its turn. A socket that was cut is opened again by Start.
func (r *run) ready(ctx context.Context) error {
	word, err := r.d.epoch(ctx, false)
	if err != nil || word == r.Epoch() {
		return err
	}
	r.moved(word)
	return r.d.ensureUploads(ctx, word, r.t.Uploads, false)
}

// Epoch is the server's start under which the run was prepared, or, where that ended before it was handed over, the one
// that has it.
func (r *run) Epoch() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch
}

// moved takes over the start that has the run.
func (r *run) moved(epoch string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch = epoch
}

// Fetch opens an output file. A server that was restarted since the run has lost it: its temp files are gone, and what
// it calls by the same name by now may be somebody else's.
func (r *run) Fetch(ctx context.Context, f backend.FileRef) (io.ReadCloser, error) {
	file, err := r.fetch(ctx, f)
	word, lost := r.d.epoch(ctx, fault.Is(err, fault.Missing))
	if lost == nil && word != r.Epoch() {
		lost = fmt.Errorf("%w: the server was restarted before its files were fetched", backend.ErrLost)
	}
	if lost == nil {
		return file, err
	}
	if file != nil {
		lost = errors.Join(lost, file.Close())
	}
	return nil, lost
}

func (r *run) fetch(ctx context.Context, f backend.FileRef) (io.ReadCloser, error) {
	path := "/view?" + url.Values{"filename": {f.Filename}, "subfolder": {f.Subfolder}, "type": {f.Type}}.Encode()
	resp, cancel, err := r.d.open(ctx, http.MethodGet, path, "", nil, 0)
	if err == nil && r.d.large != r.d.wire && resp.ContentLength >= largeFrom { // only now it is known to be
		resp.Body.Close()
		cancel(nil)
		resp, cancel, err = r.d.open(ctx, http.MethodGet, path, "", nil, resp.ContentLength)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		drop(resp)
		cancel(nil)
		status := errStatus("GET /view", resp)
		if resp.StatusCode >= 500 {
			return nil, fmt.Errorf("%w: %s: %w", backend.ErrUnreachable, f.Filename, status)
		}
		return nil, fault.Wrap(fault.Missing, status, "The back end no longer has the file %s.", f.Filename)
	}
	return newStream(resp.Body, r.d.options.StallTimeout, cancel), nil
}

// Interrupt stops the run if it runs, and takes it back if it waits.
func (r *run) Interrupt(ctx context.Context) error {
	r.stop.Store(true)
	defer r.nudge()
	r.mu.Lock()
	state := r.state
	r.mu.Unlock()
	if state != posted {
		return nil // Start sees the mark before it posts
	}
	removed, _, err := r.d.interrupt(ctx, r.id)
	if removed {
		r.removed.Store(true)
	}
	return err
}

func (r *run) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Close lets go of the socket and has the server forget the run.
func (r *run) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	var sock *socket
	if !r.started {
		sock, r.sock = r.sock, nil
	}
	switch {
	case r.state == posted:
		r.d.own.Add(-1)
		r.d.tidyLater(r.id, true)
	case r.away:
		r.d.tidyLater(r.id, false)
	}
	r.mu.Unlock()
	if sock != nil {
		r.d.sockets.drop(sock)
	}
	return nil
}

// become moves the run on and keeps the count of our prompts on the server.
func (r *run) become(s runState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == s || r.closed {
		return
	}
	if s == posted {
		r.seat = r.d.row.enter(r.id)
		r.d.own.Add(1)
		r.d.tidy.own(r.id)
	} else if r.state == posted {
		r.d.own.Add(-1)
	}
	r.state, r.away = s, s == over
}

// end makes the run over before the server has put it away. What it then returns is to be called when it has.
func (r *run) end() (putAway func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != posted || r.closed {
		return nil
	}
	r.state = over
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.d.own.Add(-1)
		if r.away = true; r.closed {
			r.d.tidyLater(r.id, false)
		}
	}
}

// body returns the request that hands over the prompt.
func (r *run) body() []byte {
	b := make([]byte, 0, len(r.t.Prompt)+len(r.t.ExtraData)+256)
	b = append(append(b, `{"prompt":`...), r.t.Prompt...)
	b = append(append(b, `,"client_id":`...), pyjson.Quote(r.client)...)
	b = append(append(b, `,"prompt_id":`...), pyjson.Quote(r.id)...)
	if len(r.t.ExtraData) > 0 {
		b = append(append(b, `,"extra_data":`...), r.t.ExtraData...)
	}
	if r.t.Targets != nil {
		b = pyjson.AppendStrings(append(b, `,"partial_execution_targets":`...), r.t.Targets)
	}
	return append(b, '}')
}
