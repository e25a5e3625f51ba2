package comfyui

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/backend"
)

// maxFrame bounds one frame: full-size pictures come this way. Text is bounded closer: graphs can make texts of any
// length, several frames wait for a run, and what is left out here is in the result.
const (
	maxFrame = 256 << 20
	maxText  = 34_000_000
)

// hello is the first frame on every socket: it asks for previews that name their node.
var hello = []byte(`{"type":"feature_flags","data":{"supports_preview_metadata":true}}`)

// socket is one connection to /ws under one client id. Runs may follow one another on it.
type socket struct {
	id    string
	conn  *websocket.Conn
	ready func()      // called by the reader when the server has greeted
	gone  atomic.Bool // the connection is over
	done  chan struct{}
	once  sync.Once

	// Of Driver.sockets, under its lock.
	ears    []*ear // the run that goes on, and those before it whose last word is still to come
	holders int    // runs that were prepared for it, and who opens it
	last    bool   // no other run may begin on it

	hear, settled []*ear // of the reader, between two frames
}

// dial opens a socket under a client id. Its reader runs until the socket is closed or cut, or the driver closed.
// With an ear nothing is missed: the server may speak right after its greeting.
func (d *Driver) dial(ctx context.Context, clientID string, e *ear) (*socket, error) {
	ctx, cancel := context.WithTimeout(ctx, d.options.RequestTimeout)
	defer cancel()
	ready := make(chan struct{})
	s, err := d.connect(ctx, clientID, func() { close(ready) })
	if err != nil {
		return nil, err
	}
	if e != nil {
		e.gone = s.done
		s.ears = append(s.ears, e)
	}
	if !d.background(func() { d.read(s) }) {
		s.close()
		return nil, fmt.Errorf("%w: %w", backend.ErrUnreachable, errClosed)
	}
	select {
	case <-ready:
		return s, nil
	case <-s.done:
		err = errClosed
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.close()
	return nil, errNoGreeting(err)
}

// connect opens the connection of a socket and says hello. Once the server has greeted, the reader calls ready:
// before that the server may not know the client id yet.
func (d *Driver) connect(ctx context.Context, clientID string, ready func()) (*socket, error) {
	conn, _, err := websocket.Dial(ctx, d.prefix+"/ws?clientId="+url.QueryEscape(clientID),
		&websocket.DialOptions{HTTPClient: d.upgrade, HTTPHeader: d.header})
	if err != nil {
		return nil, fmt.Errorf("%w: no web socket: %w", backend.ErrUnreachable, err)
	}
	conn.SetReadLimit(maxFrame)
	if err := conn.Write(ctx, websocket.MessageText, hello); err != nil {
		conn.CloseNow()
		return nil, fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
	}
	return &socket{id: clientID, conn: conn, ready: ready, done: make(chan struct{}), holders: 1}, nil
}

func errNoGreeting(cause error) error {
	return fmt.Errorf("%w: no greeting on the web socket: %w", backend.ErrUnreachable, cause)
}

// close cuts the socket. The server takes a cut for a close; a handshake would only cost time.
func (s *socket) close() {
	s.once.Do(func() {
		s.gone.Store(true)
		close(s.done)
		s.conn.CloseNow()
	})
}

// bye closes the socket so that the server has noticed when it returns, as far as it answers, and nobody is given it any
// more.
func (s *socket) bye() {
	_ = s.conn.Close(websocket.StatusNormalClosure, "") // whatever comes of it
	s.close()
}

// read takes frames from the connection until it ends, and gives them to the runs that they are about.
func (d *Driver) read(s *socket) {
	defer d.sockets.silence(s)
	defer s.close()
	stop := context.AfterFunc(d.closed, s.close)
	defer stop()
	var buf bytes.Buffer
	greeted := false
	for {
		kind, r, err := s.conn.Reader(context.Background()) // ended by closing the connection
		if err == nil {
			err = readFrame(&buf, kind, r)
		}
		if err != nil {
			select {
			case <-s.done:
			default:
				d.log.Debug("socket was cut", "client", s.id, "err", err)
				d.cut(s)
			}
			return
		}
		f, remaining := decode(kind == websocket.MessageBinary, buf.Bytes())
		if f.kind == frameStatus {
			d.noteRemaining(remaining)
			if !greeted {
				greeted = true
				s.ready()
			}
			continue
		}
		if f.kind != frameNone && !d.pass(s, f) {
			return
		}
		if buf.Cap() > 1<<20 { // one big picture is no reason to keep its room
			buf = bytes.Buffer{}
		}
	}
}

// pass gives a frame to the run that it is about; one that names no run is for whichever goes on. It reports false
// when the socket was closed meanwhile.
func (d *Driver) pass(s *socket, f frame) bool {
	for _, e := range d.sockets.listeners(s, f) {
		if !e.give(f) {
			return false
		}
	}
	return true
}

// readFrame reads one frame into buf; a text that is too long leaves it empty.
func readFrame(buf *bytes.Buffer, kind websocket.MessageType, r io.Reader) error {
	buf.Reset()
	if kind == websocket.MessageBinary {
		_, err := buf.ReadFrom(r)
		return err
	}
	n, err := buf.ReadFrom(io.LimitReader(r, maxText+1))
	if n > maxText {
		*buf = bytes.Buffer{}
		_, err = io.Copy(io.Discard, r)
	}
	return err
}

// cut notes that a connection went away without our doing: the server may have been restarted.
func (d *Driver) cut(s *socket) {
	d.epochs.doubt() // before anybody finds that it is gone, and asks
	s.gone.Store(true)
	if d.sockets.leave(s) {
		d.options.Changed()
	}
}

// noteRemaining compares the server's count of runs with ours.
func (d *Driver) noteRemaining(remaining int64) {
	foreign := max(remaining-d.own.Load(), 0)
	if was := d.foreign.Swap(foreign); (was > 0) != (foreign > 0) {
		d.options.Changed()
	}
}
