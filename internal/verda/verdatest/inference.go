package verdatest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
)

// The states of an asynchronous request.
const (
	Initialized = "Initialized"
	Queue       = "Queue"
	Inference   = "Inference"
	Completed   = "Completed"
)

// result is an asynchronous request.
type result struct {
	deployment string
	state      string
	answer     *httptest.ResponseRecorder // of the container
}

// inference answers a request of the inference side: /DEPLOYMENT/…, /status/DEPLOYMENT and /result/DEPLOYMENT.
func (f *Fake) inference(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+f.o.InferenceKey {
		refuse(w, http.StatusUnauthorized, "unauthorized", "the inference key is wrong", "")
		return
	}
	first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if first == "status" || first == "result" {
		f.collect(w, r, first, rest)
		return
	}
	f.mu.Lock()
	d := f.deployments[first]
	paused := d != nil && d.paused
	f.mu.Unlock()
	switch {
	case d == nil:
		refuse(w, http.StatusNotFound, "not_found", "there is no such deployment", "")
		return
	case paused:
		refuse(w, http.StatusServiceUnavailable, "paused", "the deployment is paused", "")
		return
	}
	body, err := io.ReadAll(r.Body) // a request waits in the queue whole
	if err != nil {
		return
	}
	inner := r.Clone(r.Context())
	inner.Body = io.NopCloser(bytes.NewReader(body))
	inner.URL.Path, inner.URL.RawPath = "/"+rest, ""
	switch r.Header.Get("Prefer") {
	case "respond-async", "respond-async-proxy":
		f.later(w, inner, body, d, r.Header.Get("Prefer") == "respond-async-proxy")
	default: // respond-async-container is the container's matter
		f.now(w, inner, d)
	}
}

// now answers a request while whoever asked waits.
func (f *Fake) now(w http.ResponseWriter, r *http.Request, d *deployment) {
	on := d.enter(r.Context())
	if on == nil {
		if r.Context().Err() == nil {
			refuse(w, http.StatusServiceUnavailable, "dropped", "the request left the queue without an answer", "")
		}
		return
	}
	defer d.leave(on)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	done := make(chan any, 1)
	out := &guarded{ResponseWriter: w, lost: on.lost}
	go func() {
		defer func() { done <- recover() }()
		on.serve.ServeHTTP(out, r.WithContext(ctx))
	}()
	select {
	case p := <-done:
		if p != nil {
			panic(p)
		}
	case <-on.lost: // whatever it answers now arrives nowhere
		cancel()
		<-done
		panic(http.ErrAbortHandler)
	}
}

// guarded lets nothing through of a replica that is lost.
type guarded struct {
	http.ResponseWriter
	lost chan struct{}
}

func (g *guarded) Write(p []byte) (int, error) {
	select {
	case <-g.lost:
		return 0, io.ErrClosedPipe
	default:
		return g.ResponseWriter.Write(p)
	}
}

// Unwrap lets http.ResponseController flush.
func (g *guarded) Unwrap() http.ResponseWriter { return g.ResponseWriter }

// later takes a request into the provider's queue and answers with where its result will be.
func (f *Fake) later(w http.ResponseWriter, r *http.Request, body []byte, d *deployment, forget bool) {
	f.mu.Lock()
	select {
	case <-f.closed:
		f.mu.Unlock()
		return
	default:
	}
	id := fmt.Sprintf("inference-%d", len(f.results)+1)
	res := &result{deployment: d.name, state: Initialized}
	f.results[id] = res
	f.work.Add(1)
	f.mu.Unlock()
	go func() {
		defer f.work.Done()
		f.run(r.Clone(context.Background()), body, d, res)
	}()
	if forget {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	answer(w, http.StatusAccepted, map[string]any{"Id": id, "StatusPath": "/status/" + d.name, "ResultPath": "/result/" + d.name})
}

// run works on an asynchronous request, again when its replica is lost, unless that is forgotten.
func (f *Fake) run(r *http.Request, body []byte, d *deployment, res *result) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	set := func(state string, answer *httptest.ResponseRecorder) {
		f.mu.Lock()
		res.state, res.answer = state, answer
		f.mu.Unlock()
	}
	failed := func(message string) {
		rec := httptest.NewRecorder()
		refuse(rec, http.StatusBadGateway, "lost", message, "")
		set(Completed, rec)
	}
	for {
		set(Queue, nil)
		on := d.enter(ctx)
		if on == nil {
			failed("the request left the queue without an answer")
			return
		}
		set(Inference, nil)
		rec, done := httptest.NewRecorder(), make(chan struct{})
		attempt, stop := context.WithCancel(ctx)
		again := r.Clone(attempt)
		again.Body = io.NopCloser(bytes.NewReader(body))
		go func() {
			defer close(done)
			defer func() {
				if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it so, too
					panic(p) // a container that ends the connection has no answer, and no more than that
				}
			}()
			on.serve.ServeHTTP(rec, again)
		}()
		lost := false
		select {
		case <-done:
		case <-on.lost:
			lost = true
		case <-f.closed:
			lost = true
		}
		stop()
		<-done
		d.leave(on)
		select {
		case <-f.closed:
			return
		default:
		}
		switch {
		case !lost:
			set(Completed, rec)
			return
		case f.o.Forgets:
			failed("the container was lost")
			return
		}
	}
}

// collect answers questions about an asynchronous request, which header X-Inference-Id names.
func (f *Fake) collect(w http.ResponseWriter, r *http.Request, what, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := r.Header.Get("X-Inference-Id")
	res := f.results[id]
	switch {
	case res == nil || res.deployment != name:
		refuse(w, http.StatusNotFound, "not_found", "there is no such inference", "")
	case what == "status":
		answer(w, http.StatusOK, map[string]any{"Id": id, "Status": res.state})
	case res.state != Completed: // the real one's answer is unknown
		refuse(w, http.StatusConflict, "not_completed", "the inference is not completed", "")
	default:
		for key, values := range res.answer.Header() {
			w.Header()[key] = values
		}
		w.WriteHeader(res.answer.Code)
		w.Write(res.answer.Body.Bytes()) //nolint:errcheck // who asked may be gone
	}
}
