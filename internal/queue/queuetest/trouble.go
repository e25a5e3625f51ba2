package queuetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// testLastWord changes jobs behind the service's back, as another call does between its look and its change: the store's
// refusal is the answer, and nothing is announced.
func testLastWord(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	ctx := t.Context()
	release := func(e job.Entry) {
		b.must(b.store.Release(ctx, e.Job.Seq, e.Job.Attempt.Fence, nil, func() {}))
	}
	run := func() job.Entry { return b.claim(b.submit("ann").ID) }
	e := run()
	release(e)
	b.heard()
	refused(t, "finish", b.Finish(ctx, e.Job.ID, e.Job.Attempt.Fence, Outcome(job.Completed)), fault.Conflict, "stale_fence")
	refused(t, "release", b.Release(ctx, e.Job.ID, e.Job.Attempt.Fence, "test"), fault.Conflict, "stale_fence")
	lost, err := b.Renew(ctx, []job.Fence{{Job: e.Job.ID, N: e.Job.Attempt.Fence}}, time.Now())
	b.must(err)
	equal(t, "lost", len(lost), 1)
	gone, err := b.RemovePending(ctx, "ann", []string{e.Job.PromptID})
	b.must(err)
	b.must(b.Posted(e.Job.ID, e.Job.Attempt.Fence))
	b.heard()
	asked, err := b.Stop(ctx, "ann", e.Job.PromptID)
	b.must(err)
	equal(t, "taken out and asked to stop", []int{len(gone), len(asked)}, []int{0, 0})

	waits := b.submit("ann")
	b.heard()
	b.must(b.store.Claim(ctx, waits.Seq, job.Attempt{N: 1, BackEnd: "gpu"}, func(int64) {}))
	_, _, err = b.Claim(ctx, waits.ID, Params())
	refused(t, "claim", err, fault.Conflict, "not_pending")
	refused(t, "fail", b.Fail(ctx, waits.ID, Outcome(job.Failed)), fault.Conflict, "not_pending")
	gone, err = b.ClearPending(ctx, "ann")
	b.must(err)
	equal(t, "cleared", len(gone), 0)
	equal(t, "announced", b.changes(), nil)
	b.restart()
	equal(t, "counts", b.Counts(), job.Counts{Pending: 1, Running: 1})
}

// testGivenUp: a caller who goes away before the change leaves everything as it was, in the store and in memory.
func testGivenUp(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{MaxPendingPerUser: 2})
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range 3 { // more than the limit
		if _, _, err := b.Submit(gone, Submission("ann", 1)); !errors.Is(err, context.Canceled) {
			t.Fatalf("submit: %v", err)
		}
	}
	j := b.submit("ann")
	b.restart()
	if next := b.submit("ann"); next.Number <= j.Number {
		t.Errorf("number %v came after %v", next.Number, j.Number)
	}
	e := b.claim(j.ID)
	b.heard()
	if _, err := b.RemovePending(gone, "ann", []string{j.PromptID}); !errors.Is(err, context.Canceled) {
		t.Errorf("remove: %v", err)
	}
	for what, err := range map[string]error{
		"finish":  b.Finish(gone, j.ID, e.Job.Attempt.Fence, Outcome(job.Completed)),
		"release": b.Release(gone, j.ID, e.Job.Attempt.Fence, "test"),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	equal(t, "announced", b.changes(), nil)
	b.must(b.Posted(j.ID, e.Job.Attempt.Fence)) // nobody takes it away any more
	b.must(b.Finish(t.Context(), j.ID, e.Job.Attempt.Fence, Outcome(job.Completed)))
}

// testClaimGivenBack: a claim whose request can't be read does not keep the job until its lease ends.
func testClaimGivenBack(t *testing.T, shelf Shelf) {
	var leave atomic.Pointer[context.CancelFunc]
	b := start(t, shelf(t), queue.Options{Notify: func(c job.Changed) {
		if stop := leave.Load(); stop != nil && c.Change == job.Claimed {
			(*stop)() // between the claim and the look at what it asks for
		}
	}})
	// Jobs with credentials are read from the store.
	j := b.submit("ann", func(s *job.Submission) { s.Credentials = map[string]string{"a": "b"} })
	ctx, cancel := context.WithCancel(t.Context())
	leave.Store(&cancel)
	if _, _, err := b.Claim(ctx, j.ID, Params()); !errors.Is(err, context.Canceled) {
		t.Fatalf("claim: %v", err)
	}
	leave.Store(nil)
	equal(t, "counts", b.Counts(), job.Counts{Pending: 1})
	if e := b.claim(j.ID); e.Job.Attempt.N != 2 {
		t.Errorf("attempt %d", e.Job.Attempt.N)
	}
}

// testConcurrentClash: of different bodies under one prompt id at the same time one is accepted.
func testConcurrentClash(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	var accepted atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			sub := Submission("ann", i)
			sub.PromptID = "p1"
			sub.Request.Prompt = json.RawMessage(fmt.Sprintf(`{"1": %d}`, i))
			_, existing, err := b.Submit(t.Context(), sub)
			if err == nil && !existing {
				accepted.Add(1)
				return
			}
			refused(t, "another body", err, fault.Conflict, "prompt_id_in_use")
		})
	}
	wg.Wait()
	equal(t, "accepted", accepted.Load(), 1)
	equal(t, "remaining", b.Remaining("ann"), 1)
}

// testChaos lets owners, operators and workers loose on one another, and holds what is left against what was announced
// and what the store says: no job is lost, none ends twice, fences only grow, counts are true.
func testChaos(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{KeepPerUser: 20})
	var wg sync.WaitGroup
	var submitted atomic.Int32
	ids := make(chan job.ID, 1000)
	for u := range 4 {
		user := fmt.Sprint("user", u)
		wg.Go(func() {
			for i := range 50 {
				sub := Submission(user, i)
				sub.Held = i%7 == 0
				j, _, err := b.Submit(t.Context(), sub)
				if err != nil {
					t.Error(err)
					return
				}
				submitted.Add(1)
				ids <- j.ID
				chaos(b, user, i)
			}
		})
		wg.Go(func() {
			for range 50 {
				id := <-ids
				for _, act := range []func() (job.Job, error){
					func() (job.Job, error) { return b.SetClass(t.Context(), id, job.Class(u)) },
					func() (job.Job, error) { return b.ToFront(t.Context(), id) },
					func() (job.Job, error) { return b.Hold(t.Context(), id, false) },
				} {
					if _, err := act(); err != nil && !fault.Is(err, fault.Conflict) && !fault.Is(err, fault.Missing) {
						t.Error(err)
					}
				}
				churn(b, id)
			}
		})
	}
	wg.Wait()
	fence, ended := int64(0), map[job.ID]int{}
	for _, c := range b.heard() {
		switch c.Change {
		case job.Claimed:
			if c.Job.Attempt.Fence <= fence {
				t.Errorf("fence %d was announced after %d", c.Job.Attempt.Fence, fence)
			}
			fence = c.Job.Attempt.Fence
		case job.Finished, job.Removed:
			ended[c.Job.ID]++
		}
	}
	for id, n := range ended {
		if n > 1 {
			t.Errorf("%s ended %d times", id, n)
		}
	}
	counts := b.Counts()
	equal(t, "ends", counts.Completed+counts.Failed+counts.Cancelled, len(ended))
	equal(t, "jobs", counts.Pending+counts.Running+len(ended), int(submitted.Load()))
	open := job.Counts{Pending: counts.Pending, Running: counts.Running}
	byUser := b.CountsByUser()
	b.restart()
	equal(t, "counts after a restart", b.Counts(), open)
	equal(t, "by user after a restart", b.CountsByUser(), byUser)
}

// chaos is what a person does now and then beside submitting.
func chaos(b *bench, user string, i int) {
	var err error
	ctx := b.t.Context()
	switch i % 10 {
	case 3:
		_, err = b.Prune(ctx)
	case 5:
		var open []job.Job
		if open, err = b.Open(ctx, user); err == nil && len(open) > 1 {
			_, err = b.Reorder(ctx, user, []job.ID{open[1].ID, open[0].ID})
		}
	case 7:
		_, err = b.RemovePending(ctx, user, []string{"nothing"})
	case 9:
		_, _, err = b.CancelUser(ctx, user)
	}
	if err != nil && fault.KindOf(err) == fault.Internal {
		b.t.Error(err)
	}
}

// testClockBack: what the store has is from an hour ahead, as after the clock was set back. Order, history and keys stay
// as they are, and no run takes less than no time.
func testClockBack(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{KeepFor: 30 * time.Minute})
	ahead := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	in := insertion("ann", "p1")
	in.Job.Created, in.Key, in.KeyUntil, in.Now = ahead, "k1", ahead.Add(24*time.Hour), ahead
	first := b.insert(in)
	b.endAs(first, false, ahead)
	second := b.insert(insertion("ann", "p2"))
	e := b.claimStored(second)
	_, err := b.store.Renew(t.Context(), []queue.Renewal{{Ref: queue.Ref{Seq: e.Seq, Fence: e.Attempt.Fence}, Posted: true, Started: ahead}}, ahead)
	b.must(err)
	b.restart()
	b.must(b.Finish(t.Context(), second.ID, e.Attempt.Fence, Outcome(job.Completed)))
	j, err := b.Get(t.Context(), second.ID)
	b.must(err)
	if j.Finished.Before(j.Started) {
		t.Errorf("it began at %v and ended at %v", j.Started, j.Finished)
	}
	b.finish(b.submit("ann", prompt("p3")).ID, job.Completed)
	n, err := b.Prune(t.Context())
	b.must(err)
	equal(t, "nothing is too old", n, 0)
	equal(t, "history", b.history("ann", -1, -1), []string{"p1", "p2", "p3"})
	list, _, err := b.Jobs(t.Context(), "ann", job.ListQuery{})
	b.must(err)
	equal(t, "list", prompts(list), []string{"p3", "p2", "p1"})
	sub := Submission("ann", 1)
	sub.Key = "k1"
	_, _, err = b.Submit(t.Context(), sub)
	refused(t, "the key still counts", err, fault.Conflict, "idempotency_key_reused")
}

// claimStored claims a job of the store that the service does not know of.
func (b *bench) claimStored(j job.Job) job.Job {
	b.t.Helper()
	b.must(b.store.Claim(b.t.Context(), j.Seq, job.Attempt{N: 1, BackEnd: "gpu", LeaseUntil: time.Now()}, func(int64) {}))
	return b.stored(j.ID)
}
