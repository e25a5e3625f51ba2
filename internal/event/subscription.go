package event

import (
	"context"
	"errors"
	"sync"

	"github.com/ahelme/comfyume/internal/job"
)

// ErrClosed is returned to the reader of a closed subscription.
var ErrClosed = errors.New("subscription is closed")

// lane says how an event may be treated when its reader is slow.
type lane uint8

const (
	stateLane   lane = iota // never lost silently
	latestLane              // only the latest of its key counts, but everybody gets it
	previewLane             // as latestLane, and left out for subscribers that want state only
)

// key names what an event of the latest and preview lanes replaces: the earlier one of the same key.
type key struct {
	user string
	job  job.ID
	node string
	kind kind
}

type kind uint8

const (
	kindProgress kind = iota + 1
	kindProgressState
	kindPreview
	kindQueued
	kindFleet
)

// classify returns the lane of an event and, outside the state lane, what it replaces.
func classify(e Event) (key, lane) {
	switch b := e.Body.(type) {
	case RunFrame:
		switch b.Type {
		case "progress":
			return key{job: b.Job, node: b.Node, kind: kindProgress}, previewLane
		case "progress_state":
			return key{job: b.Job, kind: kindProgressState}, previewLane
		}
	case RunBinary:
		if !b.Result {
			return key{job: b.Job, node: b.Node, kind: kindPreview}, previewLane
		}
	case Queued:
		return key{user: e.User, kind: kindQueued}, latestLane
	case FleetChanged:
		return key{kind: kindFleet}, latestLane
	}
	return key{}, stateLane
}

// maxLatest bounds how many events of the other lanes wait for a reader: the oldest are dropped first. They are
// one per node and kind, so that only a reader that stopped altogether gets there.
const maxLatest = 512

// Subscription is one subscriber's stream. One goroutine reads it; Close may be called from any.
//
// Both lanes are one list in the order of publication. An event that replaces an earlier one leaves a hole in the
// earlier one's place, so that a preview is never shown before the state it belongs to.
type Subscription struct {
	bus     *Bus
	user    string
	options Options
	ready   chan struct{} // holds one token while events may be waiting
	done    chan struct{} // closed by Close

	mu      sync.Mutex
	closed  bool
	items   []Event        // in order; a nil Body is a hole
	base    uint64         // number of the first item, so that positions survive reading
	state   int            // state events among items
	dropped int            // state events that Lagged at the head of items stands for
	holes   int            // holes among items
	latest  map[key]uint64 // number of the waiting event of each key
}

// push appends e, or replaces the waiting event of its key.
func (s *Subscription) push(e Event, k key, l lane) {
	if l == previewLane && s.options.OnlyState {
		return
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	wasEmpty := len(s.items) == s.holes
	if l == stateLane {
		s.pushState(e)
	} else {
		s.pushLatest(e, k)
	}
	s.mu.Unlock()
	if !wasEmpty {
		return
	}
	select {
	case s.ready <- struct{}{}:
	default:
	}
	if s.options.Wake != nil {
		s.options.Wake()
	}
}

// pushState appends a state event. When too many wait, all that wait is replaced by one Lagged.
func (s *Subscription) pushState(e Event) {
	if s.state >= s.options.State {
		s.dropped += s.state
		clear(s.items)
		s.base += uint64(len(s.items))
		s.items = append(s.items[:0], Event{User: s.user, Body: Lagged{Dropped: s.dropped}})
		s.state, s.holes = 0, 0
		clear(s.latest)
	}
	s.items = append(s.items, e)
	s.state++
}

// pushLatest appends an event that replaces the waiting one of its key.
func (s *Subscription) pushLatest(e Event, k key) {
	if s.latest == nil {
		s.latest = make(map[key]uint64)
	}
	if at, ok := s.latest[k]; ok {
		s.punch(at)
	} else if len(s.latest) >= maxLatest {
		s.dropOldest()
	}
	if s.holes > 64 && s.holes > len(s.items)/2 {
		s.compact()
	}
	s.latest[k] = s.base + uint64(len(s.items))
	s.items = append(s.items, e)
}

// punch makes the item with number at a hole.
func (s *Subscription) punch(at uint64) {
	s.items[at-s.base] = Event{}
	s.holes++
}

// dropOldest makes the oldest waiting event outside the state lane a hole.
func (s *Subscription) dropOldest() {
	var oldest key
	at, found := uint64(0), false
	for k, n := range s.latest {
		if !found || n < at {
			oldest, at, found = k, n, true
		}
	}
	if found {
		delete(s.latest, oldest)
		s.punch(at)
	}
}

// compact removes the holes.
func (s *Subscription) compact() {
	kept := s.items[:0]
	for _, e := range s.items {
		if e.Body == nil {
			continue
		}
		if k, l := classify(e); l != stateLane {
			s.latest[k] = s.base + uint64(len(kept))
		}
		kept = append(kept, e)
	}
	clear(s.items[len(kept):])
	s.items, s.holes = kept, 0
}

// TryBatch appends all events that wait to buf and returns it, without waiting.
func (s *Subscription) TryBatch(buf []Event) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.items {
		if e.Body != nil {
			buf = append(buf, e)
		}
	}
	s.base += uint64(len(s.items))
	if cap(s.items) > 256 { // a burst is over: give its memory back
		s.items = nil
	} else {
		clear(s.items)
		s.items = s.items[:0]
	}
	clear(s.latest)
	s.state, s.holes, s.dropped = 0, 0, 0
	return buf
}

// Batch waits until events wait, appends all of them to buf and returns it. Its error is the context's, or
// ErrClosed; what waited when the subscription was closed is still given first.
func (s *Subscription) Batch(ctx context.Context, buf []Event) ([]Event, error) {
	for {
		before := len(buf)
		if buf = s.TryBatch(buf); len(buf) > before {
			return buf, nil
		}
		if err := s.wait(ctx); err != nil {
			return buf, err
		}
	}
}

// Next waits for the next event. Errors as Batch.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok := s.take(); ok {
			return e, nil
		}
		if err := s.wait(ctx); err != nil {
			return Event{}, err
		}
	}
}

// wait blocks until something may have arrived.
func (s *Subscription) wait(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.done:
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.items) > s.holes {
			return nil
		}
		return ErrClosed
	}
}

// take removes the first event.
func (s *Subscription) take() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.items) > 0 {
		e := s.items[0]
		s.items[0] = Event{}
		s.items = s.items[1:]
		s.base++
		switch k, l := classify(e); {
		case e.Body == nil:
			s.holes--
			continue
		case l != stateLane:
			delete(s.latest, k)
		default:
			if _, lagged := e.Body.(Lagged); lagged {
				s.dropped = 0
			} else {
				s.state--
			}
		}
		return e, true
	}
	return Event{}, false
}

// Close ends the subscription: nothing more arrives, and its reader gets ErrClosed after what waits. Idempotent.
func (s *Subscription) Close() {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if !was {
		s.bus.remove(s)
		close(s.done)
	}
}
