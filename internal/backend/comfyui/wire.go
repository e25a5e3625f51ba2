package comfyui

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// wire carries requests to one server over kept connections, each on its caller's goroutine. http.Transport would
// do, at twice the price: it has two goroutines and two switches to others per request and connection, and a run is
// little more than two requests and a handshake.
//
// It follows no redirects, knows no proxies and speaks HTTP/1.1. It is safe for concurrent use.
type wire struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	tls  *tls.Config // may be nil

	fresh bool // no connection is kept

	mu     sync.Mutex
	idle   []*wireConn // the one used last at the end
	closed bool
}

const (
	// idleFor is how long a connection is kept unused. Servers close them after a minute or so, and a request that
	// meets the close has to be asked after.
	idleFor = 5 * time.Second
	maxIdle = 16
)

// wireConn is one connection.
type wireConn struct {
	net.Conn
	in    *bounded // what br reads from
	br    *bufio.Reader
	bw    *bufio.Writer
	since time.Time // when it became idle
}

// RoundTrip sends req and reads the head of the answer.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		c, kept, err := w.take(req)
		if err != nil {
			return nil, err
		}
		resp, err := w.exchange(c, req)
		if err == nil {
			return resp, nil
		}
		c.Close()
		if ended := context.Cause(req.Context()); ended != nil {
			return nil, ended
		}
		if kept { // the server may have closed it just now, and the others with it
			w.drop()
		}
		// What changes nothing is asked again.
		if !kept || (req.Method != http.MethodGet && req.Method != http.MethodHead) {
			return nil, err
		}
	}
}

// exchange sends req on c and reads the head of the answer.
func (w *wire) exchange(c *wireConn, req *http.Request) (*http.Response, error) {
	stop := context.AfterFunc(req.Context(), func() { c.Close() })
	err := req.Write(c.bw)
	if err == nil {
		err = c.bw.Flush()
	}
	if err != nil {
		// A server that does not want the whole of a body says so and closes.
		if c.SetReadDeadline(time.Now().Add(time.Second)) != nil {
			stop()
			return nil, err
		}
	}
	c.in.left = maxHead
	resp, readErr := readResponse(c.br, req)
	c.in.left = unbounded
	if readErr != nil {
		stop()
		return nil, errors.Join(err, readErr)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if !stop() {
			return nil, context.Cause(req.Context())
		}
		resp.Body = upgraded{Reader: c.br, Conn: c.Conn}
		return resp, nil
	}
	body := &wireBody{ReadCloser: resp.Body, wire: w, conn: c, stop: stop, keep: err == nil && !resp.Close && !req.Close}
	if resp.ContentLength == 0 || req.Method == http.MethodHead {
		body.whole = true
	}
	resp.Body = body
	return resp, nil
}

// maxHead bounds the head of an answer: http.ReadResponse would take one without end.
const (
	maxHead   = 1 << 20
	unbounded = -1
)

var errHead = errors.New("the head of the answer is too long")

// bounded reads from a connection, at most left bytes unless that is unbounded.
type bounded struct {
	net.Conn
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left == unbounded {
		return b.Conn.Read(p)
	}
	if b.left == 0 {
		return 0, errHead
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// readResponse reads the head of the answer and skips those that only announce it.
func readResponse(br *bufio.Reader, req *http.Request) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(br, req)
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
}

// take gives a kept connection, or opens one.
func (w *wire) take(req *http.Request) (c *wireConn, kept bool, err error) {
	upgrade := req.Header.Get("Upgrade") != "" // it does not come back: leave the kept ones to others
	w.mu.Lock()
	for n := len(w.idle); n > 0 && !upgrade; n = len(w.idle) {
		c := w.idle[n-1]
		w.idle[n-1], w.idle = nil, w.idle[:n-1]
		if time.Since(c.since) < idleFor {
			w.mu.Unlock()
			return c, true, nil
		}
		c.Close()
	}
	closed := w.closed
	w.mu.Unlock()
	if closed {
		return nil, false, errClosed
	}
	port := req.URL.Port()
	if port == "" {
		port = "80"
		if req.URL.Scheme == "https" {
			port = "443"
		}
	}
	conn, err := w.dial(req.Context(), "tcp", net.JoinHostPort(req.URL.Hostname(), port))
	if err != nil {
		return nil, false, err
	}
	if req.URL.Scheme == "https" {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if w.tls != nil {
			config = w.tls.Clone()
		}
		if config.ServerName == "" {
			config.ServerName = req.URL.Hostname()
		}
		conn = tls.Client(conn, config)
	}
	in, out := 4<<10, 2<<10
	if upgrade { // there is one for every run, and only the handshake goes through them
		in, out = 1<<10, 512
	}
	from := &bounded{conn, unbounded}
	return &wireConn{Conn: conn, in: from, br: bufio.NewReaderSize(from, in), bw: bufio.NewWriterSize(conn, out)}, false, nil
}

// put keeps a connection for the next request.
func (w *wire) put(c *wireConn) {
	c.since = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.fresh || len(w.idle) >= maxIdle || c.br.Buffered() > 0 {
		c.Close()
		return
	}
	w.idle = append(w.idle, c)
}

// close closes the kept connections and refuses new ones.
func (w *wire) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.drop()
}

// drop closes the kept connections.
func (w *wire) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.idle {
		c.Close()
	}
	w.idle = nil
}

// wireBody is the body of an answer; its connection is kept when it was read to its end.
type wireBody struct {
	io.ReadCloser
	wire  *wire
	conn  *wireConn
	stop  func() bool
	keep  bool
	whole bool
	once  sync.Once
}

func (b *wireBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.whole = true
	}
	return n, err
}

// Close gives the connection back, or cuts it when there is more to come.
func (b *wireBody) Close() error {
	b.once.Do(func() {
		if b.stop() && b.keep && b.whole {
			b.wire.put(b.conn)
		} else {
			b.conn.Close()
		}
	})
	return nil
}

// upgraded is a connection of which a reader may have read ahead.
type upgraded struct {
	*bufio.Reader
	net.Conn
}

// Read reads from the connection. Every run ends with one that was closed, and nobody wants to know its addresses then:
// whoever wraps the error writes it out.
func (u upgraded) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if errors.Is(err, net.ErrClosed) {
		err = net.ErrClosed
	}
	return n, err
}
