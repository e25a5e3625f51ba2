package oneshot

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/job"
)

// MaxFiles bounds how many files a run may have.
const MaxFiles = 2000

// What is kept of the frames for callers who come late. Previews and progress go first.
const (
	keepFrames = 4096
	keepBytes  = 4 << 20
)

// interruptEvery is the pause before a ComfyUI is asked again to interrupt a run that still goes on.
const interruptEvery = 10 * time.Second

// work is one run. Its goroutine runs it whoever is connected; callers read what it has collected. It is safe for
// concurrent use.
type work struct {
	j     *Jobs
	q     Request
	in    *inputs
	log   *slog.Logger
	began time.Time
	apart atomic.Bool // the storage here is not the caller's
	ctx   context.Context
	end   context.CancelCauseFunc

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	run      backend.Run   // nil until it is prepared
	posted   bool
	frames   []item
	bytes    int
	next     int64 // number of the next frame
	lost     int64 // frames that matter are gone up to this number
	files    []backend.FileRef
	names    map[backend.FileRef]bool
	keeps    []keeping // of files that go into storage, in their order
	result   *backend.Result
	trouble  *Trouble
	ended    time.Time
	callers  int
	grace    *time.Timer // running while nobody is connected
	stopping bool
	stopped  chan struct{} // closed when it is to be interrupted
	done     chan struct{} // closed when it is over
}

// item is one frame that is kept.
type item struct {
	n      int64
	record []byte
	minor  bool // its like comes again: it may be left out
}

func newWork(j *Jobs, q Request, in *inputs) *work {
	w := &work{
		j: j, q: q, in: in, log: j.log.With("req", q.Run), began: time.Now(),
		changed: make(chan struct{}), names: make(map[backend.FileRef]bool), stopped: make(chan struct{}), done: make(chan struct{}),
	}
	w.ctx, w.end = context.WithCancelCause(j.ctx)
	return w
}

// do runs the job to its end.
func (w *work) do() {
	defer w.in.discard()
	w.j.wg.Go(w.j.refresh)
	if w.q.CallBack != nil {
		w.j.wg.Go(w.callBack)
	}
	if w.q.Deadline > 0 {
		late := time.AfterFunc(w.q.Deadline, func() { w.stop("it passed its deadline") })
		defer late.Stop()
	}
	w.j.wg.Go(w.interruptWhenStopped)
	ran := make(chan struct{})
	var keeper sync.WaitGroup
	keeps := w.keepsFiles()
	if keeps {
		keeper.Go(func() { w.keep(ran) })
	}
	result, err := w.attempt()
	if err == nil {
		w.collectAll(&result)
	}
	if keeps {
		close(ran)
		keeper.Wait()
	}
	if err != nil {
		t := troubleOf(w.ctx, err)
		w.log.Warn("a job came to no result", "class", t.Class, "err", err)
		if t.Class == classInputs { // it comes again at once, under the same id
			w.j.unlist(w)
			defer w.discard()
		}
		w.over(nil, &t)
	} else {
		w.over(&result, nil)
	}
	w.j.crowd()
	w.j.wg.Go(func() { // results are kept for a while, and then forgotten
		select {
		case <-time.After(w.j.options.KeepFor):
			w.j.forget(w)
		case <-w.ctx.Done():
		}
	})
}

// attempt hands the job to the ComfyUI and follows it.
func (w *work) attempt() (backend.Result, error) {
	run, err := w.j.driver.Prepare(w.ctx, w.task())
	if err != nil {
		return backend.Result{}, err
	}
	w.mu.Lock()
	w.run = run
	w.change()
	w.mu.Unlock()
	return run.Start(w.ctx, w.hasPosted, w.update)
}

// task is the job as the driver takes it.
func (w *work) task() backend.Task {
	t := backend.Task{
		Prompt: w.q.Prompt, ExtraData: w.q.ExtraData, Targets: w.q.Targets, Outputs: w.q.Outputs,
		Core: w.q.Core, Previews: w.q.Previews,
		Attempt: job.Attempt{RunID: w.q.Run, ClientID: w.j.driver.ClientID()},
	}
	for i, in := range w.q.Inputs {
		t.Uploads = append(t.Uploads, backend.Upload{
			Name: in.Name, Subfolder: in.Subfolder, Size: in.Size,
			Open: func() (io.ReadCloser, error) { return w.input(i) },
		})
	}
	return t
}

// change wakes whoever waits for news. The lock is held.
func (w *work) change() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *work) hasPosted() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.posted = true
	w.change()
}

// update takes one frame of the run.
func (w *work) update(u backend.Update) error {
	minor := u.Binary != nil || u.Type == "progress" || u.Type == "progress_state"
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.next
	w.next++
	record := frameRecord(n, u)
	if len(u.Type) > maxWord || len(u.Node) > maxWord || len(u.Data) > 0 && !pyjson.Valid(u.Data) {
		record = nil
	}
	if record == nil { // the result tells again what matters of it
		w.log.Warn("a frame can't be told", "type", clip(u.Type), "bytes", len(u.Data)+len(u.Binary))
		w.lost = n + 1
	} else {
		w.frames = append(w.frames, item{n, record, minor})
		w.bytes += len(record)
		w.thin()
	}
	if u.Type == "executed" {
		output, _ := pyjson.Get(u.Data, "output")
		if _, err := comfy.RewriteOutput(u.Node, output, w.collect); err != nil {
			w.log.Warn("an output can't be read", "node", clip(u.Node), "err", err)
		}
	}
	w.change()
	return nil
}

// thin forgets old frames when there are too many. The lock is held.
func (w *work) thin() {
	if len(w.frames) <= keepFrames && w.bytes <= keepBytes {
		return
	}
	recent := len(w.frames) - 16
	i := -1
	w.frames = slices.DeleteFunc(w.frames, func(it item) bool {
		i++
		return it.minor && i < recent
	})
	if len(w.frames) > keepFrames/2 || w.size() > keepBytes {
		cut := max(len(w.frames)/2, 1)
		if cut == len(w.frames) {
			cut-- // the last one is always kept
		}
		for _, it := range w.frames[:cut] {
			if !it.minor {
				w.lost = it.n + 1
			}
		}
		w.frames = slices.Clone(w.frames[cut:])
	}
	w.bytes = w.size()
}

func (w *work) size() (n int) {
	for _, it := range w.frames {
		n += len(it.record)
	}
	return n
}

// collect notes a file that the run named. The lock is held.
func (w *work) collect(_ comfy.FileSite, f comfy.FileEntry) (comfy.FileEntry, error) {
	ref := backend.FileRef(f)
	if w.names[ref] {
		return f, nil
	}
	if len(w.files) == MaxFiles {
		return f, fmt.Errorf("a run with more than %d files", MaxFiles)
	}
	w.names[ref] = true
	w.files = append(w.files, ref)
	return f, nil
}

// collectAll notes the files that the result names, and sees to it that all of it is JSON.
func (w *work) collectAll(r *backend.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := comfy.RewriteOutputs(r.Outputs, w.collect); err != nil {
		w.log.Warn("not all outputs can be read", "err", err)
	}
	for _, part := range []*json.RawMessage{&r.Outputs, &r.Messages, &r.Meta} {
		if !json.Valid(*part) { // the driver owes JSON
			*part = json.RawMessage("null")
		}
	}
	w.change()
}

// over takes in how the run ended.
func (w *work) over(r *backend.Result, t *Trouble) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result, w.trouble, w.ended = r, t, time.Now()
	if w.grace != nil {
		w.grace.Stop()
	}
	close(w.done)
	w.change()
}

func (w *work) endedAt() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

// stop has the run interrupted.
func (w *work) stop(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopping || !w.ended.IsZero() {
		return
	}
	w.log.Info("a run is interrupted", "reason", why)
	w.stopping = true
	close(w.stopped)
}

// interruptWhenStopped asks the ComfyUI to interrupt a run that is to be stopped, until it is over.
func (w *work) interruptWhenStopped() {
	select {
	case <-w.stopped:
	case <-w.done:
		return
	}
	for {
		w.mu.Lock()
		run, changed := w.run, w.changed
		w.mu.Unlock()
		var again <-chan time.Time
		if run != nil {
			ctx, cancel := context.WithTimeout(w.ctx, interruptEvery)
			if err := run.Interrupt(ctx); err != nil && w.ctx.Err() == nil {
				w.log.Warn("a run could not be interrupted", "err", err)
			}
			cancel()
			changed, again = nil, time.After(interruptEvery)
		}
		select {
		case <-changed:
		case <-again:
		case <-w.done:
			return
		}
	}
}

// attach counts a caller. What it returns takes the caller off again.
func (w *work) attach() (detach func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.callers++
	if w.grace != nil {
		w.grace.Stop()
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.callers--; w.callers == 0 && w.ended.IsZero() {
			w.wait()
		}
	}
}

// heard notes that the studio answered a call-back: somebody waits for the run.
func (w *work) heard() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.callers == 0 && w.ended.IsZero() {
		w.wait()
	}
}

// wait gives the run its time without a caller. The lock is held.
func (w *work) wait() {
	grace := w.q.Grace
	if grace <= 0 {
		grace = w.j.options.Grace
	}
	if w.grace == nil {
		w.grace = time.AfterFunc(grace, func() {
			w.mu.Lock()
			alone := w.callers == 0
			w.mu.Unlock()
			if alone {
				w.stop("its caller is gone")
			}
		})
		return
	}
	w.grace.Reset(grace)
}

// discard lets go of the run on the ComfyUI.
func (w *work) discard() {
	w.end(nil)
	w.mu.Lock()
	run := w.run
	if w.grace != nil {
		w.grace.Stop()
	}
	w.mu.Unlock()
	if run != nil {
		if err := run.Close(); err != nil {
			w.log.Warn("a run could not be closed", "err", err)
		}
	}
}

// phase says how far the run is. The lock is held.
func (w *work) phase() string {
	switch {
	case !w.ended.IsZero():
		return PhaseOver
	case w.posted:
		return PhaseRunning
	default:
		return PhaseWaiting
	}
}
