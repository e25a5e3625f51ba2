package dispatch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
)

// swift is a back end whose runs take a given time, and that notes when it was asked for what.
type swift struct {
	stub
	crowd *crowd
}

type swiftRun struct {
	stubRun
	at *swift
}

func (s *swift) Prepare(_ context.Context, t backend.Task) (backend.Run, error) {
	s.crowd.prepared(t.Job)
	return &swiftRun{stubRun{stub: &s.stub, task: t}, s}, nil
}

func (r *swiftRun) Start(ctx context.Context, posted func(), _ func(backend.Update) error) (backend.Result, error) {
	r.at.crowd.started(r.at.Name)
	posted()
	select {
	case <-time.After(r.at.lasts):
	case <-ctx.Done():
		return backend.Result{}, context.Cause(ctx)
	}
	r.at.crowd.over(r.at.Name)
	return wellDone, nil
}

// crowd measures: from submission to Prepare on an idle back end, and from the end of a run to the start of the next one
// on the same back end while jobs wait.
type crowd struct {
	mu        sync.Mutex
	submitted map[job.ID]time.Time
	ends      map[string]time.Time
	waits     []time.Duration // submission to Prepare
	gaps      []time.Duration // end to next start
	loaded    bool
}

func (c *crowd) prepared(id job.ID) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.submitted[id]; ok && !c.loaded {
		c.waits = append(c.waits, now.Sub(at))
	}
}

func (c *crowd) started(backEnd string) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.ends[backEnd]; ok && c.loaded {
		c.gaps = append(c.gaps, now.Sub(at))
	}
	delete(c.ends, backEnd)
}

func (c *crowd) over(backEnd string) {
	now := time.Now()
	c.mu.Lock()
	c.ends[backEnd] = now
	c.mu.Unlock()
}

func p99(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)*99/100]
}

// herdOf is a fleet of any drivers.
type herdOf []backend.Status

func (h herdOf) Status() []backend.Status { return h }
func (herdOf) Report(string, error)       {}
func (herdOf) Forgive(string)             {}
func (herdOf) Woke(string, time.Duration) {}

// BenchmarkDispatch is 64 back ends and 200 people: first each submission finds an idle back end, then all keep jobs
// waiting. A run takes 500 ms. p99-idle-ms is from the submission to Prepare, p99-next-ms from the end of a run to the
// start of the next one on the same back end.
func BenchmarkDispatch(b *testing.B) {
	const agents, people = 64, 200
	c := &crowd{submitted: map[job.ID]time.Time{}, ends: map[string]time.Time{}}
	var fleet herdOf
	for i := range agents {
		name := fmt.Sprint("agent", i)
		s := &swift{stub: stub{Status: backend.Status{Name: name, Ready: true}, lasts: 500 * time.Millisecond}, crowd: c}
		status := s.Status
		status.Driver = s
		fleet = append(fleet, status)
	}
	var disp *dispatch.Dispatcher
	done := make(chan struct{}, 100_000)
	q := &memory{jobs: map[job.ID]job.Entry{}, notify: func(ch job.Changed) {
		disp.JobChanged(ch)
		if ch.Change == job.Finished {
			done <- struct{}{}
		}
	}}
	bus := event.New()
	disp = dispatch.New(dispatch.Deps{
		Queue: q, Fleet: fleet, Deliver: &files{names: map[owned]file.Ref{}}, Rewriter: mirror{}, Bus: bus,
	}, dispatch.Options{})
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { disp.Run(ctx) }) //nolint:errcheck // reads nothing at its start
	defer running.Wait()
	defer cancel()
	for u := range people { // all watch
		sub := bus.Subscribe(fmt.Sprint("user", u), event.Options{})
		defer sub.Close()
		running.Go(func() {
			for {
				if _, err := sub.Next(ctx); err != nil {
					return
				}
			}
		})
	}
	n := 0
	submit := func() {
		n++
		id := job.ID(fmt.Sprint("job-", n))
		c.mu.Lock()
		c.submitted[id] = time.Now()
		c.mu.Unlock()
		if _, _, err := q.Submit(ctx, job.Submission{
			ID: id, User: fmt.Sprint("user", n%people), ClientID: "sid", Created: time.Now(),
			Request: job.Request{Prompt: json.RawMessage(`{"1":{"class_type":"Text","inputs":{}}}`), Outputs: []string{"1"}},
		}); err != nil {
			b.Error(err)
		}
	}
	pace := time.NewTicker(15 * time.Millisecond)
	defer pace.Stop()
	for b.Loop() {
		for range 20 { // 32 in half a second: some back ends are idle all the time
			for range 32 {
				submit()
				<-pace.C
			}
			for range 32 {
				<-done
			}
		}
		c.mu.Lock()
		c.loaded = true
		clear(c.ends)
		c.mu.Unlock()
		for range 2 * people {
			submit()
		}
		for range 10 * agents { // as one ends, somebody submits the next
			<-done
			submit()
		}
		for range 2 * people {
			<-done
		}
		c.mu.Lock()
		c.loaded = false
		clear(c.ends)
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b.ReportMetric(float64(p99(c.waits).Microseconds())/1000, "p99-idle-ms")
	b.ReportMetric(float64(p99(c.gaps).Microseconds())/1000, "p99-next-ms")
}
