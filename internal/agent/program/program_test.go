package program

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/agent"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// comfyUI is a simulated ComfyUI with a queue of so many runs.
func comfyUI(t *testing.T) (address string, waiting *atomic.Int64) {
	t.Helper()
	waiting = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/system_stats":
			io.WriteString(w, `{"system":{"comfyui_version":"0.3.64","ram_total":8},"devices":[]}`)
		case "/prompt":
			json.NewEncoder(w).Encode(map[string]any{"exec_info": map[string]any{"queue_remaining": waiting.Load()}})
		case "/view": // an output that takes 4 s
			for range 64 {
				w.Write(make([]byte, 64<<10))
				http.NewResponseController(w).Flush()
				<-time.After(64 * time.Millisecond)
			}
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, waiting
}

// studio is the other end of a line.
func studio(t *testing.T) (address string, hub *tunnel.Hub) {
	t.Helper()
	hub = tunnel.NewHub(tunnel.HubOptions{
		Studio: "s1", Version: "v1",
		Check: func(_ context.Context, key string) (string, error) {
			if key != "key-1" {
				return "", fault.New(fault.Denied, "The key is unknown.").WithCode(tunnel.CodeKey)
			}
			return "lab-1", nil
		},
		Join: func(_ context.Context, code, name, _ string, _ tunnel.Hello) (tunnel.Credentials, error) {
			if code != "good" || name != "" && name != "lab-1" {
				return tunnel.Credentials{}, fault.New(fault.Denied, "There is no such code.").WithCode("agent_code")
			}
			return tunnel.Credentials{Name: "lab-1", Key: "key-1"}, nil
		},
	})
	hub.Open(true)
	s := httptest.NewServer(hub)
	t.Cleanup(func() {
		hub.Close()
		s.Close()
	})
	return s.URL, hub
}

func options(t *testing.T) Options {
	t.Helper()
	return Options{
		Settings: agent.Settings{Data: filepath.Join(t.TempDir(), "agent")}, Version: "v1", Log: slog.New(slog.DiscardHandler),
		Announce: func(string) {},
	}
}

// through returns a client whose requests go through the line.
func through(t *testing.T, hub *tunnel.Hub, kind tunnel.Kind) *http.Client {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return hub.Dial(ctx, "lab-1", kind) }}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func read(t *testing.T, c *http.Client, address string) string {
	t.Helper()
	res, err := c.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestHome joins, dials home, serves both kinds of streams, and stays until the run that goes on has ended.
func TestHome(t *testing.T) {
	t.Parallel()
	address, hub := studio(t)
	comfy, waiting := comfyUI(t)
	o := options(t)
	o.Server = address
	if _, err := Join(t.Context(), o, "bad"); !fault.Is(err, fault.Denied) {
		t.Errorf("a wrong code: %v", err)
	}
	if err := Run(t.Context(), withComfy(o, comfy)); !fault.Is(err, fault.Missing) || !strings.Contains(err.Error(), "comfyume agent join") {
		t.Errorf("before joining: %v", err)
	}
	name, err := Join(t.Context(), o, "good")
	if err != nil || name != "lab-1" {
		t.Fatalf("%q %v", name, err)
	}
	info, err := os.Stat(membershipFile(o.Data))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v %v", info, err)
	}
	var log strings.Builder
	o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	other := withComfy(o, comfy)
	other.Server = "https://elsewhere.example"
	if err := Run(t.Context(), other); err == nil || !strings.Contains(err.Error(), "has joined the studio at "+address) {
		t.Errorf("another studio: %v", err)
	}
	o.Server = ""
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, withComfy(o, comfy)) }()
	if err := hub.Wait(t.Context(), "lab-1"); err != nil {
		t.Fatal(err)
	}
	control := through(t, hub, tunnel.Control)
	for !strings.Contains(read(t, control, "http://agent/status"), `"state":"ready"`) {
		select {
		case <-time.After(20 * time.Millisecond):
		case err := <-ended:
			t.Fatal(err)
		}
	}
	if st := read(t, control, "http://agent/status"); !strings.Contains(st, `"name":"lab-1"`) {
		t.Errorf("the status is %s", st)
	}
	if nodes := read(t, control, "http://agent/nodes"); !strings.Contains(nodes, "Somebody else starts the ComfyUI") || !strings.Contains(nodes, "--comfyui-dir") {
		t.Errorf("custom nodes of somebody else's ComfyUI: %s", nodes)
	}
	if got := read(t, through(t, hub, tunnel.ComfyUI), "http://comfy/system_stats"); !strings.Contains(got, "0.3.64") {
		t.Errorf("through the line comes %s", got)
	}
	waiting.Store(1)
	for !strings.Contains(read(t, control, "http://agent/status"), `"waiting":1`) {
		<-time.After(100 * time.Millisecond)
	}
	cancel()
	for !strings.Contains(read(t, control, "http://agent/status"), `"stopping":true`) {
		<-time.After(20 * time.Millisecond)
	}
	// An output that is fetched after the run has ended comes whole.
	res, err := through(t, hub, tunnel.ComfyUI).Get("http://comfy/view")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	waiting.Store(0)
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n != 4<<20 {
		t.Errorf("of the output %d bytes came: %v", n, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "key-1") {
		t.Errorf("the key is in the log:\n%s", log.String())
	}
}

func withComfy(o Options, address string) Options {
	o.URL = address
	return o
}

// TestRevoked: an agent whose key is not known ends and says why.
func TestRevoked(t *testing.T) {
	t.Parallel()
	address, _ := studio(t)
	comfy, _ := comfyUI(t)
	o := options(t)
	if err := (membership{Server: address, Name: "lab-1", Key: "old"}).save(o.Data); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), withComfy(o, comfy)); !fault.Is(err, fault.Denied) {
		t.Errorf("%v", err)
	}
}

// TestRequests: in one-request mode everything is behind the key.
func TestRequests(t *testing.T) {
	t.Parallel()
	comfy, _ := comfyUI(t)
	o := withComfy(options(t), comfy)
	o.Listen = "127.0.0.1:0"
	secret := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(secret, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if o.Key, err = config.ParseSecret("file:" + secret); err != nil {
		t.Fatal(err)
	}
	at := make(chan string, 1)
	o.Announce = func(text string) { at <- text[strings.Index(text, "http://"):] }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	address := <-at
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]int{"/status": 401, "/info": 401, "/run": 401, "/models": 401, "/logs": 401} {
		res, err := client.Get(address + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s without the key: %d", path, res.StatusCode)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address+"/runs/none", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer sesame")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != http.StatusNotFound || !strings.Contains(string(text), "error") {
		t.Errorf("a run that is not known: %d %s %v", res.StatusCode, text, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"main.py"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		change func(o *Options)
		want   string
	}{
		"no ComfyUI":         {func(*Options) {}, "There is no ComfyUI for the agent."},
		"two":                {func(o *Options) { o.URL, o.Dir = "http://127.0.0.1:1", dir }, "There are two ComfyUIs"},
		"flags for another":  {func(o *Options) { o.URL = "http://127.0.0.1:1"; putFlag(o, "lowvram") }, "do nothing for the one at"},
		"two ways":           {func(o *Options) { o.URL, o.Server, o.Listen = "http://127.0.0.1:1", "http://x", ":1" }, "either dials home"},
		"no folder":          {func(o *Options) { o.Dir = filepath.Join(dir, "none") }, "There is no folder"},
		"no address":         {func(o *Options) { o.URL = "gpu1" }, "is not the address of a ComfyUI"},
		"open to everybody":  {func(o *Options) { o.URL, o.Listen = "http://127.0.0.1:1", "0.0.0.0:0" }, "everybody could run jobs"},
		"no such variable":   {func(o *Options) { o.URL, o.Listen, o.Key = "http://127.0.0.1:1", ":0", ref("env:COMFYUME_TEST_NONE") }, "The agent's key can't be read."},
		"wrong flags, named": {func(o *Options) { o.Dir, o.Python = dir, "/bin/sh"; putFlag(o, "lowvram"); putFlag(o, "cpu") }, "--comfyui-lowvram: excludes --comfyui-cpu"},
		"data is a file":     {func(o *Options) { o.URL, o.Data = "http://127.0.0.1:1", filepath.Join(dir, "main.py") }, "can't be made"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			c.change(&o)
			err := Run(t.Context(), o)
			if f, ok := errors.AsType[*fault.Error](err); !ok || !strings.Contains(err.Error(), c.want) || f.Kind != fault.Invalid {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func ref(text string) config.Secret {
	s, err := config.ParseSecret(text)
	if err != nil {
		panic(err)
	}
	return s
}

func putFlag(o *Options, name string) {
	if err := o.Flags.Put(name); err != nil {
		panic(err)
	}
}

// TestEnvironment: ComfyUI runs programs of many people and gets none of the agent's secrets.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Environ = []string{"PATH=/bin", "COMFYUME_TOKEN=a", "AGENT_KEY=b", "NOTIFY_SOCKET=c", "HF_TOKEN=d", "CUDA_VISIBLE_DEVICES=0"}
	o.Key = ref("env:AGENT_KEY")
	o.ModelKeys = map[string]config.Secret{"huggingface.co": ref("env:HF_TOKEN")}
	if got := strings.Join(o.env(), " "); got != "PATH=/bin CUDA_VISIBLE_DEVICES=0 PYTHONUNBUFFERED=1" {
		t.Error(got)
	}
}

func TestNotify(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "n") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.ListenPacket("unixgram", filepath.Join(dir, "s"))
	if err != nil {
		t.Skip(err) // no such sockets on this system
	}
	defer l.Close()
	notify([]string{"A=b", "NOTIFY_SOCKET=" + filepath.Join(dir, "s")}, "READY=1")
	buf := make([]byte, 100)
	n, _, err := l.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("%q %v", buf[:n], err)
	}
	notify(nil, "READY=1") // not a service: nothing happens
}
