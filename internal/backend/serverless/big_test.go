package serverless_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/oneshot"
)

const big = 200 << 20

// zeros is a file of any size that takes no memory.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

// sink takes uploads without keeping them, and gives files that take no memory.
func sink(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/upload/image" && r.ContentLength > 1<<20:
			if n, err := io.Copy(io.Discard, r.Body); err != nil || n < big {
				w.WriteHeader(http.StatusBadRequest)
			}
		case r.URL.Path == "/view" && r.URL.Query().Get("type") == "output":
			w.Header().Set("Content-Length", fmt.Sprint(int64(big)))
			io.Copy(w, &zeros{big})
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// heapPeak samples what the whole process has on its heap until the returned function is called.
func heapPeak() (peak func() uint64) {
	debug.FreeOSMemory() // what other tests left
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
		most, tick := uint64(0), time.NewTicker(2*time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64()+sample[1].Value.Uint64())
			select {
			case <-tick.C:
			case <-stop:
				done <- most
				return
			}
		}
	}()
	return func() uint64 { close(stop); return <-done }
}

// TestBigFilesTakeLittleMemory sends 200 MB in and out. Both ends are in this process, with the simulated ComfyUI.
func TestBigFilesTakeLittleMemory(t *testing.T) { // not parallel: it measures
	fake := backendtest.NewFake()
	t.Cleanup(fake.Close)
	e := newEndpoint(t, oneshot.HandlerOptions{}, sink(fake.Handler()))
	d := open(t, e.url, newStudio(t).options(t, serverless.Agent))
	closing(t, d)
	if _, err := d.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	peak := heapPeak()
	task := backendtest.NewTask(d, json.RawMessage(saveGraph))
	task.Uploads = []backend.Upload{{Name: "film.mp4", Size: big, Open: func() (io.ReadCloser, error) { return io.NopCloser(&zeros{big}), nil }}}
	a := backendtest.Begin(t.Context(), t, d, task)
	a.Wait(t)
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	body, err := a.Run.Fetch(t.Context(), backend.FileRef{Filename: "fake_00001_.png", Type: "output"})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, body); n != big || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	body.Close()
	a.Want(t, job.Completed)
	if most := peak(); most > 32<<20 {
		t.Errorf("%d MB on the heap for both ends and the ComfyUI", most>>20)
	} else {
		t.Logf("%.1f MB on the heap for both ends and the ComfyUI", float64(most)/(1<<20))
	}
}

// BenchmarkBigOutput is how fast a 200 MB output comes to the studio's disk: through an agent, and plainly from the
// ComfyUI's own address.
func BenchmarkBigOutput(b *testing.B) {
	fake := backendtest.NewFake()
	defer fake.Close()
	server := httptest.NewServer(sink(fake.Handler()))
	defer server.Close()
	b.Run("plain", func(b *testing.B) {
		b.SetBytes(big)
		for range b.N {
			resp, err := http.Get(server.URL + "/view?type=output")
			if err != nil {
				b.Fatal(err)
			}
			f, err := os.Create(filepath.Join(b.TempDir(), "out"))
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(f, resp.Body); n != big || err != nil {
				b.Fatal(n, err)
			}
			resp.Body.Close()
			f.Close()
			os.Remove(f.Name())
		}
	})
	b.Run("agent", func(b *testing.B) {
		box := newBox(b, oneshot.HandlerOptions{}, 5*time.Second, sink(fake.Handler()))
		defer box.close(b)
		agent := httptest.NewServer(box.jobs)
		defer agent.Close()
		d, err := serverless.New(agent.URL, serverless.Options{Name: "big", Spool: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		b.SetBytes(big)
		for range b.N {
			run, err := d.Prepare(b.Context(), backendtest.NewTask(d, json.RawMessage(saveGraph)))
			if err != nil {
				b.Fatal(err)
			}
			if r, err := run.Start(b.Context(), func() {}, func(backend.Update) error { return nil }); err != nil || r.State != job.Completed {
				b.Fatal(r.State, err)
			}
			if err := run.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkTrivialJob is how long a job takes that does nothing: directly at the ComfyUI, and in one request through an
// agent beside it.
func BenchmarkTrivialJob(b *testing.B) {
	fake := backendtest.NewFake()
	defer fake.Close()
	box := newBox(b, oneshot.HandlerOptions{}, 5*time.Second, fake.Handler())
	defer box.close(b)
	agent := httptest.NewServer(box.jobs)
	defer agent.Close()
	one, err := serverless.New(agent.URL, serverless.Options{Name: "trivial", Folder: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer one.Close()
	for name, d := range map[string]backend.Driver{"direct": box.driver, "agent": one} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				task := backendtest.NewTask(d, json.RawMessage(textGraph))
				task.Outputs, task.Core = []string{"1"}, true
				run, err := d.Prepare(b.Context(), task)
				if err != nil {
					b.Fatal(err)
				}
				if r, err := run.Start(b.Context(), func() {}, func(backend.Update) error { return nil }); err != nil || r.State != job.Completed {
					b.Fatal(r.State, err)
				}
				if err := run.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
