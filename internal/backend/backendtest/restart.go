package backendtest

import (
	"errors"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/job"
)

func testRestart(t *testing.T, h Harness, d backend.Driver) {
	if h.Restart == nil {
		t.Skip("this back end can't be started anew")
	}
	before, err := d.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a := Begin(t.Context(), t, d, NewTask(d, h.Slow))
	a.Await(t, "progress")
	h.Restart(t)
	a.Wait(t)
	if !errors.Is(a.Err, backend.ErrLost) {
		t.Errorf("err = %v, want ErrLost", a.Err)
	}
	if err := a.Run.Close(); err != nil {
		t.Error(err)
	}
	after, err := d.Probe(t.Context())
	if err != nil || after.Epoch == before.Epoch {
		t.Errorf("epoch %q before and %q after, %v", before.Epoch, after.Epoch, err)
	}
	Begin(t.Context(), t, d, NewTask(d, h.Text)).Want(t, job.Completed)
}

// testRestartBetween restarts the back end while a run waits for its turn, and while its results wait to be fetched.
func testRestartBetween(t *testing.T, h Harness, d backend.Driver) {
	if h.Restart == nil {
		t.Skip("this back end can't be started anew")
	}
	task := NewTask(d, h.Picture)
	run, err := d.Prepare(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	before := run.Epoch()
	h.Restart(t)
	if _, err := d.Probe(t.Context()); err != nil { // it notices
		t.Fatal(err)
	}
	a := follow(t.Context(), task, run)
	a.Wait(t)
	if a.Err != nil || run.Epoch() == before {
		t.Fatalf("after a restart: %v; epoch %q was %q", a.Err, run.Epoch(), before)
	}
	made := file(t, a.Result.Outputs)
	fetch(t, run, made)
	h.Restart(t)
	if _, err := d.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.Brings {
		fetch(t, run, made)
		if err := run.Close(); err != nil {
			t.Error(err)
		}
		return
	}
	for _, f := range []backend.FileRef{made, {Filename: "gone_00001_.png", Type: "temp"}} {
		if _, err := run.Fetch(t.Context(), f); !errors.Is(err, backend.ErrLost) {
			t.Errorf("%s of the start before: %v, want ErrLost", f.Filename, err)
		}
	}
	if err := run.Close(); err != nil {
		t.Error(err)
	}
}

// testDeadly runs graphs that the back end dies of. It may not get to say that it began: they are named all the same. Where
// there are several containers, one may have been at the run that another test gave up: that is soon seen to be gone.
func testDeadly(t *testing.T, h Harness, d backend.Driver) {
	if h.Deadly == nil || h.Restart == nil {
		t.Skip("this back end does not die of a graph, or does not come back")
	}
	for _, graph := range h.Deadly {
		var a *Attempt
		for end := time.Now().Add(patience); ; {
			a = Begin(t.Context(), t, d, NewTask(d, graph))
			a.Wait(t)
			if err := a.Run.Close(); err != nil {
				t.Error(err)
			}
			h.Restart(t) // it is back when this returns
			if _, err := d.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
			named := errors.Is(a.Err, backend.ErrCrashed)
			if named || h.Containers < 2 || !errors.Is(a.Err, backend.ErrLost) || time.Now().After(end) {
				break
			}
		}
		if !errors.Is(a.Err, backend.ErrCrashed) || !errors.Is(a.Err, backend.ErrLost) {
			t.Errorf("%s ends as %q, %v; want ErrCrashed", graph, a.Result.State, a.Err)
		}
		Begin(t.Context(), t, d, NewTask(d, h.Text)).Want(t, job.Completed)
	}
}
