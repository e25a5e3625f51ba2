package backendtest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// Harness is a back end on which the suite may do what it likes, and how to reach it.
type Harness struct {
	// Open returns a driver as a new process would have it. The suite closes it.
	Open func(t *testing.T) backend.Driver
	// The graphs of the suite in the back end's classes.
	Text    json.RawMessage // ends at once, with the text "hello" among its outputs
	Picture json.RawMessage // makes one file
	Slow    json.RawMessage // tells progress, and goes on for at least 10 s when left alone
	Fail    json.RawMessage // a node raises an exception
	Refused json.RawMessage // fails validation at one node
	Input   json.RawMessage // reads the input file InputName and makes one file
	// InputName and InputBody are a file for Input.
	InputName string
	InputBody []byte
	// Further graphs; nil: the back end has none of the kind. Masked paints the input InputName over where the mask
	// MaskName is white, Audio makes a FLAC file, Animated a WebP one.
	Masked, Audio, Animated json.RawMessage
	MaskName                string
	MaskBody                []byte
	// Blind says why this back end may tell nothing of a run but its result, or "": then frames may be missing, and
	// results say so. Where a case needs progress it is waited for all the same.
	Blind string
	// Previews says that Slow sends previews.
	Previews bool
	// Containers is how many there are behind one address, each with files of its own. 0: one.
	Containers int
	// Brings says that a run's files come with its end: a restart after it takes none of them away.
	Brings bool
	// Deadly are graphs that the back end dies of, and comes back; nil: there are none.
	Deadly []json.RawMessage
	// Restart has the back end start anew, as after a crash, and returns when it answers again. Nil: it can't.
	Restart func(t *testing.T)
}

// patience is how long the suite waits for what has to come.
const patience = 30 * time.Second

// Run holds a driver to the contract of package backend.
func Run(t *testing.T, h Harness) {
	for name, f := range map[string]func(*testing.T, Harness, backend.Driver){
		"Probe": testProbe, "Text": testText, "Picture": testPicture, "Fail": testFail, "Refused": testRefused, "Input": testInput,
		"Interrupt": testInterrupt, "Resume": testResume, "Prepared": testPrepared, "Restart": testRestart, "RestartBetween": testRestartBetween, "Cancel": testCancel,
		"Deadly": testDeadly, "Mask": testMask, "Audio": testSound, "Animated": testAnimated, "Binary": testBinary,
	} {
		t.Run(name, func(t *testing.T) { // one after another: a back end runs one at a time
			d := h.Open(t)
			defer func() {
				if err := d.Close(); err != nil {
					t.Error("Close:", err)
				}
			}()
			f(t, h, d)
		})
	}
}

// Attempt is one run as the suite sees it.
type Attempt struct {
	Task    backend.Task
	Run     backend.Run
	Result  backend.Result
	Err     error
	Posted  int
	Updates []backend.Update

	mu   sync.Mutex
	seen chan struct{} // closed and replaced at every update
	done chan struct{}
}

// NewTask returns a task for one attempt of a graph.
func NewTask(d backend.Driver, graph json.RawMessage) backend.Task {
	return backend.Task{
		Job: "suite", Prompt: graph, ExtraData: json.RawMessage(`{"extra_pnginfo":{"workflow":{"id":"w"}}}`), Previews: true,
		Attempt: job.Attempt{N: 1, RunID: uuid.NewString(), ClientID: d.ClientID()},
	}
}

// Begin prepares and starts a task.
func Begin(ctx context.Context, t *testing.T, d backend.Driver, task backend.Task) *Attempt {
	t.Helper()
	run, err := d.Prepare(ctx, task)
	if err != nil {
		t.Fatal("Prepare: ", err)
	}
	return follow(ctx, task, run)
}

func follow(ctx context.Context, task backend.Task, run backend.Run) *Attempt {
	a := &Attempt{Task: task, Run: run, seen: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.Result, a.Err = run.Start(ctx, func() { a.Posted++ }, func(u backend.Update) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.Updates = append(a.Updates, u)
			close(a.seen)
			a.seen = make(chan struct{})
			return nil
		})
	}()
	return a
}

// Await waits for a frame of the type.
func (a *Attempt) Await(t *testing.T, typ string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		a.mu.Lock()
		seen := a.seen
		for _, u := range a.Updates {
			if u.Type == typ {
				a.mu.Unlock()
				return
			}
		}
		a.mu.Unlock()
		select {
		case <-seen:
		case <-a.done:
			t.Fatalf("the run ended without %s: %s, %v", typ, a.Result.State, a.Err)
		case <-timeout:
			t.Fatalf("no %s came", typ)
		}
	}
}

// Seen is how many frames came until now.
func (a *Attempt) Seen() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.Updates)
}

// Wait waits for the end.
func (a *Attempt) Wait(t *testing.T) {
	t.Helper()
	select {
	case <-a.done:
	case <-time.After(patience):
		t.Fatal("the run does not end")
	}
}

// Want waits for the end and checks it, and closes the run.
func (a *Attempt) Want(t *testing.T, want job.State) {
	t.Helper()
	a.Wait(t)
	if a.Err != nil || a.Result.State != want {
		t.Fatalf("the run ended as %q, %v; want %q", a.Result.State, a.Err, want)
	}
	if a.Posted != 1 {
		t.Errorf("posted was called %d times", a.Posted)
	}
	for what, raw := range map[string]json.RawMessage{"outputs": a.Result.Outputs, "messages": a.Result.Messages, "meta": a.Result.Meta} {
		if !json.Valid(raw) {
			t.Errorf("%s are not JSON: %s", what, raw)
		}
	}
	if err := errors.Join(a.Run.Close(), a.Run.Close()); err != nil {
		t.Error("Close: ", err)
	}
}

// types lists the types of the JSON frames.
func (a *Attempt) types() (all []string) {
	for _, u := range a.Updates {
		if u.Binary == nil {
			all = append(all, u.Type)
		}
	}
	return all
}

func testProbe(t *testing.T, _ Harness, d backend.Driver) {
	s, err := d.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Version == "" || s.Epoch == "" || len(s.Devices) == 0 || !json.Valid(s.ObjectInfo) || !json.Valid(s.System) || s.QueueOther != 0 {
		t.Errorf("snapshot: version %q, epoch %q, %d devices, %d bytes of nodes, %d other runs",
			s.Version, s.Epoch, len(s.Devices), len(s.ObjectInfo), s.QueueOther)
	}
	again, err := d.Probe(t.Context())
	if err != nil || again.ObjectInfo != nil || again.Epoch != s.Epoch {
		t.Errorf("the second probe: %d bytes of nodes, epoch %q, %v", len(again.ObjectInfo), again.Epoch, err)
	}
}

func testText(t *testing.T, h Harness, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, h.Text))
	a.Want(t, job.Completed)
	if !strings.Contains(string(a.Result.Outputs), "hello") || a.Result.Gap && h.Blind == "" {
		t.Errorf("outputs %s, gap %t", a.Result.Outputs, a.Result.Gap)
	}
	types := a.types()
	if h.Blind != "" && a.Result.Gap {
		t.Logf("frames may be missing: %s; there were %v", h.Blind, types)
	} else if len(types) < 3 || types[0] != "execution_start" || types[len(types)-1] != "execution_success" {
		t.Errorf("frames: %v", types)
	}
	for _, u := range a.Updates {
		if u.Type == "executing" && u.Node == "" {
			t.Error("the end was told as a frame")
		}
	}
}

// file returns the one file that outputs name.
func file(t *testing.T, outputs json.RawMessage) backend.FileRef {
	t.Helper()
	var nodes map[string]map[string]json.RawMessage
	if err := json.Unmarshal(outputs, &nodes); err != nil {
		t.Fatal(err)
	}
	for _, lists := range nodes {
		for _, list := range lists {
			var refs []backend.FileRef
			if json.Unmarshal(list, &refs) == nil && len(refs) == 1 && refs[0].Filename != "" {
				return refs[0]
			}
		}
	}
	t.Fatalf("no file in %s", outputs)
	return backend.FileRef{}
}

func fetch(t *testing.T, r backend.Run, f backend.FileRef) []byte {
	t.Helper()
	body, err := r.Fetch(t.Context(), f)
	if err != nil {
		t.Fatal("Fetch: ", err)
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal("Fetch: ", err)
	}
	return b
}

func testPicture(t *testing.T, h Harness, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, h.Picture))
	a.Wait(t)
	ref := file(t, a.Result.Outputs)
	if len(fetch(t, a.Run, ref)) == 0 {
		t.Error("the file is empty")
	}
	ref.Filename = "none_" + ref.Filename
	if _, err := a.Run.Fetch(t.Context(), ref); !fault.Is(err, fault.Missing) {
		t.Errorf("a file that is not there: %v", err)
	}
	a.Want(t, job.Completed)
}

func testFail(t *testing.T, h Harness, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, h.Fail))
	a.Want(t, job.Failed)
	if !strings.Contains(string(a.Result.Messages), "execution_error") {
		t.Errorf("messages: %s", a.Result.Messages)
	}
}

func testRefused(t *testing.T, h Harness, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, h.Refused))
	a.Wait(t)
	refused, ok := errors.AsType[*backend.Refused](a.Err)
	if !ok || a.Posted != 0 {
		t.Fatalf("err = %v, posted %d times", a.Err, a.Posted)
	}
	var body struct {
		Error      struct{ Type string }
		NodeErrors map[string]json.RawMessage `json:"node_errors"`
	}
	if err := json.Unmarshal(refused.Body, &body); err != nil || body.Error.Type == "" || len(body.NodeErrors) == 0 {
		t.Errorf("body: %s, %v", refused.Body, err)
	}
	if err := a.Run.Close(); err != nil {
		t.Error(err)
	}
}

func testInput(t *testing.T, h Harness, d backend.Driver) {
	task := NewTask(d, h.Input)
	opened := 0
	task.Uploads = []backend.Upload{{Name: h.InputName, Size: int64(len(h.InputBody)), Open: func() (io.ReadCloser, error) {
		opened++
		return io.NopCloser(strings.NewReader(string(h.InputBody))), nil
	}}}
	a := Begin(t.Context(), t, d, task)
	a.Wait(t)
	if len(fetch(t, a.Run, file(t, a.Result.Outputs))) == 0 {
		t.Error("the file is empty")
	}
	a.Want(t, job.Completed)
	for range h.Containers - 1 { // each may have to be sent the input once
		task.Attempt = NewTask(d, nil).Attempt
		Begin(t.Context(), t, d, task).Want(t, job.Completed)
	}
	if opened > max(h.Containers, 1) {
		t.Errorf("an input was sent %d times to %d containers", opened, max(h.Containers, 1))
	}
	first := opened
	task.Attempt = NewTask(d, nil).Attempt
	Begin(t.Context(), t, d, task).Want(t, job.Completed)
	if h.Containers < 2 && opened != first {
		t.Error("an input that is there was sent again")
	}
}

func testInterrupt(t *testing.T, h Harness, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, h.Slow))
	a.Await(t, "progress")
	waiting := Begin(t.Context(), t, d, NewTask(d, h.Slow))
	for waiting.Run.Interrupt(t.Context()) != nil || !closed(waiting.done, time.Second) {
		if t.Failed() {
			return
		}
	}
	waiting.Wait(t)
	if waiting.Err != nil || waiting.Result.State != job.Cancelled {
		t.Errorf("a waiting run that is interrupted: %s, %v", waiting.Result.State, waiting.Err)
	}
	if err := waiting.Run.Close(); err != nil {
		t.Error(err)
	}
	if closed(a.done, 0) {
		t.Fatal("the other run was stopped")
	}
	if err := a.Run.Interrupt(t.Context()); err != nil {
		t.Fatal("Interrupt: ", err)
	}
	a.Want(t, job.Cancelled)
	if !strings.Contains(string(a.Result.Messages), "execution_interrupted") {
		t.Errorf("messages: %s", a.Result.Messages)
	}
	if err := a.Run.Interrupt(t.Context()); err != nil {
		t.Error("Interrupt of a run that is over: ", err)
	}
}

// closed reports whether c is closed within d.
func closed(c <-chan struct{}, d time.Duration) bool {
	select {
	case <-c:
		return true
	default:
	}
	select {
	case <-c:
		return true
	case <-time.After(d):
		return false
	}
}

func testResume(t *testing.T, h Harness, d backend.Driver) {
	over := Begin(t.Context(), t, d, NewTask(d, h.Text))
	over.Wait(t) // and not closed: its process dies here
	ctx, die := context.WithCancel(t.Context())
	running := Begin(ctx, t, d, NewTask(d, h.Slow))
	running.Await(t, "progress")
	die()
	running.Wait(t)
	if !errors.Is(running.Err, context.Canceled) {
		t.Errorf("Start with a cancelled context: %v", running.Err)
	}
	later := h.Open(t)
	defer later.Close()
	again := func(task backend.Task) *Attempt {
		run, err := later.Resume(t.Context(), task)
		if err != nil {
			t.Fatal("Resume: ", err)
		}
		return follow(t.Context(), task, run)
	}
	a := again(over.Task)
	a.Want(t, job.Completed)
	if !strings.Contains(string(a.Result.Outputs), "hello") || !a.Result.Gap {
		t.Errorf("outputs %s, gap %t", a.Result.Outputs, a.Result.Gap)
	}
	a = again(running.Task)
	a.Await(t, "progress")
	if err := a.Run.Interrupt(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.Want(t, job.Cancelled)
	if _, err := later.Resume(t.Context(), NewTask(later, h.Text)); !errors.Is(err, backend.ErrUnknownRun) {
		t.Errorf("Resume of a run that never was: %v", err)
	}
}

func testPrepared(t *testing.T, h Harness, d backend.Driver) {
	task := NewTask(d, h.Text)
	run, err := d.Prepare(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	if run.Epoch() == "" {
		t.Error("no epoch")
	}
	if err := errors.Join(run.Close(), run.Close()); err != nil {
		t.Error(err)
	}
	if _, err := d.Resume(t.Context(), task); !errors.Is(err, backend.ErrUnknownRun) {
		t.Errorf("a prepared run was posted: %v", err)
	}
	stopped := Begin(t.Context(), t, d, NewTask(d, h.Text))
	stopped.Want(t, job.Completed)
}

func testCancel(t *testing.T, h Harness, d backend.Driver) {
	ctx, die := context.WithCancel(t.Context())
	a := Begin(ctx, t, d, NewTask(d, h.Slow))
	a.Await(t, "progress")
	die()
	a.Wait(t)
	d.Cancel(a.Task.Attempt.RunID)
	next := Begin(t.Context(), t, d, NewTask(d, h.Text)) // gets its turn once the other is gone
	next.Want(t, job.Completed)
}
