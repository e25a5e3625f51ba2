package queuetest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// The tests of this file ask the store itself, beside the service.

// at is a time as stores keep it.
var at = time.UnixMilli(1764000000000).UTC()

// insertion is a plain job of the person for the store.
func insertion(user, promptID string) queue.Insertion {
	sub := Submission(user, 1)
	return queue.Insertion{
		Job: job.Job{
			ID: job.ID(user + "-" + promptID), User: user, Group: sub.Group, PromptID: promptID, ClientID: sub.ClientID, Number: 1,
			Class: sub.Class, State: job.Pending, WorkflowID: sub.WorkflowID, Digest: [32]byte{1}, Created: at,
		},
		Request: sub.Request,
		Now:     at,
	}
}

// insert puts a job into the store and returns it as it is there.
func (b *bench) insert(in queue.Insertion) job.Job {
	b.t.Helper()
	clash, err := b.store.Insert(b.t.Context(), in, func(int64, int64) {})
	b.must(err)
	if clash != nil {
		b.t.Fatalf("%s clashes with %+v", in.Job.ID, clash)
	}
	return b.stored(in.Job.ID)
}

func (b *bench) stored(id job.ID) job.Job {
	b.t.Helper()
	j, err := b.store.Get(b.t.Context(), id)
	b.must(err)
	return j
}

// endAs makes the store's job final at the time.
func (b *bench) endAs(j job.Job, hidden bool, finished time.Time) (ended int64) {
	b.t.Helper()
	out := Outcome(job.Completed)
	if j.State == job.Pending {
		b.must(b.store.Claim(b.t.Context(), j.Seq, job.Attempt{N: 1, BackEnd: "gpu", LeaseUntil: finished}, func(fence int64) { j.Attempt.Fence = fence }))
	}
	b.must(b.store.Finish(b.t.Context(), []queue.Ending{{
		Ref: queue.Ref{Seq: j.Seq, Fence: j.Attempt.Fence}, User: j.User, State: job.Completed, Outcome: &out, Hidden: hidden,
		Started: at, Finished: finished,
	}}, func(n []int64) { ended = n[0] }))
	if ended == 0 {
		b.t.Fatalf("%s did not end", j.ID)
	}
	return ended
}

func testStoreRank(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	in := insertion("ann", "p1")
	in.Job.Held = true
	in.Job.Deadline = at.Add(time.Hour)
	in.Job.Profile = job.Profile{Like: "like\x00", Work: 0.1, Models: "a.safetensors\nb"}
	first := b.insert(in)
	equal(t, "as it was put in", []any{first.Held, first.Deadline, first.Profile, first.Digest}, []any{true, in.Job.Deadline, in.Job.Profile, [32]byte{1}})
	second := b.insert(insertion("ann", "p2"))
	fence := int64(0)
	b.must(b.store.Claim(t.Context(), second.Seq, job.Attempt{N: 1, BackEnd: "gpu", LeaseUntil: at}, func(n int64) { fence = n }))
	rank := func(want []bool, ranks ...queue.Rank) {
		t.Helper()
		calls := 0
		b.must(b.store.Rank(t.Context(), ranks, func(ranked []bool) {
			calls++
			equal(t, "ranked", ranked, want)
		}))
		equal(t, "calls of done", calls, 1)
	}
	high := queue.Rank{Ref: queue.Ref{Seq: first.Seq}, User: "ann", Class: job.ClassHigh, Number: -7.5}
	staged := queue.Rank{Ref: queue.Ref{Seq: second.Seq, Fence: fence}, User: "ann", Class: job.ClassLow, Number: 3, Held: true, Deadline: at.Add(time.Minute), NumberMark: 900}
	stale := staged
	stale.Fence, stale.Class = fence-1, job.ClassInstructor
	pending := stale
	pending.Fence = 0
	rank([]bool{true, true, false, false, false}, high, staged, stale, pending,
		queue.Rank{Ref: queue.Ref{Seq: second.Seq + 1000}, User: "ann"})
	first.Class, first.Number, first.Held, first.Deadline = job.ClassHigh, -7.5, false, time.Time{}
	want := b.stored(second.ID)
	equal(t, "the running one", []any{want.Class, want.Number, want.Held, want.Deadline, want.State}, []any{job.ClassLow, 3.0, true, staged.Deadline, job.Running})
	b.restart()
	equal(t, "the pending one", b.stored(first.ID), first)
	equal(t, "the running one after a restart", b.stored(second.ID), want)
	later := staged
	later.Deadline = at.Add(2 * time.Hour)
	rank([]bool{true}, later)
	want.Deadline = later.Deadline
	equal(t, "the running one with another deadline", b.stored(second.ID), want)
	marks, err := b.store.Numbers(t.Context())
	b.must(err)
	equal(t, "the person's mark", marks["ann"], 900)

	b.endAs(want, false, at)
	rank([]bool{false, false}, staged, pending)
	equal(t, "a final one", b.stored(second.ID).Class, job.ClassLow)
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := b.store.Rank(gone, []queue.Rank{high}, func([]bool) { t.Error("done was called") }); !errors.Is(err, context.Canceled) {
		t.Errorf("after its caller went away: %v", err)
	}
}

// testStoreHeld: who was told that a job is held never sees it start.
func testStoreHeld(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	j := b.insert(insertion("ann", "p1"))
	hold := func(on bool) {
		t.Helper()
		b.must(b.store.Rank(t.Context(), []queue.Rank{{Ref: queue.Ref{Seq: j.Seq}, User: "ann", Class: j.Class, Number: j.Number, Held: on}},
			func(ranked []bool) { equal(t, "ranked", ranked, []bool{true}) }))
	}
	hold(true)
	if err := b.store.Claim(t.Context(), j.Seq, job.Attempt{N: 1}, func(int64) { t.Error("done was called") }); err != queue.ErrStale {
		t.Errorf("a held job was claimed: %v", err)
	}
	hold(false)
	b.must(b.store.Claim(t.Context(), j.Seq, job.Attempt{N: 1}, func(int64) {}))
}

func testStoreKeys(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	until := at.Add(time.Hour)
	keyed := func(user, promptID string, now time.Time) queue.Insertion {
		in := insertion(user, promptID)
		in.Key, in.KeyUntil, in.Now = "k1", now.Add(time.Hour), now
		return in
	}
	clashes := func(what string, in queue.Insertion, want job.Job, key bool) {
		t.Helper()
		clash, err := b.store.Insert(t.Context(), in, func(int64, int64) { t.Errorf("%s: done was called", what) })
		b.must(err)
		equal(t, what, clash, &queue.Clash{Job: want, Key: key})
	}
	first := b.insert(keyed("ann", "p1", at))
	other := b.insert(insertion("ann", "p2"))
	clashes("another prompt id", keyed("ann", "p3", at), first, true)
	clashes("the key before the prompt id", keyed("ann", "p2", until.Add(-time.Millisecond)), first, true)
	clashes("the prompt id without the key", insertion("ann", "p1"), first, false)
	again := keyed("ann", "p2", at)
	again.Key = "k2"
	clashes("another key", again, other, false)
	bob := b.insert(keyed("bob", "p1", at))
	find := func(what, user, key string, now time.Time, want job.ID) {
		t.Helper()
		j, err := b.store.FindKey(t.Context(), user, key, now)
		if want == "" && err == queue.ErrMissing {
			return
		}
		if err != nil || j.ID != want {
			t.Errorf("%s: %s %v, want %q", what, j.ID, err, want)
		}
	}
	find("ann's", "ann", "k1", at, first.ID)
	find("bob's", "bob", "k1", at, bob.ID)
	find("a key that did not come through", "ann", "k2", at, "")
	find("of nobody", "zoe", "k1", at, "")
	find("no key", "ann", "", at, "")
	find("at its end", "ann", "k1", until, "")

	b.endAs(first, false, at)
	clashes("over", keyed("ann", "p3", at), b.stored(first.ID), true)
	b.must(b.store.Hide(t.Context(), "ann", nil, func(int) {}))
	b.restart()
	clashes("hidden, after a restart", keyed("ann", "p3", at), b.stored(first.ID), true)
	next := b.insert(keyed("ann", "p3", until)) // expired: it is free again
	find("the next", "ann", "k1", until, next.ID)
	clashes("the next", keyed("ann", "p4", until), next, true)
	b.insert(insertion("ann", "p4"))
}

func testStoreSettings(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	put := func(name string, value []byte) {
		t.Helper()
		calls := 0
		b.must(b.store.PutSetting(t.Context(), name, value, func() { calls++ }))
		equal(t, "calls of done", calls, 1)
	}
	all := func() map[string][]byte {
		t.Helper()
		got, err := b.store.Settings(t.Context())
		b.must(err)
		return got
	}
	before := all()
	put("test one", []byte(`{"a":1}`))
	put("test two", []byte{})
	put("test one", []byte("\x00again"))
	put("test three", []byte("x"))
	put("test three", nil)
	put("test three", nil)
	b.restart()
	before["test one"], before["test two"] = []byte("\x00again"), []byte{}
	equal(t, "settings", all(), before)
}

func testStorePrune(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	prune := func(p queue.Pruning) (ids []string) {
		t.Helper()
		calls := 0
		b.must(b.store.Prune(t.Context(), p, func(gone []queue.Gone) {
			calls++
			for _, g := range gone {
				if g.ID != job.ID(g.User+"-"+g.PromptID) {
					t.Errorf("gone %+v", g)
				}
				ids = append(ids, fmt.Sprint(g.ID, " ", g.Hidden))
			}
		}))
		equal(t, "calls of done", calls, 1)
		slices.Sort(ids)
		return ids
	}
	ended := map[job.ID]int64{}
	finish := func(user, id string, hidden bool, hours int) {
		in := insertion(user, id)
		in.Key, in.KeyUntil = "key of "+id, at.Add(time.Hour)
		j := b.insert(in)
		ended[j.ID] = b.endAs(j, hidden, at.Add(time.Duration(hours)*time.Hour))
	}
	for i := range 5 {
		finish("ann", fmt.Sprint("h", i), true, i)
		finish("ann", fmt.Sprint("p", i), false, i)
	}
	finish("bob", "p0", false, 0)
	finish("bob", "back", false, -9) // the clock was set back: ended last, and is the oldest
	finish("carl", "p0", true, 50)
	open := b.insert(insertion("ann", "open"))

	equal(t, "nothing is asked for", prune(queue.Pruning{Limit: 100}), nil)
	equal(t, "by age", prune(queue.Pruning{Before: at.Add(time.Hour), Limit: 100}),
		[]string{"ann-h0 true", "ann-p0 false", "bob-back false", "bob-p0 false"})
	equal(t, "again", prune(queue.Pruning{Before: at.Add(time.Hour), Limit: 100}), nil)
	equal(t, "by number", prune(queue.Pruning{Keep: 3, Limit: 100}), []string{"ann-h1 true", "ann-p1 false"})
	equal(t, "by both", prune(queue.Pruning{Before: at.Add(3 * time.Hour), Keep: 1, Limit: 100}),
		[]string{"ann-h2 true", "ann-h3 true", "ann-p2 false", "ann-p3 false"})
	for _, id := range []job.ID{"ann-p0", "ann-h1", "ann-p3"} {
		if _, err := b.store.Get(t.Context(), id); err != queue.ErrMissing {
			t.Errorf("%s is still there: %v", id, err)
		}
	}
	if _, err := b.store.FindKey(t.Context(), "ann", "key of p3", at); err != queue.ErrMissing {
		t.Errorf("the key of a job that went: %v", err)
	}
	b.restart()
	equal(t, "ann's history", b.history("ann", -1, -1), []string{"p4"})
	equal(t, "the open one", b.stored(open.ID), open)

	// Prompt ids and keys are free, and numbers go on.
	finish("ann", "p3", false, 60)
	if ended["ann-p3"] <= ended["carl-p0"] {
		t.Errorf("end %d after %d", ended["ann-p3"], ended["carl-p0"])
	}
	for i := range 7 {
		finish("dora", fmt.Sprint("p", i), false, 70)
	}
	some, calls := 0, 0
	for n := 3; n == 3; calls++ {
		n = len(prune(queue.Pruning{Keep: 1, Limit: 3}))
		some += n
	}
	equal(t, "in steps", []int{some, calls}, []int{7, 3})
	equal(t, "the newest stays", b.history("dora", -1, -1), []string{"p6"})
	equal(t, "of ann", b.history("ann", -1, -1), []string{"p3"})

	prune(queue.Pruning{Limit: 1, Now: at.Add(time.Hour)})
	if _, err := b.store.FindKey(t.Context(), "ann", "key of p3", at); err != queue.ErrMissing {
		t.Errorf("a key that had expired: %v", err)
	}
	b.stored("ann-p3")
}

// records reads everything that the store keeps.
func (b *bench) records() (all []queue.Record) {
	b.t.Helper()
	b.must(b.store.EachRecord(b.t.Context(), func(r queue.Record) error { all = append(all, r); return nil }))
	return all
}

func given(all []queue.Record, end error) iter.Seq2[queue.Record, error] {
	return func(yield func(queue.Record, error) bool) {
		for _, r := range all {
			if !yield(r, nil) {
				return
			}
		}
		if end != nil {
			yield(queue.Record{}, end)
		}
	}
}

// testStoreTries: attempts that are over stay readable as long as the job is kept.
func testStoreTries(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	j := b.submit("ann")
	try := func(n int, cause job.Cause) job.Try {
		return job.Try{N: n, BackEnd: fmt.Sprint("gpu", n), Began: at, Ended: at.Add(time.Second), Posted: n > 1, Cause: cause, Reason: "It “broke”\nin two."}
	}
	b.must(b.Release(t.Context(), j.ID, b.claim(j.ID).Job.Attempt.Fence, "recalled"))
	for n := 2; n < 4; n++ {
		fence := b.claim(j.ID).Job.Attempt.Fence
		b.must(b.GiveUp(t.Context(), j.ID, fence, try(n, job.CauseCrashed)))
		refused(t, "again", b.GiveUp(t.Context(), j.ID, fence, try(n, job.CauseLost)), fault.Conflict, "stale_fence")
	}
	e := b.claim(j.ID)
	out, last := Outcome(job.Completed), try(4, job.CauseDone)
	last.Reason = ""
	out.Try = &last
	b.must(b.Finish(t.Context(), j.ID, e.Job.Attempt.Fence, out))
	want := []job.Try{try(2, job.CauseCrashed), try(3, job.CauseCrashed), last}
	for range 2 {
		got, err := b.Tries(t.Context(), j.ID)
		b.must(err)
		equal(t, "attempts", got, want)
		b.restart()
	}
	other := b.submit("bob")
	got, err := b.Tries(t.Context(), other.ID)
	b.must(err)
	equal(t, "of another job", len(got), 0)
	if _, err = b.Tries(t.Context(), "none"); !fault.Is(err, fault.Missing) {
		t.Errorf("of no job: %v", err)
	}
	seq := b.stored(j.ID).Seq
	b.must(b.store.Prune(t.Context(), queue.Pruning{Keep: 0, Before: time.Now().Add(time.Hour), Limit: 10, Now: at}, func([]queue.Gone) {}))
	got, err = b.store.Tries(t.Context(), seq)
	b.must(err)
	equal(t, "of a job that is gone", len(got), 0)
}

func testStoreRecords(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	in := insertion("ann", "pending")
	in.Credentials, in.NumberMark = []byte("sealed"), 64
	in.Key, in.KeyUntil = "k1", at.Add(time.Hour)
	in.Job.Deadline = at.Add(time.Hour)
	in.Job.Held, in.Job.Profile = true, job.Profile{Like: "l", Work: 2, Models: "m"}
	pending := b.insert(in)
	b.endAs(b.insert(insertion("ann", "done")), false, at)
	b.endAs(b.insert(insertion("bob", "hidden")), true, at)
	in = insertion("bob", "running")
	in.Attempt = &job.Attempt{N: 1, BackEnd: "gpu", RunID: "run", ClientID: "client", LeaseUntil: at}
	running := b.insert(in)
	b.must(b.store.Stop(t.Context(), []queue.Ref{{Seq: running.Seq, Fence: running.Attempt.Fence}}, func([]bool) {}))
	failed := b.insert(insertion("ann", "failed"))
	b.must(b.store.Finish(t.Context(), []queue.Ending{{
		Ref: queue.Ref{Seq: failed.Seq}, User: "ann", State: job.Failed, Finished: at,
		Try: &job.Try{N: 1, BackEnd: "gpu", Began: at, Ended: at, Cause: job.CauseMemory, Reason: "too big"},
	}}, func([]int64) {}))
	for i := range 80 { // more than a page
		b.insert(insertion("zoe", fmt.Sprint("p", i)))
	}
	want := b.records()
	first := want[0]
	out := Outcome(job.Completed)
	equal(t, "the first", first, queue.Record{
		Job: pending, Request: Submission("ann", 1).Request, Credentials: []byte("sealed"), Key: "k1", KeyUntil: at.Add(time.Hour),
	})
	equal(t, "the second's outcome", want[1].Outcome, &out)
	if want[1].Ended == 0 || want[2].Ended <= want[1].Ended || want[2].Outcome != nil || want[2].Request.Prompt != nil || want[4].Outcome != nil {
		t.Errorf("records %+v", want[1:5])
	}
	equal(t, "the last one's attempts", len(want[4].Tries), 1)
	equal(t, "records", len(want), 85)
	if !slices.IsSortedFunc(want, func(x, y queue.Record) int { return cmp.Compare(x.Job.Seq, y.Job.Seq) }) {
		t.Error("they are out of order")
	}
	numbers, err := b.store.Numbers(t.Context())
	b.must(err)
	if err := b.store.Restore(t.Context(), numbers, given(want, nil)); err != queue.ErrNotEmpty {
		t.Errorf("into a store that is not empty: %v", err)
	}

	c := start(t, shelf(t), queue.Options{})
	trouble := errors.New("the file ends here")
	if err := c.store.Restore(t.Context(), numbers, given(want[:40], trouble)); !errors.Is(err, trouble) {
		t.Errorf("a file cut short: %v", err)
	}
	equal(t, "after it", len(c.records()), 0)
	c.must(c.store.Restore(t.Context(), numbers, given(want, nil)))
	equal(t, "restored", c.records(), want)
	equal(t, "a digest", c.records()[0].Job.Digest, [32]byte{1})
	c.restart()
	equal(t, "after a restart", c.records(), want)
	got, err := c.store.Numbers(t.Context())
	c.must(err)
	equal(t, "numbers", got, numbers)
	if _, err := c.store.FindKey(t.Context(), "ann", "k1", at); err != nil {
		t.Errorf("the key: %v", err)
	}
	next := c.insert(insertion("ann", "next"))
	if last := want[len(want)-1].Job; next.Seq <= last.Seq || next.Seq <= running.Attempt.Fence || next.Seq <= want[2].Ended {
		t.Errorf("seq %d was given after %+v", next.Seq, last)
	}
	if ended := c.endAs(running, false, at); ended <= want[2].Ended {
		t.Errorf("end %d after %d", ended, want[2].Ended)
	}
	if _, sealed, err := c.store.Task(t.Context(), running.Seq); err != nil || sealed != nil {
		t.Errorf("credentials after the end: %q %v", sealed, err)
	}
	equal(t, "history", c.history("ann", -1, -1), []string{"done", "failed"})
}

// history of a job that failed without saying why has no outcome in the store; readers get one all the same.
func testStoreNoOutcome(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	j := b.insert(insertion("ann", "p1"))
	b.must(b.store.Finish(t.Context(), []queue.Ending{{Ref: queue.Ref{Seq: j.Seq}, User: "ann", State: job.Failed, Finished: at}}, func([]int64) {}))
	e, err := b.store.Entry(t.Context(), "ann", "p1")
	b.must(err)
	equal(t, "outcome", e.Outcome, &job.Outcome{State: job.Failed})
	equal(t, "request", e.Request, job.Request{
		Prompt: json.RawMessage(fmt.Sprintf(graph, 1)), ExtraData: Submission("ann", 1).Request.ExtraData, Outputs: []string{"9"},
	})
}
