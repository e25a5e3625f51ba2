package usage

import (
	"bytes"
	"slices"
	"sync"
)

// Schedule is what the schedule learnt, in a form of its own, as it gave it last. It is safe for concurrent use.
type Schedule struct {
	mu    sync.Mutex
	body  []byte
	dirty bool
}

// keyOfSchedule tells it from other things that are saved, whose keys have other lengths.
var keyOfSchedule = []byte("schedule")

// Taught returns what the schedule learnt; nil: nothing yet.
func (s *Schedule) Taught() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.body)
}

// Teach takes in what the schedule learnt.
func (s *Schedule) Teach(body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Equal(s.body, body) {
		return
	}
	s.body, s.dirty = slices.Clone(body), true
}

// restore replaces it by what was saved, among other things maybe.
func (s *Schedule) restore(saved []Learned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body, s.dirty = nil, false
	for _, l := range saved {
		if bytes.Equal(l.Key, keyOfSchedule) {
			s.body = l.Body
		}
	}
}

// changed returns what is to be saved since the last time. undo makes it changed again.
func (s *Schedule) changed() (list []Learned, undo func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dirty {
		return nil, func() {}
	}
	s.dirty = false
	return []Learned{{Key: keyOfSchedule, Body: s.body}}, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dirty = true
	}
}
