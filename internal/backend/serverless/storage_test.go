package serverless_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/bucket/buckettest"
	"github.com/ahelme/comfyume/internal/fault"
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

// place is a studio's storage that tells of inputs that were put there.
type place struct {
	handover.Place
	handover.Prober
	puts atomic.Int32
	then func(run string) error // after an input was put
	full bool
}

func (p *place) Put(ctx context.Context, run, name string, r io.Reader) (e handover.Entry, err error) {
	if !handover.IsInput(run) {
		return p.Place.Put(ctx, run, name, r)
	}
	p.puts.Add(1)
	if p.full {
		return e, fault.New(fault.Unavailable, "The shared folder is full.")
	}
	if e, err = p.Place.Put(ctx, run, name, r); err == nil && p.then != nil {
		err = p.then(run)
	}
	return e, err
}

func newStore(t *testing.T, address string) *place {
	t.Helper()
	p, err := handover.New(address)
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := p.(io.Closer); ok {
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return &place{Place: p, Prober: p.(handover.Prober)}
}

// received counts the bytes of the requests with jobs.
func received(e *endpoint) *atomic.Int64 {
	var n atomic.Int64
	e.setFront(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/run") {
			n.Add(max(r.ContentLength, 0))
		}
		return false
	})
	return &n
}

func film() ([]byte, backend.Upload) {
	b := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b) // never fails
	return b, backend.Upload{Name: "cmfilm.mp4", Size: int64(len(b)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// TestInputsGoByStorage: a large input is put into storage once, whichever containers lack it, and requests stay small.
func TestInputsGoByStorage(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	for _, mode := range []serverless.Mode{serverless.Agent, serverless.Async} {
		for kind, address := range map[string]string{"folder": "file://" + filepath.ToSlash(t.TempDir()), "bucket": server.Address(string(mode))} {
			t.Run(string(mode)+" "+kind, func(t *testing.T) {
				t.Parallel()
				store := newStore(t, address)
				all, handlers := fakes(t, 2)
				e := newEndpoint(t, oneshot.HandlerOptions{Place: newStore(t, address)}, handlers...)
				sent := received(e)
				o := newStudio(t).options(t, mode)
				o.Place = store
				d := open(t, e.url, o)
				closing(t, d)
				body, upload := film()
				have := func() (n int) {
					for _, f := range all {
						if got, there := f.File("input", upload.Name); there && bytes.Equal(got, body) {
							n++
						}
					}
					return n
				}
				for i := 0; have() < len(all) && i < 10; i++ {
					task := backendtest.NewTask(d, json.RawMessage(saveGraph))
					task.Uploads = []backend.Upload{upload, {Name: "small.txt", Size: 1, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("x")), nil }}}
					backendtest.Begin(t.Context(), t, d, task).Want(t, job.Completed)
				}
				if n := have(); n != len(all) {
					t.Errorf("%d of %d containers have it", n, len(all))
				}
				if store.puts.Load() != 1 || sent.Load() > 100<<10 {
					t.Errorf("it was put %d times, and %d bytes went with requests", store.puts.Load(), sent.Load())
				}
				runs, err := store.Runs(t.Context(), time.Now().Add(time.Hour))
				inputs := slices.DeleteFunc(runs, func(run string) bool { return !handover.IsInput(run) })
				if err != nil || len(inputs) != 1 || !handover.RunOf("suite", inputs[0]) {
					t.Errorf("inputs in storage: %q, %v", inputs, err)
				}
			})
		}
	}
}

// TestStorageOfInputsCostsNoResult: what a container can't have from storage as it was meant goes with the request, and
// nothing else comes near its ComfyUI.
func TestStorageOfInputsCostsNoResult(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		apart, none bool // the container's storage
		full        bool // the studio's
		then        func(dir string) func(run string) error
	}{
		"another disk":      {apart: true},
		"none at container": {none: true},
		"full":              {full: true},
		"damaged": {then: func(dir string) func(string) error {
			return func(run string) error {
				files, err := filepath.Glob(filepath.Join(dir, "comfyume-handover", "runs", run, "*"))
				if err != nil || len(files) != 1 {
					return fmt.Errorf("%q, %w", files, err)
				}
				b, err := os.ReadFile(files[0])
				if err != nil {
					return err
				}
				b[len(b)/2] ^= 1
				return os.WriteFile(files[0], b, 0o600)
			}
		}},
		"cut": {then: func(dir string) func(string) error {
			return func(run string) error {
				files, err := filepath.Glob(filepath.Join(dir, "comfyume-handover", "runs", run, "*"))
				if err != nil || len(files) != 1 {
					return fmt.Errorf("%q, %w", files, err)
				}
				f, err := os.OpenFile(files[0], os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					return err
				}
				_, err = f.WriteString("more")
				return errors.Join(err, f.Close())
			}
		}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			store := newStore(t, "file://"+filepath.ToSlash(dir))
			store.full = c.full
			if c.then != nil {
				store.then = c.then(dir)
			}
			o := oneshot.HandlerOptions{FindFor: 200 * time.Millisecond}
			switch {
			case c.apart:
				o.Place = newStore(t, "file://"+filepath.ToSlash(t.TempDir()))
			case !c.none:
				o.Place = newStore(t, "file://"+filepath.ToSlash(dir))
			}
			all, handlers := fakes(t, 1)
			e := newEndpoint(t, o, handlers...)
			sent := received(e)
			options := newStudio(t).options(t, serverless.Agent)
			options.Place = store
			d := open(t, e.url, options)
			closing(t, d)
			body, upload := film()
			for range 2 {
				task := backendtest.NewTask(d, json.RawMessage(saveGraph))
				task.Uploads = []backend.Upload{upload}
				backendtest.Begin(t.Context(), t, d, task).Want(t, job.Completed)
			}
			if got, there := all[0].File("input", upload.Name); !there || !bytes.Equal(got, body) {
				t.Errorf("the container has %d bytes, %t", len(got), there)
			}
			if n := sent.Load(); n < upload.Size || n > upload.Size+100<<10 || store.puts.Load() != 1 {
				t.Errorf("%d bytes went with requests, it was put %d times", n, store.puts.Load())
			}
		})
	}
}
