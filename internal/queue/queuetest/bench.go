package queuetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// Benchmark measures stores of the shelf: durable submissions, whole lives of jobs, reads beside them, start.
func Benchmark(b *testing.B, shelf Shelf) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("submit/callers=%d", n), func(b *testing.B) { benchSubmit(b, shelf, n) })
		b.Run(fmt.Sprintf("life/callers=%d", n), func(b *testing.B) { benchLife(b, shelf, n) })
	}
	b.Run("history", func(b *testing.B) { benchHistory(b, shelf) })
	b.Run("start", func(b *testing.B) { benchStart(b, shelf) })
	b.Run("depth", func(b *testing.B) { benchDepths(b, shelf) })
}

// benchJobs is how many jobs there are when reads and starts are measured.
const benchJobs = 5000

// fill takes benchJobs jobs of ann to the state.
func fill(b *testing.B, q *bench, state job.State) (last job.Job) {
	b.Helper()
	var wg sync.WaitGroup
	for c := range 50 {
		wg.Go(func() {
			for i := range benchJobs / 50 {
				j, _, err := q.Submit(b.Context(), Submission("ann", c*1000+i))
				if err == nil && state.Final() {
					err = q.Fail(b.Context(), j.ID, Outcome(state))
				}
				if err != nil {
					b.Error(err)
					return
				}
				if c == 0 {
					last = j
				}
			}
		})
	}
	wg.Wait()
	return last
}

func benchHistory(b *testing.B, shelf Shelf) {
	q := start(b, shelf(b), queue.Options{Notify: func(job.Changed) {}})
	j := fill(b, q, job.Failed)
	q.restart()
	read := func(name string, fn func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := fn(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	ctx := b.Context()
	history := func(most int) func() error {
		return func() error {
			n := 0
			err := q.EachHistory(ctx, "ann", job.HistoryQuery{MaxItems: most, Offset: -1}, func(job.Entry) error { n++; return nil })
			if err == nil && n == 0 {
				err = fmt.Errorf("an empty history")
			}
			return err
		}
	}
	read("entry", func() error { _, err := q.Entry(ctx, "ann", j.PromptID); return err })
	read("newest 64", history(64))
	read("all", history(-1))
	read("jobs 200", func() error {
		jobs, _, err := q.Jobs(ctx, "ann", job.ListQuery{States: []job.State{job.Completed, job.Failed, job.Cancelled}, Limit: 200})
		if err == nil && len(jobs) != 200 {
			err = fmt.Errorf("%d jobs", len(jobs))
		}
		return err
	})
}

// benchStart opens a store with many waiting jobs.
func benchStart(b *testing.B, shelf Shelf) {
	q := start(b, shelf(b), queue.Options{Notify: func(job.Changed) {}})
	fill(b, q, job.Pending)
	b.ReportAllocs()
	for b.Loop() {
		q.restart()
	}
	if n := q.Remaining("ann"); n != benchJobs {
		b.Errorf("%d jobs, want %d", n, benchJobs)
	}
}

// callers runs fn b.N times from n goroutines.
func callers(b *testing.B, n int, fn func(caller int) error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for c := range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := fn(c); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func benchSubmit(b *testing.B, shelf Shelf, n int) {
	q := start(b, shelf(b), queue.Options{Notify: func(job.Changed) {}})
	callers(b, n, func(c int) error {
		_, _, err := q.Submit(b.Context(), Submission(fmt.Sprint("user", c%8), c))
		return err
	})
}

func benchLife(b *testing.B, shelf Shelf, n int) {
	q := start(b, shelf(b), queue.Options{Notify: func(job.Changed) {}})
	callers(b, n, func(c int) error {
		j, _, err := q.Submit(b.Context(), Submission(fmt.Sprint("user", c%8), c))
		if err != nil {
			return err
		}
		e, _, err := q.Claim(b.Context(), j.ID, Params())
		if err != nil {
			return err
		}
		if err := q.Posted(j.ID, e.Job.Attempt.Fence); err != nil {
			return err
		}
		return q.Finish(b.Context(), j.ID, e.Job.Attempt.Fence, Outcome(job.Completed))
	})
}
