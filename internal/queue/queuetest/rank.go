package queuetest

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// shown returns the prompt ids of the person's open jobs as they are shown.
func (b *bench) shown(user string) []string {
	b.t.Helper()
	open, err := b.Open(b.t.Context(), user)
	b.must(err)
	return prompts(open)
}

func testClass(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	first, second := b.submit("ann", prompt("p1")), b.submit("ann", prompt("p2"))
	staged := b.claim(b.submit("ann", prompt("p3")).ID)
	b.heard()
	j, err := b.SetClass(t.Context(), second.ID, job.ClassHigh)
	b.must(err)
	second.Class = job.ClassHigh
	equal(t, "moved", j, second)
	told := b.heard()
	equal(t, "announced", told, []job.Changed{{Change: job.Moved, Job: &second}})
	_, err = b.SetClass(t.Context(), second.ID, job.ClassHigh)
	b.must(err)
	equal(t, "no news", b.changes(), nil)
	j, err = b.SetClass(t.Context(), staged.Job.ID, job.ClassLow)
	b.must(err)
	equal(t, "a staged one", []any{j.State, j.Class}, []any{job.Running, job.ClassLow})
	equal(t, "announced for whoever staged it", b.changes(), []job.Change{job.Moved})
	b.must(b.Release(t.Context(), staged.Job.ID, staged.Job.Attempt.Fence, "recalled"))
	want := []string{"p2", "p1", "p3"}
	equal(t, "order", b.shown("ann"), want)
	b.restart()
	equal(t, "order after a restart", b.shown("ann"), want)

	_, err = b.SetClass(t.Context(), first.ID, 4)
	refused(t, "class 4", err, fault.Invalid, "")
	_, err = b.SetClass(t.Context(), "nothing", job.ClassHigh)
	refused(t, "no job", err, fault.Missing, "no_such_job")
	e := b.claim(first.ID)
	b.must(b.Posted(first.ID, e.Job.Attempt.Fence))
	_, err = b.SetClass(t.Context(), first.ID, job.ClassHigh)
	refused(t, "a running one", err, fault.Conflict, "not_pending")
	b.must(b.Finish(t.Context(), first.ID, e.Job.Attempt.Fence, Outcome(job.Completed)))
	_, err = b.SetClass(t.Context(), first.ID, job.ClassHigh)
	refused(t, "a finished one", err, fault.Conflict, "not_pending")
}

func testHold(t *testing.T, shelf Shelf) {
	placed := 0
	b := start(t, shelf(t), queue.Options{Place: func(job.Job) (job.ClaimParams, bool) { placed++; return Params(), true }})
	j := b.submit("ann", prompt("p1"), func(s *job.Submission) { s.Held = true })
	equal(t, "submitted held", []any{j.State, j.Held, placed}, []any{job.Pending, true, 0})
	_, _, err := b.Claim(t.Context(), j.ID, Params())
	refused(t, "claim", err, fault.Conflict, "held")
	b.restart()
	_, _, err = b.Claim(t.Context(), j.ID, Params())
	refused(t, "claim after a restart", err, fault.Conflict, "held")
	b.heard()
	j, err = b.Hold(t.Context(), j.ID, false)
	b.must(err)
	equal(t, "let go", j.Held, false)
	equal(t, "announced", b.changes(), []job.Change{job.Moved})
	e := b.claim(j.ID)
	j, err = b.Hold(t.Context(), j.ID, true)
	b.must(err)
	equal(t, "a staged one", []any{j.State, j.Held}, []any{job.Running, true})
	b.must(b.Release(t.Context(), j.ID, e.Job.Attempt.Fence, "recalled"))
	_, _, err = b.Claim(t.Context(), j.ID, Params())
	refused(t, "claim of the recalled one", err, fault.Conflict, "held")
	gone, err := b.RemovePending(t.Context(), "ann", []string{"p1"})
	b.must(err)
	equal(t, "a held one can be taken out", len(gone), 1)
	_, err = b.Hold(t.Context(), j.ID, false)
	refused(t, "then", err, fault.Conflict, "not_pending")
}

// testDeadline: when a job is needed is kept over restarts and attempts, and moves nobody.
func testDeadline(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	j := b.submit("ann", prompt("p1"), func(s *job.Submission) { s.Deadline = at.Add(1500 * time.Microsecond) })
	equal(t, "submitted", j.Deadline, at.Add(time.Millisecond))
	b.restart()
	j, err := b.Get(t.Context(), j.ID)
	b.must(err)
	equal(t, "after a restart", j.Deadline, at.Add(time.Millisecond))
	b.heard()
	e := b.claim(j.ID)
	equal(t, "claimed", e.Job.Deadline, at.Add(time.Millisecond))
	other, err := b.SetDeadline(t.Context(), j.ID, at.Add(time.Hour))
	b.must(err)
	equal(t, "a staged one with another", []any{other.Deadline, other.Number, other.State}, []any{at.Add(time.Hour), j.Number, job.Running})
	b.must(b.Release(t.Context(), j.ID, e.Job.Attempt.Fence, "recalled"))
	b.restart()
	other, err = b.Get(t.Context(), j.ID)
	b.must(err)
	equal(t, "given back", other.Deadline, at.Add(time.Hour))
	other, err = b.SetDeadline(t.Context(), j.ID, time.Time{})
	b.must(err)
	equal(t, "without", other.Deadline, time.Time{})
	b.restart()
	e = b.claim(j.ID)
	equal(t, "without, after a restart", e.Job.Deadline, time.Time{})
	b.must(b.Posted(j.ID, e.Job.Attempt.Fence))
	_, err = b.SetDeadline(t.Context(), j.ID, at)
	refused(t, "a running one", err, fault.Conflict, "not_pending")
}

// testHoldOrClaim: of a hold and a claim at the same moment one comes first, and the other knows.
func testHoldOrClaim(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	for range 20 {
		j := b.submit("ann")
		var wg sync.WaitGroup
		var claim, hold error
		var now job.Job
		wg.Go(func() { _, _, claim = b.Claim(t.Context(), j.ID, Params()) })
		wg.Go(func() { now, hold = b.Hold(t.Context(), j.ID, true) })
		wg.Wait()
		b.must(hold) // pending or staged
		if running := now.State == job.Running; running != (claim == nil) {
			t.Errorf("held %s, claimed with %v", now.State, claim)
		}
	}
}

func testToFront(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	for i := range 4 {
		b.submit("ann", prompt(fmt.Sprint("p", i)))
	}
	b.submit("ann", prompt("high"), func(s *job.Submission) { s.Class = job.ClassHigh })
	lowest := -math.MaxFloat64 / 2
	b.submit("ann", prompt("given"), func(s *job.Submission) { s.Number = &lowest })
	bob := b.submit("bob", prompt("b1"))
	b.heard()
	front := func(id string) {
		t.Helper()
		j, err := b.Find(t.Context(), "ann", id)
		b.must(err)
		_, err = b.ToFront(t.Context(), j.ID)
		b.must(err)
	}
	front("p2")
	equal(t, "order", b.shown("ann"), []string{"high", "p2", "given", "p0", "p1", "p3"})
	equal(t, "announced", b.changes(), []job.Change{job.Moved})
	front("p2")
	front("high")
	equal(t, "no news", b.changes(), nil)
	front("p3")
	want := []string{"high", "p3", "p2", "given", "p0", "p1"}
	equal(t, "order", b.shown("ann"), want)
	b.restart()
	equal(t, "order after a restart", b.shown("ann"), want)
	j := b.submit("ann", prompt("last"))
	for _, old := range []string{"p0", "p1"} {
		o, err := b.Find(t.Context(), "ann", old)
		b.must(err)
		if j.Number <= math.Abs(o.Number) {
			t.Errorf("number %v was given after %v", j.Number, o.Number)
		}
	}
	b.heard()
	_, err := b.ToFront(t.Context(), bob.ID)
	b.must(err)
	equal(t, "an only one is in front", b.changes(), nil)
}

func testReorder(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	ids := map[string]job.ID{}
	five := 5.0
	for _, id := range []string{"p0", "p1", "p2", "p3", "p4"} {
		ids[id] = b.submit("ann", prompt(id)).ID
	}
	for _, id := range []string{"same1", "same2", "same3"} {
		ids[id] = b.submit("ann", prompt(id), func(s *job.Submission) { s.Number = &five }).ID
	}
	ids["high"] = b.submit("ann", prompt("high"), func(s *job.Submission) { s.Class = job.ClassHigh }).ID
	ids["bob's"] = b.submit("bob", prompt("p1")).ID
	reorder := func(names ...string) ([]job.Job, error) {
		var list []job.ID
		for _, n := range names {
			list = append(list, ids[n])
		}
		return b.Reorder(t.Context(), "ann", list)
	}
	b.heard()
	moved, err := reorder("p3", "p1", "p0")
	b.must(err)
	equal(t, "moved", prompts(moved), []string{"p3", "p0"})
	equal(t, "order", b.shown("ann"), []string{"high", "p3", "p1", "p2", "p0", "p4", "same1", "same2", "same3"})
	equal(t, "announced", b.changes(), []job.Change{job.Moved, job.Moved})
	_, err = reorder("same3", "same1", "same2")
	b.must(err)
	want := []string{"high", "p3", "p1", "p2", "p0", "p4", "same3", "same1", "same2"}
	equal(t, "of equal numbers", b.shown("ann"), want)
	b.restart()
	equal(t, "after a restart", b.shown("ann"), want)
	moved, err = reorder("p3", "p1", "p2")
	b.must(err)
	equal(t, "no news", len(moved), 0)

	_, err = reorder("p3", "bob's")
	refused(t, "another's", err, fault.Missing, "no_such_job")
	_, err = reorder("p3", "high")
	refused(t, "two classes", err, fault.Invalid, "")
	_, err = reorder("p3", "p1", "p3")
	refused(t, "one twice", err, fault.Invalid, "")
	_, err = reorder("p3", "nothing")
	refused(t, "nothing", err, fault.Missing, "no_such_job")
	e := b.claim(ids["p1"])
	b.must(b.Posted(ids["p1"], e.Job.Attempt.Fence))
	_, err = reorder("p3", "p1")
	refused(t, "a running one", err, fault.Conflict, "not_pending")
}
