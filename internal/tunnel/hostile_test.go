package tunnel_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/yamux"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// intruder opens a line by hand, as an agent would that does what it likes with its key.
func (s *studio) intruder() *websocket.Conn {
	s.Helper()
	hello, err := json.Marshal(tunnel.Hello{Version: "v1", Machine: "evil", Instance: "i"})
	if err != nil {
		s.Fatal(err)
	}
	c, resp, err := websocket.Dial(s.Context(), s.server.URL+tunnel.Base+"/connect", &websocket.DialOptions{
		HTTPHeader:   http.Header{"Authorization": {"Bearer key-1"}, "X-Comfyume-Agent": {base64.RawURLEncoding.EncodeToString(hello)}},
		Subprotocols: []string{"comfyume.agent.1"}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		s.Fatal(resp, err)
	}
	c.SetReadLimit(-1)
	s.Cleanup(func() { c.CloseNow() })
	s.online("lab-1")
	return c
}

// frame is one of the multiplexer's.
func frame(typ byte, flags uint16, stream, length uint32, body []byte) []byte {
	b := make([]byte, 12, 12+len(body))
	b[1] = typ
	binary.BigEndian.PutUint16(b[2:], flags)
	binary.BigEndian.PutUint32(b[4:], stream)
	binary.BigEndian.PutUint32(b[8:], length)
	return append(b, body...)
}

// TestHostileAgentsAreCutOff: an agent may answer, and do nothing else.
func TestHostileAgentsAreCutOff(t *testing.T) {
	t.Parallel()
	const (
		data, window, ping, away = 0, 1, 2, 3
		syn                      = 1
	)
	for name, c := range map[string]struct {
		sent [][]byte
		why  string
	}{
		"opens a stream":            {[][]byte{frame(window, syn, 2, 0, nil)}, "open a stream of its own"},
		"opens one with data":       {[][]byte{frame(data, syn, 2, 4, []byte("evil"))}, "open a stream of its own"},
		"in pieces":                 {[][]byte{frame(window, syn, 2, 0, nil)[:5], frame(window, syn, 2, 0, nil)[5:]}, "open a stream of its own"},
		"behind other frames":       {[][]byte{append(frame(data, 0, 77, 3, []byte("abc")), frame(window, syn, 2, 0, nil)...)}, "open a stream of its own"},
		"floods with pings":         {[][]byte{bytes.Repeat(frame(ping, syn, 0, 1, nil), 5000)}, "more than it was asked for"},
		"another version of frames": {[][]byte{append([]byte{9}, frame(window, 0, 2, 0, nil)[1:]...)}, "cut"},
		"nonsense":                  {[][]byte{[]byte(strings.Repeat("GET / HTTP/1.1\r\n", 10))}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStudio(t, nil)
			conn := s.intruder()
			for _, b := range c.sent {
				if err := conn.Write(t.Context(), websocket.MessageBinary, b); err != nil {
					break // it was cut off before the end
				}
			}
			s.offline("lab-1")
			if why := s.hub.Agent("lab-1").Why; !strings.Contains(why, c.why) {
				t.Errorf("cut off because %s, want %s", why, c.why)
			}
		})
	}
	t.Run("a text", func(t *testing.T) {
		t.Parallel()
		s := newStudio(t, nil)
		if err := s.intruder().Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		s.offline("lab-1")
	})
}

// answering is an agent that answers streams as it likes.
func (s *studio) answering(answer func(*yamux.Stream)) {
	s.Helper()
	conn := s.intruder()
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	config.EnableKeepAlive = false
	session, err := yamux.Server(websocket.NetConn(context.Background(), conn, websocket.MessageBinary), config)
	if err != nil {
		s.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			stream, err := session.AcceptStream()
			if err != nil {
				return
			}
			answer(stream)
		}
	}()
	s.Cleanup(func() {
		session.Close()
		<-done
	})
}

func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer []byte
		says   string
	}{
		"a refusal without end":       {[]byte{1, 0xff, 0xff}, "does not answer"},
		"a refusal that is no JSON":   {append([]byte{1, 0, 4}, "evil"...), "does not answer"},
		"a refusal that says nothing": {append([]byte{1, 0, 2}, "{}"...), "does not answer"},
		"a refusal with colours":      {append([]byte{1, 0, 45}, `{"detail":"\u001b[31mred","kind":"internal"}   `...), "?[31mred"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStudio(t, nil)
			s.answering(func(st *yamux.Stream) {
				st.Write(c.answer)
			})
			_, err := s.hub.Dial(t.Context(), "lab-1", tunnel.ComfyUI)
			if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %s", err, c.says)
			}
		})
	}
}

// TestSilentAgentHoldsNobodyUp: a stream that is not answered ends with its context, and there are only so many.
func TestSilentAgentHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	s.answering(func(*yamux.Stream) {})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.hub.Dial(ctx, "lab-1", tunnel.ComfyUI); !fault.Is(err, fault.Internal) || ctx.Err() == nil {
		t.Errorf("a stream that nobody answers: %v", err)
	}
	busy := false
	for range 60 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err := s.hub.Dial(ctx, "lab-1", tunnel.ComfyUI)
		cancel()
		busy = busy || fault.Is(err, fault.Busy)
	}
	if !busy {
		t.Error("streams without end were opened to an agent that answers none")
	}
}

// TestSlowReaderIsBounded: an agent that sends without end fills one window and no more, and other streams go on.
func TestSlowReaderIsBounded(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	s.run(s.home())
	s.online("lab-1")
	stuck, fine := s.dial(tunnel.ComfyUI), s.dial(tunnel.ComfyUI)
	wrote := make(chan int, 1)
	go func() { // the echo comes back, and nobody reads it
		n := 0
		for {
			if stuck.SetWriteDeadline(time.Now().Add(500*time.Millisecond)) != nil {
				break
			}
			m, err := stuck.Write(make([]byte, 64<<10))
			if n += m; err != nil {
				break
			}
		}
		wrote <- n
	}()
	if n := <-wrote; n > 48<<20 { // windows each way, and what the sockets of the echo hold, which grow
		t.Errorf("%d bytes are on their way", n)
	}
	if _, err := fine.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if err := fine.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(fine, got); err != nil || string(got) != "ping" {
		t.Errorf("beside a stream that is stuck: %q, %v", got, err)
	}
	if !s.hub.Agent("lab-1").Online {
		t.Error("the line was taken for lost")
	}
}
