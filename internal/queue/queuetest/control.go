package queuetest

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

func testModes(t *testing.T, shelf Shelf) {
	var told []queue.Control
	b := start(t, shelf(t), queue.Options{Mode: queue.FIFO, Control: func(c queue.Control) { told = append(told, c) }})
	equal(t, "of the settings", b.Mode(), queue.FIFO)
	b.must(b.SetMode(t.Context(), queue.Priority))
	refused(t, "lottery", b.SetMode(t.Context(), "lottery"), fault.Invalid, "unknown_mode")
	equal(t, "announced", told, []queue.Control{{Mode: queue.Priority}})
	again := func(when, settings, want string) {
		t.Helper()
		b.opts.Mode = settings
		b.restart()
		equal(t, when, b.Mode(), want)
	}
	again("a command outlives a restart", queue.FIFO, queue.Priority)
	again("changed settings count", queue.RoundRobin, queue.RoundRobin)
	again("also when they are changed back", queue.FIFO, queue.FIFO)
	b.must(b.SetMode(t.Context(), queue.Fair))
	b.must(b.SetMode(t.Context(), queue.FIFO))
	again("a command that says what the settings say", queue.FIFO, queue.FIFO)
	again("and then other settings", "", queue.Fair)
	if _, err := queue.New(t.Context(), b.store, queue.Options{Mode: "lottery"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("mode lottery: %v", err)
	}
}

func testPauses(t *testing.T, shelf Shelf) {
	var told []queue.Control
	b := start(t, shelf(t), queue.Options{Control: func(c queue.Control) { told = append(told, c) }})
	equal(t, "at first", b.Pauses(), nil)
	group := queue.Pause{Scope: "group:class-a", On: true, Reason: "A break.", By: "root", Since: at}
	b.must(b.Pause(t.Context(), group))
	b.must(b.Pause(t.Context(), queue.Pause{Scope: queue.PauseAll, On: true, Since: at}))
	backEnd := queue.Pause{Scope: "backend:gpu-1", On: true, Since: at}
	b.must(b.Pause(t.Context(), backEnd))
	group.Reason = "Back at three."
	b.must(b.Pause(t.Context(), group))
	b.must(b.Pause(t.Context(), queue.Pause{Scope: queue.PauseAll}))
	b.must(b.Pause(t.Context(), queue.Pause{Scope: queue.PauseAll})) // twice is once
	want := []queue.Pause{backEnd, group}
	equal(t, "pauses", b.Pauses(), want)
	equal(t, "announced", len(told), 6)
	equal(t, "announced last", told[5], queue.Control{Mode: queue.Fair, Pauses: want})
	b.restart()
	equal(t, "after a restart", b.Pauses(), want)
	for _, scope := range []string{"", "group:", "backend:", "user:ann", "ALL"} {
		refused(t, scope, b.Pause(t.Context(), queue.Pause{Scope: scope, On: true}), fault.Invalid, "unknown_scope")
	}
	b.must(b.Pause(t.Context(), queue.Pause{Scope: "backend:gpu-2", On: true}))
	if since := b.Pauses()[1].Since; since.IsZero() {
		t.Error("a pause does not say since when")
	}
	var wg sync.WaitGroup
	for _, scope := range []string{"group:a", "group:b", "group:c", "group:d"} {
		wg.Go(func() {
			if err := b.Pause(t.Context(), queue.Pause{Scope: scope, On: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	equal(t, "of many at once none is lost", len(b.Pauses()), 7)
}

func testCancelUser(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	b.submit("ann", prompt("pending"))
	b.submit("ann", prompt("held"), func(s *job.Submission) { s.Held = true })
	b.claim(b.submit("ann", prompt("staged")).ID)
	running := b.claim(b.submit("ann", prompt("running")).ID).Job
	b.must(b.Posted(running.ID, running.Attempt.Fence))
	b.finish(b.submit("ann", prompt("done")).ID, job.Completed)
	b.submit("bob", prompt("bob's"))
	removed, stopped, err := b.CancelUser(t.Context(), "ann")
	b.must(err)
	equal(t, "removed", len(removed), 3)
	equal(t, "stopped", prompts(stopped), []string{"running"})
	equal(t, "open", b.shown("ann"), []string{"running"})
	equal(t, "others", b.Remaining("bob"), 1)
	removed, stopped, err = b.CancelUser(t.Context(), "ann")
	b.must(err)
	equal(t, "again", []int{len(removed), len(stopped)}, []int{0, 0})
	removed, stopped, err = b.CancelUser(t.Context(), "zoe")
	b.must(err)
	equal(t, "of nobody", []int{len(removed), len(stopped)}, []int{0, 0})

	// While workers take jobs up and give them back, all end or are asked to stop.
	for range 30 {
		b.submit("carl")
	}
	open, err := b.Open(t.Context(), "carl")
	b.must(err)
	var wg sync.WaitGroup
	for _, j := range open {
		wg.Go(func() {
			if e, _, err := b.Claim(t.Context(), j.ID, Params()); err == nil {
				if err := b.Posted(j.ID, e.Job.Attempt.Fence); err != nil && !fault.Is(err, fault.Conflict) {
					t.Error(err)
				}
			}
		})
	}
	removed, stopped, err = b.CancelUser(t.Context(), "carl")
	b.must(err)
	wg.Wait()
	if len(removed)+len(stopped) != 30 {
		t.Errorf("%d removed and %d stopped of 30", len(removed), len(stopped))
	}
}

func testRetry(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{MaxPendingPerUser: 1})
	old := b.finish(b.submit("ann", prompt("p1"), func(s *job.Submission) {
		s.Class, s.Profile = job.ClassHigh, job.Profile{Like: "l", Work: 2, Models: "m"}
	}).ID, job.Failed)
	b.restart()
	j, err := b.Retry(t.Context(), old.ID)
	b.must(err)
	equal(t, "the new job", j, job.Job{
		ID: j.ID, User: "ann", Group: old.Group, PromptID: string(j.ID), ClientID: old.ClientID, Number: j.Number, Seq: j.Seq,
		Class: job.ClassHigh, State: job.Pending, WorkflowID: old.WorkflowID, Profile: old.Profile, Created: j.Created,
	})
	_, err = b.Retry(t.Context(), j.ID)
	refused(t, "an open one", err, fault.Conflict, "not_final")
	_, err = b.Retry(t.Context(), old.ID)
	refused(t, "at the limit", err, fault.Busy, "max_pending_per_user")
	equal(t, "request", b.claim(j.ID).Request, Submission("ann", 3).Request)
	again, err := b.Retry(t.Context(), old.ID)
	b.must(err)
	if again.ID == j.ID {
		t.Error("a second retry is the first")
	}
	b.must(b.ClearHistory(t.Context(), "ann"))
	_, err = b.Retry(t.Context(), old.ID)
	refused(t, "out of history", err, fault.Conflict, "request_dropped")
	_, err = b.Retry(t.Context(), "nothing")
	refused(t, "nothing", err, fault.Missing, "no_such_job")
}

// testRejected: what comes late, twice, or for a cancelled job is kept out and counted.
func testRejected(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	send := func(what string, j job.Job) {
		t.Helper()
		refused(t, what, b.Finish(t.Context(), j.ID, j.Attempt.Fence, Outcome(job.Completed)), fault.Conflict, "stale_fence")
	}
	late := b.claim(b.submit("ann").ID).Job
	b.must(b.Release(t.Context(), late.ID, late.Attempt.Fence, "its lease ended"))
	send("late", late)
	second := b.claim(late.ID).Job
	send("late, with another at it", late)
	b.must(b.Finish(t.Context(), second.ID, second.Attempt.Fence, Outcome(job.Failed)))
	send("late, after another's end", late)
	send("twice", second)
	cancelled := b.claim(b.submit("ann").ID).Job
	_, err := b.Cancel(t.Context(), cancelled.ID)
	b.must(err)
	send("for a cancelled job", cancelled)
	equal(t, "counted", b.Rejected(), queue.Rejected{Late: 3, Doubled: 1, Cancelled: 1})
	j, err := b.Get(t.Context(), second.ID)
	b.must(err)
	equal(t, "the first result stays", j.State, job.Failed)
	equal(t, "counts", b.Counts(), job.Counts{Failed: 1, Cancelled: 1})
}

// testMove takes a whole queue from one store to another.
func testMove(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	secret := map[string]string{"api_key_comfy_org": "comfyui-secret-0123456789"}
	pending := b.submit("ann", prompt("pending"), func(s *job.Submission) { s.Credentials, s.Key, s.Held = secret, "k1", true })
	b.finish(b.submit("ann", prompt("done")).ID, job.Completed)
	running := b.claim(b.submit("bob", prompt("running")).ID)
	gone, err := b.RemovePending(t.Context(), "bob", []string{b.submit("bob").PromptID})
	b.must(err)
	b.must(b.SetMode(t.Context(), queue.RoundRobin))
	b.must(b.Pause(t.Context(), queue.Pause{Scope: "group:class-a", On: true, Since: at}))
	var file bytes.Buffer
	n, err := queue.Export(t.Context(), b.store, &file)
	b.must(err)
	equal(t, "exported", n, 4)

	c := start(t, shelf(t), queue.Options{})
	c.opts.Sealer = b.opts.Sealer
	for what, text := range map[string]string{
		"not_an_export":  `{"format":"another"}`,
		"export_newer":   `{"format":"comfyume queue","version":99}`,
		"export_damaged": file.String()[:file.Len()/2],
	} {
		_, err := queue.Import(t.Context(), c.store, strings.NewReader(text))
		refusedBy(t, what, err, fault.Invalid, what)
	}
	whole := file.String()
	lines := strings.SplitAfter(strings.TrimSuffix(whole, "\n"), "\n")
	_, err = queue.Import(t.Context(), c.store, strings.NewReader(strings.Join(lines[:len(lines)-1], "")))
	refusedBy(t, "without its last line", err, fault.Invalid, "export_damaged")
	_, err = queue.Import(t.Context(), c.store, strings.NewReader(strings.Join(append(lines[:2:2], lines[3:]...), "")))
	refusedBy(t, "with a line missing", err, fault.Invalid, "export_damaged")
	equal(t, "after that", len(c.records()), 0)

	n, err = queue.Import(t.Context(), c.store, strings.NewReader(whole))
	c.must(err)
	equal(t, "imported", n, 4)
	c.restart()
	equal(t, "records", c.records(), b.records())
	equal(t, "mode", c.Mode(), queue.RoundRobin)
	equal(t, "pauses", c.Pauses(), b.Pauses())
	equal(t, "counts", c.Counts(), job.Counts{Pending: 1, Running: 1})
	equal(t, "history", c.history("ann", -1, -1), []string{"done"})
	j, err := c.Get(t.Context(), gone[0].ID)
	c.must(err)
	equal(t, "what was removed", j.Hidden, true)
	_, err = c.Hold(t.Context(), pending.ID, false)
	c.must(err)
	_, got, err := c.Claim(t.Context(), pending.ID, Params())
	c.must(err)
	equal(t, "credentials", got, secret)
	c.must(c.Finish(t.Context(), running.Job.ID, running.Job.Attempt.Fence, Outcome(job.Completed)))
	sub := Submission("ann", 3)
	sub.PromptID, sub.Credentials, sub.Key, sub.Held = "pending", secret, "k1", true
	j, existing, err := c.Submit(t.Context(), sub)
	c.must(err)
	equal(t, "the key", []any{j.ID, existing}, []any{pending.ID, true})
	if next := c.submit("ann"); next.Number <= pending.Number+1 || next.Seq <= running.Job.Attempt.Fence {
		t.Errorf("after %+v came %+v", running.Job, next)
	}
	_, err = queue.Import(t.Context(), c.store, strings.NewReader(whole))
	refused(t, "into a queue with jobs", err, fault.Conflict, "queue_not_empty")
}

// refusedBy is refused for errors that say more than the fault.
func refusedBy(t failer, what string, err error, kind fault.Kind, code string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		t.Errorf("%s: %v, want %v %q", what, err, kind, code)
		return
	}
	refused(t, what, f, kind, code)
}
