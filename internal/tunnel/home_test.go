package tunnel_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// studio is a hub behind a real server.
type studio struct {
	*testing.T
	hub     *tunnel.Hub
	server  *httptest.Server
	comings chan string
	names   map[string]string // by key
	mu      sync.Mutex
}

func newStudio(t *testing.T, wrap func(http.Handler) http.Handler) *studio {
	t.Helper()
	s := &studio{T: t, comings: make(chan string, 100), names: map[string]string{"key-1": "lab-1", "key-2": "lab-2"}}
	s.hub = tunnel.NewHub(tunnel.HubOptions{
		Studio: "s1", Version: "v1", Changed: func(name string) {
			select {
			case s.comings <- name:
			default:
			}
		},
		Check: s.check,
		Join: func(_ context.Context, code, name, _ string, _ tunnel.Hello) (tunnel.Credentials, error) {
			if code != "good" {
				return tunnel.Credentials{}, fault.New(fault.Denied, "There is no such code.").WithCode("agent_code")
			}
			return tunnel.Credentials{Name: "lab-1", Key: "key-1"}, nil
		},
	})
	var h http.Handler = s.hub
	if wrap != nil {
		h = wrap(h)
	}
	s.server = httptest.NewServer(h)
	t.Cleanup(func() {
		s.hub.Close()
		s.server.Close()
	})
	return s
}

func (s *studio) check(_ context.Context, key string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name := s.names[key]; name != "" {
		return name, nil
	}
	return "", fault.New(fault.Denied, "The agent's key was revoked.").WithCode(tunnel.CodeKey)
}

func (s *studio) revoke(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.names, key)
}

// echo is what stands for a ComfyUI: it gives back what it gets.
func echo(t *testing.T) func(context.Context) (net.Conn, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				io.Copy(c, c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}
}

// home is an agent of the studio, not begun.
func (s *studio) home() *tunnel.Home {
	return &tunnel.Home{
		Server: s.server.URL, Key: "key-1", Hello: tunnel.Hello{Version: "v1", Machine: "gpu", OS: "linux/amd64"},
		ComfyUI: echo(s.T), Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		Control: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "control ", r.URL.Path) }),
	}
}

// run lets an agent run until the returned function ends it and gives what Run returned.
func (s *studio) run(h *tunnel.Home) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = h.Run(ctx)
	}()
	stop = func() error {
		cancel()
		<-done
		return err
	}
	s.Cleanup(func() { stop() })
	return stop
}

// online waits until the agent has a line.
func (s *studio) online(name string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	if err := s.hub.Wait(ctx, name); err != nil {
		s.Fatal(name, "did not come:", err)
	}
}

// offline waits until the agent has none.
func (s *studio) offline(name string) {
	s.Helper()
	for s.hub.Agent(name).Online {
		select {
		case <-s.comings:
		case <-time.After(20 * time.Second):
			s.Fatal(name, "did not go")
		}
	}
}

func (s *studio) dial(kind tunnel.Kind) net.Conn {
	s.Helper()
	c, err := s.hub.Dial(s.Context(), "lab-1", kind)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Close() })
	return c
}

func TestStreamsLeadToComfyUIAndControl(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	h := s.home()
	stop := s.run(h)
	s.online("lab-1")
	c := s.dial(tunnel.ComfyUI)
	sent := make([]byte, 3<<20)
	rand.Read(sent)
	go c.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(sent, got) {
		t.Fatal("the bytes came back changed:", err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return s.hub.Dial(ctx, "lab-1", tunnel.Control)
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://agent/status")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "control /status" {
		t.Errorf("%q, %v", body, err)
	}
	p := s.hub.Agent("lab-1")
	if !p.Online || p.Hello.Machine != "gpu" || p.From != "127.0.0.1" || p.Clock.Abs() > time.Minute {
		t.Errorf("presence: %+v", p)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	s.offline("lab-1")
	if p := s.hub.Agent("lab-1"); !strings.Contains(p.Why, "goodbye") {
		t.Errorf("an agent that left is away since %q", p.Why)
	}
	if _, err := s.hub.Dial(t.Context(), "lab-1", tunnel.ComfyUI); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "away since") {
		t.Errorf("a stream to an agent that is away: %v", err)
	}
	if _, err := s.hub.Dial(t.Context(), "lab-2", tunnel.ComfyUI); err == nil || !strings.Contains(err.Error(), "has not dialled home") {
		t.Errorf("a stream to an agent that never came: %v", err)
	}
}

func TestAgentSaysWhyItHasNoComfyUI(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	h := s.home()
	h.ComfyUI = func(context.Context) (net.Conn, error) {
		return nil, fault.New(fault.Unavailable, "ComfyUI is starting since 12 s.").WithCode("comfyui_starting")
	}
	s.run(h)
	s.online("lab-1")
	_, err := s.hub.Dial(t.Context(), "lab-1", tunnel.ComfyUI)
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "comfyui_starting" || e.Public != "ComfyUI is starting since 12 s." || e.Kind != fault.Unavailable {
		t.Errorf("%#v", err)
	}
	if _, err = s.hub.Dial(t.Context(), "lab-1", tunnel.Kind(9)); err == nil || !strings.Contains(err.Error(), "knows no streams") {
		t.Errorf("a stream of an unknown kind: %v", err)
	}
}

func TestRevokedKeyEndsTheAgent(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	s.run(s.home())
	s.online("lab-1")
	s.revoke("key-1")
	s.hub.Cut("lab-1", "its key was revoked")
	s.offline("lab-1")
	if why := s.hub.Agent("lab-1").Why; why != "its key was revoked" {
		t.Error("away because", why)
	}
	err := s.home().Run(t.Context())
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != tunnel.CodeKey {
		t.Errorf("Run with a revoked key: %v", err)
	}
}

func TestJoinGivesAKey(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	c, err := tunnel.Join(t.Context(), s.server.URL+"/", "good", "", tunnel.ThisMachine("v1", "gpu"), nil, nil)
	if err != nil || c.Name != "lab-1" || c.Key != "key-1" || c.Studio != "s1" {
		t.Errorf("%+v, %v", c, err)
	}
	_, err = tunnel.Join(t.Context(), s.server.URL, "bad", "", tunnel.ThisMachine("v1", "gpu"), nil, nil)
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "agent_code" || e.Kind != fault.Denied {
		t.Errorf("Join with a wrong code: %v", err)
	}
}
