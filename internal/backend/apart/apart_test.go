package apart_test

import (
	"encoding/json"
	"io"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/apart"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sim"
)

// TestOneFolderForTwo has two servers write to one folder under one name at the same time, again and again: each run
// gives the picture that it was for.
func TestOneFolderForTwo(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	var drivers []backend.Driver
	for range 2 {
		gpu, err := sim.NewComfyUI(sim.Options{Output: shared, Base: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(gpu.Handler())
		plain, err := comfyui.New(srv.URL, comfyui.Options{})
		if err != nil {
			t.Fatal(err)
		}
		d := apart.Around(plain)
		drivers = append(drivers, d)
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			srv.Close()
			if err := gpu.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range 10 {
		var runs []*backendtest.Attempt
		for k, d := range drivers {
			graph, err := json.Marshal(map[string]any{
				"1": map[string]any{"class_type": "EmptyImage", "inputs": map[string]any{"width": 16 + 16*k, "height": 16, "batch_size": 1, "color": i}},
				"2": map[string]any{"class_type": "SaveImage", "inputs": map[string]any{"images": []any{"1", 0}, "filename_prefix": "sub/same"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			runs = append(runs, backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, graph)))
		}
		for k, a := range runs {
			a.Wait(t)
			var outputs map[string]struct{ Images []backend.FileRef }
			if err := json.Unmarshal(a.Result.Outputs, &outputs); err != nil || len(outputs["2"].Images) != 1 {
				t.Fatalf("%s: %v", a.Result.Outputs, err)
			}
			ref := outputs["2"].Images[0]
			if ref.Subfolder != "sub" || ref.Filename != "same_00001_.png" {
				t.Errorf("told as %+v", ref)
			}
			body, err := a.Run.Fetch(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(body)
			if err != nil || len(b) < 24 || int(b[19]) != 16+16*k {
				t.Errorf("run %d of server %d gave another's picture: %v", i, k, err)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
			a.Want(t, job.Completed)
		}
	}
	if all, err := filepath.Glob(filepath.Join(shared, "comfyume-*", "sub", "*.png")); err != nil || len(all) != 20 {
		t.Errorf("%d files in folders of their own, %v", len(all), err)
	}
}

// TestStrict has previews saved where they can be found, and changes nothing else of a graph, not even the order of its
// words: it is written into the pictures.
func TestStrict(t *testing.T) {
	t.Parallel()
	task := backend.Task{Prompt: json.RawMessage(`{
		"1": {"inputs": {"filename_prefix": "a/b", "images": ["9", 0]}, "class_type": "SaveImage", "_meta": {"title": "x"}},
		"2": {"class_type": "PreviewAudio", "inputs": {"audio": ["8", 0]}}, "3": {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}}}`)}
	task.Attempt.RunID = "run"
	names, task, err := apart.Strict(task)
	if err != nil {
		t.Fatal(err)
	}
	folder := func(place int) string { return backend.RunFolder("run", place) }
	want := `{"1": {"inputs": {"filename_prefix": "` + folder(0) + `/a/b", "images": ["9", 0]}, "class_type": "SaveImage", "_meta": {"title": "x"}}, ` +
		`"2": {"class_type": "SaveAudio", "inputs": {"audio": ["8", 0], "filename_prefix": "` + folder(1) + `/ComfyUI_temp"}}, ` +
		`"3": {"class_type": "SaveImage", "inputs": {"images": ["9", 0], "filename_prefix": "` + folder(2) + `/ComfyUI_temp"}}}`
	if string(task.Prompt) != want {
		t.Errorf("the graph is now\n%s, want\n%s", task.Prompt, want)
	}
	result, err := names.Result(backend.Result{Outputs: json.RawMessage(`{"2": {"audio": [{"filename": "s.flac", "subfolder": "` + folder(1) + `", "type": "output"}]}}`)})
	if err != nil || string(result.Outputs) != `{"2": {"audio": [{"filename": "s.flac", "subfolder": "", "type": "temp"}]}}` {
		t.Errorf("outputs are told as %s (%v)", result.Outputs, err)
	}
}
