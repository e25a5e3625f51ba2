package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/tunnel"
)

func direct(*http.Request) (*url.URL, error) { return nil, nil }

// logged is a log that a test reads while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// control returns a client of the studio's control socket.
func control(t *testing.T, o app.Options) *client.Client {
	t.Helper()
	path, err := app.SocketPath(o.Settings.Data, "")
	ok(t, err)
	c := client.Socket(path)
	t.Cleanup(c.Close)
	return c
}

// agent runs an agent beside a simulated ComfyUI until the test ends. What its Run returned comes through ended.
func agent(t *testing.T, server, key string) (ended <-chan error) {
	t.Helper()
	comfy := strings.TrimPrefix(simulated(t), "http://")
	home := &tunnel.Home{
		Server: server, Key: key, Hello: tunnel.ThisMachine("test", "gpu-room"), Proxy: direct,
		ComfyUI: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", comfy)
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { end <- home.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return end
}

// backEnd waits until a back end is in a state.
func backEnd(t *testing.T, c *client.Client, name, state string) api.BackEnd {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(20 * time.Second); ; <-tick.C {
		list, err := c.BackEnds(t.Context())
		ok(t, err)
		for _, b := range list {
			if b.Name == name && (b.State == state || time.Now().After(until)) {
				if b.State != state {
					t.Fatalf("%s is %s (%s), want %s", name, b.State, b.Reason, state)
				}
				return b
			}
		}
	}
}

// TestAgentDialsHome: an operator's code lets an agent in once, it runs people's jobs, and its end is at once. Neither
// code nor key is in the log, however much it says.
func TestAgentDialsHome(t *testing.T) {
	t.Parallel()
	var log logged
	o := options(t, map[string]string{"limits.keep_free": "1MB"})
	o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.Settings.Backends = []config.Back{{Name: "lab-1", Driver: "agent"}, {Name: "gpu", Driver: "comfyui", URL: "http://127.0.0.1:1"}}
	var secrets []string
	ok(t, run(t, o, func(s *app.Studio) {
		c := control(t, o)
		if b := backEnd(t, c, "lab-1", "unreachable"); !strings.Contains(b.Reason, "No agent has joined as lab-1 yet") {
			t.Errorf("before an agent joined: %s", b.Reason)
		}
		for _, name := range []string{"gpu", "lab-2"} {
			if _, err := c.NewAgentCode(t.Context(), name, 0); err == nil {
				t.Errorf("a code for %s", name)
			}
		}
		one, err := c.NewAgentCode(t.Context(), "lab-1", time.Minute)
		ok(t, err)
		hello := tunnel.ThisMachine("test", "gpu-room")
		if _, err := tunnel.Join(t.Context(), s.Address(), "AAAA-BBBB-CCCC", "", hello, nil, direct); !fault.Is(err, fault.Denied) {
			t.Errorf("a wrong code: %v", err)
		}
		cred, err := tunnel.Join(t.Context(), s.Address(), one.Code, "lab-1", hello, nil, direct)
		ok(t, err)
		secrets = append(secrets, one.Code, strings.ReplaceAll(one.Code, "-", ""), cred.Key)
		if _, err := tunnel.Join(t.Context(), s.Address(), one.Code, "", hello, nil, direct); !fault.Is(err, fault.Denied) {
			t.Errorf("a code used twice: %v", err)
		}
		ended := agent(t, s.Address(), cred.Key)
		backEnd(t, c, "lab-1", "ready")
		runOne(t, s, c)
		list, err := c.Agents(t.Context())
		if err != nil || len(list) != 1 || !list[0].Online || list[0].Machine != "gpu-room" || list[0].From != "127.0.0.1" {
			t.Errorf("agents: %+v, %v", list, err)
		}
		strangers(t, s, cred.Key)

		began := time.Now()
		ok(t, c.RevokeAgent(t.Context(), "lab-1"))
		b := backEnd(t, c, "lab-1", "unreachable")
		if took := time.Since(began); took > 2*time.Second || !strings.Contains(b.Reason, "its key was revoked") {
			t.Errorf("revoked, it is away %v later: %s", took, b.Reason)
		}
		select { // it comes back within a moment, and is told
		case err := <-ended:
			if code(err) != tunnel.CodeKey {
				t.Errorf("an agent whose key was revoked ends with %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("an agent whose key was revoked goes on")
		}
	}))
	for _, secret := range secrets {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds %s", secret)
		}
	}
	if !strings.Contains(log.String(), "path=/studio/agents/v1/join") {
		t.Error("the log has no line of the join: nothing was tried")
	}
}

// strangers may not do what agents do, and an agent may do nothing else.
func strangers(t *testing.T, s *app.Studio, key string) {
	t.Helper()
	ask := func(method, path, credential string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, s.Address()+path, nil)
		ok(t, err)
		if credential != "" {
			req.Header.Set("Authorization", "Bearer "+credential)
		}
		res, err := http.DefaultClient.Do(req)
		ok(t, err)
		ok(t, res.Body.Close())
		return res.StatusCode
	}
	for _, c := range []struct {
		method, path, key string
		want              int
	}{
		{"GET", "/studio/agents/v1/connect", "", 401},
		{"GET", "/studio/agents/v1/connect", "cma_no", 401},
		{"GET", "/studio/agents/v1/connect", strings.Repeat("x", 4000), 401},
		{"GET", "/studio/agents/v1/connect", key, 400}, // it says nothing of itself
		{"POST", "/studio/agents/v1/connect", key, 405},
		{"GET", "/studio/agents/v1/join", "", 405},
		{"POST", "/studio/agents/v1/join", "", 415},
		{"GET", "/studio/agents/v2/connect", key, 401},
		{"GET", "/studio/api/v1/me", key, 401},
		{"GET", "/queue", key, 401},
		{"GET", "/api/workers/next-job?worker_id=w", key, 401},
	} {
		if got := ask(c.method, c.path, c.key); got != c.want {
			t.Errorf("%s %s with %.12q gave %d, want %d", c.method, c.path, c.key, got, c.want)
		}
	}
}

// runOne has ann run a graph to its end.
func runOne(t *testing.T, s *app.Studio, c *client.Client) {
	t.Helper()
	made, err := c.NewToken(t.Context(), "ann", api.NewToken{})
	ok(t, err)
	ask := func(method, path, body string) string {
		req, err := http.NewRequestWithContext(t.Context(), method, s.Address()+path, strings.NewReader(body))
		ok(t, err)
		req.Header.Set("Authorization", "Bearer "+made.Secret)
		res, err := http.DefaultClient.Do(req)
		ok(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		ok(t, err)
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s %s gave %s: %s", method, path, res.Status, text)
		}
		return string(text)
	}
	id := fmt.Sprintf("%08x-0000-4000-8000-000000000000", time.Now().UnixNano()&0xffffffff)
	ask("POST", "/prompt", `{"prompt_id": "`+id+`", "prompt": {"1": {"class_type": "PrimitiveString", "inputs": {"value": "over the line"}},
		"2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); <-tick.C {
		if text := ask("GET", "/history/"+id, ""); strings.Contains(text, "over the line") && strings.Contains(text, `"completed": true`) {
			return
		}
	}
	t.Fatal("the job did not end")
}

// TestAgentFindsTheLeader: of two servers one leads; an agent that asks the other is passed on, and moves when the lead does.
func TestAgentFindsTheLeader(t *testing.T) {
	t.Parallel()
	flags := map[string]string{"data": filepath.Join(t.TempDir(), "data"), "store": startRedis(t), "limits.keep_free": "1MB"}
	with := func() app.Options {
		f := map[string]string{"listen": freePort(t)}
		for k, v := range flags {
			f[k] = v
		}
		o := options(t, f)
		o.Settings.Backends = []config.Back{{Name: "lab-1", Driver: "agent"}}
		return o
	}
	ctx, endFirst := context.WithCancel(t.Context())
	defer endFirst()
	first, up := with(), make(chan *app.Studio, 1)
	var log logged
	first.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	gone := make(chan error, 1)
	go func() {
		gone <- app.Run(ctx, first, func(s *app.Studio) error {
			up <- s
			return nil
		})
	}()
	select {
	case a := <-up:
		ok(t, run(t, with(), func(b *app.Studio) {
			c := control(t, first)
			code, err := c.NewAgentCode(t.Context(), "lab-1", time.Minute)
			ok(t, err)
			cred, err := tunnel.Join(t.Context(), b.Address(), code.Code, "", tunnel.ThisMachine("test", "gpu-room"), nil, direct)
			ok(t, err)
			agent(t, b.Address(), cred.Key)
			if leads := a.Leads(); !leads {
				t.Error("the first server does not lead")
			}
			online := func(s *app.Studio) {
				t.Helper()
				waiting, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				if err := s.WaitAgent(waiting, "lab-1"); err != nil {
					t.Fatal("the agent did not come:", err)
				}
			}
			online(a)
			large, err := a.DialLarge(t.Context(), "lab-1")
			ok(t, err)
			ok(t, large.Close())
			endFirst()
			ok(t, <-gone)
			online(b)
		}))
		if said := log.String(); !strings.Contains(said, "path=/studio/agents/v1/apart") || strings.Contains(said, "take its line") {
			t.Errorf("a connection beside the line was not passed on:\n%s", said)
		}
	case err := <-gone:
		t.Fatal(errors.Join(errors.New("the first server ended"), err))
	}
}

// freePort is an address that nobody has now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	return l.Addr().String()
}
