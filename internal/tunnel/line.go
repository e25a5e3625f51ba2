package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/yamux"
)

// Why a line ended.
var (
	errCut      = errors.New("the line was cut")
	errSilent   = errors.New("nothing was heard for four seconds")
	errGoodbye  = errors.New("the other end said goodbye")
	errRude     = errors.New("the agent tried to open a stream of its own")
	errFlood    = errors.New("the agent sends more than it was asked for")
	errReplaced = errors.New("a newer line of the agent took its place")
)

// line is one WebSocket with the multiplexer on it.
//
// The multiplexer writes the head and the body of a frame one after the other, and asks the other end for an answer
// whenever it wants to know whether it lives. So this stands below it: it puts head and body into one message, sees to
// it that something is said every second, and notices silence by bytes and not by answers: an answer may wait
// behind megabytes on a slow line that is well.
type line struct {
	net.Conn // the WebSocket as one
	socket   *websocket.Conn
	held     *held // below the WebSocket; nil: the other end's half of the work
	session  *yamux.Session
	agent    string // name of the agent, at the studio's end; set before the line is used
	began    time.Time
	heard    atomic.Int64 // nanoseconds after began
	in       police
	beside   beside

	writing sync.Mutex
	out     []byte // the head of a frame whose body comes next

	once sync.Once
	done chan struct{}
	why  error // set before done is closed
}

// frameSize is the length of the multiplexer's heads: version, type, flags (2), stream (4), length (4).
const frameSize = 12

// The multiplexer's types and flags that matter here (hashicorp/yamux, spec.md).
const (
	typeData   = 0
	typePing   = 2
	typeAway   = 3
	flagSYN    = 1
	flagACK    = 2
	anyPing    = 1<<32 - 1 // no ping of ours has this number: its answer means nothing
	pingsInRow = 64
)

// newLine begins the multiplexer on a socket. agent says which end this is.
func newLine(socket *websocket.Conn, h *held, agent bool) (*line, error) {
	l := &line{
		Conn: websocket.NetConn(context.Background(), socket, websocket.MessageBinary), socket: socket, held: h,
		began: time.Now(), done: make(chan struct{}),
	}
	l.in.only = !agent
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.MaxStreamWindowSize = window
	config.ConnectionWriteTimeout = writeWithin
	config.StreamOpenTimeout = answerWithin
	config.StreamCloseTimeout = answerWithin
	config.LogOutput = io.Discard // what it has to say ends the line, and that is logged
	begin := yamux.Client
	if agent {
		begin = yamux.Server
	}
	var err error
	if l.session, err = begin(l, config); err != nil {
		socket.CloseNow() //nolint:errcheck // it was never used
		return nil, err
	}
	return l, nil
}

// run keeps the line alive until it ends, and returns why.
func (l *line) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.goodbye(context.Cause(ctx)) })
	defer stop()
	var beating sync.WaitGroup
	defer beating.Wait()
	beating.Go(l.beat)
	tick := time.NewTicker(beatEvery / 2)
	defer tick.Stop()
	for {
		select {
		case <-l.done:
			return l.why
		case <-l.session.CloseChan():
			l.end(errCut)
		case <-tick.C:
			if l.silence() > silentFor {
				l.end(errSilent)
			}
		}
	}
}

// beat says something every second.
func (l *line) beat() {
	frame := make([]byte, frameSize)
	frame[1], frame[3] = typePing, flagACK
	binary.BigEndian.PutUint32(frame[8:], anyPing)
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-tick.C:
			l.writing.Lock()
			var err error
			if len(l.out) == 0 { // else a frame is about to go out, and says as much
				err = l.send(frame)
			}
			l.writing.Unlock()
			if err != nil {
				return // the multiplexer meets the same
			}
		}
	}
}

// silence is how long ago anything was heard.
func (l *line) silence() time.Duration {
	return time.Since(l.began) - time.Duration(l.heard.Load())
}

// end ends the line. The first reason counts.
func (l *line) end(why error) {
	l.once.Do(func() {
		if said := l.in.said(); said != nil {
			why = said
		}
		l.why = why
		close(l.done)
		l.session.Close() //nolint:errcheck // it closes the socket, whose end is known
		l.beside.end()
	})
}

// goodbye tells the other end that this one leaves, and ends the line.
func (l *line) goodbye(why error) {
	left := make(chan struct{})
	go func() {
		defer close(left)
		l.session.GoAway() //nolint:errcheck // a courtesy
	}()
	select {
	case <-left:
	case <-time.After(beatEvery):
	}
	l.end(why)
	<-left
}

// Close closes the socket, without waiting for the other end to agree.
func (l *line) Close() error { return l.socket.CloseNow() }

// Read reads what the other end sent.
func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.heard.Store(int64(time.Since(l.began)))
		if err := l.in.look(p[:n]); err != nil {
			return 0, err
		}
	}
	return n, err
}

// Write sends a frame, or holds its head back until its body comes.
func (l *line) Write(p []byte) (int, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if len(l.out) == 0 && len(p) == frameSize && p[1] == typeData && binary.BigEndian.Uint32(p[8:]) > 0 {
		l.out = append(l.out, p...)
		return len(p), nil
	}
	if len(l.out) == 0 {
		return len(p), l.send(p)
	}
	l.out = append(l.out, p...)
	err := l.send(l.out)
	l.out = l.out[:0]
	return len(p), err
}

// send sends one message.
func (l *line) send(p []byte) error {
	if l.held == nil {
		_, err := l.Conn.Write(p)
		return err
	}
	l.held.begin()
	_, err := l.Conn.Write(p)
	return errors.Join(err, l.held.flush())
}

// police reads the heads of frames as they pass by. What a hostile end could exhaust us with ends the line: streams that
// it opens, and pings, each of which would take a goroutine to answer.
type police struct {
	only bool // the other end is an agent, and may only answer

	head [frameSize]byte
	have int
	body uint32

	mu   sync.Mutex
	what error

	pings int
	since time.Time
}

// said is what the other end did before the line ended, if that explains the end.
func (p *police) said() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.what
}

func (p *police) note(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.what == nil {
		p.what = err
	}
	return err
}

func (p *police) look(b []byte) error {
	for len(b) > 0 {
		if p.body > 0 {
			n := min(uint32(len(b)), p.body)
			p.body -= n
			b = b[n:]
			continue
		}
		n := copy(p.head[p.have:], b)
		p.have += n
		b = b[n:]
		if p.have < frameSize {
			return nil
		}
		p.have = 0
		if err := p.judge(); err != nil {
			return err
		}
	}
	return nil
}

// judge looks at a whole head.
func (p *police) judge() error {
	typ, flags := p.head[1], binary.BigEndian.Uint16(p.head[2:])
	if typ == typeData {
		p.body = binary.BigEndian.Uint32(p.head[8:])
	}
	switch {
	case typ == typeAway:
		p.note(errGoodbye) //nolint:errcheck // the line goes on to its end
	case typ == typePing && flags&flagSYN != 0:
		if now := time.Now(); now.Sub(p.since) > beatEvery {
			p.since, p.pings = now, 0
		}
		if p.pings++; p.pings > pingsInRow {
			return p.note(errFlood)
		}
	case typ != typePing && flags&flagSYN != 0 && p.only:
		return p.note(errRude)
	}
	return nil
}
