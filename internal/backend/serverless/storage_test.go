package serverless_test

import (
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/handover"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// TestWrongStorageCostsNoResult: a container that has another disk mounted than the studio, or a studio whose disk is not
// there, sends outputs with the answer.
func TestWrongStorageCostsNoResult(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	for what, c := range map[string]struct {
		studio, container string
		runs              int // that are left with the container while the run is open
	}{
		"the same disk":          {shared, shared, 1},
		"another disk":           {t.TempDir(), t.TempDir(), 0},
		"no disk at the studio":  {filepath.Join(t.TempDir(), "none"), t.TempDir(), 0},
		"no disk of a container": {t.TempDir(), filepath.Join(t.TempDir(), "none"), 0},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			at := func(dir string) handover.Place {
				p, err := handover.New("file://" + filepath.ToSlash(dir))
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			_, handlers := fakes(t, 1)
			e := newEndpoint(t, oneshot.HandlerOptions{Place: at(c.container)}, handlers...)
			o := newStudio(t).options(t, serverless.Agent)
			o.Place = at(c.studio)
			d := open(t, e.url, o)
			closing(t, d)
			a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, json.RawMessage(`{"1":{"class_type":"Save","inputs":{"text":"pixels"}}}`)))
			a.Wait(t)
			if a.Err != nil || a.Result.State != job.Completed {
				t.Fatalf("the run ended as %q, %v", a.Result.State, a.Err)
			}
			var outputs map[string]map[string][]backend.FileRef
			if err := json.Unmarshal(a.Result.Outputs, &outputs); err != nil {
				t.Fatal(err)
			}
			read := 0
			for _, list := range outputs["1"] {
				for _, f := range list {
					body, err := a.Run.Fetch(t.Context(), f)
					if err != nil {
						t.Fatal(err)
					}
					text, err := io.ReadAll(body)
					if err != nil || !strings.Contains(string(text), "pixels") {
						t.Errorf("%+v holds %q, %v", f, text, err)
					}
					if err := body.Close(); err != nil {
						t.Error(err)
					}
					read++
				}
			}
			runs, err := at(c.container).Runs(t.Context(), time.Now().Add(time.Hour))
			if what != "no disk of a container" && err != nil || len(runs) != c.runs || read == 0 {
				t.Errorf("read %d, left in storage: %q, %v", read, runs, err)
			}
			a.Want(t, job.Completed)
		})
	}
}
