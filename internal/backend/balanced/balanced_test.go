package balanced_test

import (
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/balanced"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sim"
	"github.com/ahelme/comfyume/internal/sim/fleet"
)

// refs lists the files of a node.
func refs(t *testing.T, outputs json.RawMessage, node string) []backend.FileRef {
	t.Helper()
	var all map[string]struct{ Images []backend.FileRef }
	if err := json.Unmarshal(outputs, &all); err != nil {
		t.Fatal(err)
	}
	return all[node].Images
}

func closed(t *testing.T, d backend.Driver) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestOwnFolders saves under one name from two nodes, and previews a third: all three are told as they were asked for,
// each file is its own node's, and nothing stays in the shared folder.
func TestOwnFolders(t *testing.T) {
	t.Parallel()
	e := serve(t, fleet.Options{Replicas: 3, Warm: 3, PerReplica: 4, FreeSockets: true}, sim.Options{}, true)
	d := e.open(t)
	defer closed(t, d)
	graph := `{` + empty + `,"9":{"class_type":"EmptyImage","inputs":{"width":32,"height":32,"batch_size":1,"color":65280}},
		"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"a/same"}},
		"3":{"class_type":"SaveImage","inputs":{"images":["9",0],"filename_prefix":"a/same"}},
		"4":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}}`
	a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, json.RawMessage(graph)))
	a.Wait(t)
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	seen := map[string]string{}
	for node, typ := range map[string]string{"2": "output", "3": "output", "4": "temp"} {
		list := refs(t, a.Result.Outputs, node)
		if len(list) != 1 || list[0].Type != typ || strings.Contains(list[0].Subfolder, a.Task.Attempt.RunID) {
			t.Fatalf("node %s: %+v", node, list)
		}
		if typ == "output" && list[0].Subfolder != "a" {
			t.Errorf("node %s: %+v", node, list)
		}
		body, err := a.Run.Fetch(t.Context(), list[0])
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(body)
		if err != nil || body.Close() != nil {
			t.Fatal(err)
		}
		seen[node] = string(b)
	}
	if seen["2"] == seen["3"] || len(seen["2"]) == len(seen["3"]) {
		t.Error("two nodes gave one file")
	}
	other := backend.FileRef{Filename: "x_00001_.png", Type: "output"}
	if _, err := a.Run.Fetch(t.Context(), other); !fault.Is(err, fault.Missing) || !strings.Contains(err.Error(), "own folder") {
		t.Errorf("a file outside of the run's folders: %v", err)
	}
	a.Want(t, job.Completed)
	closed(t, d)
	if left, err := filepath.Glob(filepath.Join(e.outputs, "comfyume-*")); err != nil || len(left) != 0 {
		t.Errorf("in the shared folder stay %v, %v", left, err)
	}
}

// TestRefusedNames refuses prefixes whose files could not be found, or would be somebody else's.
func TestRefusedNames(t *testing.T) {
	t.Parallel()
	e := serve(t, fleet.Options{Replicas: 1}, sim.Options{}, true)
	d := e.open(t)
	defer closed(t, d)
	for value, says := range map[string]string{`["1",0]`: "computed by another node", `"../x"`: "leads out", `"a\\..\\x"`: "leads out"} {
		graph := `{"2":{"class_type":"SaveImage","inputs":{"filename_prefix":` + value + `}}}`
		_, err := d.Prepare(t.Context(), backendtest.NewTask(d, json.RawMessage(graph)))
		refused, ok := errors.AsType[*backend.Refused](err)
		if !ok || !strings.Contains(string(refused.Body), says) || !json.Valid(refused.Body) {
			t.Errorf("%s: %v", value, err)
		}
	}
	if c, err := e.Counters(); err != nil || c.Requests != 0 {
		t.Errorf("the endpoint was asked: %+v, %v", c, err)
	}
}

// TestScaledDown names the cause when a replica is put to sleep while it works at what returned at once.
func TestScaledDown(t *testing.T) {
	t.Parallel()
	e := serve(t, fleet.Options{Replicas: 2, PerReplica: 4}, sim.Options{}, true)
	d := e.open(t)
	defer closed(t, d)
	a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, graphs(t, backendtest.Harness{}).Slow))
	a.Await(t, "progress")
	e.Lose(-1)
	a.Wait(t)
	if !errors.Is(a.Err, backend.ErrLost) || !strings.Contains(a.Err.Error(), "put to sleep or taken away") {
		t.Errorf("the end: %v", a.Err)
	}
	if err := a.Run.Close(); err != nil {
		t.Error(err)
	}
}

// TestFoundInStorage has a replica finish and vanish before any look finds its history.
func TestFoundInStorage(t *testing.T) {
	t.Parallel()
	e := serve(t, fleet.Options{Replicas: 1}, sim.Options{}, true)
	// Looks are trouble from the start: only the POST gets through.
	if err := e.Inject(fleet.Fault{Kind: fleet.Status, Method: "GET", Times: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	d := e.open(t)
	defer closed(t, d)
	task := backendtest.NewTask(d, graphs(t, backendtest.Harness{}).Picture)
	task.Outputs = []string{"2"}
	a := backendtest.Begin(t.Context(), t, d, task)
	until(t, "file", func() bool {
		list, err := filepath.Glob(filepath.Join(e.outputs, "comfyume-*", "suite", "*.png"))
		return err == nil && len(list) == 1
	})
	e.Lose(-1)
	e.Clear()
	a.Wait(t)
	if a.Err != nil || !a.Result.Gap {
		t.Fatalf("the end: %v", a.Err)
	}
	body, err := a.Run.Fetch(t.Context(), refs(t, a.Result.Outputs, "2")[0])
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(body); err != nil || len(b) == 0 || body.Close() != nil {
		t.Error(len(b), err)
	}
	a.Want(t, job.Completed)
}

// TestNotShared says when the shared folder is another one than the replicas'.
func TestNotShared(t *testing.T) {
	t.Parallel()
	e := serve(t, fleet.Options{Replicas: 1, PerReplica: 4}, sim.Options{}, false)
	d := e.open(t)
	defer closed(t, d)
	a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, graphs(t, backendtest.Harness{}).Picture))
	a.Wait(t)
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	if err := e.Inject(fleet.Fault{Kind: fleet.Status, Path: "/view", Times: 1 << 30, Status: 404}); err != nil {
		t.Fatal(err) // the one that has it is out of reach
	}
	_, err := a.Run.Fetch(t.Context(), refs(t, a.Result.Outputs, "2")[0])
	if !errors.Is(err, backend.ErrLost) || !strings.Contains(err.Error(), "not the one that the replicas write to") {
		t.Errorf("Fetch: %v", err)
	}
	a.Want(t, job.Completed)
}

// TestAsleep asks a sleeping endpoint once, and never again without a run.
func TestAsleep(t *testing.T) {
	t.Parallel()
	e := serve(t, fleet.Options{Replicas: 1, IdleAfter: 50 * time.Millisecond}, sim.Options{}, true)
	e.options.ColdAfter = 20 * time.Millisecond
	d := e.open(t)
	defer closed(t, d)
	if s, err := d.Probe(t.Context()); err != nil || s.ObjectInfo == nil {
		t.Fatal(err)
	}
	before, err := e.Counters()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "sleep", func() bool { c, err := e.Counters(); return err == nil && c.Replicas == 0 })
	s, err := d.Probe(t.Context())
	if after, _ := e.Counters(); err != nil || s.Cold == "" || after.Requests != before.Requests {
		t.Errorf("a probe of a sleeping endpoint: cold %q, %d requests more, %v", s.Cold, after.Requests-before.Requests, err)
	}
}

// TestSpread gives an input to replicas that share none, and says when they are too many.
func TestSpread(t *testing.T) {
	t.Parallel()
	e := serve(t, fleet.Options{Replicas: 2, Warm: 2, PerReplica: 4}, sim.Options{}, false)
	until(t, "two replicas", func() bool { c, err := e.Counters(); return err == nil && c.Replicas == 2 })
	e.storage = "file://" + e.outputs
	e.options.Parallel = 2
	d := e.open(t)
	defer closed(t, d)
	h := graphs(t, backendtest.Harness{})
	task := backendtest.NewTask(d, h.Input)
	task.Uploads = []backend.Upload{{Name: h.InputName, Size: int64(len(h.InputBody)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(h.InputBody))), nil
	}}}
	backendtest.Begin(t.Context(), t, d, task).Want(t, job.Completed)
}

// TestWrongStorage refuses what is no shared folder.
func TestWrongStorage(t *testing.T) {
	t.Parallel()
	for storage, says := range map[string]string{
		"": "needs a folder", "s3://b/p": "needs a folder", "file:///a?input=/b": `"input" is no parameter`, "file:///a?inputs=b": "absolute path",
	} {
		if _, err := balanced.New("http://h", storage, balanced.Options{}); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", storage, err)
		}
	}
	d, err := balanced.New("http://127.0.0.1:1", "file://"+filepath.Join(t.TempDir(), "none"), balanced.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, d)
	if _, err := d.Probe(t.Context()); !errors.Is(err, backend.ErrUnreachable) || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("Probe: %v", err)
	}
}

// until waits for what has to come.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("there was no " + what)
		}
	}
}
