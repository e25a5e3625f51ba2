package tunnel_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/ahelme/comfyume/internal/tunnel"
)

// doorman counts who asks for a connection beside the line, and stands for a proxy that does not know the upgrade.
type doorman struct {
	mu     sync.Mutex
	came   int
	closed bool
}

func (d *doorman) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == tunnel.Base+"/apart" {
			d.mu.Lock()
			d.came++
			closed := d.closed
			d.mu.Unlock()
			if closed {
				r.Header.Del("Upgrade")
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (d *doorman) visits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.came
}

// echoed sends bytes through a stream that gives them back.
func (s *studio) echoed(c io.ReadWriter) {
	s.Helper()
	sent := make([]byte, 5<<20)
	rand.Read(sent)
	go c.Write(sent) //nolint:errcheck // reading them back tells
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(sent, got) {
		s.Fatal("the bytes came back changed:", err)
	}
}

// TestLargeFilesGoBesideTheLine: by a connection of their own, which ends with its line.
func TestLargeFilesGoBesideTheLine(t *testing.T) {
	t.Parallel()
	var d doorman
	s := newStudio(t, d.wrap)
	stop := s.run(s.home())
	s.online("lab-1")
	one, other := s.dial(tunnel.Large), s.dial(tunnel.Large)
	s.echoed(one)
	s.echoed(other)
	if n := d.visits(); n != 2 {
		t.Errorf("%d connections beside the line, want 2", n)
	}
	if err := one.Close(); err != nil {
		t.Error("closing one:", err)
	}
	s.echoed(other)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := other.SetReadDeadline(time.Now().Add(10 * time.Second)); err == nil {
		if _, err := other.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection outlives its line:", err)
		}
	}
}

// TestLargeFilesOfACutLine: the studio does not wait for a connection whose line was lost.
func TestLargeFilesOfACutLine(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	s.run(s.home())
	s.online("lab-1")
	c := s.dial(tunnel.Large)
	s.hub.Cut("lab-1", "a test")
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err == nil {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection outlives its line:", err)
		}
	}
}

// TestLargeFilesTakeTheLineElse: where no connection beside the line comes about, and then it is not tried each time.
func TestLargeFilesTakeTheLineElse(t *testing.T) {
	t.Parallel()
	t.Run("a proxy without upgrades", func(t *testing.T) {
		t.Parallel()
		d := doorman{closed: true}
		s := newStudio(t, d.wrap)
		s.run(s.home())
		s.online("lab-1")
		for range 3 {
			s.echoed(s.dial(tunnel.Large))
		}
		if n := d.visits(); n != 1 {
			t.Errorf("it was tried %d times, want once", n)
		}
	})
	for name, answer := range map[string][]byte{
		"an older agent":                append([]byte{1, 0, 67}, `{"code":"agent_version","kind":"invalid","detail":"unknown stream"}`...),
		"one that says it and does not": {0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStudio(t, nil)
			kinds := make(chan byte, 2)
			s.answering(func(st *yamux.Stream) {
				var kind [1]byte
				st.Read(kind[:]) //nolint:errcheck // the kind says it
				kinds <- kind[0]
				if tunnel.Kind(kind[0]) == tunnel.Large {
					st.Write(answer) //nolint:errcheck // the studio's end tells
					return
				}
				st.Write([]byte{0}) //nolint:errcheck // likewise
			})
			s.dial(tunnel.Large)
			if first, second := <-kinds, <-kinds; first != byte(tunnel.Large) || second != byte(tunnel.ComfyUI) {
				t.Errorf("streams of kind %d and %d, want one beside the line and then one on it", first, second)
			}
		})
	}
}

// TestNobodyComesUnasked: a connection beside the line needs the agent's key and the word that its stream brought, once.
func TestNobodyComesUnasked(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	token := make(chan string, 1)
	s.answering(func(st *yamux.Stream) {
		var ask [17]byte
		io.ReadFull(st, ask[:]) //nolint:errcheck // a wrong token is refused
		token <- hex.EncodeToString(ask[1:])
	})
	dialled := make(chan error, 1)
	go func() {
		_, err := s.hub.Dial(t.Context(), "lab-1", tunnel.Large)
		dialled <- err
	}()
	good := <-token
	come := func(key, token, upgrade string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.server.URL+tunnel.Base+"/apart", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {"Bearer " + key}, "X-Comfyume-Token": {token}, "Connection": {"Upgrade"}, "Upgrade": {upgrade}}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		s.Cleanup(func() { resp.Body.Close() })
		return resp.StatusCode
	}
	for _, c := range []struct {
		what, key, token, upgrade string
		status                    int
	}{
		{"no key", "", good, "comfyume-bytes", http.StatusUnauthorized},
		{"a wrong key", "key-9", good, "comfyume-bytes", http.StatusUnauthorized},
		{"another agent's key", "key-2", good, "comfyume-bytes", http.StatusNotFound},
		{"no token", "key-1", "", "comfyume-bytes", http.StatusNotFound},
		{"a wrong token", "key-1", strings.Repeat("0", 32), "comfyume-bytes", http.StatusNotFound},
		{"a WebSocket", "key-1", good, "websocket", http.StatusServiceUnavailable},
		{"the right one", "key-1", good, "comfyume-bytes", http.StatusSwitchingProtocols},
		{"the right one again", "key-1", good, "comfyume-bytes", http.StatusNotFound},
	} {
		if status := come(c.key, c.token, c.upgrade); status != c.status {
			t.Errorf("%s: status %d, want %d", c.what, status, c.status)
		}
	}
	s.hub.Cut("lab-1", "a test")
	if err := <-dialled; err == nil {
		t.Error("the stream was never answered, and leads somewhere")
	}
}
