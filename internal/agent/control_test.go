package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

// stub is a ComfyUI that is whatever a test says.
type stub struct {
	state   State
	restart func(why string) error
}

func (s *stub) Dial(context.Context) (net.Conn, error) { return nil, notThere(s.state) }
func (*stub) Address() string                          { return "http://127.0.0.1:1" }
func (*stub) Dir() string                              { return "" }
func (s *stub) Status() Status                         { return Status{ComfyUI: s.state, Clock: time.Now()} }

func (s *stub) Restart(_ context.Context, why string) error { return s.restart(why) }

// door is an agent's address in one-request mode.
func door(t *testing.T, c ComfyUI, key string) (*Agent, *httptest.Server, *Log) {
	t.Helper()
	output, err := OpenLog("")
	if err != nil {
		t.Fatal(err)
	}
	a := New(c, Options{Version: "1", Name: "lab-1", Output: output, Folders: []Disk{{Folder: t.TempDir(), For: "output"}, {Folder: "/none", For: "temp"}}})
	runs := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "runs "+r.URL.Path) })
	more := map[string]http.Handler{"/models": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "models "+r.URL.Path) })}
	s := httptest.NewServer(a.Handler(key, runs, a.Control(more)))
	t.Cleanup(func() {
		a.Close()
		s.Close()
	})
	return a, s, output
}

func ask(t *testing.T, s *httptest.Server, method, path, key, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// TestDoor: nothing but health is told without the key, on every route.
func TestDoor(t *testing.T) {
	t.Parallel()
	restarts := 0
	c := &stub{state: State{State: Ready, Owned: true}, restart: func(string) error { restarts++; return nil }}
	_, s, _ := door(t, c, "right")
	for _, route := range []string{
		"GET /status", "GET /logs", "GET /logs?follow=1", "POST /restart", "POST /restart?wait=1", "GET /models", "DELETE /models?folder=a&name=b",
		"POST /models/get", "POST /run", "GET /runs/x", "DELETE /runs/x", "GET /info", "GET /web?path=/x", "POST /free", "GET /", "GET /none",
	} {
		method, path, _ := strings.Cut(route, " ")
		for _, key := range []string{"", "wrong", "righ", "rightt"} {
			code, body := ask(t, s, method, path, key, "")
			if code != http.StatusUnauthorized || !strings.Contains(body, "wrong_key") || strings.Contains(body, "lab-1") {
				t.Errorf("%s with key %q: %d %s", route, key, code, body)
			}
		}
	}
	if restarts != 0 {
		t.Error("ComfyUI was restarted without the key")
	}
	for route, want := range map[string]string{
		"GET /status": `"name":"lab-1"`, "GET /models": "models /models", "POST /models/get": "models /models/get", "POST /run": "runs /run",
		"GET /runs/x": "runs /runs/x", "GET /info": "runs /info",
	} {
		method, path, _ := strings.Cut(route, " ")
		if code, body := ask(t, s, method, path, "right", ""); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s with the key: %d %s", route, code, body)
		}
	}
	if code, body := ask(t, s, http.MethodGet, "/none", "right", ""); code != http.StatusNotFound {
		t.Errorf("no such address: %d %s", code, body)
	}
	if code, body := ask(t, s, http.MethodGet, "/healthz", "", ""); code != http.StatusOK || strings.Contains(body, "lab-1") {
		t.Errorf("health: %d %s", code, body)
	}
	c.state.State = Starting
	if code, _ := ask(t, s, http.MethodGet, "/healthz", "", ""); code != http.StatusServiceUnavailable {
		t.Errorf("health of one that starts: %d", code)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	a, s, _ := door(t, &stub{state: State{State: Crashed, LastCause: &Cause{Code: CodeGPUMemory, Text: "Out.", Remedy: "Less."}}}, "")
	_, body := ask(t, s, http.MethodGet, "/status", "", "")
	var st Status
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatal(err)
	}
	if st.Version != "1" || st.ComfyUI.State != Crashed || st.ComfyUI.LastCause.Remedy != "Less." || time.Since(st.Clock) > time.Minute || st.Stopping {
		t.Errorf("%+v", st)
	}
	if len(st.Disks) != 1 || st.Disks[0].Total <= 0 || st.Disks[0].Free <= 0 {
		t.Errorf("the disks are %+v", st.Disks)
	}
	a.stop()
	if _, body := ask(t, s, http.MethodGet, "/status", "", ""); !strings.Contains(body, `"stopping":true`) {
		t.Errorf("one that ends says %s", body)
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	a, s, output := door(t, &stub{}, "")
	output.Note("first")
	output.Note("second")
	if code, body := ask(t, s, http.MethodGet, "/logs", "", ""); code != 200 || !strings.Contains(body, "[agent] first\n2 ") {
		t.Errorf("%d %q", code, body)
	}
	if _, body := ask(t, s, http.MethodGet, "/logs?after=1", "", ""); strings.Contains(body, "first") || !strings.HasPrefix(body, "2 ") {
		t.Errorf("%q", body)
	}
	for path, want := range map[string]string{"/logs?after=x": "not the number of a line", "/logs?after=-1": "not the number", "/logs?follow=yes": "neither 0 nor 1"} {
		if code, body := ask(t, s, http.MethodGet, path, "", ""); code != http.StatusUnprocessableEntity || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/logs?follow=1&after=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() || !strings.HasSuffix(lines.Text(), "second") {
		t.Fatalf("the first line is %q", lines.Text())
	}
	output.Note("third")
	if !lines.Scan() || !strings.HasSuffix(lines.Text(), "third") {
		t.Fatalf("the next line is %q", lines.Text())
	}
	a.stop() // whoever follows is let go
	if lines.Scan() {
		t.Errorf("after the end comes %q", lines.Text())
	}
}

func TestRestartRoute(t *testing.T) {
	t.Parallel()
	why := make(chan string, 1)
	c := &stub{state: State{State: Ready, Owned: true}, restart: func(w string) error { why <- w; return nil }}
	_, s, _ := door(t, c, "")
	if code, body := ask(t, s, http.MethodPost, "/restart", "", `{"why":"new\nnodes"}`); code != http.StatusOK || !strings.Contains(body, `"version":"1"`) {
		t.Errorf("%d %s", code, body)
	}
	if got := <-why; got != "new nodes" {
		t.Errorf("the reason is %q", got)
	}
	if code, body := ask(t, s, http.MethodPost, "/restart", "", `{"why"`); code != http.StatusUnprocessableEntity {
		t.Errorf("bad JSON: %d %s", code, body)
	}
	if code, body := ask(t, s, http.MethodPost, "/restart", "", strings.Repeat("x", 10_000)); code != http.StatusUnprocessableEntity {
		t.Errorf("a long body: %d %s", code, body)
	}
	c.restart = func(string) error { return notThere(State{State: Crashed, LastCause: &Cause{Text: "No torch."}}) }
	if code, body := ask(t, s, http.MethodPost, "/restart?wait=1", "", ""); code != http.StatusServiceUnavailable || !strings.Contains(body, "No torch.") {
		t.Errorf("%d %s", code, body)
	}
	n, err := NewNeighbour("http://127.0.0.1:1", "1", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, s, _ = door(t, n, "")
	code, body := ask(t, s, http.MethodPost, "/restart", "", "")
	var p report.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil || code != http.StatusConflict || p.Code != "not_ours" || p.Remedy == "" {
		t.Errorf("a ComfyUI that is not ours: %d %s %v", code, body, err)
	}
}

// TestServeEnds: a request that runs is let end; what comes later is not taken.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	a := New(&stub{}, Options{StopAfter: 20 * time.Second})
	defer a.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun, finish := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		io.WriteString(w, "done")
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx, l, h) }()
	got := make(chan string, 1)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		res, err := client.Get("http://" + l.Addr().String())
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body) //nolint:errcheck // the text tells
		got <- string(text)
	}()
	<-begun
	cancel()
	for { // the door closes
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended before the request did: %v", err)
	default:
	}
	close(finish)
	if text := <-got; text != "done" {
		t.Errorf("the request got %q", text)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestNotThere(t *testing.T) {
	t.Parallel()
	err := notThere(State{State: Crashed, LastCause: &Cause{Text: "The disk is full.", Remedy: "Make room."}})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "ComfyUI is crashed: The disk is full. — Make room.") {
		t.Error(err)
	}
	if err := notThere(State{State: Starting, LastCause: &Cause{Text: "Old."}}); strings.Contains(err.Error(), "Old") {
		t.Errorf("what was before is told of one that starts: %v", err)
	}
}
