package queuetest

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/benchtest"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// benchDepth names the variable that says how many jobs wait, and how many are over, when costs at depth are measured.
const benchDepth = "COMFYUME_BENCH_JOBS"

// depths are the depths to measure at: a short queue, and a long one.
func depths(b *testing.B) []int {
	b.Helper()
	long := 5000
	if text := os.Getenv(benchDepth); text != "" {
		var err error
		if long, err = strconv.Atoi(text); err != nil {
			b.Fatalf("%s: %v", benchDepth, err)
		}
	}
	return []int{1000, long}
}

// deepUsers is how many people the jobs of deep queues belong to.
const deepUsers = 1000

// deep gives records of n jobs that wait and n that are over, of many people.
func deep(n int) iter.Seq2[queue.Record, error] {
	out := Outcome(job.Completed)
	return func(yield func(queue.Record, error) bool) {
		for i := range 2 * n {
			sub := Submission(fmt.Sprint("user", i%deepUsers), i)
			id := uuid.Must(uuid.NewV7()).String()
			r := queue.Record{Request: sub.Request, Job: job.Job{
				ID: job.ID(id), User: sub.User, Group: sub.Group, PromptID: id, ClientID: sub.ClientID, Number: float64(i), Seq: int64(i + 1),
				Class: sub.Class, State: job.Pending, WorkflowID: sub.WorkflowID, Created: sub.Created,
				Profile: job.Profile{Like: "like", Work: 1, Models: "v1-5-pruned-emaonly-fp16.safetensors"},
			}}
			if i < n {
				r.Outcome, r.Ended = &out, int64(2*n+i+1)
				r.Job.State, r.Job.Started, r.Job.Finished = job.Completed, at, at
				r.Job.Summary = out.Summary
				r.Job.Attempt = job.Attempt{N: 1, Fence: int64(i + 1), BackEnd: "gpu"}
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// benchDepths measures what submitting, claiming and finishing cost while many jobs wait and many are over, and what a
// queue of that length takes in memory.
func benchDepths(b *testing.B, shelf Shelf) {
	for _, n := range depths(b) {
		b.Run(fmt.Sprintf("jobs=%d", n), func(b *testing.B) {
			open := shelf(b)
			store, shut := open(b)
			if err := store.Restore(b.Context(), nil, deep(n)); err != nil {
				b.Fatal(err)
			}
			shut()
			began := time.Now()
			q := start(b, open, queue.Options{Notify: func(job.Changed) {}})
			started := time.Since(began)
			resident := residentMB()
			for _, callers := range []int{1, 64} {
				b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
					benchDeep(b, q, callers)
					b.ReportMetric(float64(started.Milliseconds()), "start-ms")
					b.ReportMetric(resident, "resident-MB")
				})
			}
		})
	}
}

func benchDeep(b *testing.B, q *bench, n int) {
	// On a busy machine only the processor's time is a measure.
	timed := func(what string, fn func(i int) error) {
		began, used := time.Now(), benchtest.Processor(b)
		spread(b, n, fn)
		b.ReportMetric(float64(time.Since(began).Microseconds())/float64(b.N), what+"-us")
		b.ReportMetric(float64((benchtest.Processor(b)-used).Microseconds())/float64(b.N), what+"-cpu-us")
	}
	enough := errors.New("enough")
	var ids []job.ID
	err := q.EachOpen(b.Context(), func(j job.Job) error {
		if j.State == job.Pending {
			ids = append(ids, j.ID)
		}
		if len(ids) == b.N {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		b.Fatal(err)
	}
	b.ResetTimer()
	added := make([]job.ID, b.N)
	timed("submit", func(i int) error {
		j, _, err := q.Submit(b.Context(), Submission(fmt.Sprint("user", i%deepUsers), i))
		added[i] = j.ID
		return err
	})
	ids = append(ids, added...)[:b.N] // those that waited longest
	fences := make([]int64, b.N)
	timed("claim", func(i int) error {
		e, _, err := q.Claim(b.Context(), ids[i], Params())
		fences[i] = e.Job.Attempt.Fence
		return err
	})
	timed("finish", func(i int) error {
		return q.Finish(b.Context(), ids[i], fences[i], Outcome(job.Completed))
	})
}

// spread runs fn for every number below b.N from n goroutines.
func spread(b *testing.B, n int, fn func(i int) error) {
	next := make(chan int, n)
	done := make(chan error, n)
	for range n {
		go func() {
			var first error
			for i := range next {
				if err := fn(i); first == nil {
					first = err
				}
			}
			done <- first
		}()
	}
	for i := range b.N {
		next <- i
	}
	close(next)
	for range n {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
}

// residentMB is the resident memory of the process, or where the system does not say it, what Go has of it.
func residentMB() float64 {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				if kb, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB"))); err == nil {
					return float64(kb) / 1024
				}
			}
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.Sys-m.HeapReleased) / (1 << 20)
}
