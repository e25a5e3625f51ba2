package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// program builds the binary once for all tests of the package.
var program = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("COMFYUME_E2E_BINARY"); bin != "" {
		return bin, nil
	}
	dir, err := os.MkdirTemp("", "comfyume-e2e")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "comfyume")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "../cmd/comfyume")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv("COMFYUME_E2E_BINARY") == "" {
		if bin, err := program(); err == nil {
			_ = os.RemoveAll(filepath.Dir(bin)) // a leftover folder in the temporary directory harms nobody
		}
	}
	os.Exit(code)
}

// studioOptions say which studio a test wants.
type studioOptions struct {
	frontend string        // version of the editor; empty: none
	backEnds int           // simulated GPUs; 0 means 1, below 0 none
	simArgs  []string      // knobs of the simulator
	urls     []string      // back ends that run already; then none is simulated
	config   string        // more YAML
	people   []string      // participants; empty: ann and bob
	redis    bool          // on a Redis of its own, also where COMFYUME_E2E_STORE does not ask for it
	host     string        // address to listen on; empty: a free one
	prepare  func(*studio) // called before the settings are written; nil: nothing to prepare
	started  func(*studio) // called when the server takes requests, before it has to know nodes; nil: nothing to do then
}

// studio is a running server with its back ends, as processes of their own.
type studio struct {
	bin, dir, host string
	scheme         string // http or https
	backEnds       []*process
	urls           []string // addresses of the back ends
	extra          string   // YAML of more back ends
	server         *process
	redis          *redisServer // nil: the studio is on SQLite
}

// process is a program that a test starts, kills and starts again.
type process struct {
	name string
	args []string
	log  *os.File
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended

	gentle bool // the end of the test asks it to end, and does not kill it
}

// startStudio starts a studio and waits until it is ready. COMFYUME_E2E_BACKEND names a real ComfyUI to use
// instead of the simulator.
func startStudio(t *testing.T, o studioOptions) *studio {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if o.frontend != "" {
		needFrontend(t, bin, o.frontend)
	}
	s := &studio{bin: bin, dir: t.TempDir(), host: o.host, scheme: "http"}
	if strings.Contains(o.config, "tls:") {
		s.scheme = "https"
	}
	if s.host == "" {
		s.host = freeAddr(t)
	}
	var backends strings.Builder
	if s.urls = o.urls; len(o.urls) > 0 {
		for i, url := range o.urls {
			fmt.Fprintf(&backends, "  - {name: gpu%d, driver: comfyui, url: %q}\n", i, url)
		}
	} else if real := os.Getenv("COMFYUME_E2E_BACKEND"); real != "" {
		s.urls = append(s.urls, strings.TrimSuffix(real, "/"))
		fmt.Fprintf(&backends, "  - {name: real, driver: comfyui, url: %q}\n", real)
	} else {
		if o.backEnds == 0 {
			o.backEnds = 1
		}
		for i := range max(0, o.backEnds) {
			addr := freeAddr(t)
			args := append([]string{
				"sim", "comfyui", "--listen", addr, "--probe-nodes",
				"--base-directory", filepath.Join(s.dir, fmt.Sprintf("gpu%d", i)),
			}, o.simArgs...)
			p := newProcess(t, s, fmt.Sprintf("gpu%d", i), args)
			s.backEnds = append(s.backEnds, p)
			p.start(t)
			s.urls = append(s.urls, "http://"+addr)
			waitOK(t, p, "http://"+addr+"/system_stats")
			fmt.Fprintf(&backends, "  - {name: gpu%d, driver: comfyui, url: \"http://%s\"}\n", i, addr)
		}
	}
	if o.prepare != nil {
		o.prepare(s)
	}
	people := o.people
	if people == nil {
		people = []string{"ann", "bob"}
	}
	var users strings.Builder
	for _, name := range people {
		fmt.Fprintf(&users, "  - {name: %s, role: participant}\n", name)
	}
	if o.redis || os.Getenv("COMFYUME_E2E_STORE") == "redis" {
		s.redis = startRedis(t, "always")
		o.config += "store: " + s.redis.url() + "\n"
	}
	frontend := o.frontend
	if frontend == "" {
		frontend = "auto"
	}
	config := fmt.Sprintf("listen: %s\ndata: %s\nqueue_api: \"\"\nmetrics: \"\"\nfrontend: %s\nusers:\n%sbackends:\n%s%s",
		s.host, filepath.Join(s.dir, "data"), frontend, &users, &backends, s.extra+o.config)
	if err := os.WriteFile(s.config(), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.server = newProcess(t, s, "server", []string{"serve", "--config", s.config()})
	s.server.start(t)
	s.waitReady(t)
	if o.started != nil {
		o.started(s)
	}
	s.waitNodes(t, people[0])
	return s
}

// waitNodes waits until a back end has told its nodes: an editor that opens before that has none.
func (s *studio) waitNodes(t *testing.T, name string) {
	t.Helper()
	l := &loader{base: s.scheme + "://" + s.host, token: s.token(t, name), http: s.client()}
	deadline := time.Now().Add(30 * time.Second)
	for {
		var info map[string]json.RawMessage
		err := l.call(http.MethodGet, "/object_info/SaveImage", nil, &info)
		if err == nil && len(info) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no back end told its nodes (%v)", err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// client trusts whatever certificate the studio shows: its own authority is nobody's yet.
func (s *studio) client() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}}
}

// waitReady waits until the server takes requests.
func (s *studio) waitReady(t *testing.T) {
	t.Helper()
	waitOK(t, s.server, s.scheme+"://"+s.host+"/readyz")
}

func (s *studio) config() string { return filepath.Join(s.dir, "comfyume.yaml") }

// needFrontend skips when this version of the editor is not installed.
func needFrontend(t *testing.T, bin, version string) {
	t.Helper()
	out, err := exec.Command(bin, "frontend", "list", "--json").CombinedOutput()
	if err != nil {
		t.Fatalf("frontend list: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), `"`+version+`"`) {
		t.Skipf("the editor %s is not installed: comfyume frontend install %s", version, version)
	}
}

// link makes a sign-in link for name, with host in place of the studio's own address.
func (s *studio) link(t *testing.T, name, host string) string {
	t.Helper()
	u, err := url.Parse(s.command(t, "user", "link", name))
	if err != nil {
		t.Fatal(err)
	}
	u.Host = host
	return u.String()
}

// token makes a personal token for name.
func (s *studio) token(t *testing.T, name string) string {
	t.Helper()
	return s.command(t, "token", "new", name)
}

// command runs one command of the program against this studio and returns its standard output.
func (s *studio) command(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(s.bin, append(args, "--config", s.config())...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("comfyume %s: %v\n%s", strings.Join(args, " "), err, &errs)
	}
	return strings.TrimSpace(out.String())
}

func newProcess(t *testing.T, s *studio, name string, args []string) *process {
	t.Helper()
	log, err := os.Create(filepath.Join(t.ArtifactDir(), name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	p := &process{name: name, args: append([]string{s.bin}, args...), log: log}
	p.clean(t)
	return p
}

// clean ends the process with the test, and shows the end of its log where that failed.
func (p *process) clean(t *testing.T) {
	log := p.log
	t.Cleanup(func() {
		if p.gentle {
			p.farewell()
		}
		p.kill()
		log.Close()
		if t.Failed() {
			if b, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("end of the log of %s:\n%s", p.name, tail(b, 4000))
			}
		}
	})
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func (p *process) start(t *testing.T) {
	t.Helper()
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	done := make(chan struct{})
	p.done = done
	go func(cmd *exec.Cmd) {
		defer close(done)
		_ = cmd.Wait() // a killed process ends with an error; its log tells the rest
	}(p.cmd)
}

// kill ends the process as a power cut does and waits for its end.
func (p *process) kill() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(fmt.Sprintf("kill %s: %v", p.name, err))
	}
	<-p.done
}

// farewell asks the process to end, and gives it a while.
func (p *process) farewell() {
	if p.cmd == nil || p.cmd.Process == nil || p.cmd.Process.Signal(os.Interrupt) != nil {
		return
	}
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
	}
}

// waitOK waits until the address answers 200 or the process has ended.
func waitOK(t *testing.T, p *process, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second) // a real ComfyUI takes a while
	defer cancel()
	// The studio's own authority is nobody's yet; this only asks whether the server is there.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // see above
	defer client.CloseIdleConnections()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-p.done:
			t.Fatalf("%s ended before it was ready", p.name)
		case <-ctx.Done():
			t.Fatalf("%s is not ready: %s", p.name, url)
		case <-tick.C:
		}
	}
}

// freeAddr returns a loopback address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
