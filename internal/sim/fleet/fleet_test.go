package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/sim"
	"github.com/ahelme/comfyume/internal/sim/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// endpoint is a fleet under test.
type endpoint struct {
	*fleet.Fleet
	url    string
	client *http.Client
}

// start serves a fleet of replicas inside this process.
func start(t *testing.T, o fleet.Options) *endpoint {
	t.Helper()
	o.Dir = t.TempDir()
	if o.RunLog == "" {
		o.RunLog = filepath.Join(o.Dir, "runs.log")
	}
	log, err := os.OpenFile(o.RunLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if o.Launch == nil {
		o.Launch = fleet.Local(sim.Options{Probes: true, OnRun: func(id string) { fmt.Fprintln(log, id) }}, nil)
	}
	f, err := fleet.New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- f.Serve(ctx, l) }()
	e := &endpoint{Fleet: f, url: "http://" + l.Addr().String(), client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error("Serve:", err)
		}
		e.client.CloseIdleConnections()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// ask makes one request over a connection of its own.
func (e *endpoint) ask(t *testing.T, method, path, body string, header ...string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, e.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func (e *endpoint) counters(t *testing.T) fleet.Counters {
	t.Helper()
	c, err := e.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return c
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

const slow = `{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 1}},
	"2": {"class_type": "ProbeSlow", "inputs": {"image": ["1", 0], "steps": 200, "seconds": 0.05, "preview": false}},
	"3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}, "prompt_id": "6f8e8bc2-7d4f-4e6e-9f4e-0f5d8a1c0001"}`

// TestNoAffinity has requests answered by any replica: what one knows of a run the others don't.
func TestNoAffinity(t *testing.T) {
	t.Parallel()
	e := start(t, fleet.Options{Replicas: 3, Warm: 3})
	until(t, "fleet of 3", func() bool { return e.counters(t).Replicas == 3 })
	if status, body, err := e.ask(t, http.MethodPost, "/prompt", slow); err != nil || status != http.StatusOK {
		t.Fatal(status, body, err)
	}
	known := 0
	for range 60 {
		_, body, err := e.ask(t, http.MethodGet, "/queue", "")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(body, "6f8e8bc2") {
			known++
		}
	}
	if known == 0 || known > 50 { // one of three, 60 times
		t.Errorf("%d of 60 answers know the run", known)
	}
}

// TestScaling starts replicas for requests and puts them to sleep, also while they work at what returned at once.
func TestScaling(t *testing.T) {
	t.Parallel()
	e := start(t, fleet.Options{Replicas: 2, IdleAfter: 100 * time.Millisecond})
	if c := e.counters(t); c.Replicas != 0 || c.ColdStarts != 0 {
		t.Errorf("%+v", c)
	}
	if status, body, err := e.ask(t, http.MethodPost, "/prompt", slow); err != nil || status != http.StatusOK {
		t.Fatal(status, body, err)
	}
	until(t, "scale-down at work", func() bool { return e.counters(t).ScaledDownAtWork == 1 })
	if c := e.counters(t); c.ColdStarts != 1 || c.Replicas != 0 || c.Runs != 1 || len(c.Doubles) != 0 {
		t.Errorf("%+v", c)
	}
	if status, body, err := e.ask(t, http.MethodGet, "/queue", ""); err != nil || status != http.StatusOK || strings.Contains(body, "6f8e8bc2") {
		t.Error(status, body, err)
	}
}

// TestOneRequestEach gives a replica one request at a time, and has the others wait.
func TestOneRequestEach(t *testing.T) {
	t.Parallel()
	e := start(t, fleet.Options{Replicas: 1, QueueFor: 50 * time.Millisecond, Warm: 1})
	until(t, "replica", func() bool { return e.counters(t).Replicas == 1 })
	if err := e.Inject(fleet.Fault{Kind: fleet.Slow, Path: "/object_info", For: time.Second}); err != nil {
		t.Fatal(err)
	}
	busy := make(chan error, 1)
	go func() {
		_, _, err := e.ask(t, http.MethodGet, "/object_info", "")
		busy <- err
	}()
	until(t, "working replica", func() bool { return e.counters(t).Working == 1 })
	if status, _, err := e.ask(t, http.MethodGet, "/queue", ""); err != nil || status != http.StatusGatewayTimeout {
		t.Error(status, err)
	}
	if err := <-busy; err == nil {
		t.Error("a trickling answer came whole")
	}
	if c := e.counters(t); c.TimedOut != 1 || c.Faults[fleet.Slow] != 1 {
		t.Errorf("%+v", c)
	}
}

// TestFaults has requests meet each fault once.
func TestFaults(t *testing.T) {
	t.Parallel()
	e := start(t, fleet.Options{Replicas: 1})
	_, whole, err := e.ask(t, http.MethodGet, "/system_stats", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []fleet.Fault{
		{Kind: fleet.Status, Status: 429},
		{Kind: fleet.CutAnswer},
		{Kind: fleet.Truncate, After: 10},
		{Kind: fleet.Corrupt, After: 10},
		{Kind: fleet.Slow, For: 200 * time.Millisecond},
		{Kind: fleet.Hang, For: 10 * time.Millisecond},
	} {
		f.Method, f.Path = http.MethodGet, "/system"
		if err := e.Inject(f); err != nil {
			t.Fatal(err)
		}
		status, body, err := e.ask(t, http.MethodGet, "/system_stats", "")
		if err == nil && status == http.StatusOK && body == whole {
			t.Errorf("%s: nothing happened", f.Kind)
		}
		if f.Kind == fleet.Corrupt && (err != nil || len(body) != len(whole)) {
			t.Errorf("a byte was to be another: %v", err)
		}
		if e.counters(t).Faults[f.Kind] != 1 {
			t.Errorf("%s was not counted", f.Kind)
		}
	}
	before := e.counters(t).Runs
	if err := e.Inject(fleet.Fault{Kind: fleet.CutRequest, Path: "/prompt", After: 20}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.ask(t, http.MethodPost, "/prompt", slow); err == nil {
		t.Error("a request that was cut was answered")
	}
	if n := e.counters(t).Runs; n != before {
		t.Error("half a request began a run")
	}
	if _, again, err := e.ask(t, http.MethodGet, "/system_stats", ""); err != nil || len(again) != len(whole) {
		t.Error("after all faults:", err)
	}
}

// TestSpotLoss kills a replica in the middle of a request; capacity keeps others from starting.
func TestSpotLoss(t *testing.T) {
	t.Parallel()
	e := start(t, fleet.Options{Replicas: 1, QueueFor: 100 * time.Millisecond})
	if _, _, err := e.ask(t, http.MethodGet, "/queue", ""); err != nil {
		t.Fatal(err)
	}
	e.Capacity(0)
	if n := e.Lose(-1); n != 1 {
		t.Fatal("lost", n)
	}
	if status, _, err := e.ask(t, http.MethodGet, "/queue", ""); err != nil || status != http.StatusGatewayTimeout {
		t.Error(status, err)
	}
	e.Capacity(1)
	if status, _, err := e.ask(t, http.MethodGet, "/queue", ""); err != nil || status != http.StatusOK {
		t.Error(status, err)
	}
}

// TestAsync takes a request now and gives its answer later.
func TestAsync(t *testing.T) {
	t.Parallel()
	e := start(t, fleet.Options{Replicas: 1, Deployment: "flux", Key: "secret", ColdStart: 100 * time.Millisecond})
	if status, _, err := e.ask(t, http.MethodGet, "/flux/system_stats", ""); err != nil || status != http.StatusUnauthorized {
		t.Error("without its key:", status, err)
	}
	auth := []string{"Authorization", "Bearer secret"}
	status, body, err := e.ask(t, http.MethodGet, "/flux/system_stats", "", append(auth, "Prefer", "respond-async")...)
	if err != nil || status != http.StatusAccepted {
		t.Fatal(status, body, err)
	}
	var taken struct{ ID, StatusPath, ResultPath string }
	if err := json.Unmarshal([]byte(body), &taken); err != nil || taken.ID == "" {
		t.Fatal(body, err)
	}
	named := append(auth, "X-Inference-Id", taken.ID)
	until(t, "completion", func() bool {
		_, body, err := e.ask(t, http.MethodGet, taken.StatusPath, "", named...)
		return err == nil && strings.Contains(body, "Completed")
	})
	for range 2 {
		status, body, err := e.ask(t, http.MethodGet, taken.ResultPath, "", named...)
		if err != nil || status != http.StatusOK || !strings.Contains(body, "comfyui_version") {
			t.Error(status, body, err)
		}
	}
	if status, _, err := e.ask(t, http.MethodGet, taken.ResultPath, "", append(auth, "X-Inference-Id", "other")...); err != nil || status != http.StatusNotFound {
		t.Error("a result that never was:", status, err)
	}
}

// TestDeaf has lines carry nothing, until they break.
func TestDeaf(t *testing.T) {
	t.Parallel()
	e := start(t, fleet.Options{Replicas: 1})
	if _, _, err := e.ask(t, http.MethodGet, "/queue", ""); err != nil {
		t.Fatal(err)
	}
	if err := e.Inject(fleet.Fault{Kind: fleet.Slow, For: time.Minute}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, _, err := e.ask(t, http.MethodGet, "/object_info", "")
		ended <- err
	}()
	until(t, "request", func() bool { return e.counters(t).Working == 1 })
	e.Deafen(true, true, 50*time.Millisecond)
	if err := <-ended; err == nil {
		t.Error("a deaf line brought an answer")
	}
}

// TestSharedLate shows files in the shared folder later than they were written.
func TestSharedLate(t *testing.T) {
	t.Parallel()
	staging, shared := t.TempDir(), t.TempDir()
	start(t, fleet.Options{Staging: staging, Shared: shared, VisibleAfter: 300 * time.Millisecond})
	own := filepath.Join(staging, "1", "sub")
	if err := os.MkdirAll(own, 0o700); err != nil {
		t.Fatal(err)
	}
	written := time.Now()
	if err := os.WriteFile(filepath.Join(own, "a.png"), []byte("pixels"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "file", func() bool {
		b, err := os.ReadFile(filepath.Join(shared, "sub", "a.png"))
		return err == nil && bytes.Equal(b, []byte("pixels"))
	})
	if took := time.Since(written); took < 300*time.Millisecond {
		t.Error("it was there after", took)
	}
}

// TestControl orders trouble and refuses what it can't read.
func TestControl(t *testing.T) {
	t.Parallel()
	e := start(t, fleet.Options{Replicas: 1})
	control := e.Control()
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/counters", "", 200, `"Requests":0`},
		{"POST", "/faults", `{"kind": "slow", "path": "/view"}`, 200, "ordered"},
		{"POST", "/faults", `{"kind": "sloww"}`, 400, "cut-request"},
		{"POST", "/faults", `{"kind": "slow", "times": -1}`, 400, "less than 0"},
		{"POST", "/faults", `{"knd": "slow"}`, 400, "knd"},
		{"POST", "/lose", `{"replicas": -1}`, 200, `"lost":0`},
		{"POST", "/lose", `{}`, 400, "say how many"},
		{"POST", "/capacity", `{"replicas": 3}`, 200, "3"},
		{"POST", "/cut", ``, 200, "cut"},
		{"POST", "/deafen", `{"up": true, "for": 1000000}`, 200, "true"},
	} {
		w := httptest.NewRecorder()
		control.ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, w.Code, w.Body)
		}
	}
}
