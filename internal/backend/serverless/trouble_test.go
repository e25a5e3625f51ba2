package serverless_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/oneshot"
)

const (
	textGraph = `{"1":{"class_type":"Text","inputs":{"text":"hello"}}}`
	saveGraph = `{"1":{"class_type":"Save","inputs":{"text":"pixels"}}}`
	tickGraph = `{"1":{"class_type":"Tick","inputs":{}}}`
)

// fakes returns ComfyUI servers.
func fakes(t *testing.T, n int) (all []*backendtest.Fake, handlers []http.Handler) {
	t.Helper()
	for range n {
		f := backendtest.NewFake()
		t.Cleanup(f.Close)
		all, handlers = append(all, f), append(handlers, f.Handler())
	}
	return all, handlers
}

func closing(t *testing.T, d backend.Driver) {
	t.Helper()
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

func page(status int, contentType, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		w.Write([]byte(body))
		return true
	}
}

// TestTroubleIsNamed wants each trouble told apart, in one sentence with a remedy, by a probe and by a run alike.
func TestTroubleIsNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		front func(http.ResponseWriter, *http.Request) bool
		class error
		code  string
		says  string
	}{
		"key":        {page(401, "application/json", `{"message":"no"}`), backend.ErrNotComfyUI, serverless.CodeKey, "backends.key"},
		"forbidden":  {page(403, "text/html", "<html>no"), backend.ErrNotComfyUI, serverless.CodeKey, "backends.key"},
		"deployment": {page(404, "application/json", `{}`), backend.ErrNotComfyUI, serverless.CodeDeployment, "backends.url"},
		"down":       {page(503, "text/html", "<html><title>Service Unavailable</title>"), backend.ErrUnreachable, serverless.CodeDown, "deployment's state"},
		"gateway":    {page(504, "text/html", "<html>"), backend.ErrUnreachable, serverless.CodeTimeout, "async"},
		"page":       {page(200, "text/html", "<html><head><title>Sign in</title>"), backend.ErrNotComfyUI, serverless.CodePage, "sign-in"},
		"other":      {page(200, "application/json", `{"prompt_id":"x"}`), backend.ErrNotComfyUI, serverless.CodeDeployment, "agent --listen"},
		"redirect":   {page(302, "text/html", ""), backend.ErrNotComfyUI, serverless.CodeDeployment, "backends.url"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, handlers := fakes(t, 1)
			e := newEndpoint(t, oneshot.HandlerOptions{}, handlers...)
			e.setFront(c.front)
			o := newStudio(t).options(t, serverless.Agent)
			o.LostAfter = 50 * time.Millisecond
			d := open(t, e.url, o)
			closing(t, d)
			_, err := d.Probe(t.Context())
			named(t, "Probe", err, c.class, c.code, c.says)
			a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, json.RawMessage(textGraph)))
			a.Wait(t)
			named(t, "Start", a.Err, c.class, c.code, c.says)
			if err := a.Run.Close(); err != nil || a.Posted != 0 {
				t.Error(err, a.Posted)
			}
			e.setFront(nil) // it comes back by itself
			if _, err := d.Probe(t.Context()); err != nil {
				t.Error("afterwards:", err)
			}
		})
	}
}

func named(t *testing.T, what string, err, class error, code, says string) {
	t.Helper()
	e, ok := errors.AsType[*fault.Error](err)
	if !errors.Is(err, class) || !ok || e.Code != code || !strings.Contains(e.Remedy, says) {
		t.Errorf("%s: %v, want %v, code %s", what, err, class, code)
	}
	if err != nil && strings.Contains(err.Error(), key) {
		t.Errorf("%s: the key is in %v", what, err)
	}
}

func TestLineTroubleIsNamed(t *testing.T) {
	t.Parallel()
	const gone = "http://127.0.0.1:1" // a port of a server that was closed may be another's by now
	strange := httptest.NewTLSServer(http.NotFoundHandler())
	defer strange.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for address, code := range map[string]string{
		gone: serverless.CodeAddress, strange.URL: serverless.CodeCertificate,
		strings.Replace(plain.URL, "http:", "https:", 1): serverless.CodeCertificate,
	} {
		d := open(t, address, serverless.Options{Name: "flux", TLS: &tls.Config{}})
		_, err := d.Probe(t.Context())
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != code || e.Remedy == "" {
			t.Errorf("%s: %v", code, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestBusyIsWaitedFor offers a job again to an endpoint that is full for a moment.
func TestBusyIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, mode := range []serverless.Mode{serverless.Agent, serverless.Async} {
		_, handlers := fakes(t, 1)
		e := newEndpoint(t, oneshot.HandlerOptions{}, handlers...)
		left := 2
		e.setFront(func(w http.ResponseWriter, r *http.Request) bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			if !strings.HasSuffix(r.URL.Path, "/run") || left == 0 {
				return false
			}
			left--
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		})
		d := open(t, e.url, newStudio(t).options(t, mode))
		closing(t, d)
		backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, json.RawMessage(textGraph))).Want(t, job.Completed)
		if n := e.count("POST /run"); n != 3 {
			t.Errorf("%s: offered %d times", mode, n)
		}
	}
}

// TestContainerTakenAway loses the container of a run: that is noticed at once, and the job can run again.
func TestContainerTakenAway(t *testing.T) {
	t.Parallel()
	for _, mode := range []serverless.Mode{serverless.Agent, serverless.Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			_, handlers := fakes(t, 2)
			e := newEndpoint(t, oneshot.HandlerOptions{}, handlers...)
			o := newStudio(t).options(t, mode)
			o.LostAfter = 300 * time.Millisecond
			d := open(t, e.url, o)
			closing(t, d)
			a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, json.RawMessage(tickGraph)))
			a.Await(t, "progress")
			e.mu.Lock()
			name := e.containers[e.turn%2].jobs.Container()
			e.mu.Unlock()
			lost := time.Now()
			e.lose(name)
			a.Wait(t)
			if took := time.Since(lost); !errors.Is(a.Err, backend.ErrLost) || took > 5*time.Second {
				t.Errorf("after %v: %v", took, a.Err)
			}
			if err := a.Run.Close(); err != nil {
				t.Error(err)
			}
			backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, json.RawMessage(textGraph))).Want(t, job.Completed)
		})
	}
}

// TestCutLineIsTakenUpAgain cuts the line of a run whose container lives: it goes on where it was, without a gap.
func TestCutLineIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	all, handlers := fakes(t, 1)
	e := newEndpoint(t, oneshot.HandlerOptions{}, handlers...)
	d := open(t, e.url, newStudio(t).options(t, serverless.Agent))
	closing(t, d)
	a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d,
		json.RawMessage(`{"1":{"class_type":"Step","inputs":{}},"2":{"class_type":"Wait","inputs":{}},"3":{"class_type":"Save","inputs":{"text":"pixels"}}}`)))
	for range 3 {
		a.Await(t, "progress")
		e.srv.CloseClientConnections()
	}
	all[0].Release()
	a.Wait(t)
	if a.Result.Gap || all[0].Requests("POST /prompt") != 1 {
		t.Errorf("gap %t, %d prompts", a.Result.Gap, all[0].Requests("POST /prompt"))
	}
	a.Want(t, job.Completed)
}

// TestColdStart wants the owner of a run told that an endpoint is woken, and nothing asked of one that sleeps.
func TestColdStart(t *testing.T) {
	t.Parallel()
	_, handlers := fakes(t, 1)
	e := newEndpoint(t, oneshot.HandlerOptions{}, handlers...)
	o := newStudio(t).options(t, serverless.Agent)
	o.WarmFor, o.ColdAfter = time.Nanosecond, 10*time.Millisecond
	d := open(t, e.url, o)
	closing(t, d)
	first, err := d.Probe(t.Context())
	if err != nil || first.ObjectInfo == nil {
		t.Fatal(first, err)
	}
	s, err := d.Probe(t.Context())
	if err != nil || !strings.Contains(s.Cold, "sleeps") || s.Version != first.Version || e.count("GET /info") != 1 {
		t.Errorf("cold %q, %d questions, %v", s.Cold, e.count("GET /info"), err)
	}
	wake := make(chan struct{})
	e.setFront(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			<-wake
		}
		return false
	})
	a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, json.RawMessage(textGraph)))
	a.Await(t, backend.Notice)
	close(wake)
	a.Want(t, job.Completed)
	if !strings.Contains(string(a.Updates[0].Data), "being woken") {
		t.Errorf("notice %s", a.Updates[0].Data)
	}
	if s, err = d.Probe(t.Context()); err != nil || !strings.Contains(s.Cold, "the last time") {
		t.Errorf("cold %q, %v", s.Cold, err)
	}
	again := open(t, e.url, o) // a restart of ours wakes nothing
	closing(t, again)
	asked := e.count("GET /info")
	if s, err = again.Probe(t.Context()); err != nil || s.ObjectInfo == nil || s.Cold == "" || e.count("GET /info") != asked {
		t.Errorf("after a restart: cold %q, %d bytes, %v", s.Cold, len(s.ObjectInfo), err)
	}
}

// TestRestartLosesNoResult restarts our side while a run is in the provider's queue, and takes its result up.
func TestRestartLosesNoResult(t *testing.T) {
	t.Parallel()
	all, handlers := fakes(t, 2)
	e := newEndpoint(t, oneshot.HandlerOptions{}, handlers...)
	s := newStudio(t)
	d := open(t, e.url, s.options(t, serverless.Async))
	task := backendtest.NewTask(d, json.RawMessage(`{"1":{"class_type":"Wait","inputs":{}},"2":{"class_type":"Save","inputs":{"text":"pixels"}}}`))
	a := backendtest.Begin(t.Context(), t, d, task)
	a.Await(t, "executing")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	a.Wait(t)
	for _, f := range all {
		f.Release()
	}
	later := open(t, e.url, s.options(t, serverless.Async))
	closing(t, later)
	run, err := later.Resume(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	result, err := run.Start(t.Context(), func() {}, func(backend.Update) error { return nil })
	if err != nil || result.State != job.Completed || !strings.Contains(string(result.Outputs), "fake_00001_") {
		t.Errorf("%+v, %v", result, err)
	}
	if err := run.Close(); err != nil {
		t.Error(err)
	}
	if n := all[0].Requests("POST /prompt") + all[1].Requests("POST /prompt"); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}
