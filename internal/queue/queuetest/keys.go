package queuetest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

func testIdempotency(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{MaxPendingPerUser: 3})
	keyed := func(key string, change ...func(*job.Submission)) job.Submission {
		sub := Submission("ann", 1)
		sub.Key = key
		for _, fn := range change {
			fn(&sub)
		}
		return sub
	}
	first, existing, err := b.Submit(t.Context(), keyed("k1"))
	b.must(err)
	equal(t, "first", existing, false)
	same := func(when string) {
		t.Helper()
		b.heard()
		j, existing, err := b.Submit(t.Context(), keyed("k1"))
		b.must(err)
		equal(t, when, []any{j.ID, existing}, []any{first.ID, true})
		equal(t, when+": announced", b.changes(), nil)
	}
	same("at once")
	other := func(what string, sub job.Submission) {
		t.Helper()
		_, _, err := b.Submit(t.Context(), sub)
		refused(t, what, err, fault.Conflict, "idempotency_key_reused")
	}
	other("another graph", keyed("k1", func(s *job.Submission) { s.Request.Prompt = json.RawMessage(`{"2":{}}`) }))
	other("another priority", keyed("k1", func(s *job.Submission) { s.Class = job.ClassLow }))
	other("another prompt id", keyed("k1", prompt("p1")))
	named, _, err := b.Submit(t.Context(), keyed("k2", prompt("p1")))
	b.must(err)
	j, existing, err := b.Submit(t.Context(), keyed("k2", prompt("p1")))
	b.must(err)
	equal(t, "key and prompt id", []any{j.ID, existing}, []any{named.ID, true})
	j, existing, err = b.Submit(t.Context(), keyed("", prompt("p1")))
	b.must(err)
	equal(t, "the prompt id alone", []any{j.ID, existing}, []any{named.ID, true})
	other("the key without the prompt id", keyed("k2"))
	_, _, err = b.Submit(t.Context(), keyed("k3", prompt("p1"), func(s *job.Submission) { s.Request.Prompt = json.RawMessage(`{}`) }))
	refused(t, "a fresh key for a prompt id in use", err, fault.Conflict, "prompt_id_in_use")

	b.submit("ann")
	same("at the limit")
	_, _, err = b.Submit(t.Context(), keyed("k4"))
	refused(t, "a fresh key at the limit", err, fault.Busy, "max_pending_per_user")
	equal(t, "another person's", b.submit("bob", func(s *job.Submission) { s.Key = "k1" }).User, "bob")

	b.restart()
	same("after a restart")
	b.finish(first.ID, job.Completed)
	same("when it is over")
	b.must(b.ClearHistory(t.Context(), "ann"))
	same("when it left history")
	b.restart()
	same("after another restart")
	_, _, err = b.Submit(t.Context(), keyed(fmt.Sprintf("%0300d", 1)))
	refused(t, "an endless key", err, fault.Invalid, "")
}

// testConcurrentKey: of submissions with one key at the same time one is a job, and the others are it.
func testConcurrentKey(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	var first atomic.Int32
	ids := make([]job.ID, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			sub := Submission("ann", 1)
			sub.Key = "k1"
			j, existing, err := b.Submit(t.Context(), sub)
			if err != nil {
				t.Error(err)
			}
			if ids[i] = j.ID; !existing {
				first.Add(1)
			}
		})
	}
	wg.Wait()
	equal(t, "accepted", first.Load(), 1)
	equal(t, "remaining", b.Remaining("ann"), 1)
	for _, id := range ids {
		equal(t, "answer", id, ids[0])
	}
}

func testAdmit(t *testing.T, shelf Shelf) {
	var no error
	asked := 0
	b := start(t, shelf(t), queue.Options{Admit: func(_ context.Context, sub job.Submission) error {
		asked++
		equal(t, "asked for", sub.User, "ann")
		return no
	}})
	b.submit("ann", prompt("p1"))
	done := b.submit("ann", prompt("p2"), func(s *job.Submission) { s.Key = "k2" })
	b.finish(done.ID, job.Completed)
	equal(t, "asked", asked, 2)
	no = fault.New(fault.Busy, "You have used your hour.").WithCode("quota_hour")
	b.heard()
	_, _, err := b.Submit(t.Context(), Submission("ann", 1))
	refused(t, "a new one", err, fault.Busy, "quota_hour")
	for what, change := range map[string]func(*job.Submission){
		"an open prompt id":     prompt("p1"),
		"a finished prompt id":  prompt("p2"),
		"a key of what is over": func(s *job.Submission) { s.PromptID, s.Key = "p2", "k2" },
	} {
		sub := Submission("ann", 3)
		change(&sub)
		_, existing, err := b.Submit(t.Context(), sub)
		if err != nil || !existing {
			t.Errorf("%s: %v %v", what, existing, err)
		}
	}
	sub := Submission("ann", 4)
	sub.PromptID = "p2"
	_, _, err = b.Submit(t.Context(), sub)
	refused(t, "another body under a finished prompt id", err, fault.Busy, "quota_hour")
	equal(t, "announced", b.changes(), nil)
	equal(t, "nothing is left of those that were refused", b.Counts(), job.Counts{Pending: 1, Completed: 1})
}

func testRetention(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{KeepFor: time.Hour, KeepPerUser: 150})
	n, err := b.Prune(t.Context())
	b.must(err)
	equal(t, "of an empty queue", n, 0)
	for i := range 5 {
		j := b.insert(insertion("ann", fmt.Sprint("old", i)))
		b.endAs(j, i > 2, time.Now().Add(-2*time.Hour))
	}
	b.endAs(b.insert(insertion("bob", "hidden")), true, time.Now().Add(-2*time.Hour))
	b.finish(b.submit("ann", prompt("new")).ID, job.Completed)
	open := b.submit("ann", prompt("open"))
	b.heard()
	n, err = b.Prune(t.Context())
	b.must(err)
	equal(t, "by age", n, 6)
	equal(t, "announced", b.heard(), []job.Changed{{Change: job.HistoryChanged, Job: &job.Job{User: "ann"}}})
	equal(t, "history", b.history("ann", -1, -1), []string{"new"})
	_, err = b.Entry(t.Context(), "ann", "old1")
	refused(t, "an entry that went", err, fault.Missing, "no_such_job")

	var all []string
	for i := range 260 { // more than go in one commit
		all = append(all, fmt.Sprint("p", i))
		b.must(b.Fail(t.Context(), b.submit("ann", prompt(all[i])).ID, Outcome(job.Failed)))
	}
	n, err = b.Prune(t.Context())
	b.must(err)
	equal(t, "by number", n, 111)
	equal(t, "history", b.history("ann", -1, -1), all[110:])
	_, err = b.Entry(t.Context(), "ann", "p100") // it was remembered
	refused(t, "an entry that went", err, fault.Missing, "no_such_job")
	b.restart()
	equal(t, "after a restart", b.history("ann", -1, -1), all[110:])
	equal(t, "the open one", b.Remaining("ann"), 1)
	b.finish(open.ID, job.Completed)
}
