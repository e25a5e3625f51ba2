package queuetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// peersTime names the variable that says how long a run of sending takes in Peers. Without it the runs are short, and
// their figures mean nothing.
const peersTime = "COMFYUME_PEERS"

// Peers measures the queue the way in which other durable queues are measured beside it, and prints the same columns, a
// line of JSON each: sends a second from 1 and 64 callers, sends in batches, no-op jobs a second with few and many
// waiting, and how long a job waits for its start while workers are idle. Every step is durable before it counts.
func Peers(b *testing.B, kind string, shelf Shelf) {
	p := peers{b: b, kind: kind, shelf: shelf, length: 20 * time.Millisecond, runs: 1, depths: []int{200}, drain: 100, idles: 5}
	if text := os.Getenv(peersTime); text != "" {
		var err error
		if p.length, err = time.ParseDuration(text); err != nil {
			b.Fatalf("%s: %v", peersTime, err)
		}
		p.runs, p.depths, p.drain, p.idles = 3, []int{1000, 100000}, 1000, 40
	}
	for b.Loop() {
		p.send(1)
		p.send(64)
		p.batch(100)
		for _, depth := range p.depths {
			for _, workers := range []int{2, 8} {
				p.drained(depth, workers)
			}
		}
		p.idle()
	}
}

type peers struct {
	b      *testing.B
	kind   string
	shelf  Shelf
	length time.Duration
	runs   int
	depths []int
	drain  int
	idles  int
}

// peerBody is as long as the jobs of the other queues.
const peerBody = 1024

// peer is the queue with workers that wait for jobs.
type peer struct {
	*queue.Service
	mu    sync.Mutex
	more  *sync.Cond
	ready []*job.Job // claimed ones first in line, and those that wait
	idle  int        // workers that wait and have no job on its way to them
	over  bool
}

func (p *peers) fresh() (*peer, func()) {
	store, shut := p.shelf(p.b)(p.b)
	q := &peer{}
	q.more = sync.NewCond(&q.mu)
	var err error
	q.Service, err = queue.New(p.b.Context(), store, queue.Options{Notify: q.hear, Place: q.place})
	if err != nil {
		p.b.Fatal(err)
	}
	return q, shut
}

// place claims a job as it is accepted when a worker waits for one.
func (q *peer) place(job.Job) (job.ClaimParams, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.idle == 0 {
		return job.ClaimParams{}, false
	}
	q.idle--
	return Params(), true
}

func (q *peer) hear(c job.Changed) {
	if c.Change != job.Submitted {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ready) == 0 || c.Job.State == job.Pending {
		q.ready = append(q.ready, c.Job)
	} else {
		q.ready = slices.Insert(q.ready, 0, c.Job)
	}
	q.more.Signal()
}

// next waits for a job; nil: there is no more to come.
func (q *peer) next() *job.Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ready) == 0 {
		q.idle++
		for len(q.ready) == 0 && !q.over {
			q.more.Wait()
		}
		if q.over {
			return nil
		}
		if q.ready[0].State == job.Pending { // nobody reckoned with this worker
			q.idle = max(0, q.idle-1)
		}
	}
	if q.over {
		return nil
	}
	j := q.ready[0]
	q.ready[0] = nil
	q.ready = q.ready[1:]
	return j
}

// work hands jobs to handle from n workers until ctx ends.
func (q *peer) work(ctx context.Context, n int, handle func(body []byte)) error {
	stop := context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.over = true
		q.more.Broadcast()
	})
	defer stop()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = q.worker(handle) })
	}
	wg.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over, q.idle = false, 0
	return errors.Join(errs...)
}

// worker runs jobs one after another. As the dispatcher does, it claims the next one while it writes down how the last
// one ended, so that both may share a commit.
func (q *peer) worker(handle func([]byte)) error {
	var ending sync.WaitGroup
	var ended error
	for {
		j := q.next()
		if j == nil {
			ending.Wait()
			return ended
		}
		e, err := q.take(j)
		if ending.Wait(); err != nil || ended != nil {
			return errors.Join(err, ended)
		}
		handle(e.Request.Prompt)
		ending.Go(func() {
			ended = q.Finish(context.Background(), e.Job.ID, e.Job.Attempt.Fence, job.Outcome{State: job.Completed})
		})
	}
}

// take claims a job, unless it is claimed already.
func (q *peer) take(j *job.Job) (e job.Entry, err error) {
	if j.State == job.Pending {
		e, _, err = q.Claim(context.Background(), j.ID, Params())
	} else {
		e, _, err = q.Load(context.Background(), j.ID, j.Attempt.Fence)
	}
	return e, err
}

func (q *peer) send(ctx context.Context, body []byte) error {
	_, _, err := q.Submit(ctx, job.Submission{User: "bench", Class: job.ClassNormal, Request: job.Request{Prompt: body}})
	return err
}

// sendAll sends many at once; they share commits.
func (q *peer) sendAll(ctx context.Context, n, callers int) error {
	var left atomic.Int64
	left.Store(int64(n))
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for left.Add(-1) >= 0 && errs[i] == nil {
				errs[i] = q.send(ctx, make([]byte, peerBody))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (p *peers) must(err error) {
	p.b.Helper()
	if err != nil {
		p.b.Fatal(err)
	}
}

func (p *peers) send(callers int) {
	var rate, p50, p99 []float64
	for range p.runs {
		q, shut := p.fresh()
		end := time.Now().Add(p.length)
		took := make([][]time.Duration, callers)
		errs := make([]error, callers)
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for t := time.Now(); t.Before(end) && errs[i] == nil; {
					errs[i] = q.send(p.b.Context(), make([]byte, peerBody))
					now := time.Now()
					took[i] = append(took[i], now.Sub(t))
					t = now
				}
			})
		}
		wg.Wait()
		p.must(errors.Join(errs...))
		shut()
		all := slices.Concat(took...)
		rate = append(rate, float64(len(all))/p.length.Seconds())
		p50, p99 = append(p50, quantile(all, .5)), append(p99, quantile(all, .99))
	}
	p.print(map[string]any{"test": "send", "conc": callers, "per_s": spreadOf(rate), "p50_ms": spreadOf(p50), "p99_ms": spreadOf(p99)})
}

func (p *peers) batch(n int) {
	var rate []float64
	for range p.runs {
		q, shut := p.fresh()
		sent, began := 0, time.Now()
		for time.Since(began) < p.length {
			p.must(q.sendAll(p.b.Context(), n, n))
			sent += n
		}
		rate = append(rate, float64(sent)/time.Since(began).Seconds())
		shut()
	}
	p.print(map[string]any{"test": "batch", "batch": n, "per_s": spreadOf(rate)})
}

func (p *peers) drained(depth, workers int) {
	var rate []float64
	n, fills, each := min(depth, p.drain), p.runs, 1
	if depth >= 10*p.drain*p.runs { // a deep queue is filled once and serves all runs
		fills, each = 1, p.runs
	}
	for range fills {
		q, shut := p.fresh()
		p.must(q.sendAll(p.b.Context(), depth, 64))
		for range each {
			rate = append(rate, p.drainOnce(q, workers, n))
		}
		shut()
	}
	p.print(map[string]any{"test": "drain", "pending": depth, "workers": workers, "per_s": spreadOf(rate)})
}

func (p *peers) drainOnce(q *peer, workers, n int) float64 {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var seen atomic.Int64
	var first, last time.Time
	p.must(q.work(ctx, workers, func([]byte) {
		switch seen.Add(1) {
		case 1:
			first = time.Now()
		case int64(n):
			last = time.Now()
			cancel()
		}
	}))
	if got := seen.Load(); got < int64(n) {
		p.b.Fatalf("only %d of %d jobs in a minute", got, n)
	}
	return float64(n-1) / last.Sub(first).Seconds()
}

func (p *peers) idle() {
	var p50, p99 []float64
	for range p.runs {
		q, shut := p.fresh()
		ctx, cancel := context.WithCancel(p.b.Context())
		started := make(chan time.Time, 1)
		var wg sync.WaitGroup
		var err error
		wg.Go(func() { err = q.work(ctx, 4, func([]byte) { started <- time.Now() }) })
		var all []time.Duration
		for i := range p.idles {
			time.Sleep(time.Duration(20+i%7*5) * time.Millisecond) // a worker that polls would be found out
			t := time.Now()
			p.must(q.send(ctx, make([]byte, peerBody)))
			all = append(all, (<-started).Sub(t))
		}
		cancel()
		wg.Wait()
		p.must(err)
		shut()
		p50, p99 = append(p50, quantile(all, .5)), append(p99, quantile(all, .99))
	}
	p.print(map[string]any{"test": "idle", "p50_ms": spreadOf(p50), "p99_ms": spreadOf(p99)})
}

func (p *peers) print(line map[string]any) {
	line["kind"] = p.kind
	raw, err := json.Marshal(line)
	p.must(err)
	if os.Getenv(peersTime) != "" {
		fmt.Println(string(raw))
	}
}

// quantile of latencies, in milliseconds.
func quantile(all []time.Duration, q float64) float64 {
	slices.Sort(all)
	return float64(all[max(0, int(math.Ceil(q*float64(len(all))))-1)].Microseconds()) / 1000
}

// spreadOf is the median of several runs with their range.
func spreadOf(v []float64) map[string]float64 {
	slices.Sort(v)
	return map[string]float64{"median": v[len(v)/2], "min": v[0], "max": v[len(v)-1]}
}
