package comfyui

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"

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

// socket is one connection to /ws under one client id.
type socket struct {
	id      string
	conn    *websocket.Conn
	ready   func()      // called by the reader when the server has greeted
	claimed atomic.Bool // frames are kept for a run; before that only the queue's length is of interest
	gone    atomic.Bool // the connection was cut
	frames  chan frame  // closed when the connection is gone
	done    chan struct{}
	once    sync.Once
}

// dial opens a socket under a client id. Its reader runs until the socket is closed or cut, or the driver closed.
func (d *Driver) dial(ctx context.Context, clientID string, claimed bool) (*socket, error) {
	ctx, cancel := context.WithTimeout(ctx, d.options.RequestTimeout)
	defer cancel()
	ready := make(chan struct{})
	s, err := d.connect(ctx, clientID, claimed, func() { close(ready) })
	if err != nil {
		return nil, err
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
func (d *Driver) connect(ctx context.Context, clientID string, claimed bool, ready func()) (*socket, error) {
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
	s := &socket{id: clientID, conn: conn, ready: ready, frames: make(chan frame, 16), done: make(chan struct{})}
	s.claimed.Store(claimed)
	return s, nil
}

func errNoGreeting(cause error) error {
	return fmt.Errorf("%w: no greeting on the web socket: %w", backend.ErrUnreachable, cause)
}

// close cuts the socket. The server takes a cut for a close; a handshake would only cost time.
func (s *socket) close() {
	s.once.Do(func() {
		close(s.done)
		s.conn.CloseNow()
	})
}

// bye closes the socket so that the server has noticed when it returns, as far as it answers.
func (s *socket) bye() {
	// Whatever comes of it, close follows.
	_ = s.conn.Close(websocket.StatusNormalClosure, "")
}

// read takes frames from the connection until it ends.
func (d *Driver) read(s *socket) {
	defer close(s.frames)
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
				continue
			}
		}
		if f.kind == frameNone || !s.claimed.Load() {
			continue
		}
		select {
		case s.frames <- f:
		case <-s.done:
			return
		}
		if buf.Cap() > 1<<20 { // one big picture is no reason to keep its room
			buf = bytes.Buffer{}
		}
	}
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
	s.gone.Store(true)
	d.epochs.doubt()
	if d.spares.remove(s) {
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

// spares holds sockets that are open ahead of the run that will use them.
type spares struct {
	mu      sync.Mutex
	free    *socket
	held    map[string]held // handed out by reserve, not yet taken
	staged  int             // runs that have their socket and wait for their turn
	dialing bool
	closed  bool
}

type held struct {
	socket *socket
	since  time.Time
}

// reserveFor is how long a client id that was handed out keeps its socket.
const reserveFor = time.Minute

// reserve hands out the client id of the free socket.
func (p *spares) reserve() (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.free
	if s == nil {
		return "", false
	}
	p.free = nil
	if p.held == nil {
		p.held = make(map[string]held)
	}
	now := time.Now()
	for id, h := range p.held {
		if now.Sub(h.since) > reserveFor { // whoever asked for it never came
			delete(p.held, id)
			h.socket.close()
		}
	}
	p.held[s.id] = held{s, now}
	return s.id, true
}

// take gives the socket of a client id, or nil.
func (p *spares) take(id string) *socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.held[id].socket
	if s == nil && p.free != nil && p.free.id == id {
		s, p.free = p.free, nil
	}
	delete(p.held, id)
	return s
}

// put keeps s for a coming run. It reports false when there is one already, or no more runs will come.
func (p *spares) put(s *socket) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.free != nil || s.gone.Load() {
		return false
	}
	p.free = s
	return true
}

// putBack keeps a socket that was taken for a run which then never began.
func (p *spares) putBack(s *socket) bool {
	s.claimed.Store(false)
	return p.put(s)
}

// remove forgets s; it reports whether s was kept here.
func (p *spares) remove(s *socket) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[s.id].socket == s {
		delete(p.held, s.id)
		return true
	}
	if p.free == s {
		p.free = nil
		return true
	}
	return false
}

func (p *spares) close() {
	p.mu.Lock()
	all := []*socket{p.free}
	for _, h := range p.held {
		all = append(all, h.socket)
	}
	p.free, p.held, p.closed = nil, nil, true
	p.mu.Unlock()
	for _, s := range all {
		if s != nil {
			s.close()
		}
	}
}

// stage counts runs that have their socket and wait for their turn.
func (p *spares) stage(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.staged += n
}

// wanted reports whether a free socket is missing, and books its opening. Behind a run that waits for its turn the
// next one has time to open its own, and every socket more costs the server three frames a run.
func (p *spares) wanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.dialing || p.free != nil || p.staged+len(p.held) > 0 {
		return false
	}
	p.dialing = true
	return true
}

// done takes back the booking of wanted.
func (p *spares) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialing = false
}

// openSpare opens a free socket when there is none. One that can't be opened is no trouble yet: the run that
// needs it opens its own and says why it can't.
func (d *Driver) openSpare(ctx context.Context) error {
	if !d.spares.wanted() {
		return nil
	}
	defer d.spares.done()
	s, err := d.dial(ctx, uuid.NewString(), false)
	if err != nil {
		return err
	}
	d.spare(s)
	return nil
}

// spareLater opens a free socket in the background. The goroutine that opens it then reads from it: this goes on beside
// every run, and a goroutine that has made the handshake has the stack for it.
func (d *Driver) spareLater() {
	if !d.spares.wanted() {
		return
	}
	started := d.background(func() {
		ctx, cancel := context.WithTimeout(d.closed, d.options.RequestTimeout)
		defer cancel()
		var late func() bool
		var s *socket
		greeted := false
		s, err := d.connect(ctx, uuid.NewString(), false, func() {
			if greeted = late(); greeted {
				cancel()
				d.spare(s)
				d.spares.done()
			}
		})
		if err == nil {
			late = context.AfterFunc(ctx, s.close)
			d.read(s)
			err = errNoGreeting(errClosed)
		}
		if greeted {
			return
		}
		d.spares.done()
		if d.closed.Err() == nil {
			d.log.Debug("no socket ahead of the next run", "err", err)
		}
	})
	if !started {
		d.spares.done()
	}
}

// spare keeps an open socket for a coming run, if none is kept yet.
func (d *Driver) spare(s *socket) {
	if !d.spares.put(s) {
		s.close()
	}
}
