package queuetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// history returns the prompt ids of the person's history.
func (b *bench) history(user string, most, offset int) (ids []string) {
	b.t.Helper()
	b.must(b.EachHistory(b.t.Context(), user, job.HistoryQuery{MaxItems: most, Offset: offset}, func(e job.Entry) error {
		if e.Outcome == nil || len(e.Request.Prompt) == 0 || e.Job.User != user {
			b.t.Errorf("history of %s has %+v", user, e)
		}
		ids = append(ids, e.Job.PromptID)
		return nil
	}))
	return ids
}

// prompts returns the prompt ids of jobs.
func prompts(jobs []job.Job) (ids []string) {
	for _, j := range jobs {
		ids = append(ids, j.PromptID)
	}
	return ids
}

func testRemove(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	for i := range 5 {
		b.submit("ann", prompt(fmt.Sprint("p", i)))
	}
	first, err := b.Find(t.Context(), "ann", "p0")
	b.must(err)
	e := b.claim(first.ID)
	b.must(b.Posted(first.ID, e.Job.Attempt.Fence))
	b.heard()
	gone, err := b.RemovePending(t.Context(), "ann", []string{"p3", "p0", "nothing", "p1"})
	b.must(err)
	equal(t, "removed", prompts(gone), []string{"p3", "p1"})
	equal(t, "announced", b.changes(), []job.Change{job.Removed, job.Removed})
	equal(t, "remaining", b.Remaining("ann"), 3)
	again, err := b.RemovePending(t.Context(), "ann", []string{"p3"})
	b.must(err)
	equal(t, "again", len(again), 0)
	gone, err = b.ClearPending(t.Context(), "ann")
	b.must(err)
	equal(t, "cleared", prompts(gone), []string{"p2", "p4"})
	equal(t, "remaining", b.Remaining("ann"), 1)
	b.restart()
	equal(t, "remaining after a restart", b.Remaining("ann"), 1)
	equal(t, "history", b.history("ann", -1, -1), nil)
	_, err = b.Entry(t.Context(), "ann", "p3")
	refused(t, "entry of a removed job", err, fault.Missing, "no_such_job")
	j, err := b.Get(t.Context(), gone[0].ID)
	b.must(err)
	equal(t, "operators see it", []any{j.State, j.Hidden}, []any{job.Cancelled, true})
}

func testWithdrawStaged(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	j := b.submit("ann")
	e := b.claim(j.ID)
	stopped, err := b.Stop(t.Context(), "ann", "")
	b.must(err)
	equal(t, "an interrupt leaves what is staged", len(stopped), 0)
	gone, err := b.ClearPending(t.Context(), "ann")
	b.must(err)
	equal(t, "withdrawn", prompts(gone), []string{j.PromptID})
	refused(t, "its attempt", b.Posted(j.ID, e.Job.Attempt.Fence), fault.Conflict, "stale_fence")
	refused(t, "its attempt", b.Finish(t.Context(), j.ID, e.Job.Attempt.Fence, Outcome(job.Completed)), fault.Conflict, "stale_fence")
	equal(t, "history", b.history("ann", -1, -1), nil)
}

func testStop(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	run := func(user, id string) job.Job {
		j := b.submit(user, prompt(id))
		e := b.claim(j.ID)
		b.must(b.Posted(j.ID, e.Job.Attempt.Fence))
		return e.Job
	}
	first, second := run("ann", "p1"), run("ann", "p2")
	run("bob", "p1")
	b.submit("ann", prompt("p3"))
	b.heard()
	stop := func(id string, want ...string) {
		t.Helper()
		jobs, err := b.Stop(t.Context(), "ann", id)
		b.must(err)
		equal(t, "stop "+id, prompts(jobs), want)
	}
	stop("p3") // it waits
	stop("p4") // there is none
	stop("p2", "p2")
	told := b.heard()
	if len(told) != 1 || told[0].Change != job.StopRequested || told[0].Job.ID != second.ID || !told[0].Job.Stop {
		t.Errorf("announced %+v", told)
	}
	stop("", "p1", "p2")
	b.must(b.Finish(t.Context(), second.ID, second.Attempt.Fence, Outcome(job.Cancelled)))
	b.restart()
	j, err := b.Find(t.Context(), "ann", "p1")
	b.must(err)
	equal(t, "kept", j.Stop, true)
	b.must(b.Release(t.Context(), first.ID, first.Attempt.Fence, "lost"))
	b.must(b.Fail(t.Context(), first.ID, Outcome(job.Cancelled)))
	equal(t, "history", b.history("ann", -1, -1), []string{"p2", "p1"})
}

func testHistory(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	var all []string
	for i := range 70 { // more than one page of any store
		id := fmt.Sprint("p", i)
		all = append(all, id)
		b.finish(b.submit("ann", prompt(id)).ID, job.Completed)
	}
	b.finish(b.submit("bob", prompt("bob's")).ID, job.Completed)
	b.submit("ann", prompt("open"))
	for _, c := range []struct {
		most, offset int
		want         []string
	}{
		{-1, -1, all},
		{3, -1, all[67:]},
		{65, -1, all[5:]},
		{100, -1, all},
		{0, -1, nil},
		{0, 0, nil},
		{3, 0, all[:3]},
		{2, 5, all[5:7]},
		{40, 20, all[20:60]},
		{10, 65, all[65:]},
		{10, 70, nil},
		{-1, 68, all[68:]},
		{1, 99, nil},
	} {
		equal(t, fmt.Sprintf("max_items=%d offset=%d", c.most, c.offset), b.history("ann", c.most, c.offset), c.want)
	}
	equal(t, "of nobody", b.history("zoe", -1, -1), nil)
	enough := fmt.Errorf("enough")
	n := 0
	err := b.EachHistory(t.Context(), "ann", job.HistoryQuery{MaxItems: -1, Offset: -1}, func(job.Entry) error {
		if n++; n == 40 {
			return enough
		}
		return nil
	})
	if err != enough || n != 40 {
		t.Errorf("it went on after an error: %v, %d", err, n)
	}
	// Whoever reads slowly holds up nobody: changes go on inside the walk.
	b.must(b.EachHistory(t.Context(), "ann", job.HistoryQuery{MaxItems: 2, Offset: 0}, func(e job.Entry) error {
		return b.DeleteHistory(t.Context(), "ann", []string{e.Job.PromptID})
	}))
	equal(t, "after deletions", b.history("ann", -1, -1), all[2:])
}

func testHistoryOrder(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	entries := map[string]job.Entry{}
	for _, id := range []string{"p1", "p2", "p3"} {
		entries[id] = b.claim(b.submit("ann", prompt(id)).ID)
	}
	for _, id := range []string{"p2", "p3", "p1"} {
		b.must(b.Finish(t.Context(), entries[id].Job.ID, entries[id].Job.Attempt.Fence, Outcome(job.Completed)))
	}
	b.finish(b.submit("ann", prompt("p2"), func(s *job.Submission) { s.Front = true }).ID, job.Failed) // replaces
	want := []string{"p3", "p1", "p2"}
	equal(t, "history", b.history("ann", -1, -1), want)
	b.restart()
	b.finish(b.submit("ann", prompt("p4")).ID, job.Failed)
	equal(t, "history", b.history("ann", -1, -1), append(want, "p4"))
}

// A store need not hold many large entries at once, and still gives all of them.
func testLargeHistory(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	var all []string
	for i := range 12 {
		id := fmt.Sprint("p", i)
		all = append(all, id)
		b.finish(b.submit("ann", prompt(id), func(s *job.Submission) {
			s.Request.ExtraData = json.RawMessage(`{"x": "` + strings.Repeat("a", 3<<20) + `"}`)
		}).ID, job.Completed)
	}
	equal(t, "all", b.history("ann", -1, -1), all)
	equal(t, "the last", b.history("ann", 7, -1), all[5:])
	equal(t, "some", b.history("ann", 7, 2), all[2:9])
}

func testDeleteHistory(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	var jobs []job.Job
	for i := range 4 {
		jobs = append(jobs, b.finish(b.submit("ann", prompt(fmt.Sprint("p", i))).ID, job.Completed))
	}
	b.finish(b.submit("bob", prompt("p1")).ID, job.Completed)
	b.submit("ann", prompt("open"))
	b.heard()
	b.must(b.DeleteHistory(t.Context(), "ann", []string{"p1", "open", "nothing", "p3"}))
	told := b.heard()
	equal(t, "announced", told, []job.Changed{{Change: job.HistoryChanged, Job: &job.Job{User: "ann"}}})
	b.must(b.DeleteHistory(t.Context(), "ann", []string{"p1", "nothing"}))
	b.must(b.DeleteHistory(t.Context(), "ann", nil))
	equal(t, "nothing to announce", b.changes(), nil)
	equal(t, "ann's", b.history("ann", -1, -1), []string{"p0", "p2"})
	equal(t, "bob's", b.history("bob", -1, -1), []string{"p1"})
	if _, _, err := b.store.Task(t.Context(), jobs[1].Seq); err != queue.ErrMissing {
		t.Errorf("what a deleted job asked for is still there: %v", err)
	}
	b.must(b.ClearHistory(t.Context(), "ann"))
	equal(t, "ann's", b.history("ann", -1, -1), nil)
	equal(t, "bob's", b.history("bob", -1, -1), []string{"p1"})
	equal(t, "open ones stay", b.Remaining("ann"), 1)
	b.must(b.ClearHistory(t.Context(), ""))
	equal(t, "bob's", b.history("bob", -1, -1), []string{"p1"})
	list, n, err := b.Jobs(t.Context(), "ann", job.ListQuery{})
	b.must(err)
	equal(t, "list", prompts(list), []string{"open"})
	equal(t, "total", n, 1)
}

func testLists(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	submit := func(id string) job.Job {
		return b.submit("ann", prompt(id), func(s *job.Submission) { s.WorkflowID = "wf-" + id[:1] })
	}
	b.finish(submit("a1").ID, job.Completed)
	staged := b.claim(submit("b2").ID)
	b.finish(submit("a3").ID, job.Failed)
	running := b.claim(submit("b4").ID)
	b.must(b.Posted(running.Job.ID, running.Job.Attempt.Fence))
	b.finish(submit("b5").ID, job.Cancelled)
	submit("a6")
	b.finish(b.submit("bob", prompt("bob's")).ID, job.Completed)
	for _, c := range []struct {
		what  string
		q     job.ListQuery
		want  []string
		total int
	}{
		{"all", job.ListQuery{}, []string{"a6", "b5", "b4", "a3", "b2", "a1"}, 6},
		{"oldest first", job.ListQuery{Ascending: true}, []string{"a1", "b2", "a3", "b4", "b5", "a6"}, 6},
		{"page", job.ListQuery{Limit: 2, Offset: 3}, []string{"a3", "b2"}, 6},
		{"page of the oldest", job.ListQuery{Limit: 2, Offset: 1, Ascending: true}, []string{"b2", "a3"}, 6},
		{"beyond", job.ListQuery{Limit: 2, Offset: 9}, nil, 6},
		{"open", job.ListQuery{States: []job.State{job.Running, job.Pending}}, []string{"a6", "b4", "b2"}, 3},
		{"a staged one is pending", job.ListQuery{States: []job.State{job.Pending}}, []string{"a6", "b2"}, 2},
		{"running", job.ListQuery{States: []job.State{job.Running}}, []string{"b4"}, 1},
		{"final", job.ListQuery{States: []job.State{job.Completed, job.Failed, job.Cancelled}}, []string{"b5", "a3", "a1"}, 3},
		{"final, page", job.ListQuery{States: []job.State{job.Completed, job.Failed, job.Cancelled}, Limit: 1, Offset: 1}, []string{"a3"}, 3},
		{"failed", job.ListQuery{States: []job.State{job.Failed}}, []string{"a3"}, 1},
		{"failed or running", job.ListQuery{States: []job.State{job.Failed, job.Running}}, []string{"b4", "a3"}, 2},
		{"workflow", job.ListQuery{WorkflowID: "wf-a"}, []string{"a6", "a3", "a1"}, 3},
		{"workflow, final", job.ListQuery{WorkflowID: "wf-b", States: []job.State{job.Cancelled}}, []string{"b5"}, 1},
		{"none", job.ListQuery{States: []job.State{}}, nil, 0},
	} {
		got, total, err := b.Jobs(t.Context(), "ann", c.q)
		b.must(err)
		equal(t, c.what, prompts(got), c.want)
		equal(t, c.what+": total", total, c.total)
	}
	got, total, err := b.Jobs(t.Context(), "ann", job.ListQuery{States: []job.State{job.Failed, job.Completed}, Limit: 1, Uncounted: true})
	b.must(err)
	equal(t, "uncounted", prompts(got), []string{"a3"})
	if total < 1 || total > 2 {
		t.Errorf("uncounted: total %d", total)
	}
	b.must(b.Finish(t.Context(), staged.Job.ID, staged.Job.Attempt.Fence, Outcome(job.Completed)))
	list, _, err := b.Jobs(t.Context(), "ann", job.ListQuery{States: []job.State{job.Completed}, Limit: 1})
	b.must(err)
	equal(t, "summary", string(list[0].Summary), `{"outputs_count":1}`)
}

func testListsByDuration(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	at := time.Now().UTC().Truncate(time.Millisecond)
	for i, seconds := range []int{3, 1, 2, 1} {
		e := b.claim(b.submit("ann", prompt(fmt.Sprint("p", i))).ID)
		end := queue.Ending{
			Ref: queue.Ref{Seq: e.Job.Seq, Fence: e.Job.Attempt.Fence}, User: "ann", State: job.Completed,
			Started: at, Finished: at.Add(time.Duration(seconds) * time.Second),
		}
		b.must(b.store.Finish(t.Context(), []queue.Ending{end}, func([]int64) {}))
	}
	b.restart()
	b.submit("ann", prompt("open"))
	list := func(q job.ListQuery) []string {
		jobs, _, err := b.Jobs(t.Context(), "ann", q)
		b.must(err)
		return prompts(jobs)
	}
	equal(t, "longest first", list(job.ListQuery{ByDuration: true}), []string{"p0", "p2", "p3", "p1", "open"})
	equal(t, "shortest first", list(job.ListQuery{ByDuration: true, Ascending: true}), []string{"open", "p1", "p3", "p2", "p0"})
	final := []job.State{job.Completed}
	equal(t, "page", list(job.ListQuery{ByDuration: true, States: final, Limit: 2, Offset: 1}), []string{"p2", "p3"})
}

// testListWhileEnding reads lists while jobs end: each job is in every list, once.
func testListWhileEnding(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	const n = 20
	entries := make([]job.Entry, n)
	for i := range n {
		entries[i] = b.claim(b.submit("ann").ID)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, e := range entries {
			if err := b.Finish(t.Context(), e.Job.ID, e.Job.Attempt.Fence, Outcome(job.Completed)); err != nil {
				t.Error(err)
			}
		}
	})
	for b.Remaining("ann") > 0 {
		jobs, total, err := b.Jobs(t.Context(), "ann", job.ListQuery{})
		b.must(err)
		seen := map[job.ID]bool{}
		for _, j := range jobs {
			seen[j.ID] = true
		}
		if len(jobs) != n || len(seen) != n || total != n {
			t.Fatalf("%d jobs, %d different, total %d; want %d", len(jobs), len(seen), total, n)
		}
	}
	wg.Wait()
}

func testIsolation(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	pending := b.submit("ann", prompt("p1"))
	done := b.finish(b.submit("ann", prompt("p2")).ID, job.Completed)
	e := b.claim(b.submit("ann", prompt("p3")).ID)
	b.must(b.Posted(e.Job.ID, e.Job.Attempt.Fence))
	b.heard()
	for _, user := range []string{"bob", "", "ann ", "ANN", "an", "%", "ann\x00"} {
		for _, id := range []string{"p1", "p2", "p3"} {
			_, err := b.Find(t.Context(), user, id)
			refused(t, user+" finds "+id, err, fault.Missing, "no_such_job")
			_, err = b.Entry(t.Context(), user, id)
			refused(t, user+" reads "+id, err, fault.Missing, "no_such_job")
			stopped, err := b.Stop(t.Context(), user, id)
			b.must(err)
			equal(t, user+" stops", len(stopped), 0)
		}
		requests, err := b.Requests(t.Context(), user, []job.ID{pending.ID, done.ID, e.Job.ID})
		b.must(err)
		equal(t, user+" reads requests", len(requests), 0)
		stored, err := b.store.Requests(t.Context(), user, []int64{pending.Seq, done.Seq, e.Job.Seq})
		b.must(err)
		equal(t, user+" reads requests from the store", len(stored), 0)
		open, err := b.Open(t.Context(), user)
		b.must(err)
		jobs, total, err := b.Jobs(t.Context(), user, job.ListQuery{})
		b.must(err)
		equal(t, user+" lists", []int{len(open), len(jobs), total, b.Remaining(user), len(b.history(user, -1, -1))}, []int{0, 0, 0, 0, 0})
		gone, err := b.RemovePending(t.Context(), user, []string{"p1", "p2", "p3"})
		b.must(err)
		cleared, err := b.ClearPending(t.Context(), user)
		b.must(err)
		stopped, err := b.Stop(t.Context(), user, "")
		b.must(err)
		equal(t, user+" changes", []int{len(gone), len(cleared), len(stopped)}, []int{0, 0, 0})
		b.must(b.DeleteHistory(t.Context(), user, []string{"p1", "p2", "p3"}))
		b.must(b.ClearHistory(t.Context(), user))
	}
	equal(t, "announced", b.changes(), nil)
	equal(t, "history", b.history("ann", -1, -1), []string{"p2"})
	requests, err := b.Requests(t.Context(), "ann", []job.ID{pending.ID, done.ID, e.Job.ID, "nothing"})
	b.must(err)
	equal(t, "ann's requests", len(requests), 3)
	equal(t, "a request", requests[done.ID], Submission("ann", 3).Request)
	if _, _, err := b.store.List(t.Context(), queue.Scope{Ended: done.Seq + 100}, job.ListQuery{States: []job.State{job.Completed}}); err == nil {
		t.Error("the store lists for nobody")
	}
	final := []job.State{job.Completed, job.Failed, job.Cancelled}
	gone, err := b.RemovePending(t.Context(), "ann", []string{"p1"})
	b.must(err)
	hidden, err := b.store.Requests(t.Context(), "ann", []int64{gone[0].Seq})
	b.must(err)
	jobs, _, err := b.Jobs(t.Context(), "ann", job.ListQuery{States: final})
	b.must(err)
	equal(t, "what is out of history", []int{len(hidden), len(jobs)}, []int{0, 1})
}

func testOperators(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	ann, bob := b.submit("ann", prompt("a1")), b.submit("bob", prompt("b1"))
	done := b.finish(b.submit("ann", prompt("a2")).ID, job.Completed)
	e := b.claim(b.submit("ann", prompt("a3")).ID)
	b.must(b.Posted(e.Job.ID, e.Job.Attempt.Fence))
	equal(t, "by user", b.CountsByUser(), map[string]job.Counts{"ann": {Pending: 1, Running: 1}, "bob": {Pending: 1}})
	b.must(b.ClearHistory(t.Context(), "ann"))
	list := func(q job.ListQuery, user string) []string {
		t.Helper()
		jobs, total, err := b.ListAll(t.Context(), q, user)
		b.must(err)
		if q.Limit == 0 && total != len(jobs) {
			t.Errorf("total %d of %d", total, len(jobs))
		}
		return prompts(jobs)
	}
	equal(t, "all", list(job.ListQuery{}, ""), []string{"a3", "a2", "b1", "a1"})
	equal(t, "ann's", list(job.ListQuery{}, "ann"), []string{"a3", "a2", "a1"})
	equal(t, "final", list(job.ListQuery{States: []job.State{job.Completed}}, ""), []string{"a2"})
	equal(t, "page", list(job.ListQuery{Limit: 1, Offset: 1}, ""), []string{"a2"})

	cancel := func(id job.ID, state job.State, stop bool) {
		t.Helper()
		j, err := b.Cancel(t.Context(), id)
		b.must(err)
		equal(t, "cancelled", []any{j.State, j.Stop}, []any{state, stop})
	}
	cancel(ann.ID, job.Cancelled, false)
	cancel(bob.ID, job.Cancelled, false)
	cancel(e.Job.ID, job.Running, true)
	cancel(done.ID, job.Completed, false)
	_, err := b.Cancel(t.Context(), "nothing")
	refused(t, "cancel nothing", err, fault.Missing, "no_such_job")
	equal(t, "counts", b.Counts(), job.Counts{Running: 1, Completed: 1, Cancelled: 2})
}
