package queuetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// undigested leaves digests out: of jobs in memory they are not kept. Tests of the store look at them by themselves.
var undigested = cmpopts.IgnoreFields(job.Job{}, "Digest")

// equal fails the test where got is not want.
func equal[T any](t failer, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got, undigested); diff != "" {
		t.Errorf("%s: want -, got +\n%s", what, diff)
	}
}

// refused fails the test unless err is of the kind and has the code.
func refused(t failer, what string, err error, kind fault.Kind, code string) {
	t.Helper()
	e, ok := err.(*fault.Error)
	if !ok || e.Kind != kind || e.Code != code {
		t.Errorf("%s: %v, want %v %q", what, err, kind, code)
	}
}

// changes returns the words of what was announced since the last call.
func (b *bench) changes() (words []job.Change) {
	for _, c := range b.heard() {
		words = append(words, c.Change)
	}
	return words
}

func prompt(id string) func(*job.Submission) {
	return func(s *job.Submission) { s.PromptID = id }
}

func testLife(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	before := time.Now().UTC().Truncate(time.Millisecond)
	j := b.submit("ann")
	equal(t, "submitted", j, job.Job{
		ID: j.ID, User: "ann", Group: "class-a", PromptID: string(j.ID), ClientID: "session-ann", Number: j.Number, Seq: j.Seq,
		Class: job.ClassNormal, State: job.Pending, WorkflowID: "wf", Created: time.UnixMilli(1764000000000).UTC(),
	})
	equal(t, "remaining", b.Remaining("ann"), 1)

	e := b.claim(j.ID)
	p := Params()
	j.State = job.Running
	j.Attempt = job.Attempt{
		N: 1, Fence: e.Job.Attempt.Fence, BackEnd: p.BackEnd, RunID: p.RunID, ClientID: p.ClientID,
		LeaseUntil: e.Job.Attempt.LeaseUntil,
	}
	equal(t, "claimed", e, job.Entry{Job: j, Request: Submission("ann", 3).Request})

	b.must(b.Posted(j.ID, e.Job.Attempt.Fence))
	b.must(b.Posted(j.ID, e.Job.Attempt.Fence)) // twice is once
	b.must(b.Finish(t.Context(), j.ID, e.Job.Attempt.Fence, Outcome(job.Completed)))
	equal(t, "remaining", b.Remaining("ann"), 0)

	told := b.heard()
	words := []job.Change{}
	for _, c := range told {
		words = append(words, c.Change)
	}
	equal(t, "announced", words, []job.Change{job.Submitted, job.Claimed, job.Posted, job.Finished})
	last := *told[3].Job
	if last.Started.Before(before) || last.Finished.Before(last.Started) || last.Finished.After(time.Now()) {
		t.Errorf("started %v, finished %v", last.Started, last.Finished)
	}
	out := Outcome(job.Completed)
	equal(t, "announced outcome", told[3].Outcome, &out)

	equal(t, "counts", b.Counts(), job.Counts{Completed: 1})
	last.Attempt.Posted = false // only the announcement says so of a finished job
	for _, when := range []string{"entry", "entry after a restart"} {
		got, err := b.Entry(t.Context(), "ann", j.PromptID)
		b.must(err)
		equal(t, when, got, job.Entry{Job: last, Request: Submission("ann", 3).Request, Outcome: &out})
		b.restart()
	}
	equal(t, "summary in lists", string(last.Summary), `{"outputs_count":1}`)
}

func testBytes(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	requests := []job.Request{
		{Prompt: json.RawMessage(`{}`)},
		{Prompt: json.RawMessage(" {\n\t\"1\" :{\"a\": NaN, \"b\":-Infinity, \"seed\": 18446744073709551615} }\n"), Targets: []string{}, Outputs: []string{""}},
		{Prompt: json.RawMessage(`{"é": "\ud800", "x": 1e400}`), ExtraData: json.RawMessage(`null`), Targets: []string{"9", "1:2"}},
		{Prompt: json.RawMessage(strings.Repeat(`{"big":"`+strings.Repeat("ab\x00", 500)+`"}`, 300)), ExtraData: json.RawMessage{}},
	}
	var ids []job.ID
	for i, req := range requests {
		j := b.submit("ann", func(s *job.Submission) { s.Request = req })
		equal(t, fmt.Sprint("request ", i), b.claim(j.ID).Request, req)
		ids = append(ids, j.ID)
	}
	b.restart() // from now on from the store
	for i, req := range requests {
		j, err := b.Get(t.Context(), ids[i])
		b.must(err)
		loaded, _, err := b.Load(t.Context(), j.ID, j.Attempt.Fence)
		b.must(err)
		equal(t, fmt.Sprint("loaded request ", i), loaded.Request, req)
		out := job.Outcome{State: job.Failed, Outputs: req.Prompt, Messages: json.RawMessage{}, Error: "naïve\x00", ExecSeconds: 0.1 + 0.2}
		b.must(b.Finish(t.Context(), j.ID, j.Attempt.Fence, out))
		got, err := b.Entry(t.Context(), "ann", j.PromptID)
		b.must(err)
		equal(t, fmt.Sprint("request ", i), got.Request, req)
		equal(t, fmt.Sprint("outcome ", i), got.Outcome, &out)
	}
}

func testRefusals(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	nan := 0.0
	nan /= nan
	for name, change := range map[string]func(*job.Submission){
		"no person": func(s *job.Submission) { s.User = "" },
		"no prompt": func(s *job.Submission) { s.Request.Prompt = nil },
		"class":     func(s *job.Submission) { s.Class = 4 },
		"number":    func(s *job.Submission) { s.Number = &nan },
	} {
		sub := Submission("ann", 1)
		change(&sub)
		_, _, err := b.Submit(t.Context(), sub)
		refused(t, name, err, fault.Invalid, "")
	}
	j := b.submit("ann")
	sub := Submission("bob", 1)
	sub.ID = j.ID
	if _, _, err := b.Submit(t.Context(), sub); err == nil {
		t.Error("a job id was accepted twice")
	}
	equal(t, "remaining", b.Remaining("bob"), 0)
}

func testRepeat(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{MaxPendingPerUser: 1})
	first := b.submit("ann", prompt("p1"))
	again := Submission("ann", 3)
	again.PromptID = "p1"
	again.Created = again.Created.Add(time.Second)
	again.Request.ExtraData = json.RawMessage(strings.Replace(string(again.Request.ExtraData), "1764000000000", "1764000001000", 1))
	repeat := func(when string) {
		t.Helper()
		j, existing, err := b.Submit(t.Context(), again)
		if err != nil || !existing || j.ID != first.ID {
			t.Errorf("%s: %v %v %v, want the first answer", when, j.ID, existing, err)
		}
	}
	other := again
	other.Request.Prompt = json.RawMessage(`{"other": 1}`)
	conflict := func(when string) {
		t.Helper()
		_, _, err := b.Submit(t.Context(), other)
		refused(t, when, err, fault.Conflict, "prompt_id_in_use")
	}
	repeat("pending") // the limit does not count against it
	conflict("pending")
	e := b.claim(first.ID)
	repeat("running")
	conflict("running")
	b.restart()
	repeat("after a restart")
	conflict("after a restart")
	b.must(b.Finish(t.Context(), first.ID, e.Job.Attempt.Fence, Outcome(job.Completed)))
	repeat("finished")
	equal(t, "remaining", b.Remaining("ann"), 0)
	for what, change := range map[string]func(*job.Submission){
		"targets": func(s *job.Submission) { s.Request.Targets = []string{} },
		"session": func(s *job.Submission) { s.ClientID = "x" },
		"front":   func(s *job.Submission) { s.Front = true },
		"number":  func(s *job.Submission) { s.Number = new(float64) },
		"extra":   func(s *job.Submission) { s.Request.ExtraData = json.RawMessage(`{"client_id":"session-ann"}`) },
	} {
		sub := again
		change(&sub)
		if queue.Digest(sub) == queue.Digest(again) {
			t.Errorf("another %s is taken for the same submission", what)
		}
	}
}

func testReplace(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	first := b.submit("ann", prompt("p1"))
	b.finish(first.ID, job.Completed)
	second := b.submit("ann", prompt("p1"), func(s *job.Submission) { s.Request.Prompt = json.RawMessage(`{"new": 1}`) })
	if second.ID == first.ID {
		t.Fatal("the finished job was not replaced")
	}
	e, err := b.Entry(t.Context(), "ann", "p1")
	b.must(err)
	equal(t, "entry", e.Job.ID, second.ID)
	b.finish(second.ID, job.Failed)
	equal(t, "history", b.history("ann", -1, -1), []string{"p1"})
	old, err := b.Get(t.Context(), first.ID)
	b.must(err)
	equal(t, "the first one", []any{old.Hidden, old.State}, []any{true, job.Completed})
	if _, _, err := b.store.Task(t.Context(), first.Seq); err != queue.ErrMissing {
		t.Errorf("what a replaced job asked for is still there: %v", err)
	}
}

// testReplaceConditions: a store hides no job because the service says so.
func testReplaceConditions(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	bobs := b.finish(b.submit("bob", prompt("p1")).ID, job.Completed)
	others := b.finish(b.submit("ann", prompt("p2")).ID, job.Completed)
	waits := b.submit("ann", prompt("p3"))
	for promptID, old := range map[string]job.Job{"p1": bobs, "p9": others, "p3": waits} {
		in := queue.Insertion{Replace: old.Seq, Request: Submission("ann", 9).Request}
		in.Job = job.Job{ID: job.ID("new-" + promptID), User: "ann", PromptID: promptID, State: job.Pending, Created: old.Created}
		clash, err := b.store.Insert(t.Context(), in, func(_, _ int64) {})
		b.must(err)
		if wanted := old.ID == waits.ID; (clash != nil) != wanted {
			t.Errorf("%s: clash %v", promptID, clash)
		}
		after, err := b.Get(t.Context(), old.ID)
		b.must(err)
		equal(t, promptID, after, old)
	}
	equal(t, "bob's", b.history("bob", -1, -1), []string{"p1"})
}

func testPromptIDsArePersonal(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	ann, bob := b.submit("ann", prompt("p1")), b.submit("bob", prompt("p1"))
	gone, err := b.RemovePending(t.Context(), "bob", []string{"p1"})
	b.must(err)
	if len(gone) != 1 || gone[0].ID != bob.ID {
		t.Errorf("removed %v", gone)
	}
	j, err := b.Find(t.Context(), "ann", "p1")
	b.must(err)
	equal(t, "ann's", j, ann)
	again := b.submit("bob", prompt("p1")) // removed ones leave no trace
	if again.ID == bob.ID {
		t.Error("a removed job came back")
	}
}

func testConcurrentRepeat(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	const n = 32
	ids := make([]job.ID, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			sub := Submission("ann", 1)
			sub.PromptID = "p1"
			j, _, err := b.Submit(t.Context(), sub)
			if err != nil {
				t.Error(err)
			}
			ids[i] = j.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		equal(t, "id", id, ids[0])
	}
	equal(t, "remaining", b.Remaining("ann"), 1)
	equal(t, "announced", b.changes(), []job.Change{job.Submitted})
}

func testNumbers(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	half := 0.5
	numbers := func() (all []float64) {
		for _, change := range []func(*job.Submission){
			func(*job.Submission) {}, func(s *job.Submission) { s.Front = true },
			func(s *job.Submission) { s.Number, s.Front = &half, true }, func(*job.Submission) {},
		} {
			all = append(all, b.submit("ann", change).Number)
		}
		return all
	}
	equal(t, "numbers", numbers(), []float64{1, -2, 0.5, 3})
	equal(t, "bob's own", b.submit("bob").Number, 1)
	b.restart()
	after := numbers()
	if after[0] <= 3 || after[1] != -(after[0]+1) || after[3] != after[0]+2 {
		t.Errorf("the counter went on with %v after 3", after)
	}
	for range 200 {
		last := b.submit("ann").Number
		if last <= after[3] {
			t.Fatalf("%v came after %v", last, after[3])
		}
		after[3] = last
	}
	b.restart()
	if n := b.submit("ann").Number; n <= after[3] {
		t.Errorf("%v came after %v and a restart", n, after[3])
	}
}

func testLimits(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{MaxPending: 5, MaxPendingPerUser: 3})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, _, err := b.Submit(t.Context(), Submission("ann", 1)); err != nil {
				refused(t, "own limit", err, fault.Busy, "max_pending_per_user")
			}
		})
	}
	wg.Wait()
	equal(t, "ann's", b.Counts(), job.Counts{Pending: 3})
	for i := range 16 {
		wg.Go(func() {
			if _, _, err := b.Submit(t.Context(), Submission(fmt.Sprint("user", i), 1)); err != nil {
				refused(t, "everybody's limit", err, fault.Busy, "max_pending")
			}
		})
	}
	wg.Wait()
	equal(t, "everybody's", b.Counts(), job.Counts{Pending: 5})
	for i := range 16 {
		_, err := b.ClearPending(t.Context(), fmt.Sprint("user", i))
		b.must(err)
	}
	first := b.submit("bob")
	b.submit("bob")
	_, _, err := b.Submit(t.Context(), Submission("bob", 1))
	refused(t, "all", err, fault.Busy, "max_pending")
	if text, remedy := fault.Public(err); !strings.Contains(text, "5 jobs") || remedy == "" {
		t.Errorf("the refusal says %q %q", text, remedy)
	}
	b.claim(first.ID) // running ones don't count
	b.submit("bob")
}

func testOpenOrder(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	plain := []job.Job{b.submit("ann"), b.submit("ann"), b.submit("ann"), b.submit("ann")}
	front := b.submit("ann", func(s *job.Submission) { s.Front = true })
	urgent := b.submit("ann", func(s *job.Submission) { s.Class = job.ClassInstructor })
	b.claim(plain[1].ID)
	posted := b.claim(plain[3].ID)
	b.must(b.Posted(plain[3].ID, posted.Job.Attempt.Fence))
	want := []job.ID{plain[3].ID, plain[1].ID, urgent.ID, front.ID, plain[0].ID, plain[2].ID}
	order := func() (ids []job.ID) {
		open, err := b.Open(t.Context(), "ann")
		b.must(err)
		for _, j := range open {
			ids = append(ids, j.ID)
		}
		return ids
	}
	equal(t, "order", order(), want)
	_, err := b.Renew(t.Context(), []job.Fence{{Job: plain[3].ID, N: posted.Job.Attempt.Fence}}, time.Now().Add(time.Minute))
	b.must(err)
	b.restart()
	equal(t, "order after a restart", order(), want)
}

func testCredentials(t *testing.T, shelf Shelf) {
	open := shelf(t)
	b := start(t, open, queue.Options{})
	secret := map[string]string{"api_key_comfy_org": "comfyui-secret-0123456789"}
	j := b.submit("ann", func(s *job.Submission) { s.Credentials = secret })
	b.restart()
	e, got, err := b.Claim(t.Context(), j.ID, Params())
	b.must(err)
	equal(t, "claimed", got, secret)
	_, got, err = b.Load(t.Context(), j.ID, e.Job.Attempt.Fence)
	b.must(err)
	equal(t, "loaded", got, secret)
	b.must(b.Finish(t.Context(), j.ID, e.Job.Attempt.Fence, Outcome(job.Completed)))
	if _, sealed, err := b.store.Task(t.Context(), j.Seq); err != nil || sealed != nil {
		t.Errorf("the credentials are still there after the end: %v %v", sealed, err)
	}
	atOnce := b.submit("ann", func(s *job.Submission) { s.Credentials = secret })
	_, got, err = b.Claim(t.Context(), atOnce.ID, Params())
	b.must(err)
	equal(t, "claimed without a restart between", got, secret)
	plain := b.submit("ann")
	if _, none, err := b.Claim(t.Context(), plain.ID, Params()); err != nil || none != nil {
		t.Errorf("credentials of a job without: %v %v", none, err)
	}

	keyless := start(t, shelf(t), queue.Options{})
	keyless.opts.Sealer = nil
	keyless.restart()
	sub := Submission("ann", 1)
	sub.Credentials = secret
	_, _, err = keyless.Submit(t.Context(), sub)
	refused(t, "without a key", err, fault.Unavailable, "no_sealer")
}
