package dialhome_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/backend/dialhome"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sim"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// bench is a studio's hub and an agent beside a fake or simulated ComfyUI, joined by a real line over loopback. The line
// goes through a gate that can cut it.
type bench struct {
	testing.TB
	hub     *tunnel.Hub
	server  *httptest.Server
	comfy   string // address of the ComfyUI
	control http.Handler

	mu    sync.Mutex
	conns []net.Conn // of the agent's lines
	down  bool
	trips int
}

func newBench(t testing.TB, comfy http.Handler) *bench {
	t.Helper()
	b := &bench{TB: t}
	srv := httptest.NewServer(comfy)
	t.Cleanup(srv.Close)
	b.comfy = srv.Listener.Addr().String()
	b.hub = tunnel.NewHub(tunnel.HubOptions{
		Studio: "s1", Check: func(context.Context, string) (string, error) { return "lab-1", nil },
	})
	b.server = httptest.NewServer(b.hub)
	t.Cleanup(func() {
		b.hub.Close()
		b.server.Close()
	})
	return b
}

// gate is a proxy for the agent that counts connections and can cut them: an HTTP proxy, as agents meet them.
func (b *bench) gate() *url.URL {
	b.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		down := b.down
		b.mu.Unlock()
		up, err := net.Dial("tcp", r.Host)
		if err != nil || down || r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		b.mu.Lock()
		b.conns = append(b.conns, c, up)
		b.trips++
		b.mu.Unlock()
		go func() {
			io.Copy(up, c)
			up.Close()
		}()
		io.Copy(c, up)
		c.Close()
	}))
	b.Cleanup(proxy.Close)
	u, err := url.Parse(proxy.URL)
	if err != nil {
		b.Fatal(err)
	}
	return u
}

// cut cuts the line.
func (b *bench) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		c.Close()
	}
	b.conns = nil
}

func (b *bench) setDown(down bool) {
	b.mu.Lock()
	b.down = down
	b.mu.Unlock()
	if down {
		b.cut()
	}
}

// agent starts an agent, through a gate, and waits until it is there.
func (b *bench) agent() {
	b.Helper()
	proxy := b.gate()
	home := &tunnel.Home{
		Server: b.server.URL, Key: "k", Hello: tunnel.ThisMachine("v1", "gpu"), Control: b.control,
		Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil },
		ComfyUI: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", b.comfy)
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := home.Run(ctx); err != nil {
			b.Error(err)
		}
	}()
	b.Cleanup(func() {
		cancel()
		<-done
	})
	waiting, stop := context.WithTimeout(b.Context(), 20*time.Second)
	defer stop()
	if err := b.hub.Wait(waiting, "lab-1"); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) driver(o dialhome.Options) *dialhome.Driver {
	b.Helper()
	o.Comfy.Studio = "suite"
	if o.Comfy.PollAfter == 0 {
		o.Comfy.PollAfter = time.Second
	}
	d, err := dialhome.New("lab-1", b.hub, o)
	if err != nil {
		b.Fatal(err)
	}
	return d
}

func TestSuiteOverALine(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	defer fake.Close()
	b := newBench(t, fake.Handler())
	b.agent()
	backendtest.Run(t, backendtest.Harness{
		Open:      func(*testing.T) backend.Driver { return b.driver(dialhome.Options{}) },
		Text:      json.RawMessage(`{"1":{"class_type":"Text","inputs":{"text":"hello"}}}`),
		Picture:   json.RawMessage(`{"1":{"class_type":"Save","inputs":{"text":"pixels"}}}`),
		Slow:      json.RawMessage(`{"1":{"class_type":"Tick","inputs":{}}}`),
		Fail:      json.RawMessage(`{"1":{"class_type":"Fail","inputs":{}}}`),
		Refused:   json.RawMessage(`{"1":{"class_type":"Load","inputs":{"file":"none.png"}}}`),
		Input:     json.RawMessage(`{"1":{"class_type":"Load","inputs":{"file":"in.png"}},"2":{"class_type":"Save","inputs":{"text":"pixels"}}}`),
		InputName: "in.png", InputBody: []byte("input"),
		Restart: func(*testing.T) { fake.Restart() },
	})
}

// open puts a line between a driver and a server.
func open(t *testing.T, server http.Handler) backend.Driver {
	t.Helper()
	b := newBench(t, server)
	b.agent()
	return b.driver(dialhome.Options{})
}

func TestFakeOverALine(t *testing.T) {
	t.Parallel()
	backendtest.RunOnFake(t, open)
}

func TestRecordingsOverALine(t *testing.T) {
	t.Parallel()
	backendtest.RunRecorded(t, open)
}

func TestSuiteOnTheSimulator(t *testing.T) {
	t.Parallel()
	server, err := sim.NewComfyUI(sim.Options{Version: sim.Modern, Base: t.TempDir(), Probes: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	b := newBench(t, server.Handler())
	b.agent()
	backendtest.Run(t, backendtest.Graphs(t, backendtest.Harness{
		Open: func(*testing.T) backend.Driver { return b.driver(dialhome.Options{}) },
		Restart: func(t *testing.T) {
			server.Crash()
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for range tick.C { // until it is back
				resp, err := http.Get("http://" + b.comfy + "/system_stats")
				if err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK || t.Context().Err() != nil {
					return
				}
			}
		},
	}))
}

// TestAgentKnowsWhyItsComfyUIEnded: what an agent that started its ComfyUI tells of its end goes before what it looks like.
func TestAgentKnowsWhyItsComfyUIEnded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code  string
		early bool // it was in trouble before the run
		owned bool
		want  error
	}{
		"it died":               {"signal", false, true, backend.ErrCrashed},
		"somebody killed it":    {"killed", false, true, backend.ErrLost},
		"it stood still":        {"frozen", false, true, backend.ErrFrozen},
		"a restart was asked":   {"signal", true, true, backend.ErrLost},
		"nothing ever happened": {"", false, true, backend.ErrLost},
		"it did not start it":   {"killed", false, false, backend.ErrCrashed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := backendtest.NewFake()
			defer fake.Close()
			b := newBench(t, fake.Handler())
			const ahead = time.Hour // of the agent's clock
			at := time.Now().Add(ahead)
			b.control = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/status" {
					http.NotFound(w, r)
					return
				}
				b.mu.Lock()
				defer b.mu.Unlock()
				cause := ""
				if c.code != "" {
					cause = fmt.Sprintf(`"last_cause":{"code":%q,"text":"It said so."},"cause_at":%q,`, c.code, at.Format(time.RFC3339Nano))
				}
				fmt.Fprintf(w, `{"comfyui":{"state":"ready",%s"owned":%t},"clock":%q}`, cause, c.owned, time.Now().Add(ahead).Format(time.RFC3339Nano))
			})
			b.agent()
			d := b.driver(dialhome.Options{})
			defer d.Close()
			a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, json.RawMessage(`{"1":{"class_type":"Tick","inputs":{}}}`)))
			a.Await(t, "progress")
			if !c.early {
				b.mu.Lock()
				at = time.Now().Add(ahead)
				b.mu.Unlock()
			}
			fake.Restart()
			a.Wait(t)
			for _, class := range []error{backend.ErrCrashed, backend.ErrFrozen} {
				if errors.Is(a.Err, class) != (class == c.want) {
					t.Errorf("%v, want %v", a.Err, c.want)
				}
			}
			if said := strings.Contains(fmt.Sprint(a.Err), "It said so."); said != (c.owned && !c.early && c.code != "") {
				t.Errorf("what the agent said is in it: %t, %v", said, a.Err)
			}
			if err := a.Run.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLargeFilesHaveTheirOwnConnection: outputs and inputs of 16 MB and more go beside the line, others through it.
func TestLargeFilesHaveTheirOwnConnection(t *testing.T) {
	t.Parallel()
	server, err := sim.NewComfyUI(sim.Options{Version: sim.Modern, Base: t.TempDir(), Probes: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	inner := server.Handler()
	files := map[string][]byte{"small.mp4": make([]byte, 1<<20), "large.mp4": make([]byte, 16<<20+1)}
	b := newBench(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, ok := files[r.URL.Query().Get("filename")]; ok && r.URL.Query().Get("type") == "output" {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
			return
		}
		inner.ServeHTTP(w, r)
	}))
	source := rand.NewChaCha8([32]byte{1})
	for _, body := range files {
		source.Read(body)
	}
	b.agent()
	d := b.driver(dialhome.Options{})
	defer d.Close()
	beside := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.trips - 1
	}
	task := backendtest.NewTask(d, json.RawMessage(`{}`))
	task.Uploads = []backend.Upload{{Subfolder: "pasted", Name: "in.mp4", Size: 17 << 20, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(make([]byte, 17<<20))), nil
	}}}
	run, err := d.Prepare(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close()
	if n := beside(); n != 1 {
		t.Errorf("%d connections beside the line for a large input, want 1", n)
	}
	for name, want := range map[string]int{"small.mp4": 0, "large.mp4": 1} {
		before := beside()
		file, err := run.Fetch(t.Context(), backend.FileRef{Filename: name, Type: "output"})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(file)
		file.Close()
		if err != nil || !bytes.Equal(got, files[name]) {
			t.Errorf("%s came back changed: %d bytes, %v", name, len(got), err)
		}
		if n := beside() - before; n != want {
			t.Errorf("%d connections beside the line for %s, want %d", n, name, want)
		}
	}
}

// TestRunsOutliveCuts cuts the line at random in mid-run: every run ends once, with what it made.
func TestRunsOutliveCuts(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	defer fake.Close()
	b := newBench(t, fake.Handler())
	b.agent()
	d := b.driver(dialhome.Options{Comfy: comfyui.Options{PollAfter: 200 * time.Millisecond}})
	defer d.Close()
	ctx, stop := context.WithCancel(t.Context())
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for cuts := 0; cuts < 4 && b.hub.Wait(ctx, "lab-1") == nil; cuts++ {
			select {
			case <-ctx.Done():
			case <-time.After(rand.N(60 * time.Millisecond)):
				b.cut()
			}
			for b.hub.Agent("lab-1").Online && ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-time.After(time.Millisecond):
				}
			}
		}
		stop()
	})
	runs := 0
	for ; ctx.Err() == nil; runs++ {
		task := backendtest.NewTask(d, json.RawMessage(`{"1":{"class_type":"Step","inputs":{"text":"a"}},"2":{"class_type":"Wait","inputs":{}},"3":{"class_type":"Save","inputs":{"text":"pixels"}}}`))
		release := time.AfterFunc(rand.N(40*time.Millisecond), fake.Release)
		result := b.complete(d, task)
		if release.Stop() || result.State != job.Completed || !strings.Contains(string(result.Outputs), "filename") {
			t.Errorf("run %d: %s %s", runs, result.State, result.Outputs)
		}
	}
	cutting.Wait()
	if n := fake.Requests("played"); n != runs {
		t.Errorf("%d runs were run %d times", runs, n)
	}
	if err := b.hub.Wait(t.Context(), "lab-1"); err != nil { // the last run may have ended before the last cut
		t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.trips != 5 {
		t.Errorf("the line was made %d times", b.trips)
	}
}

// complete runs a task as the dispatcher would: what was not posted is prepared again, what may have been is resumed.
func (b *bench) complete(d *dialhome.Driver, task backend.Task) backend.Result {
	b.Helper()
	posted := false
	for range 200 {
		begin := d.Prepare
		if posted {
			begin = d.Resume
		}
		run, err := begin(b.Context(), task)
		if errors.Is(err, backend.ErrUnknownRun) {
			posted = false
			continue
		}
		if err != nil {
			continue
		}
		posted = true // from here on it may have it
		result, err := run.Start(b.Context(), func() {}, func(backend.Update) error { return nil })
		if err == nil {
			run.Close()
			return result
		}
		if errors.Is(err, backend.ErrLost) || errors.Is(err, backend.ErrFrozen) {
			b.Fatalf("the run was given up: %v", err)
		}
	}
	b.Fatal("the run never ended")
	return backend.Result{}
}

// TestLineBackIsNoticedAtOnce: the run goes on as soon as the line is back, and not when some timeout has passed.
func TestLineBackIsNoticedAtOnce(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	defer fake.Close()
	b := newBench(t, fake.Handler())
	b.agent()
	d := b.driver(dialhome.Options{})
	defer d.Close()
	task := backendtest.NewTask(d, json.RawMessage(`{"1":{"class_type":"Wait","inputs":{}},"2":{"class_type":"Text","inputs":{"text":"after"}}}`))
	a := backendtest.Begin(t.Context(), t, d, task)
	a.Await(t, "executing")
	b.setDown(true)
	for b.hub.Agent("lab-1").Online {
		select {
		case <-t.Context().Done():
			t.Fatal("the cut was not noticed")
		case <-time.After(10 * time.Millisecond):
		}
	}
	fake.Release() // it ends while nobody hears it
	b.setDown(false)
	waiting, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.hub.Wait(waiting, "lab-1"); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	a.Wait(t)
	if took := time.Since(back); took > 2*time.Second {
		t.Errorf("the end was found %v after the line was back", took)
	}
	a.Want(t, job.Completed)
	if n := fake.Requests("played"); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

func TestProbeSaysWhatIsTheMatter(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	defer fake.Close()
	b := newBench(t, fake.Handler())
	joined := false
	d := b.driver(dialhome.Options{Joined: func(context.Context) (bool, error) { return joined, nil }})
	defer d.Close()
	want := func(code, sentence string) {
		t.Helper()
		_, err := d.Probe(t.Context())
		e, ok := errors.AsType[*fault.Error](err)
		if !errors.Is(err, backend.ErrUnreachable) || !ok || e.Code != code || !strings.Contains(e.Public, sentence) {
			t.Errorf("%v, want %s: %s", err, code, sentence)
		}
	}
	want(tunnel.CodeNotJoined, "No agent has joined as lab-1 yet")
	joined = true
	want(tunnel.CodeOffline, "has not dialled home")

	state := `{"comfyui":{"state":"crashed","since":"2026-11-27T10:00:00Z","last_cause":{"code":"gpu_memory","text":"ComfyUI ran out of GPU memory.","remedy":"Run smaller models."}}}`
	b.control = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/status" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, state)
	})
	right := b.comfy
	b.comfy = "127.0.0.1:1" // nothing listens
	b.agent()
	want("comfyui_crashed", "ran out of GPU memory")
	state = `{"comfyui":{"state":"starting","since":"2026-11-27T10:00:00Z"}}`
	want("comfyui_starting", "is starting (since 2026-11-27 10:00:00)")
	state = `no JSON`
	want("unavailable", "can't be reached: connection refused")
	b.comfy = right
	if snap, err := d.Probe(t.Context()); err != nil || snap.Version == "" {
		t.Errorf("%+v, %v", snap, err)
	}
}

// TestLogIsTaken takes the agent's lines, and not without end.
func TestLogIsTaken(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	defer fake.Close()
	b := newBench(t, fake.Handler())
	b.control = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("follow") == "" {
			fmt.Fprintln(w, "7 2026-11-27T10:00:00Z from before")
			return
		}
		if r.FormValue("after") != "7" {
			t.Errorf("asked for lines after %s", r.FormValue("after"))
		}
		for i := range 8 {
			fmt.Fprintf(w, "%d 2026-11-27T10:00:00Z line %d \x1b[31m%s\n", 8+i, i, strings.Repeat("x", 5000))
		}
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	var out syncBuffer
	d := b.driver(dialhome.Options{LogLines: 5, Log: slog.New(slog.NewTextHandler(&out, nil))})
	defer d.Close()
	b.agent()
	for strings.Count(out.String(), "line ") < 5 {
		select {
		case <-t.Context().Done():
			t.Fatal("log:", out.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if text := out.String(); strings.Contains(text, "from before") || strings.Contains(text, "line 5") || strings.Contains(text, "\\x1b") || len(text) > 5*2400 {
		t.Errorf("log: %s", text)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// slow is a patience with one class.
type slow struct{}

func (slow) Bound(class string) (time.Duration, bool) {
	if class == "Wait" {
		return 80 * time.Second, true
	}
	return 2 * time.Second, true
}

func (slow) Silent(string, time.Duration) {}

// TestAgentIsToldHowLongANodeMayBeSilent: when it begins, and when it is over.
func TestAgentIsToldHowLongANodeMayBeSilent(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	defer fake.Close()
	b := newBench(t, fake.Handler())
	told := make(chan string, 10)
	b.control = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/patience" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		told <- r.Method + " " + string(body)
	})
	d := b.driver(dialhome.Options{Comfy: comfyui.Options{Patience: slow{}}})
	defer d.Close()
	b.agent()
	await := func(want string) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Errorf("told %s, want %s", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nobody was told %s", want)
		}
	}
	run, err := d.Prepare(t.Context(), backendtest.NewTask(d, json.RawMessage(`{"1":{"class_type":"Step","inputs":{}},"2":{"class_type":"Wait","inputs":{}}}`)))
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := run.Start(t.Context(), func() {}, func(backend.Update) error { return nil })
		ended <- err
	}()
	await(`POST {"seconds": 80}`)
	fake.Release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	await(`POST {"seconds": 0}`)
	if len(told) > 0 {
		t.Errorf("and told %s", <-told)
	}
}
