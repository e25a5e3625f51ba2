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
