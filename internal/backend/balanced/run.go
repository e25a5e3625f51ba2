package balanced

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/apart"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// run is one attempt on the endpoint.
type run struct {
	d       *Driver
	t       backend.Task // with the prompt as it is posted
	id      string
	client  string
	names   *apart.Names
	resumed bool
	result  *backend.Result // known already when resumed after its end

	stop atomic.Bool
	wake chan struct{}

	mu     sync.Mutex
	posted bool // a replica has it, or may have
	over   bool
	closed bool
}

var _ backend.Run = (*run)(nil)

func (d *Driver) newRun(t backend.Task) (*run, error) {
	n, t, err := apart.Strict(t)
	if err != nil {
		return nil, err
	}
	return &run{d: d, t: t, id: t.Attempt.RunID, client: t.Attempt.ClientID, names: n, wake: make(chan struct{}, 1)}, nil
}

// Prepare sees to the inputs: in the shared folder if there is one for them, else at as many replicas as it takes.
func (d *Driver) Prepare(ctx context.Context, t backend.Task) (backend.Run, error) {
	r, err := d.newRun(t)
	if err != nil {
		return nil, err
	}
	if err := d.shelf.ready(); err != nil {
		return nil, fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
	}
	return r, d.ensureInputs(ctx, t.Uploads)
}

// Resume looks for a run that an earlier process may have posted: in the shared folder, and at replicas until most
// likely all were asked.
func (d *Driver) Resume(ctx context.Context, t backend.Task) (backend.Run, error) {
	r, err := d.newRun(t)
	if err != nil {
		return nil, err
	}
	r.resumed, r.posted = true, true
	tick := time.NewTicker(d.o.LookEvery / 4)
	defer tick.Stop()
	var last error
	asked := 0
	for range 3 * d.enough() {
		result, ok, err := d.quick.History(ctx, r.id)
		if ok {
			result.Gap = true
			r.result, r.over = &result, true
			return r, nil
		}
		if err == nil {
			asked++
			var queued bool
			if queued, _, err = d.quick.Queued(ctx, r.id); queued {
				return r, nil
			}
		}
		last = err
		if asked >= d.enough() {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if len(d.shelf.files(r.id)) > 0 {
		return r, nil // a replica wrote them, and may be at it
	}
	if asked == 0 {
		return nil, last
	}
	return nil, backend.ErrUnknownRun
}

// ensureInputs sees to it that replicas find the input files of a run.
func (d *Driver) ensureInputs(ctx context.Context, uploads []backend.Upload) error {
	for _, u := range uploads {
		if d.shelf.inputs != "" {
			if err := d.shelf.put(u); err != nil {
				return fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
			}
			continue
		}
		if err := d.spread(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// spread uploads a file until replicas that answer have it several times in a row: to all of them when they don't share
// their inputs, and they are few.
func (d *Driver) spread(ctx context.Context, u backend.Upload) error {
	want := 2 + 2*d.o.Parallel
	have := 0
	for range 10 + 6*want {
		ok, err := d.patient.HasInput(ctx, u)
		d.note(err)
		switch {
		case err != nil:
			return err
		case ok:
			if have++; have >= want || d.o.Parallel == 1 {
				return nil
			}
			continue
		}
		have = 0
		if err := d.patient.Upload(ctx, u); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %w", backend.ErrUnreachable,
		fault.New(fault.Unavailable, "The replicas of the endpoint don't share their inputs, and there are too many to give each of them the file.").
			WithRemedy("Mount one folder of inputs at all of them and here, and name it in storage: file:///mnt/sfs/outputs?inputs=/mnt/sfs/inputs."))
}

// Epoch is always the same: names of files are never used twice.
func (r *run) Epoch() string { return r.d.epoch }

// Interrupt has replicas asked to stop this run, which Start does.
func (r *run) Interrupt(context.Context) error {
	r.stop.Store(true)
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return nil
}

// Close forgets the run: what goes on is stopped, what it wrote is deleted.
func (r *run) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	switch {
	case r.posted && !r.over:
		r.d.Cancel(r.id)
	case r.posted:
		d, id := r.d, r.id
		d.background(func() {
			d.shelf.remove(id)
			if err := d.quick.Forget(d.closed, id); err != nil { // who does not have it does not mind; the rest forget it when they sleep
				d.log.Debug("a history entry stays at a replica", "req", id, "err", err)
			}
		})
	}
	return nil
}

func (r *run) became(posted, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.posted, r.over = posted, over
}

// Fetch opens an output of the run: from the shared folder, or from a replica, whichever shows it first.
func (r *run) Fetch(ctx context.Context, told backend.FileRef) (io.ReadCloser, error) {
	f, ok := r.names.Actual(told)
	if !ok {
		if _, own := r.names.Place(told); !own {
			return nil, fault.New(fault.Missing, "The file %s was not saved in the run's own folder: behind a balancer nobody can say whose it is.", told.Filename).
				WithRemedy("Save with a node that has filename_prefix, or use the agent.")
		}
		f = told
	}
	var at *time.Timer
	pause := 50 * time.Millisecond
	for began := time.Now(); ; pause = min(2*pause, 2*time.Second) {
		file, err := r.d.shelf.read(ctx, f)
		if err == nil {
			return file, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// Names of runs are their own, so that whoever has the file has the right one.
		if body, viewErr := r.d.quick.View(ctx, f); viewErr == nil {
			r.d.log.Debug("an output came from a replica before it was in the shared folder", "req", r.id, "err", err)
			return body, nil
		}
		if time.Since(began) > r.d.o.VisibleFor {
			return nil, r.notShared(ctx, err)
		}
		if at == nil {
			at = time.NewTimer(pause)
			defer at.Stop()
		} else {
			at.Reset(pause)
		}
		select {
		case <-at.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Start posts the prompt and looks for the run until it is over.
func (r *run) Start(ctx context.Context, tell func(), update func(backend.Update) error) (backend.Result, error) {
	if r.result != nil {
		tell()
		return r.finish(*r.result)
	}
	if r.stop.Load() {
		return interrupted(r.id), nil
	}
	f := newFollower(r, update)
	if r.resumed {
		tell()
		f.taken = true
	} else {
		r.d.shelf.begin(r.id)
		state, err := r.post(ctx)
		switch state {
		case comfyui.NotTaken:
			return backend.Result{}, err
		case comfyui.Unclear:
			f.unclear = err
		case comfyui.Taken:
			f.taken = true
			tell()
		}
		f.tell = tell
		r.became(true, false)
	}
	result, err := f.follow(ctx)
	if err != nil { // it may go on somewhere: Close has it stopped
		return backend.Result{}, err
	}
	if f.unclear != nil && !f.taken {
		tell()
	}
	return r.finish(result)
}

// finish makes the result of what was found. It stays where it is until Close: a restart of ours may ask for it again.
func (r *run) finish(result backend.Result) (backend.Result, error) {
	r.became(true, true)
	return r.names.Result(result)
}

// post hands the prompt over. A busy endpoint is asked again; a graph whose inputs a replica does not see yet too.
func (r *run) post(ctx context.Context) (comfyui.Posted, error) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	wait := 250 * time.Millisecond
	refusals := 0
	for began := time.Now(); ; wait = min(2*wait, 5*time.Second) {
		state, err := r.d.patient.Post(ctx, r.t, r.client)
		_, isRefusal := errors.AsType[*backend.Refused](err)
		if !isRefusal {
			r.d.note(err)
		}
		again := state == comfyui.NotTaken && !isRefusal && time.Since(began) < r.d.o.PatienceFor
		if isRefusal && len(r.t.Uploads) > 0 && refusals < 5 {
			refusals++
			again = true
			if err := r.d.ensureInputs(ctx, r.t.Uploads); err != nil {
				return comfyui.NotTaken, err
			}
		}
		if state != comfyui.NotTaken || !again {
			return state, err
		}
		pause.Reset(wait)
		select {
		case <-pause.C:
		case <-r.wake:
			if r.stop.Load() {
				return comfyui.NotTaken, err
			}
		case <-ctx.Done():
			return comfyui.NotTaken, context.Cause(ctx)
		}
	}
}

// interrupted is the result of a run that its owner took back.
func interrupted(runID string) backend.Result {
	return backend.Result{
		State: job.Cancelled, Outputs: []byte("{}"), Meta: []byte("{}"), Gap: true,
		Messages: fmt.Appendf(nil, `[["execution_interrupted", {"prompt_id": %q, "node_id": "", "node_type": "", "executed": [], "timestamp": %d}]]`,
			runID, time.Now().UnixMilli()),
	}
}
