package comfyui

import (
	"context"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// sockets knows the socket on which runs follow one another, and who listens on which.
//
// One is enough: a server works at one run at a time and its frames name it, so that a frame finds its run also
// while the one before waits for its last word. Only nodes of custom packs may say something that names no run, even
// after its end: a run with such nodes is the last one on its socket.
type sockets struct {
	mu      sync.Mutex
	common  *socket            // nil: none is open
	open    map[string]*socket // by client id
	next    string             // client id of the next common one
	opening chan struct{}      // closed when the one who opens it is done; nil while nobody does
	closed  bool
}

// id returns the client id of the common socket, open or not.
func (p *sockets) id() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idLocked()
}

func (p *sockets) idLocked() string {
	if p.common != nil {
		return p.common.id
	}
	if p.next == "" {
		p.next = uuid.NewString()
	}
	return p.next
}

// hold gives the socket of a client id if it is open; without an id, the common one. Otherwise the caller is to wait
// until opening is closed and ask again, or if that is nil to open it under the id and to call opened then.
func (p *sockets) hold(clientID string) (s *socket, opening <-chan struct{}, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s = p.common; clientID != "" {
		s = p.open[clientID]
	}
	switch {
	case s != nil && !s.gone.Load():
		s.holders++
		return s, nil, ""
	case p.opening != nil: // two sockets under one id would take each other's frames
		return nil, p.opening, ""
	case clientID == "":
		p.common = nil
		clientID = p.idLocked()
	}
	p.opening = make(chan struct{})
	return nil, nil, clientID
}

// opened says how opening a socket ended; s is nil when it failed. It is the common one from now on, unless there is one.
func (p *sockets) opened(s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.opening)
	p.opening = nil
	if s == nil || s.gone.Load() {
		return
	}
	if s.id == p.next {
		p.next = ""
	}
	if p.open == nil {
		p.open = make(map[string]*socket)
	}
	p.open[s.id] = s
	if p.common == nil && !p.closed {
		p.common = s
	}
}

// drop lets go of a socket that was held.
func (p *sockets) drop(s *socket) { p.change(s, func() { s.holders-- }) }

// change runs fn under the lock, and closes the socket if nobody listens on it after that, or will.
func (p *sockets) change(s *socket, fn func()) {
	p.mu.Lock()
	fn()
	unused := p.common != s && s.holders == 0 && len(s.ears) == 0
	p.mu.Unlock()
	if unused {
		s.close()
	}
}

// retire sees to it that no other run begins on s.
func (p *sockets) retire(s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.last = true
	if p.common == s {
		p.common = nil
	}
}

// leave forgets a socket that was cut; it reports whether it was the common one.
func (p *sockets) leave(s *socket) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.common != s {
		return false
	}
	p.common = nil
	return true
}

// listen gives a run its ear on s; nil when s takes no more runs. One that began under its client id is none more.
func (p *sockets) listen(s *socket, runID string, began bool) *ear {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.gone.Load() || s.last && !began {
		return nil
	}
	for _, e := range s.ears {
		if e.runID == runID && e.settled == nil { // it was there when the socket was opened
			return e
		}
	}
	e := newEar(runID, s.done)
	s.ears = append(s.ears, e)
	return e
}

// listeners returns who is to hear a frame, and settles the runs that the server has put away by it. The reader of s
// calls it, and is done with the list when it calls again.
func (p *sockets) listeners(s *socket, f frame) []*ear {
	s.hear, s.settled = s.hear[:0], s.settled[:0]
	p.change(s, func() {
		kept := s.ears[:0]
		for _, e := range s.ears {
			own := e.runID == f.runID
			// It works at one run after the other: where the next one begins, those before it are put away.
			e.began = e.began || own && f.kind == frameStart
			e.away = e.away || own && f.kind == frameNull || !own && f.kind == frameStart && e.began
			switch {
			case e.settled != nil && e.away:
				s.settled = append(s.settled, e)
				continue
			case e.settled == nil && (own || f.runID == ""):
				s.hear = append(s.hear, e)
			}
			kept = append(kept, e)
		}
		clear(s.ears[len(kept):])
		s.ears = kept
	})
	for _, e := range s.settled {
		e.settled()
	}
	return s.hear
}

// unlisten ends an ear; what is still to be heard is dropped. With settled that is called when the server has put the
// run away, or the socket is over.
func (p *sockets) unlisten(s *socket, e *ear, settled func()) {
	close(e.off)
	p.change(s, func() {
		if settled != nil && !e.away && !s.gone.Load() {
			e.settled, settled = settled, nil
			return
		}
		if i := slices.Index(s.ears, e); i >= 0 {
			s.ears = slices.Delete(s.ears, i, i+1)
		}
	})
	if settled != nil {
		settled()
	}
}

// silence tells everybody that a socket is over. Its reader calls it at its end.
func (p *sockets) silence(s *socket) {
	p.mu.Lock()
	ears := s.ears
	s.ears = nil
	if p.common == s {
		p.common = nil
	}
	if p.open[s.id] == s {
		delete(p.open, s.id)
	}
	p.mu.Unlock()
	for _, e := range ears {
		if e.settled != nil {
			e.settled()
		} else {
			e.close()
		}
	}
}

func (p *sockets) close() {
	p.mu.Lock()
	s := p.common
	p.common, p.closed = nil, true
	p.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// holdCommon gives a run the common socket, and opens it when it is not open.
func (d *Driver) holdCommon(ctx context.Context) (*socket, error) {
	return d.holdSocket(ctx, "", nil)
}

// holdSocket gives a run the socket of a client id, and opens it when it is not open: then the ear hears from its first
// frame on.
func (d *Driver) holdSocket(ctx context.Context, clientID string, e *ear) (*socket, error) {
	for {
		s, opening, id := d.sockets.hold(clientID)
		if s != nil {
			return s, nil
		}
		if opening == nil {
			s, err := d.dial(ctx, id, e)
			d.sockets.opened(s)
			return s, err
		}
		select {
		case <-opening:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// openSocket opens the common socket when it is not open.
func (d *Driver) openSocket(ctx context.Context) error {
	s, err := d.holdCommon(ctx)
	if err == nil {
		d.sockets.drop(s)
	}
	return err
}

// openLater opens the common socket in the background. One that can't be opened is no trouble yet: the run that needs
// it tries again and says why it can't.
func (d *Driver) openLater() {
	d.background(func() {
		if err := d.openSocket(d.closed); err != nil && d.closed.Err() == nil {
			d.log.Debug("no socket ahead of the next run", "err", err)
		}
	})
}
