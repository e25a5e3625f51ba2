package serverless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/handover"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// run is one attempt on the endpoint.
type run struct {
	d       *Driver
	t       backend.Task
	id      string
	resumed bool
	box     *box
	wake    chan struct{} // somebody wants it interrupted
	stores  atomic.Bool   // its container was asked to leave outputs in storage

	mu     sync.Mutex
	note   note
	found  *http.Response // resumed: its stream
	epoch  string
	stop   bool
	state  runState
	closed bool
}

// runState says what a container may have of a run.
type runState uint8

const (
	unsentState runState = iota
	sentState            // a container has it, or may have it
	overState
)

var _ backend.Run = (*run)(nil)

func (d *Driver) newRun(t backend.Task) *run {
	return &run{
		d: d, t: t, id: t.Attempt.RunID, box: newBox(d.options.Spool), wake: make(chan struct{}, 1), epoch: d.know.epoch(),
	}
}

// Epoch is the start of the ComfyUI that has the run: names of files mean something in its container alone. Before that
// is known it is the endpoint's.
func (r *run) Epoch() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch
}

// Fetch opens an output, once it has come.
func (r *run) Fetch(ctx context.Context, f backend.FileRef) (io.ReadCloser, error) {
	kept, file, err := r.box.fetch(ctx, f)
	if err == nil && kept == nil && r.stores.Load() {
		r.d.unstored.Do(func() {
			r.d.log.Warn("outputs come with the answer and are not left in the storage that is set",
				"note", "Its containers have another disk or bucket than the studio, or none: start the agent with --storage, and compare the mounts. Their log says which.")
		})
	}
	if err != nil || kept == nil {
		return file, err
	}
	if r.d.options.Place == nil {
		return nil, fmt.Errorf("%w: the output %s was left in storage, and none is set here", backend.ErrLost, clip(f.Filename))
	}
	file, err = r.d.options.Place.Open(ctx, r.stored(), handover.Entry{Name: kept.Name, Size: kept.Size, SHA256: kept.SHA256})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
	}
	return file, nil
}

// stored is what the run is called in storage.
func (r *run) stored() string { return handover.RunName(r.d.options.Studio, r.id) }

// Interrupt has the run stopped: by asking for its container, and by the answer to its next call-back.
func (r *run) Interrupt(ctx context.Context) error {
	r.mu.Lock()
	r.stop = true
	state := r.state
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
	if state != sentState {
		return nil // Start sees the mark
	}
	_, err := r.d.interrupt(ctx, r.id)
	return err
}

func (r *run) stopping() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stop
}

func (r *run) become(s runState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = s
}

// Close forgets the run, and has a container that may still have it interrupt it.
func (r *run) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	state, found := r.state, r.found
	r.found = nil
	r.mu.Unlock()
	if found != nil {
		found.Body.Close() //nolint:errcheck // nobody reads it
	}
	if state == sentState || r.resumed && state == unsentState {
		r.d.Cancel(r.id)
	}
	if state != unsentState && r.d.options.Place != nil {
		r.d.background(r.clear)
	}
	r.forget()
	return r.box.discard()
}

// write changes the note of the run. With sure it is on disk when write returns.
func (r *run) write(sure bool, change func(*note)) error {
	r.mu.Lock()
	change(&r.note)
	v := r.note
	r.mu.Unlock()
	return r.d.notes.keep(r.id, v, sure)
}

func (r *run) written() note {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.note
}

// clearWithin bounds how long storage is tried to be cleared, also while the driver closes; what stays is cleared away by its age.
const clearWithin = 5 * time.Second

// clear deletes what the run left in storage.
func (r *run) clear() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.d.closed), clearWithin)
	defer cancel()
	if err := r.d.options.Place.Delete(ctx, r.stored()); err != nil {
		r.d.log.Warn("what a run left in storage stays for now", "req", r.id, "err", err)
	}
}

func (r *run) forget() {
	if err := r.d.notes.forget(r.id); err != nil {
		r.d.log.Warn("the note of a run that is over stays", "req", r.id, "err", err)
	}
}

// request is the job as it travels.
func (r *run) request(ctx context.Context, way handing) oneshot.Request {
	o := &r.d.options
	q := oneshot.Request{
		Run: r.id, Prompt: r.t.Prompt, ExtraData: r.t.ExtraData, Targets: r.t.Targets, Outputs: r.t.Outputs,
		Core: r.t.Core, Previews: r.t.Previews, Deadline: o.MaxRun,
	}
	usable := false
	if o.Place != nil {
		if q.StoreID, usable = r.d.storeID(); usable {
			q.Store = r.stored()
			r.stores.Store(true)
		}
	}
	q.Inputs = r.inputsOf(ctx, way, usable)
	if o.Updates != nil && o.CallBack != "" {
		q.CallBack = &oneshot.CallBack{
			URL: strings.TrimRight(o.CallBack, "/") + "/" + r.id + "/updates", Token: o.Updates.token(r.id), Frames: o.Mode == Async,
		}
	}
	return q
}

// storeWithin bounds how long a job waits for its storage to tell what it is marked with.
const storeWithin = 5 * time.Second

// storeID returns the mark of the storage, by which containers know whether theirs is the same; empty for one without
// marks. ok is false while the storage can't be used: outputs then come with the answer.
func (d *Driver) storeID() (id string, ok bool) {
	p, marks := d.options.Place.(handover.Prober)
	if !marks {
		return "", true
	}
	ctx, cancel := context.WithTimeout(d.closed, storeWithin)
	defer cancel()
	id, err := p.ID(ctx)
	if err != nil {
		d.log.Warn("the storage can't be used, and outputs come with the answer", "err", err)
	}
	return id, err == nil
}

// expectFrom is the size of a job from which the other side is asked whether it takes it before it is sent.
const expectFrom = 1 << 20

// post sends the job.
func (r *run) post(ctx context.Context, way handing, header http.Header) (*http.Response, error) {
	body, length, err := oneshot.Body(r.request(ctx, way), r.t.Uploads)
	if err != nil {
		return nil, unsent{err}
	}
	h := http.Header{"Content-Type": {oneshot.ContentType}}
	for k, v := range header {
		h[k] = v
	}
	if length > expectFrom {
		h.Set("Expect", "100-continue")
	}
	return r.d.send(ctx, http.MethodPost, "/run", h, body, length)
}

// rest asks for what is missing of the run's stream.
func (r *run) rest(ctx context.Context, next int64) (*http.Response, error) {
	path := "/runs/" + r.id + "?from=" + strconv.FormatInt(next, 10)
	words := make([]string, 0, 8)
	for n := range r.box.whole() {
		words = append(words, strconv.Itoa(n))
	}
	if len(words) > 0 {
		path += "&have=" + strings.Join(words, ",")
	}
	return r.d.send(ctx, http.MethodGet, path, nil, nil, 0)
}

// Pauses between requests that look for the container that has a run.
const (
	searchFirst = 50 * time.Millisecond
	searchMost  = time.Second
	// searchEnough is how many containers in a row have to say that they don't have a run.
	searchEnough = 8
)

// find looks for a run after a restart of ours. Behind a balancer each request asks another container.
func (r *run) find(ctx context.Context) error {
	until := time.Now().Add(r.d.options.FindFor)
	missed, last := 0, error(nil)
	for pause := searchFirst; ; pause = min(2*pause, searchMost) {
		resp, err := r.knock(ctx)
		switch {
		case err != nil:
			last = err
		case resp.StatusCode == http.StatusOK && fromContainer(resp):
			r.mu.Lock()
			r.found, r.state = resp, sentState
			r.mu.Unlock()
			return nil
		case resp.StatusCode == http.StatusNotFound && fromContainer(resp):
			drop(resp)
			r.d.know.alive()
			missed, last = missed+1, nil
			if had := r.written().Container; had != "" && resp.Header.Get(oneshot.ContainerHeader) == had {
				return backend.ErrUnknownRun // who had it has forgotten it
			}
		default:
			last = r.d.refusal(resp)
			drop(resp)
		}
		if time.Now().After(until) {
			if last == nil && missed >= searchEnough {
				return fmt.Errorf("%w: none of the containers that answered has it", backend.ErrUnknownRun)
			}
			if last == nil {
				last = fmt.Errorf("%w: too few containers answered to say so", backend.ErrUnreachable)
			}
			return last
		}
		if err := pauseFor(ctx, pause); err != nil {
			return err
		}
	}
}

// knock asks for the run's stream. Only until the answer begins it is in a hurry.
func (r *run) knock(ctx context.Context) (*http.Response, error) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(searchWithin, cancel)
	resp, err := r.rest(ctx, 0)
	late.Stop()
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &bounded{resp.Body, math.MaxInt64, cancel}
	return resp, nil
}

// pauseFor waits, unless ctx ends.
func pauseFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// interrupted is the result of a run that its owner took back and of which nothing more came.
func interrupted(runID string) (backend.Result, error) {
	data, err := json.Marshal([]any{[]any{"execution_interrupted", map[string]any{
		"prompt_id": runID, "node_id": "", "node_type": "", "executed": []string{}, "timestamp": time.Now().UnixMilli(),
	}}})
	return backend.Result{
		State: job.Cancelled, Outputs: json.RawMessage("{}"), Messages: data, Meta: json.RawMessage("{}"), Gap: true,
	}, err
}

// isUnsent reports whether an endpoint certainly did not get a job.
func isUnsent(err error) bool {
	_, ok := errors.AsType[unsent](err)
	return ok
}
