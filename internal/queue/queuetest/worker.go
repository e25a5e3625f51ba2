package queuetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

func testPlaced(t *testing.T, shelf Shelf) {
	places := true
	b := start(t, shelf(t), queue.Options{Place: func(j job.Job) (job.ClaimParams, bool) {
		equal(t, "asked for", j.User, "ann")
		return Params(), places
	}})
	j := b.submit("ann")
	p, a := Params(), j.Attempt
	if a.Fence == 0 || a.LeaseUntil.Before(time.Now()) {
		t.Errorf("attempt %+v", a)
	}
	equal(t, "attempt", a, job.Attempt{N: 1, Fence: a.Fence, BackEnd: p.BackEnd, RunID: p.RunID, ClientID: p.ClientID, LeaseUntil: a.LeaseUntil})
	equal(t, "announced", b.changes(), []job.Change{job.Submitted})
	equal(t, "counts", b.Counts(), job.Counts{Running: 1})
	_, _, err := b.Claim(t.Context(), j.ID, Params())
	refused(t, "claim", err, fault.Conflict, "not_pending")

	b.restart()
	e, _, err := b.Load(t.Context(), j.ID, a.Fence)
	b.must(err)
	equal(t, "after a restart", e, job.Entry{Job: j, Request: Submission("ann", 3).Request})
	b.must(b.Release(t.Context(), j.ID, a.Fence, "test"))
	next := b.claim(j.ID).Job.Attempt
	if next.N != 2 || next.Fence <= a.Fence {
		t.Errorf("attempt %d has fence %d after %d", next.N, next.Fence, a.Fence)
	}
	places = false
	equal(t, "without a place", b.submit("ann").State, job.Pending)
}

func testOneClaimWins(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	j := b.submit("ann")
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			_, _, err := b.Claim(t.Context(), j.ID, Params())
			if err == nil {
				won.Add(1)
				return
			}
			refused(t, "second claim", err, fault.Conflict, "not_pending")
		})
	}
	wg.Wait()
	equal(t, "winners", won.Load(), 1)
	equal(t, "announced", b.changes(), []job.Change{job.Submitted, job.Claimed})
	_, _, err := b.Claim(t.Context(), "no such job", Params())
	refused(t, "unknown job", err, fault.Conflict, "not_pending")
}

func testFencesGrow(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	last := int64(0)
	for round := range 4 {
		for i := range 3 {
			j := b.submit("ann")
			for n := range 2 {
				e := b.claim(j.ID)
				if e.Job.Attempt.Fence <= last {
					t.Fatalf("fence %d after %d", e.Job.Attempt.Fence, last)
				}
				equal(t, fmt.Sprint("attempt in round ", round, " of job ", i), e.Job.Attempt.N, n+1)
				last = e.Job.Attempt.Fence
				b.must(b.Release(t.Context(), j.ID, last, "test"))
			}
		}
		b.restart()
	}
}

func testStaleFence(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	j := b.submit("ann")
	old := b.claim(j.ID).Job.Attempt.Fence
	b.must(b.Release(t.Context(), j.ID, old, "test"))
	stale := func(when string) {
		t.Helper()
		before, err := b.Get(t.Context(), j.ID)
		b.must(err)
		b.heard()
		refused(t, when+": post", b.Posted(j.ID, old), fault.Conflict, "stale_fence")
		refused(t, when+": finish", b.Finish(t.Context(), j.ID, old, Outcome(job.Completed)), fault.Conflict, "stale_fence")
		refused(t, when+": release", b.Release(t.Context(), j.ID, old, "test"), fault.Conflict, "stale_fence")
		_, _, err = b.Load(t.Context(), j.ID, old)
		refused(t, when+": load", err, fault.Conflict, "stale_fence")
		lost, err := b.Renew(t.Context(), []job.Fence{{Job: j.ID, N: old}}, time.Now())
		b.must(err)
		equal(t, when+": renew", lost, []job.Fence{{Job: j.ID, N: old}})
		after, err := b.Get(t.Context(), j.ID)
		b.must(err)
		equal(t, when, after, before)
		equal(t, when+": announced", b.changes(), nil)

		// Not even when the service is wrong about it: the store has its own conditions.
		if err := b.store.Release(t.Context(), j.Seq, old, nil, func() { t.Error("done was called") }); err != queue.ErrStale {
			t.Errorf("%s: the store released with a stale fence: %v", when, err)
		}
		b.must(b.store.Finish(t.Context(), []queue.Ending{{Ref: queue.Ref{Seq: j.Seq, Fence: old}, State: job.Failed}}, func(ended []int64) {
			equal(t, when+": ended", ended, []int64{0})
		}))
		b.must(b.store.Stop(t.Context(), []queue.Ref{{Seq: j.Seq, Fence: old}}, func(stopped []bool) {
			equal(t, when+": stopped", stopped, []bool{false})
		}))
		renewed, err := b.store.Renew(t.Context(), []queue.Renewal{{Ref: queue.Ref{Seq: j.Seq, Fence: old}}}, time.Now())
		b.must(err)
		equal(t, when+": renewed", renewed, []bool{false})
	}
	stale("pending again")
	e := b.claim(j.ID)
	stale("claimed by another")
	if err := b.store.Claim(t.Context(), j.Seq, job.Attempt{N: 9}, func(int64) { t.Error("done was called") }); err != queue.ErrStale {
		t.Errorf("the store claimed a running job: %v", err)
	}
	b.must(b.store.Finish(t.Context(), []queue.Ending{{Ref: queue.Ref{Seq: j.Seq}, State: job.Cancelled}}, func(ended []int64) {
		equal(t, "a running job ended as a pending one", ended, []int64{0})
	}))
	b.must(b.Finish(t.Context(), j.ID, e.Job.Attempt.Fence, Outcome(job.Completed)))
	stale("finished by another")
	refused(t, "finish twice", b.Finish(t.Context(), j.ID, e.Job.Attempt.Fence, Outcome(job.Failed)), fault.Conflict, "stale_fence")
}

func testLeases(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	at := time.Now().UTC().Truncate(time.Millisecond)
	var fences []job.Fence
	for i := range 3 {
		j := b.submit("ann")
		p := Params()
		p.LeaseUntil = at.Add(time.Duration(i+1) * time.Minute)
		e, _, err := b.Claim(t.Context(), j.ID, p)
		b.must(err)
		fences = append(fences, job.Fence{Job: j.ID, N: e.Job.Attempt.Fence})
	}
	expired := func(after time.Duration) (ids []job.ID) {
		for _, j := range b.Expired(at.Add(after)) {
			ids = append(ids, j.ID)
		}
		return ids
	}
	equal(t, "at once", expired(0), nil)
	equal(t, "to the minute", expired(time.Minute), []job.ID{fences[0].Job})
	b.must(b.Posted(fences[0].Job, fences[0].N))
	unknown := job.Fence{Job: "gone", N: 1}
	lost, err := b.Renew(t.Context(), []job.Fence{fences[0], unknown}, at.Add(time.Hour))
	b.must(err)
	equal(t, "lost", lost, []job.Fence{unknown})
	want := []job.ID{fences[1].Job}
	equal(t, "renewed", expired(2*time.Minute), want)
	b.restart()
	equal(t, "after a restart", expired(2*time.Minute), want)
	j, err := b.Get(t.Context(), fences[0].Job)
	b.must(err)
	if !j.Attempt.Posted || j.Started.IsZero() {
		t.Errorf("a renewal kept neither that the job was posted nor when: %+v", j)
	}
}

func testRelease(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	first, second := b.submit("ann"), b.submit("ann")
	e := b.claim(first.ID)
	b.must(b.Posted(first.ID, e.Job.Attempt.Fence))
	b.must(b.Release(t.Context(), first.ID, e.Job.Attempt.Fence, "the back end was lost"))
	open, err := b.Open(t.Context(), "ann")
	b.must(err)
	equal(t, "order", []job.ID{open[0].ID, open[1].ID}, []job.ID{first.ID, second.ID})
	equal(t, "state", []any{open[0].State, open[0].Attempt.Posted, open[0].Attempt.N}, []any{job.Pending, false, 1})
	equal(t, "announced", b.changes(), []job.Change{job.Submitted, job.Submitted, job.Claimed, job.Posted, job.Released})
	equal(t, "counts", b.Counts(), job.Counts{Pending: 2})
	b.restart()
	equal(t, "counts after a restart", b.Counts(), job.Counts{Pending: 2})
	b.finish(first.ID, job.Completed)
}

func testFail(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	j := b.submit("ann")
	b.must(b.Fail(t.Context(), j.ID, Outcome(job.Failed)))
	equal(t, "announced", b.changes(), []job.Change{job.Submitted, job.Finished})
	equal(t, "history", b.history("ann", -1, -1), []string{j.PromptID})
	refused(t, "twice", b.Fail(t.Context(), j.ID, Outcome(job.Failed)), fault.Conflict, "not_pending")

	running := b.submit("ann")
	e := b.claim(running.ID)
	refused(t, "a running one", b.Fail(t.Context(), running.ID, Outcome(job.Failed)), fault.Conflict, "not_pending")
	b.must(b.Release(t.Context(), running.ID, e.Job.Attempt.Fence, "test"))
	refused(t, "completed without a run", b.Fail(t.Context(), running.ID, Outcome(job.Completed)), fault.Invalid, "")
	b.must(b.Fail(t.Context(), running.ID, Outcome(job.Cancelled)))
	e = b.claim(b.submit("ann").ID)
	refused(t, "an end that is none", b.Finish(t.Context(), e.Job.ID, e.Job.Attempt.Fence, job.Outcome{State: job.Running}), fault.Invalid, "")
	equal(t, "counts", b.Counts(), job.Counts{Running: 1, Failed: 1, Cancelled: 1})
	b.must(b.Finish(t.Context(), e.Job.ID, e.Job.Attempt.Fence, Outcome(job.Failed))) // its back end never told that it began
	j, err := b.Get(t.Context(), e.Job.ID)
	b.must(err)
	equal(t, "began when it ended", j.Started, j.Finished)
}

func testRestart(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	pending, running, done := b.submit("ann"), b.submit("bob"), b.submit("ann")
	e := b.claim(running.ID)
	done = b.finish(done.ID, job.Failed)
	all := func() (open []job.Job) {
		b.must(b.EachOpen(t.Context(), func(j job.Job) error { open = append(open, j); return nil }))
		return open
	}
	want := all()
	equal(t, "ids", []job.ID{want[0].ID, want[1].ID}, []job.ID{pending.ID, running.ID})
	b.restart()
	equal(t, "open", all(), want)
	equal(t, "counts", b.Counts(), job.Counts{Pending: 1, Running: 1})
	again, err := b.Find(t.Context(), "ann", done.PromptID)
	b.must(err)
	equal(t, "the finished one", again, done)
	loaded, _, err := b.Load(t.Context(), running.ID, e.Job.Attempt.Fence)
	b.must(err)
	equal(t, "the running one", loaded, e)
	b.must(b.Finish(t.Context(), running.ID, e.Job.Attempt.Fence, Outcome(job.Completed)))
}

// testAnnouncements lets owners and workers loose on few jobs, and holds what was announced against the states that
// may follow one another.
func testAnnouncements(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	var wg sync.WaitGroup
	for u := range 4 {
		user := fmt.Sprint("user", u)
		wg.Go(func() {
			for i := range 25 {
				j, _, err := b.Submit(t.Context(), Submission(user, i))
				if err != nil {
					t.Error(err)
					return
				}
				wg.Go(func() { churn(b, j.ID) })
				if i%5 == 4 {
					wg.Go(func() {
						if _, err := b.ClearPending(t.Context(), user); err != nil {
							t.Error(err)
						}
					})
				}
			}
		})
	}
	wg.Wait()
	follows := map[job.Change][]job.Change{
		"":            {job.Submitted},
		job.Submitted: {job.Claimed, job.Removed},
		job.Claimed:   {job.Posted, job.Released, job.Removed, job.Finished},
		job.Posted:    {job.Released, job.Finished},
		job.Released:  {job.Claimed, job.Removed},
	}
	last := map[job.ID]job.Change{}
	for _, c := range b.heard() {
		if before := last[c.Job.ID]; !slices.Contains(follows[before], c.Change) {
			t.Errorf("%s was announced after %q", c.Change, before)
		}
		last[c.Job.ID] = c.Change
	}
	counts := b.Counts()
	equal(t, "open", counts.Pending+counts.Running, 0)
	equal(t, "ended", counts.Completed+counts.Cancelled, 100)
}

// churn takes a job to its end, unless its owner takes it away first.
func churn(b *bench, id job.ID) {
	for n := range 2 {
		e, _, err := b.Claim(b.t.Context(), id, Params())
		if fault.Is(err, fault.Conflict) {
			return
		}
		if err != nil {
			b.t.Error(err)
			return
		}
		fence := e.Job.Attempt.Fence
		if err := b.Posted(id, fence); err != nil && !fault.Is(err, fault.Conflict) {
			b.t.Error(err)
		}
		if n == 0 {
			err = b.Release(b.t.Context(), id, fence, "test")
		} else {
			err = b.Finish(b.t.Context(), id, fence, job.Outcome{State: job.Completed, Outputs: json.RawMessage(`{}`)})
		}
		if err != nil && !fault.Is(err, fault.Conflict) {
			b.t.Error(err)
		}
	}
}
