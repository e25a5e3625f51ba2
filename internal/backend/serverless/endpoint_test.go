package serverless_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// endpoint is a balancer without affinity before containers, with a provider's queue. It is simulated: made after what
// is known of one provider.
type endpoint struct {
	t   *testing.T
	srv *httptest.Server
	url string

	mu         sync.Mutex
	containers []*box
	turn       int
	front      func(w http.ResponseWriter, r *http.Request) bool // answers in place of a container; nil: never
	later      map[string]*inference
	wg         sync.WaitGroup
	requests   map[string]int
}

// box is one container: an agent beside a ComfyUI.
type box struct {
	server *httptest.Server // of the ComfyUI
	driver *comfyui.Driver
	jobs   *oneshot.Jobs
	ctx    context.Context
	kill   context.CancelFunc
}

// inference is one request in the queue.
type inference struct {
	state  string
	answer *httptest.ResponseRecorder
}

const key = "inference-key"

// newEndpoint serves containers, one for each ComfyUI.
func newEndpoint(t *testing.T, o oneshot.HandlerOptions, comfies ...http.Handler) *endpoint {
	t.Helper()
	return newImpatientEndpoint(t, o, 300*time.Millisecond, comfies...)
}

// newImpatientEndpoint is one whose agents ask a silent ComfyUI about a run after so long.
func newImpatientEndpoint(t *testing.T, o oneshot.HandlerOptions, pollAfter time.Duration, comfies ...http.Handler) *endpoint {
	t.Helper()
	e := &endpoint{t: t, later: map[string]*inference{}, requests: map[string]int{}}
	for _, h := range comfies {
		e.containers = append(e.containers, newBox(t, o, pollAfter, h))
	}
	e.srv = httptest.NewServer(e)
	e.url = e.srv.URL + "/flux"
	t.Cleanup(func() {
		e.mu.Lock()
		boxes := e.containers
		e.containers = nil
		e.mu.Unlock()
		for _, b := range boxes {
			b.close(t)
		}
		e.srv.CloseClientConnections()
		e.srv.Close()
		e.wg.Wait()
	})
	return e
}

func newBox(t testing.TB, o oneshot.HandlerOptions, pollAfter time.Duration, h http.Handler) *box {
	t.Helper()
	b := &box{server: httptest.NewServer(h)}
	var err error
	if b.driver, err = comfyui.New(b.server.URL, comfyui.Options{Studio: "agent", PollAfter: pollAfter, HistoryGrace: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	o.Dir = t.TempDir()
	b.jobs = oneshot.Handler(b.driver, o)
	b.ctx, b.kill = context.WithCancel(context.Background())
	return b
}

func (b *box) close(t testing.TB) {
	b.kill()
	b.jobs.Close()
	if err := b.driver.Close(); err != nil {
		t.Error(err)
	}
	b.server.CloseClientConnections()
	b.server.Close()
}

// next chooses a container.
func (e *endpoint) next() *box {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.containers) == 0 {
		return nil
	}
	e.turn++
	return e.containers[e.turn%len(e.containers)]
}

// lose takes the container away that has a run, as a provider does with spot capacity.
func (e *endpoint) lose(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, b := range e.containers {
		if b.jobs.Container() == name {
			e.containers = append(e.containers[:i:i], e.containers[i+1:]...)
			e.t.Cleanup(func() { b.close(e.t) })
			b.kill()
			return
		}
	}
	e.t.Error("there is no container", name)
}

func (e *endpoint) count(route string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests[route]
}

func (e *endpoint) setFront(f func(w http.ResponseWriter, r *http.Request) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.front = f
}

// ServeHTTP is the provider's side of the endpoint.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	front := e.front
	path, _ := strings.CutPrefix(r.URL.Path, "/flux")
	e.requests[r.Method+" "+path]++
	e.mu.Unlock()
	if front != nil && front(w, r) {
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+key {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch {
	case r.URL.Path == "/status/flux" || r.URL.Path == "/result/flux":
		e.collect(w, r)
	case !strings.HasPrefix(r.URL.Path, "/flux/"):
		http.NotFound(w, r)
	case r.Header.Get("Prefer") == "respond-async":
		e.queue(w, r)
	default:
		b := e.next()
		if b == nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(b.ctx, cancel)()
		r = r.WithContext(ctx)
		r.URL.Path = path
		b.jobs.ServeHTTP(cut{w, b.ctx}, r)
		if b.ctx.Err() != nil {
			panic(http.ErrAbortHandler) // its line is cut
		}
	}
}

// cut lets nothing through of a container that is gone.
type cut struct {
	http.ResponseWriter
	ctx context.Context
}

func (c cut) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.ResponseWriter.Write(b)
}

func (c cut) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// queue takes a request and answers it later.
func (e *endpoint) queue(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	e.mu.Lock()
	id := fmt.Sprintf("inference-%d", len(e.later))
	in := &inference{state: "Queue"}
	e.later[id] = in
	e.mu.Unlock()
	later := r.Clone(context.Background())
	later.URL.Path = "/run"
	later.Body = io.NopCloser(bytes.NewReader(raw))
	e.wg.Go(func() {
		b := e.next()
		e.mu.Lock()
		in.state = "Inference"
		e.mu.Unlock()
		rec := httptest.NewRecorder()
		func() {
			defer func() {
				if v := recover(); v != nil {
					rec = httptest.NewRecorder()
					rec.Code = http.StatusBadGateway
				}
			}()
			b.jobs.ServeHTTP(cut{rec, b.ctx}, later.WithContext(b.ctx))
		}()
		e.mu.Lock()
		defer e.mu.Unlock()
		in.state, in.answer = "Completed", rec
	})
	w.WriteHeader(http.StatusAccepted)
	json.NewEncoder(w).Encode(map[string]string{"Id": id, "StatusPath": "/status/flux", "ResultPath": "/result/flux"})
}

func (e *endpoint) collect(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	in := e.later[r.Header.Get("X-Inference-Id")]
	switch {
	case in == nil:
		http.NotFound(w, r)
	case r.URL.Path == "/status/flux":
		json.NewEncoder(w).Encode(map[string]string{"Status": in.state})
	case in.answer == nil:
		w.WriteHeader(http.StatusConflict)
	default:
		for k, v := range in.answer.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(in.answer.Code)
		w.Write(in.answer.Body.Bytes())
	}
}

// studio is our side: what its drivers have in common.
type studio struct {
	updates *serverless.Updates
	srv     *httptest.Server
	folder  string
}

func newStudio(t *testing.T) *studio {
	t.Helper()
	s := &studio{updates: serverless.NewUpdates([]byte("key of the studio")), folder: t.TempDir()}
	mux := http.NewServeMux()
	mux.Handle("POST /studio/agents/v1/runs/{run}/updates", s.updates)
	s.srv = httptest.NewServer(mux)
	t.Cleanup(func() {
		s.srv.CloseClientConnections()
		s.srv.Close()
	})
	return s
}

// options are those of a driver of this studio.
func (s *studio) options(t *testing.T, mode serverless.Mode) serverless.Options {
	return serverless.Options{
		Name: "flux", Mode: mode, Key: key, Studio: "suite", Folder: s.folder, Spool: t.TempDir(),
		CallBack: s.srv.URL + "/studio/agents/v1/runs", Updates: s.updates, PollEvery: 20 * time.Millisecond,
	}
}

func open(t *testing.T, url string, o serverless.Options) *serverless.Driver {
	t.Helper()
	d, err := serverless.New(url, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var _ backend.Driver = (*serverless.Driver)(nil)
