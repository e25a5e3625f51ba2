package balanced

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// errClosed is the cause of what ends with the driver.
var errClosed = errors.New("the driver is closed")

// follower is the state of Start: one run looked for until it is over. It belongs to the goroutine of Start.
type follower struct {
	*run
	update  func(backend.Update) error
	tell    func()
	taken   bool  // posted was called
	unclear error // how the POST failed without saying whether a replica took it

	began    time.Time
	seen     time.Time // when anything was last known of the run
	where    string    // what that was
	working  bool      // a replica worked at it then
	replied  time.Time // when any replica last answered
	looks    int       // since seen
	failures error     // how looks failed last
	node     string    // the one that runs, as far as it was heard
	end      *backend.Result
	files    []stored
	moved    time.Time // when files changed last
	stopping bool
	stopped  bool // all replicas were most likely asked to stop it
}

// sight is what one look gave.
type sight struct {
	result          *backend.Result
	queued, working bool
	err             error
}

func newFollower(r *run, update func(backend.Update) error) *follower {
	now := time.Now()
	return &follower{run: r, update: update, tell: func() {}, began: now, seen: now, replied: now, where: "when it was handed over"}
}

// follow looks for the run until it is over.
func (f *follower) follow(ctx context.Context) (backend.Result, error) {
	inner, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	sights := make(chan sight)
	frames := make(chan comfyui.Frame)
	stopped := make(chan struct{})
	beside.Go(func() { f.listen(inner, frames) })
	tick := time.NewTicker(f.d.o.LookEvery)
	defer tick.Stop()
	out, round := 0, 0
	for {
		select {
		case <-ctx.Done():
			return backend.Result{}, context.Cause(ctx)
		case <-f.d.closed.Done():
			return backend.Result{}, fmt.Errorf("%w: %w", backend.ErrUnreachable, errClosed)
		case fr := <-frames:
			if err := f.hear(fr); err != nil {
				return backend.Result{}, err
			}
		case s := <-sights:
			out--
			if f.take(s) {
				return *s.result, nil
			}
		case <-f.wake:
			if f.stop.Load() && !f.stopping {
				f.stopping = true
				beside.Go(func() {
					f.d.stopEverywhere(inner, f.id)
					close(stopped)
				})
			}
		case <-stopped:
			stopped, f.stopped, f.looks = nil, true, 0
		case <-tick.C:
			f.watch()
			if result, err := f.decide(); err != nil || result != nil {
				return deref(result), err
			}
			for ; out < f.d.o.Looks; out++ {
				round++
				kind := round
				beside.Go(func() {
					s := f.look(inner, kind)
					select {
					case sights <- s:
					case <-inner.Done():
					}
				})
			}
		}
	}
}

func deref(r *backend.Result) backend.Result {
	if r == nil {
		return backend.Result{}
	}
	return *r
}

// look asks whichever replica answers: mostly whether the run is over there, else whether it is in its queue.
func (f *follower) look(ctx context.Context, kind int) (s sight) {
	if kind%3 == 0 {
		s.queued, s.working, s.err = f.d.quick.Queued(ctx, f.id)
		return s
	}
	result, ok, err := f.d.quick.History(ctx, f.id)
	if ok {
		result.Gap = true
		s.result = &result
	}
	s.err = err
	return s
}

// take takes in what a look gave. It reports true when the run is over.
func (f *follower) take(s sight) bool {
	if s.err != nil {
		f.failures = s.err
		return false
	}
	f.replied = time.Now()
	f.d.note(nil)
	f.looks++
	switch {
	case s.result != nil:
		return true
	case s.queued:
		f.saw("in the queue of a replica")
		f.working = s.working
	}
	return false
}

// saw notes a sign of the run.
func (f *follower) saw(where string) {
	f.seen, f.where, f.looks = time.Now(), where, 0
	if !f.taken {
		f.taken = true
		f.tell()
	}
}

// hear takes in what the replica that has the run said.
func (f *follower) hear(fr comfyui.Frame) error {
	f.replied = time.Now()
	f.saw("over a web socket, at work")
	f.working = true
	if fr.End != nil {
		f.end = fr.End
		f.moved = time.Now()
	}
	if fr.Type == "executing" {
		f.node = fr.Node
	}
	if fr.Binary != nil && fr.Node == "" { // those of older servers don't say
		fr.Node = f.node
	}
	return f.update(f.names.Update(fr.Update))
}

// watch looks into the shared folder.
func (f *follower) watch() {
	now := f.d.shelf.files(f.id)
	same := len(now) == len(f.files)
	for i := 0; same && i < len(now); i++ {
		same = now[i] == f.files[i]
	}
	if !same {
		f.files, f.moved = now, time.Now()
		f.saw("when it wrote to the shared folder")
	}
}

// settled reports whether files have stayed as they are for long enough to be taken for a whole result.
func (f *follower) settled() bool {
	return time.Since(f.moved) > min(3*time.Second, f.d.o.LostAfter/2)
}

// unclearFor is how long a run is looked for that perhaps no replica has taken.
const unclearFor = 10 * time.Second

// decide says what is to be made of a run that no look finds over.
func (f *follower) decide() (*backend.Result, error) {
	if f.end != nil && f.settled() {
		if result := f.fromFiles(); result != nil { // its replica said that it is over
			return result, nil
		}
		if f.end.State != job.Completed {
			f.end.Gap = true
			return f.end, nil
		}
	}
	if f.stopped && f.looks >= f.d.enough() {
		result := interrupted(f.id)
		return &result, nil
	}
	if time.Since(f.replied) > max(f.d.o.LostAfter, 2*f.d.o.RequestTimeout) {
		return nil, f.lost("The endpoint did not answer any more while the run went on.", f.failures)
	}
	patience := f.d.o.LostAfter
	if !f.taken { // who has taken it tells at once
		patience = min(patience, unclearFor)
	}
	if time.Since(f.seen) < patience || f.looks < 2*f.d.enough() {
		return nil, nil
	}
	if result := f.fromFiles(); result != nil {
		f.d.log.Info("the result was found in the shared folder only", "req", f.id, "looks", f.looks)
		return result, nil
	}
	return nil, f.bail()
}

// bail names the most likely cause of a run that is nowhere.
func (f *follower) bail() error {
	silent := time.Since(f.seen).Round(time.Second)
	switch {
	case len(f.files) > 0:
		return f.lost(fmt.Sprintf("The replica that ran it is gone: it left %d files in the shared folder, the last %v ago, and %d looks since found it nowhere. "+
			"It was taken away, or put to sleep while it worked.", len(f.files), silent, f.looks), f.failures)
	case f.working:
		return f.lost(fmt.Sprintf("The replica that worked at it was put to sleep or taken away: it was last seen %v ago %s, and in none of %d looks since. "+
			"Requests that return at once don't keep a replica awake.", silent, f.where, f.looks), f.failures)
	case !f.taken:
		return fmt.Errorf("%w: %w", backend.ErrUnreachable, fault.Wrap(fault.Unavailable, f.unclear,
			"The line broke while the run was handed over, and none of %d looks found it.", f.looks))
	}
	return f.lost(fmt.Sprintf("The replica that took it was never reached again in %d looks over %v: it was put to sleep while it loaded, "+
		"or taken away, or its outputs are not in the shared folder.", f.looks, silent), f.failures)
}

// lost is an error of a run that is gone, with a sentence for people.
func (f *follower) lost(sentence string, cause error) error {
	err := fault.Wrap(fault.Unavailable, cause, "%s", sentence).
		WithRemedy("Keep replicas awake for longer than their models take to load, or use the agent, which keeps its request open.")
	return fmt.Errorf("%w: %w", backend.ErrLost, err)
}

// fromFiles makes a result of what lies in the shared folder, when each saving node that was to give something left
// files that are whole. Nil: it does not say enough. What nodes told without files, such as texts, is only there as far
// as it was heard: so a run with other outputs is not taken for over.
func (f *follower) fromFiles() *backend.Result {
	if f.t.Outputs == nil || !f.settled() || len(f.files) == 0 || f.end != nil && f.end.State != job.Completed {
		return nil
	}
	by := map[string][]stored{}
	for _, s := range f.files {
		if place, ok := f.names.Place(s.ref); ok {
			by[f.names.Nodes()[place]] = append(by[f.names.Nodes()[place]], s)
		}
	}
	var outputs []pyjson.Member
	for _, id := range f.t.Outputs {
		if told, ok := f.told(id); ok {
			outputs = append(outputs, pyjson.Member{Key: id, Value: told})
			continue
		}
		if len(by[id]) == 0 {
			return nil
		}
		list := []byte(`{"images": [`)
		for i, s := range by[id] {
			if !f.isWhole(s) {
				return nil
			}
			if i > 0 {
				list = append(list, ", "...)
			}
			list = fmt.Appendf(list, `{"filename": %s, "subfolder": %s, "type": "output"}`, pyjson.Quote(s.ref.Filename), pyjson.Quote(s.ref.Subfolder))
		}
		outputs = append(outputs, pyjson.Member{Key: id, Value: append(list, "]}"...)})
	}
	at := time.Now().UnixMilli()
	return &backend.Result{
		State: job.Completed, Outputs: pyjson.AppendObject(nil, outputs), Meta: []byte("{}"), Gap: true,
		Messages: fmt.Appendf(nil, `[["execution_start", {"prompt_id": %q, "timestamp": %d}], ["execution_success", {"prompt_id": %q, "timestamp": %d}]]`,
			f.id, f.began.UnixMilli(), f.id, at),
	}
}

// told returns what a node's replica said of its outputs before the end.
func (f *follower) told(node string) ([]byte, bool) {
	if f.end == nil {
		return nil, false
	}
	return pyjson.Get(f.end.Outputs, node)
}

// isWhole reports whether a file of a replica that is gone has all its bytes. Formats that don't say count as cut.
func (f *follower) isWhole(s stored) bool {
	name, err := f.d.shelf.name(s.ref)
	if err != nil || s.size > f.d.shelf.most {
		return false
	}
	file, err := f.d.shelf.open(name)
	if err != nil {
		return false
	}
	defer file.Close() //nolint:errcheck // it was read
	var e ending
	return drain(&e, io.LimitReader(file, s.size)) == nil && e.whole() == whole
}
