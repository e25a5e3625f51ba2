package sim

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/coder/websocket"
)

// maxBacklog is how much may wait for a socket that takes nothing before it is closed, in bytes.
const maxBacklog = 64 << 20

// socket is one connected client. Frames are pushed by anybody and written by one goroutine, all that wait
// together in one packet.
type socket struct {
	sid    string
	conn   *websocket.Conn
	raw    *corked
	cancel context.CancelFunc
	server *ComfyUI
	wake   chan struct{}
	heard  bool // a valid text frame came; owned by the reader

	mu      sync.Mutex
	backlog []message
	size    int
}

// push adds a frame. It never blocks.
func (s *socket) push(m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size+len(m.body) > maxBacklog {
		s.cancel()
		return
	}
	s.backlog = append(s.backlog, m)
	s.size += len(m.body)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *socket) take(spare []message) []message {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.backlog
	s.backlog, s.size = spare[:0], 0
	return taken
}

// write writes what was pushed until ctx ends or the client is gone.
func (s *socket) write(ctx context.Context) {
	defer s.cancel()
	var batch []message
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		clear(batch)
		batch = s.take(batch)
		if s.server.breathe(ctx) != nil || s.server.pause(ctx, s.server.opts.Latency) != nil {
			return
		}
		s.raw.cork()
		for _, m := range batch {
			// Who ends ctx ends the reader, and that one closes the connection: no need to watch it for each frame.
			if s.conn.Write(context.WithoutCancel(ctx), m.kind, m.body) != nil {
				return
			}
		}
		if s.raw.uncork() != nil {
			return
		}
	}
}

// corked is a connection that can hold back what is written and send it in one piece.
type corked struct {
	net.Conn
	mu   sync.Mutex
	held bool
	gone bool
	buf  []byte
}

// holdAtMost is when held bytes are sent although the cork is on.
const holdAtMost = 64 << 10

// Write sends or holds back b.
func (c *corked) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.held {
		return c.Conn.Write(b)
	}
	c.buf = append(c.buf, b...)
	if len(c.buf) > holdAtMost {
		return len(b), c.flush()
	}
	return len(b), nil
}

func (c *corked) cork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = true
}

func (c *corked) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	return c.flush()
}

func (c *corked) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

// drop breaks the connection, at once or when there is one.
func (c *corked) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	if c.Conn != nil {
		c.Conn.Close() // whatever it says, it is gone
	}
}

// attach gives it its connection.
func (c *corked) attach(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Conn = conn
	if c.gone {
		conn.Close()
	}
}

// hijackable hands a connection over with a cork on it.
type hijackable struct {
	http.ResponseWriter
	out *corked
}

// Hijack takes the connection from the HTTP server.
func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.out.attach(conn)
	return h.out, bufio.NewReadWriter(rw.Reader, bufio.NewWriter(h.out)), nil
}
