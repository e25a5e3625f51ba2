package comfyserver

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// One person must not take the server from the others, with a program that runs wild or on purpose. What a request
// holds is therefore counted by person: the memory of bodies on their way, big uploads on their way to the disk, and
// long answers on their way to a client that may not be reading.

// memory counts bytes by person. It is safe for concurrent use.
type memory struct {
	each int64 // most bytes of one person
	all  int64 // most bytes of all people in large pieces

	mu    sync.Mutex
	held  map[string]int64
	total int64 // of large pieces
}

// largePiece is from where on a piece counts among those of all: whoever sends an ordinary graph is never refused for
// what others do.
const largePiece = 1 << 20

func newMemory(each, all int64) *memory {
	return &memory{each: each, all: all, held: make(map[string]int64)}
}

// take books n bytes more for a person's request that holds had already. Busy: there is no room.
func (m *memory) take(user string, had, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	more := large(had+n) - large(had)
	if m.held[user]+n > m.each || more > 0 && m.total+more > m.all {
		f := fault.New(fault.Busy, "Too much is being sent at the same time.").
			WithRemedy("Send it again when the other requests are done.").WithCode("too_much_at_once")
		f.RetryAfter = 2 * time.Second
		return f
	}
	m.held[user] += n
	m.total += more
	return nil
}

// give returns what a request held.
func (m *memory) give(user string, n int64) {
	if n == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total -= large(n)
	if m.held[user] -= n; m.held[user] <= 0 {
		delete(m.held, user)
	}
}

func large(n int64) int64 {
	if n < largePiece {
		return 0
	}
	return n
}

// turns lets each person do a number of things at a time; what is more waits. It is safe for concurrent use.
type turns struct {
	each int

	mu    sync.Mutex
	lines map[string]*line
}

type line struct {
	slots chan struct{}
	users int // who waits or has a turn
}

func newTurns(each int) *turns { return &turns{each: each, lines: make(map[string]*line)} }

// take waits for a turn, which ends when done is called.
func (t *turns) take(ctx context.Context, user string) (done func(), err error) {
	t.mu.Lock()
	l := t.lines[user]
	if l == nil {
		l = &line{slots: make(chan struct{}, t.each)}
		t.lines[user] = l
	}
	l.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(t.lines, user)
		}
	}
	select {
	case l.slots <- struct{}{}:
		return func() { <-l.slots; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}

// bulky lets each person fetch only a few long answers at a time: each may be megabytes in memory while its client does
// not read.
func (s *Server) bulky(run handler) handler {
	return func(w http.ResponseWriter, c *call) error {
		done, err := s.answers.take(c.Context(), c.user())
		if err != nil {
			return err
		}
		defer done()
		// Not every writer has deadlines, and none of ours needs them to be right.
		control := http.NewResponseController(w)
		_ = control.SetWriteDeadline(time.Now().Add(answerFor))
		defer control.SetWriteDeadline(time.Time{}) //nolint:errcheck // the same
		return run(w, c)
	}
}

// answerFor is how long a client may take to read an answer.
const answerFor = 10 * time.Minute

// paced is a body that ends with an error when it comes slower than from any network that can carry an editor. It is
// for one goroutine.
type paced struct {
	io.Reader
	set   func(time.Time) error
	began time.Time
	moved int64
	next  int64 // how much has moved when the deadline is set again
}

const (
	patience = time.Minute
	slowest  = 16 << 10 // bytes a second
	paceStep = 256 << 10
)

func newPaced(w http.ResponseWriter, body io.Reader) *paced {
	return &paced{Reader: body, set: http.NewResponseController(w).SetReadDeadline, began: time.Now()}
}

// Read implements io.Reader. Not every connection has deadlines.
func (p *paced) Read(b []byte) (int, error) {
	if p.moved >= p.next {
		p.next = p.moved + paceStep
		_ = p.set(p.began.Add(patience + time.Duration(p.moved/slowest)*time.Second))
	}
	n, err := p.Reader.Read(b)
	p.moved += int64(n)
	return n, err
}

// end takes the deadline away, which would end the request, and not just its body.
func (p *paced) end() { _ = p.set(time.Time{}) }
