package dispatch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// stub is a back end as it is told to be, without a server.
type stub struct {
	backend.Status
	wakes time.Duration // before a run is taken
	lasts time.Duration // a run
	// ends decides how a run ends; nil: well.
	ends    func(t backend.Task) (backend.Result, error)
	started func() string // its epoch; nil: always the same

	mu       sync.Mutex
	now, max int // runs at the same time
	ran      []job.ID
}

func (s *stub) Probe(context.Context) (backend.Snapshot, error) { return backend.Snapshot{}, nil }
func (s *stub) ClientID() string                                { return "client" }
func (s *stub) Resume(context.Context, backend.Task) (backend.Run, error) {
	return nil, backend.ErrUnknownRun
}
func (s *stub) Cancel(string) {}
func (s *stub) WebFile(context.Context, string) (io.ReadCloser, string, error) {
	return nil, "", backend.ErrUnreachable
}
func (s *stub) Free(context.Context, bool, bool) error { return nil }
func (s *stub) Close() error                           { return nil }
func (s *stub) Prepare(_ context.Context, t backend.Task) (backend.Run, error) {
	return &stubRun{stub: s, task: t, stop: make(chan struct{})}, nil
}

// most is how many runs it had at the same time.
func (s *stub) most() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.max
}

type stubRun struct {
	*stub
	task backend.Task
	once sync.Once
	stop chan struct{}
}

var wellDone = backend.Result{State: job.Completed, Outputs: json.RawMessage(`{}`), Messages: json.RawMessage(`[]`), Meta: json.RawMessage(`{}`)}

func (r *stubRun) Start(ctx context.Context, posted func(), _ func(backend.Update) error) (backend.Result, error) {
	r.mu.Lock()
	r.now++
	r.max = max(r.max, r.now)
	r.ran = append(r.ran, r.task.Job)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.now--
		r.mu.Unlock()
	}()
	time.Sleep(r.wakes)
	posted()
	select {
	case <-time.After(r.lasts):
	case <-ctx.Done():
		return backend.Result{}, context.Cause(ctx)
	case <-r.stop:
		return backend.Result{State: job.Cancelled, Outputs: json.RawMessage(`{}`), Messages: json.RawMessage(`[]`), Meta: json.RawMessage(`{}`)}, nil
	}
	if r.ends != nil {
		return r.ends(r.task)
	}
	return wellDone, nil
}

func (r *stubRun) Fetch(context.Context, backend.FileRef) (io.ReadCloser, error) {
	return nil, backend.ErrLost
}

func (r *stubRun) Epoch() string {
	if r.started == nil {
		return "e"
	}
	return r.started()
}

func (r *stubRun) Interrupt(context.Context) error { r.once.Do(func() { close(r.stop) }); return nil }
func (r *stubRun) Close() error                    { return nil }

// herd is stubs as the dispatcher sees a fleet, and what it was told of them.
type herd struct {
	mu      sync.Mutex
	stubs   []*stub
	reports map[string]int
	forgave []string
	woke    map[string]time.Duration
}

func (h *herd) Status() (list []backend.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.stubs {
		status := s.Status
		status.Driver = s
		list = append(list, status)
	}
	return list
}

func (h *herd) Report(name string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.reports[name]++
	}
}

func (h *herd) Forgive(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forgave = append(h.forgave, name)
}

func (h *herd) Woke(name string, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.woke[name] = took
}

// farm is a dispatcher over stubs.
type farm struct {
	*testing.T
	*herd
	queue *memory
	disp  *dispatch.Dispatcher
	n     int

	at   sync.Mutex
	done map[job.ID]job.Outcome
	cost map[string]float64
}

// onFarm runs a test on back ends in virtual time.
func onFarm(t *testing.T, deps dispatch.Deps, stubs []*stub, f func(*farm)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &farm{
			T: t, herd: &herd{stubs: stubs, reports: map[string]int{}, woke: map[string]time.Duration{}},
			done: map[job.ID]job.Outcome{}, cost: map[string]float64{},
		}
		s.queue = &memory{jobs: map[job.ID]job.Entry{}, notify: func(c job.Changed) {
			if c.Change == job.Finished {
				s.at.Lock()
				s.done[c.Job.ID] = *c.Outcome
				s.at.Unlock()
			}
			s.disp.JobChanged(c)
		}}
		deps.Queue, deps.Fleet, deps.Rewriter, deps.Bus = s.queue, s.herd, mirror{}, event.New()
		deps.Deliver = &files{names: map[owned]file.Ref{}}
		deps.Spent = func(_, _, backEnd string, cost float64) {
			s.at.Lock()
			defer s.at.Unlock()
			s.cost[backEnd] += cost
		}
		s.disp = dispatch.New(deps, dispatch.Options{})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.disp.Run(ctx) }()
		synctest.Wait()
		f(s)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// add submits a job of somebody of their own.
func (s *farm) add(change ...func(*job.Submission)) job.ID {
	s.Helper()
	s.n++
	sub := job.Submission{
		ID: job.ID(fmt.Sprintf("job-%03d", s.n)), User: fmt.Sprint("user", s.n), Created: time.Now(),
		Request: job.Request{Prompt: json.RawMessage(`{"1":{"class_type":"Text","inputs":{}}}`), Outputs: []string{"1"}},
	}
	for _, fn := range change {
		fn(&sub)
	}
	if _, _, err := s.queue.Submit(s.Context(), sub); err != nil {
		s.Fatal(err)
	}
	synctest.Wait()
	return sub.ID
}

// ended returns how the job ended; its state is empty while it has not.
func (s *farm) ended(id job.ID) job.Outcome {
	synctest.Wait()
	s.at.Lock()
	defer s.at.Unlock()
	return s.done[id]
}

// set changes a back end.
func (s *farm) set(fn func()) {
	s.herd.mu.Lock()
	fn()
	s.herd.mu.Unlock()
	s.disp.FleetChanged()
	synctest.Wait()
}

func (s *farm) wantCauses(id job.ID, want ...string) {
	s.Helper()
	synctest.Wait()
	if got := s.queue.causes(id); !slices.Equal(got, want) {
		s.Errorf("%s: attempts %v, want %v", id, got, want)
	}
}

func (s *farm) why(id job.ID) sched.Reason {
	s.Helper()
	_, why, err := s.disp.Why(s.Context(), id)
	if err != nil {
		s.Fatal(err)
	}
	return why
}

func (s *farm) used() []string {
	s.at.Lock()
	defer s.at.Unlock()
	return slices.Sorted(maps.Keys(s.cost))
}

// told returns what the fleet was told: how often it was in trouble, whom it was to forgive, how long waking took.
func (s *farm) told(backEnd string) (reports int, forgave []string, woke time.Duration) {
	s.herd.mu.Lock()
	defer s.herd.mu.Unlock()
	return s.reports[backEnd], s.forgave, s.woke[backEnd]
}

// over counts the jobs that are over.
func (s *farm) over() int {
	synctest.Wait()
	s.at.Lock()
	defer s.at.Unlock()
	return len(s.done)
}
