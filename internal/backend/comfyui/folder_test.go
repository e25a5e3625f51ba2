package comfyui_test

import (
	"bytes"
	"encoding/json"
	"image/png"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/apart"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sim"
)

// TestOneFolderForTwo: servers that write to one folder are found out by themselves, and each run gives its own picture;
// one with a folder of its own writes there as ever.
func TestOneFolderForTwo(t *testing.T) {
	t.Parallel()
	shared, own := t.TempDir(), t.TempDir()
	var folders apart.Folders
	open := func(output string) *comfyui.Driver {
		gpu, err := sim.NewComfyUI(sim.Options{Output: output, Base: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(gpu.Handler())
		d, err := comfyui.New(srv.URL, comfyui.Options{Folders: &folders})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			srv.Close()
			if err := gpu.Close(); err != nil {
				t.Error(err)
			}
		})
		return d
	}
	drivers := []*comfyui.Driver{open(shared), open(shared), open(own)}
	probe := func() {
		for _, d := range drivers {
			if _, err := d.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	probe()
	if !folders.Shared(drivers[2]) {
		t.Error("a mark that was made just now is taken for certain")
	}
	probe()
	begin := func(k, color int) *backendtest.Attempt {
		graph, err := json.Marshal(map[string]any{
			"1": map[string]any{"class_type": "EmptyImage", "inputs": map[string]any{"width": 16 + 16*k, "height": 16, "batch_size": 1, "color": color}},
			"2": map[string]any{"class_type": "SaveImage", "inputs": map[string]any{"images": []any{"1", 0}, "filename_prefix": "same"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return backendtest.Begin(t.Context(), t, drivers[k], backendtest.NewTask(drivers[k], graph))
	}
	end := func(a *backendtest.Attempt, k int, name string) {
		t.Helper()
		a.Wait(t)
		var outputs map[string]struct{ Images []backend.FileRef }
		if err := json.Unmarshal(a.Result.Outputs, &outputs); err != nil || len(outputs["2"].Images) != 1 {
			t.Fatalf("%s: %v", a.Result.Outputs, err)
		}
		ref := outputs["2"].Images[0]
		if ref.Subfolder != "" || ref.Filename != name {
			t.Errorf("told as %+v", ref)
		}
		body, err := a.Run.Fetch(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(body)
		if err := body.Close(); err != nil {
			t.Error(err)
		}
		c, err2 := png.DecodeConfig(bytes.NewReader(b))
		if err != nil || err2 != nil || c.Width != 16+16*k {
			t.Errorf("server %d gave a picture of width %d, %v, %v", k, c.Width, err, err2)
		}
		a.Want(t, job.Completed)
	}
	for i := range 5 {
		one, other := begin(0, i), begin(1, i)
		end(one, 0, "same_00001_.png")
		end(other, 1, "same_00001_.png")
	}
	if all, err := filepath.Glob(filepath.Join(shared, "comfyume-*", "same_00001_.png")); err != nil || len(all) != 10 {
		t.Errorf("%d files in folders of their own, %v", len(all), err)
	}
	end(begin(2, 0), 2, "same_00001_.png")
	if _, err := os.Stat(filepath.Join(own, "same_00001_.png")); err != nil {
		t.Error("one alone writes elsewhere:", err)
	}
	if err := drivers[1].Close(); err != nil {
		t.Fatal(err)
	}
	end(begin(0, 9), 0, "same_00001_.png")
	if _, err := os.Stat(filepath.Join(shared, "same_00001_.png")); err != nil {
		t.Error("the last one that is left writes elsewhere:", err)
	}
}

// TestResumeOfOneApart: after a restart of ours it is not known any more how a run was posted.
func TestResumeOfOneApart(t *testing.T) {
	t.Parallel()
	gpu, err := sim.NewComfyUI(sim.Options{Base: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gpu.Handler())
	t.Cleanup(func() {
		srv.Close()
		if err := gpu.Close(); err != nil {
			t.Error(err)
		}
	})
	var folders apart.Folders
	d, err := comfyui.New(srv.URL, comfyui.Options{Folders: &folders})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	folders.Note("another", "", false)
	task := backendtest.NewTask(d, json.RawMessage(`{"1":{"class_type":"EmptyImage","inputs":{"width":16,"height":16,"batch_size":1,"color":1}},
		"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"a"}}}`))
	a := backendtest.Begin(t.Context(), t, d, task)
	a.Wait(t) // and not closed: its process dies here
	folders.Leave("another")
	run, err := d.Resume(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	result, err := run.Start(t.Context(), func() {}, func(backend.Update) error { return nil })
	if err != nil || !bytes.Contains(result.Outputs, []byte(`"subfolder": ""`)) {
		t.Errorf("%s, %v", result.Outputs, err)
	}
	body, err := run.Fetch(t.Context(), backend.FileRef{Filename: "a_00001_.png", Type: "output"})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, body); err != nil || n == 0 {
		t.Error(n, err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	if err := run.Close(); err != nil {
		t.Error(err)
	}
}
