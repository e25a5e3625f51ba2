package room

import (
	"bufio"
	"bytes"
	"encoding/binary"
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

// frameConn is a connection to which whole frames are written: those of the library, which closes and answers pings, and
// ours, of which many go out in one write call. It is safe for concurrent use.
type frameConn struct {
	net.Conn
	timeout time.Duration // of one write call
	turn    chan struct{} // holds a token while somebody writes: the order of bytes on the wire
	over    bool          // a close frame went out; owned by whoever has the turn
}

func newFrameConn(c net.Conn, timeout time.Duration) *frameConn {
	return &frameConn{Conn: c, timeout: timeout, turn: make(chan struct{}, 1)}
}

func (c *frameConn) take() { c.turn <- struct{}{} }
func (c *frameConn) give() { <-c.turn }

func (c *frameConn) send(p []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	_, err := c.Conn.Write(p)
	return err
}

// First bytes of whole frames of the WebSocket protocol.
const (
	textFrame   = 0x81
	binaryFrame = 0x82
	closeFrame  = 0x88
	pingFrame   = 0x89
)

// Write sends p: the answer to the handshake, then frames of the library, each of which fits one call.
func (c *frameConn) Write(p []byte) (int, error) {
	c.take()
	defer c.give()
	c.over = c.over || len(p) > 0 && p[0] == closeFrame
	if err := c.send(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// buffers are those of writers at work. An idle connection has none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// frames sends frames in as few calls as their size allows.
func (c *frameConn) frames(batch []frame) error {
	pooled := buffers.Get().(*[]byte)
	defer buffers.Put(pooled)
	c.take()
	defer c.give()
	if c.over {
		return net.ErrClosed // nothing follows a close frame
	}
	b := (*pooled)[:0]
	for i := range batch {
		f := &batch[i]
		b = appendHeader(b, f.first, len(f.data))
		if len(f.data) <= maxGather {
			if b = append(b, f.data...); len(b) < maxGather {
				continue
			}
		}
		if err := c.send(b); err != nil {
			return err
		}
		b = b[:0]
		if len(f.data) > maxGather { // not worth a copy
			if err := c.send(f.data); err != nil {
				return err
			}
		}
	}
	*pooled = b
	if len(b) == 0 {
		return nil
	}
	return c.send(b)
}

// appendHeader appends the header of a whole frame from a server.
func appendHeader(b []byte, first byte, length int) []byte {
	switch {
	case length < 126:
		return append(b, first, byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, first, 126), uint16(length)) //nolint:gosec // it fits
	default:
		return binary.BigEndian.AppendUint64(append(b, first, 127), uint64(length)) //nolint:gosec // no length is negative
	}
}

// thinHijacker hands over a hijacked connection as a frameConn with small buffers.
type thinHijacker struct {
	http.ResponseWriter
	timeout time.Duration
	conn    *frameConn // set by Hijack
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
	h.conn = newFrameConn(nc, h.timeout)
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), h.conn), max(readBuffer, len(early)))
	if _, err := r.Peek(len(early)); err != nil {
		_ = nc.Close()
		return nil, nil, err
	}
	return h.conn, bufio.NewReadWriter(r, bufio.NewWriterSize(h.conn, writeBuffer)), nil
}
