package redis_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/redis"
)

// node is one server of a studio: its queue and what it announced.
type node struct {
	*queue.Service
	store *redis.Queue

	mu   sync.Mutex
	told []job.Changed
}

func startNode(t testing.TB, s *server, o redis.Options) *node {
	t.Helper()
	db := s.open(t, o)
	store, err := redis.NewQueue(context.WithoutCancel(t.Context()), db)
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(store.Close(), db.Close())) })
	n := &node{store: store}
	n.Service, err = queue.New(context.WithoutCancel(t.Context()), store, queue.Options{Notify: n.hear})
	must(t, err)
	return n
}

func (n *node) hear(c job.Changed) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, c)
}

func (n *node) heard() []job.Changed {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.told)
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick, end := time.NewTicker(2*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: not after 20 s", what)
		}
	}
}

// TestTwoServers lets two servers loose on the same jobs: both announce each change once and in its order, and end with
// the same picture.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	s, name := space(t)
	nodes := []*node{startNode(t, s, redis.Options{Space: name}), startNode(t, s, redis.Options{Space: name})}
	var wg sync.WaitGroup
	for u := range 4 {
		user := fmt.Sprint("user", u)
		for k, n := range nodes {
			wg.Go(func() {
				for i := range 20 {
					j, _, err := n.Submit(t.Context(), queuetest.Submission(user, i))
					if err != nil {
						t.Error(err)
						return
					}
					wg.Go(func() { churn(t, nodes, k+i, j.ID) })
				}
			})
		}
	}
	wg.Wait()
	left := func(n *node) int { c := n.Counts(); return c.Pending + c.Running }
	eventually(t, "both have heard of all", func() bool {
		return left(nodes[0]) == 0 && left(nodes[1]) == 0 && len(nodes[0].heard()) == len(nodes[1].heard())
	})
	follows := map[job.Change][]job.Change{
		"":            {job.Submitted},
		job.Submitted: {job.Claimed},
		job.Claimed:   {job.Posted, job.Released, job.Finished},
		job.Posted:    {job.Released, job.Finished},
		job.Released:  {job.Claimed},
	}
	for k, n := range nodes {
		last, ends := map[job.ID]job.Change{}, 0
		for _, c := range n.heard() {
			if before := last[c.Job.ID]; !slices.Contains(follows[before], c.Change) {
				t.Errorf("server %d announced %s after %q", k, c.Change, before)
			}
			if last[c.Job.ID] = c.Change; c.Change == job.Finished {
				if ends++; c.Outcome == nil || !json.Valid(c.Outcome.Outputs) {
					t.Errorf("server %d announced an end without its outcome: %+v", k, c.Outcome)
				}
			}
		}
		if ends != 160 || n.Counts().Completed != 160 {
			t.Errorf("server %d has heard of %d ends, counts %+v", k, ends, n.Counts())
		}
	}
}

// churn takes a job to its end, by one server and then the other.
func churn(t *testing.T, nodes []*node, first int, id job.ID) {
	for turn := range 2 {
		n := nodes[(first+turn)%2]
		var e job.Entry
		eventually(t, "claim", func() (ok bool) {
			var err error
			e, _, err = n.Claim(t.Context(), id, queuetest.Params())
			if err != nil && !fault.Is(err, fault.Conflict) { // a conflict: it has not heard of it yet
				t.Error(err)
			}
			return err == nil
		})
		fence := e.Job.Attempt.Fence
		err := n.Posted(id, fence)
		if err == nil && turn == 0 {
			err = n.Release(t.Context(), id, fence, "test")
		} else if err == nil {
			err = n.Finish(t.Context(), id, fence, queuetest.Outcome(job.Completed))
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// TestWordsOfOthers goes through what one server hears of another.
func TestWordsOfOthers(t *testing.T) {
	t.Parallel()
	s, name := space(t)
	a, b := startNode(t, s, redis.Options{Space: name}), startNode(t, s, redis.Options{Space: name})
	ctx := t.Context()
	hear := func(what job.Change) job.Changed {
		t.Helper()
		var last job.Changed
		eventually(t, string(what), func() bool {
			if told := b.heard(); len(told) > 0 {
				last = told[len(told)-1]
			}
			return last.Change == what
		})
		return last
	}
	j, _, err := a.Submit(ctx, queuetest.Submission("ann", 1))
	must(t, err)
	if diff := cmp.Diff(j, *hear(job.Submitted).Job); diff != "" {
		t.Errorf("submitted: here -, there +\n%s", diff)
	}
	if same, existing, err := b.Submit(ctx, job.Submission{User: "ann", PromptID: j.PromptID, Request: queuetest.Submission("ann", 1).Request}); err == nil && !existing {
		t.Errorf("the other server took it again: %+v", same)
	}
	next, _, err := b.Submit(ctx, queuetest.Submission("ann", 2))
	must(t, err)
	if next.Number != j.Number+1 {
		t.Errorf("number %v behind %v", next.Number, j.Number)
	}
	held, err := a.Hold(ctx, j.ID, true)
	must(t, err)
	if moved := hear(job.Moved); !moved.Job.Held || !held.Held {
		t.Error("the other server does not know that it is held")
	}
	_, err = a.Hold(ctx, j.ID, false)
	must(t, err)
	e, _, err := a.Claim(ctx, j.ID, queuetest.Params())
	must(t, err)
	hear(job.Claimed)
	must(t, a.Posted(j.ID, e.Job.Attempt.Fence))
	hear(job.Posted)
	asked, err := b.Stop(ctx, "ann", j.PromptID)
	must(t, err)
	if len(asked) != 1 {
		t.Errorf("%d jobs were asked to stop", len(asked))
	}
	must(t, a.Finish(ctx, j.ID, e.Job.Attempt.Fence, queuetest.Outcome(job.Failed)))
	if end := hear(job.Finished); end.Outcome == nil || end.Outcome.Error == "" || end.Job.State != job.Failed {
		t.Errorf("the end: %+v", end)
	}
	gone, err := a.ClearPending(ctx, "ann")
	must(t, err)
	hear(job.Removed)
	must(t, a.ClearHistory(ctx, "ann"))
	hear(job.HistoryChanged)
	must(t, a.SetMode(ctx, queue.Priority))
	eventually(t, "the mode", func() bool { return b.Mode() == queue.Priority })
	must(t, a.Pause(ctx, queue.Pause{Scope: queue.PauseAll, On: true, Reason: "lunch"}))
	eventually(t, "the pause", func() bool { return len(b.Pauses()) == 1 })
	if len(gone) != 1 || b.Remaining("ann") != 0 {
		t.Errorf("%d jobs were taken out, %d remain", len(gone), b.Remaining("ann"))
	}
}

// TestPast brings back an earlier state of Redis under two running servers: they notice that its past is another one,
// take it as it is, and give no number twice.
func TestPast(t *testing.T) {
	t.Parallel()
	s := startServer(t, "always")
	a, b := startNode(t, s, redis.Options{}), startNode(t, s, redis.Options{})
	kept, _, err := a.Submit(t.Context(), queuetest.Submission("ann", 1))
	must(t, err)
	e, _, err := a.Claim(t.Context(), kept.ID, queuetest.Params())
	must(t, err)
	must(t, a.Release(t.Context(), kept.ID, e.Job.Attempt.Fence, "test"))
	eventually(t, "both know it", func() bool { return b.Counts().Pending == 1 })
	past := filepath.Join(t.TempDir(), "past")
	must(t, os.CopyFS(past, os.DirFS(filepath.Join(s.Dir, "appendonlydir"))))
	e, _, err = a.Claim(t.Context(), kept.ID, queuetest.Params())
	must(t, err)
	lost, _, err := a.Submit(t.Context(), queuetest.Submission("ann", 2))
	must(t, err)
	eventually(t, "both know all", func() bool { c := b.Counts(); return c.Pending == 1 && c.Running == 1 })

	s.kill()
	must(t, os.RemoveAll(filepath.Join(s.Dir, "appendonlydir")))
	must(t, exec.Command("cp", "-r", past, filepath.Join(s.Dir, "appendonlydir")).Run())
	s.start()
	for _, n := range []*node{a, b} {
		eventually(t, "the past is taken in", func() bool {
			c := n.Counts()
			return c.Pending == 1 && c.Running == 0
		})
	}
	if err := a.Finish(t.Context(), kept.ID, e.Job.Attempt.Fence, queuetest.Outcome(job.Completed)); !fault.Is(err, fault.Conflict) {
		t.Errorf("a claim that Redis has lost could report: %v", err)
	}
	again, _, err := b.Claim(t.Context(), kept.ID, queuetest.Params())
	must(t, err)
	next, _, err := a.Submit(t.Context(), queuetest.Submission("ann", 3))
	must(t, err)
	if again.Job.Attempt.Fence <= e.Job.Attempt.Fence || next.Seq <= lost.Seq {
		t.Errorf("fence %d after %d, seq %d after %d", again.Job.Attempt.Fence, e.Job.Attempt.Fence, next.Seq, lost.Seq)
	}
}
