package redis_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/redis"
)

// refused holds an error against the kind and code of a refusal.
func refused(t testing.TB, what string, err error, code string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Unavailable || f.Code != code || f.Public == "" || f.Remedy == "" {
		t.Errorf("%s: %v, want a refusal %s", what, err, code)
	}
}

// startQueue opens a queue on the server and closes it with the test.
func startQueue(t testing.TB, s *server, o redis.Options) (*redis.DB, *redis.Queue, *queue.Service) {
	t.Helper()
	db := s.open(t, o)
	store, err := redis.NewQueue(context.WithoutCancel(t.Context()), db)
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(store.Close(), db.Close())) })
	q, err := queue.New(context.WithoutCancel(t.Context()), store, queue.Options{})
	must(t, err)
	return db, store, q
}

// TestEmptied: a Redis that lost everything is not taken for an empty queue, neither by who runs nor by who starts.
func TestEmptied(t *testing.T) {
	t.Parallel()
	s := startServer(t, "always")
	db, store, q := startQueue(t, s, redis.Options{Studio: "studio-1"})
	j, _, err := q.Submit(t.Context(), queuetest.Submission("ann", 1))
	must(t, err)
	again := s.open(t, redis.Options{Studio: "studio-1", Generation: db.Generation()})
	if again.Generation() != db.Generation() {
		t.Errorf("generation %s became %s", db.Generation(), again.Generation())
	}
	must(t, again.Close())
	_, err = redis.Open(t.Context(), s.URL(), redis.Options{Studio: "studio-2"})
	refused(t, "another studio", err, "redis_other_studio")

	s.cli("flushall")
	read := func(code string) {
		t.Helper()
		_, _, err = q.Submit(t.Context(), queuetest.Submission("ann", 2))
		refused(t, "submit", err, code)
		_, err = store.Find(t.Context(), "ann", j.PromptID)
		refused(t, "find", err, code)
		_, err = store.EachOpen(t.Context(), nil)
		refused(t, "open jobs", err, code)
		_, _, err = store.Task(t.Context(), j.Seq)
		refused(t, "task", err, code)
	}
	read("redis_emptied")
	_, err = redis.Open(t.Context(), s.URL(), redis.Options{Studio: "studio-1", Generation: db.Generation()})
	refused(t, "a start", err, "redis_emptied")

	other := s.open(t, redis.Options{Studio: "studio-1"}) // somebody begins anew
	defer other.Close()
	read("redis_other")
	_, err = redis.Open(t.Context(), s.URL(), redis.Options{Studio: "studio-1", Generation: db.Generation()})
	refused(t, "a start", err, "redis_other")
	s.cli("hset", "{comfyume}:meta", "form", "99")
	_, err = redis.Open(t.Context(), s.URL(), redis.Options{Studio: "studio-1"})
	refused(t, "a newer form", err, "redis_form")
}

// within calls fn and holds how long it took against a bound.
func within(t testing.TB, bound time.Duration, what string, fn func() error) error {
	t.Helper()
	start := time.Now()
	err := fn()
	if d := time.Since(start); d > bound {
		t.Errorf("%s took %s, want at most %s", what, d, bound)
	}
	return err
}

// TestGone: while Redis is away every call ends in time with a sentence, and when it is back the server goes on.
func TestGone(t *testing.T) {
	t.Parallel()
	s := startServer(t, "always")
	_, store, q := startQueue(t, s, redis.Options{Patience: 300 * time.Millisecond})
	before, _, err := q.Submit(t.Context(), queuetest.Submission("ann", 1))
	must(t, err)
	s.kill()
	lost := queuetest.Submission("ann", 2)
	lost.PromptID = "lost"
	calls := map[string]func(context.Context) error{
		"submit": func(ctx context.Context) error { _, _, err := q.Submit(ctx, lost); return err },
		"claim":  func(ctx context.Context) error { _, _, err := q.Claim(ctx, before.ID, queuetest.Params()); return err },
		"find":   func(ctx context.Context) error { _, err := store.Find(ctx, "ann", before.PromptID); return err },
		"history": func(ctx context.Context) error {
			return store.EachHistory(ctx, "ann", job.HistoryQuery{MaxItems: -1, Offset: -1}, nil)
		},
		"open": func(ctx context.Context) error { _, err := store.EachOpen(ctx, nil); return err },
		"prune": func(ctx context.Context) error {
			return store.Prune(ctx, queue.Pruning{Limit: 1, Keep: 1}, func([]queue.Gone) {})
		},
	}
	for what, call := range calls {
		refused(t, what, within(t, 2*time.Second, what, func() error { return call(t.Context()) }), "redis_unavailable")
		hurried, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := within(t, 2*time.Second, what+" in a hurry", func() error { return call(hurried) })
		if cancel(); !errors.Is(err, context.DeadlineExceeded) && !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s in a hurry: %v", what, err)
		}
	}
	_, err = redis.Open(t.Context(), s.URL(), redis.Options{})
	refused(t, "a start", err, "redis_unavailable")
	s.start()
	eventually(t, "the server goes on", func() bool { _, err = store.Get(t.Context(), before.ID); return err == nil })
	eventually(t, "changes go on", func() bool {
		j, existing, err := q.Submit(t.Context(), lost)
		if existing {
			t.Errorf("a job that nobody was told of: %+v", j)
		}
		return err == nil
	})
	must(t, q.Fail(t.Context(), before.ID, queuetest.Outcome(job.Failed)))
}

// TestSlow stops Redis for a while in the middle of work: what it still did is not done again and not forgotten.
func TestSlow(t *testing.T) {
	t.Parallel()
	s := startServer(t, "always")
	n := startNode(t, s, redis.Options{Patience: 200 * time.Millisecond})
	submit := func(i int) (job.Job, bool, error) {
		sub := queuetest.Submission("ann", i)
		sub.PromptID = fmt.Sprint("p", i)
		return n.Submit(t.Context(), sub)
	}
	unsure := 0
	for i := range 20 {
		must(t, s.Process().Signal(syscall.SIGSTOP))
		_, _, err := submit(i)
		refused(t, "submit", err, "redis_unavailable")
		must(t, s.Process().Signal(syscall.SIGCONT))
		eventually(t, "it is taken again", func() bool {
			_, existing, err := submit(i)
			if existing {
				unsure++
			}
			return err == nil
		})
	}
	eventually(t, "all are known once", func() bool { return n.Counts().Pending == 20 && n.Remaining("ann") == 20 })
	t.Logf("%d of 20 had happened before they were asked for again", unsure)
	seen := map[string]bool{}
	must(t, n.store.EachRecord(t.Context(), func(r queue.Record) error {
		if seen[r.Job.PromptID] {
			t.Errorf("%s is there twice", r.Job.PromptID)
		}
		seen[r.Job.PromptID] = true
		return nil
	}))
	if len(seen) != 20 {
		t.Errorf("%d jobs, want 20", len(seen))
	}
}

// TestLostAnswers cuts connections behind the server's back at random, before and after Redis has seen what was sent:
// every change happens once.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	s, name := space(t)
	cutter := startCutter(t, s.Socket)
	db, err := redis.Open(t.Context(), "unix://"+cutter.socket, redis.Options{Space: name})
	must(t, err)
	store, err := redis.NewQueue(t.Context(), db)
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(store.Close(), db.Close())) })
	q, err := queue.New(t.Context(), store, queue.Options{})
	must(t, err)
	cutter.every.Store(7)
	fence := int64(0)
	for i := range 60 {
		j, existing, err := q.Submit(t.Context(), queuetest.Submission("ann", i))
		must(t, err)
		e, _, err := q.Claim(t.Context(), j.ID, queuetest.Params())
		must(t, err)
		if existing || e.Job.Attempt.Fence <= fence {
			t.Errorf("job %d: existing %v, fence %d after %d", i, existing, e.Job.Attempt.Fence, fence)
		}
		fence = e.Job.Attempt.Fence
		must(t, q.Finish(t.Context(), j.ID, fence, queuetest.Outcome(job.Completed)))
	}
	cutter.every.Store(0)
	n := 0
	must(t, store.EachHistory(t.Context(), "ann", job.HistoryQuery{MaxItems: -1, Offset: -1}, func(job.Entry) error { n++; return nil }))
	if cut := cutter.cut.Load(); n != 60 || cut < 10 {
		t.Errorf("%d jobs ended, want 60; %d connections were cut", n, cut)
	}
}

// TestFull: a Redis without memory takes no new jobs, and lets everything else go on.
func TestFull(t *testing.T) {
	t.Parallel()
	s := startServer(t, "everysec")
	_, _, q := startQueue(t, s, redis.Options{})
	var claims []job.Fence
	for i := range 8 {
		j, _, err := q.Submit(t.Context(), queuetest.Submission("ann", i))
		must(t, err)
		e, _, err := q.Claim(t.Context(), j.ID, queuetest.Params())
		must(t, err)
		claims = append(claims, job.Fence{Job: j.ID, N: e.Job.Attempt.Fence})
	}
	s.cli("config", "set", "maxmemory", "1mb")
	var wg sync.WaitGroup
	for i, f := range claims { // together, so that they come into batches with what is refused
		wg.Go(func() {
			if err := q.Finish(t.Context(), f.Job, f.N, queuetest.Outcome(job.Completed)); err != nil {
				t.Errorf("a full Redis keeps a job from ending: %v", err)
			}
		})
		wg.Go(func() {
			_, _, err := q.Submit(t.Context(), queuetest.Submission("ben", i))
			refused(t, "submit", err, "redis_full")
		})
	}
	wg.Wait()
	if c := q.Counts(); c != (job.Counts{Completed: 8}) {
		t.Errorf("counts %+v", c)
	}
	s.cli("config", "set", "maxmemory", "0")
	_, _, err := q.Submit(t.Context(), queuetest.Submission("ben", 9))
	must(t, err)
}

// cutter stands between a program and Redis and cuts connections in the middle of answers.
type cutter struct {
	socket string
	every  atomic.Int64 // every so many answers, one is kept and the connection cut; 0: none
	cut    atomic.Int64
	told   atomic.Int64
}

func startCutter(t *testing.T, to string) *cutter {
	dir, err := os.MkdirTemp("", "cut")
	must(t, err)
	c := &cutter{socket: filepath.Join(dir, "s")}
	l, err := net.Listen("unix", c.socket)
	must(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", to)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			wg.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
			wg.Go(func() { c.answers(in, out); _ = in.Close(); _ = out.Close() })
		}
	})
	t.Cleanup(func() {
		must(t, l.Close())
		mu.Lock()
		for _, conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
		must(t, os.RemoveAll(dir))
	})
	return c
}

func (c *cutter) answers(in io.Writer, out io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := out.Read(buf)
		if err != nil {
			return
		}
		if every := c.every.Load(); every > 0 && c.told.Add(1)%every == 0 {
			c.cut.Add(1)
			return
		}
		if _, err := in.Write(buf[:n]); err != nil {
			return
		}
	}
}
