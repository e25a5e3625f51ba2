package room

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// The buffers of a socket's connection. net/http hands over 4 KiB each way; clients hardly ever send, and what we
// send is gathered elsewhere, so that small ones do.
const (
	readBuffer  = 256
	writeBuffer = 128
)

// maxGather is how many bytes are gathered for one write call.
const maxGather = 64 << 10

// gatherConn is a connection whose writes can be gathered into one. It is safe for concurrent use.
type gatherConn struct {
	net.Conn
	timeout time.Duration // of one write call
	turn    chan struct{} // holds a token while somebody writes: the order of bytes on the wire

	// Owned by whoever has the turn.
	gathering bool
	buf       []byte
}

func newGatherConn(c net.Conn, timeout time.Duration) *gatherConn {
	return &gatherConn{Conn: c, timeout: timeout, turn: make(chan struct{}, 1)}
}

func (c *gatherConn) take() { c.turn <- struct{}{} }
func (c *gatherConn) give() { <-c.turn }

// gathers holds the buffers of writers at work. An idle connection has none.
var gathers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// gather makes the writes that follow wait for flush.
func (c *gatherConn) gather() {
	b := gathers.Get().(*[]byte)
	c.take()
	defer c.give()
	c.gathering, c.buf = true, (*b)[:0]
}

// flush writes what was gathered and ends gathering.
func (c *gatherConn) flush() error {
	c.take()
	defer c.give()
	err := c.drain()
	c.gathering = false
	if b := c.buf; cap(b) > 0 && cap(b) <= 2*maxGather {
		gathers.Put(&b)
	}
	c.buf = nil
	return err
}

// drain writes the gathered bytes. The caller has the turn.
func (c *gatherConn) drain() error {
	if len(c.buf) == 0 {
		return nil
	}
	err := c.send(c.buf)
	c.buf = c.buf[:0]
	return err
}

func (c *gatherConn) send(p []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	_, err := c.Conn.Write(p)
	return err
}

// Write sends p, or keeps it for flush while gathering.
func (c *gatherConn) Write(p []byte) (int, error) {
	c.take()
	defer c.give()
	if c.gathering && len(p) <= maxGather {
		if len(c.buf)+len(p) > maxGather {
			if err := c.drain(); err != nil {
				return 0, err
			}
		}
		c.buf = append(c.buf, p...)
		return len(p), nil
	}
	if err := c.drain(); err != nil {
		return 0, err
	}
	if err := c.send(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// thinHijacker hands over a hijacked connection as a gatherConn with small buffers.
type thinHijacker struct {
	http.ResponseWriter
	timeout time.Duration
	conn    *gatherConn // set by Hijack
}

// Hijack takes over the connection. What the client already sent stays readable.
func (h *thinHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := rw.Flush(); err != nil {
		_ = nc.Close()
		return nil, nil, err
	}
	// The server's deadlines are those of a request; a socket lives on.
	if err := nc.SetDeadline(time.Time{}); err != nil {
		_ = nc.Close()
		return nil, nil, err
	}
	early, err := rw.Peek(rw.Reader.Buffered())
	if err != nil {
		_ = nc.Close()
		return nil, nil, err
	}
	early = bytes.Clone(early)
	h.conn = newGatherConn(nc, h.timeout)
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), h.conn), max(readBuffer, len(early)))
	if _, err := r.Peek(len(early)); err != nil {
		_ = nc.Close()
		return nil, nil, err
	}
	return h.conn, bufio.NewReadWriter(r, bufio.NewWriterSize(h.conn, writeBuffer)), nil
}
