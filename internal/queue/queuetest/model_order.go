package queuetest

import (
	"cmp"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// The steps of this file are those of owners and operators who change the order.

func anybody(*subject) bool { return true }

func (m *model) classOne(t *rapid.T) {
	s := m.pick(t, anybody)
	class := job.Class(rapid.IntRange(1, 3).Draw(t, "class"))
	j, err := m.SetClass(m.t.Context(), s.id, class)
	if kind, code := s.movable(); code != "" {
		refused(t, "class", err, kind, code)
		return
	}
	m.must(err)
	if s.class = class; j.ID != s.id || j.Class != class {
		t.Fatalf("%s became %+v", s.id, j)
	}
}

func (m *model) holdOne(t *rapid.T) {
	s := m.pick(t, anybody)
	on := rapid.Bool().Draw(t, "on")
	j, err := m.Hold(m.t.Context(), s.id, on)
	if kind, code := s.movable(); code != "" {
		refused(t, "hold", err, kind, code)
		return
	}
	m.must(err)
	if s.held = on; j.ID != s.id || j.Held != on {
		t.Fatalf("%s became %+v", s.id, j)
	}
}

var deadlines = []time.Time{{}, {}, at, at.Add(time.Hour)}

func (m *model) dateOne(t *rapid.T) {
	s := m.pick(t, anybody)
	deadline := rapid.SampledFrom(deadlines).Draw(t, "deadline")
	j, err := m.SetDeadline(m.t.Context(), s.id, deadline)
	if kind, code := s.movable(); code != "" {
		refused(t, "deadline", err, kind, code)
		return
	}
	m.must(err)
	if s.deadline = deadline; j.ID != s.id || !j.Deadline.Equal(deadline) {
		t.Fatalf("%s became %+v", s.id, j)
	}
}

// before reports whether x runs before y of the same person.
func before(x, y *subject) bool {
	return cmp.Or(cmp.Compare(x.class, y.class), cmp.Compare(x.number, y.number), cmp.Compare(x.seq, y.seq)) < 0
}

func (m *model) frontOne(t *rapid.T) {
	s := m.pick(t, anybody)
	j, err := m.ToFront(m.t.Context(), s.id)
	if kind, code := s.movable(); code != "" {
		refused(t, "to the front", err, kind, code)
		return
	}
	m.must(err)
	s.number = j.Number
	for _, other := range m.some(func(o *subject) bool { return m.beside(s, o) }) {
		if !before(s, other) {
			t.Fatalf("%s is in front, and %s before it", s.id, other.id)
		}
	}
}

// beside reports whether o waits like s, in its class, and is another one.
func (m *model) beside(s, o *subject) bool {
	return o != s && o.sub.User == s.sub.User && o.class == s.class && o.waits()
}

func (m *model) reorder(t *rapid.T) {
	s := m.pick(t, func(s *subject) bool { return s.waits() })
	some := append(m.some(func(o *subject) bool { return m.beside(s, o) }), s)
	some = rapid.Permutation(some).Draw(t, "order")
	some = some[:rapid.IntRange(1, len(some)).Draw(t, "how many")]
	ids := make([]job.ID, len(some))
	for i, s := range some {
		ids[i] = s.id
	}
	moved, err := m.Reorder(m.t.Context(), s.sub.User, ids)
	m.must(err)
	for _, j := range moved {
		m.jobs[j.ID].number = j.Number
	}
	for i := range len(some) - 1 {
		if !before(some[i], some[i+1]) {
			t.Fatalf("%s was to be before %s", some[i].id, some[i+1].id)
		}
	}
}

func (m *model) cancelUser(t *rapid.T) {
	user := rapid.SampledFrom(people).Draw(t, "user")
	want := m.some(func(s *subject) bool { return s.sub.User == user && s.state == job.Running && s.posted && !s.stop })
	gone, stopped, err := m.CancelUser(m.t.Context(), user)
	m.must(err)
	m.withdrawn(t, gone, func(s *subject) bool { return s.sub.User == user })
	if len(stopped) != len(want) {
		t.Fatalf("%d jobs are to stop, want %d", len(stopped), len(want))
	}
	for _, s := range want {
		s.stop = true
	}
}

func (m *model) retryOne(t *rapid.T) {
	s := m.pick(t, anybody)
	full := m.pending(s.sub.User) >= modelPending
	j, err := m.Retry(m.t.Context(), s.id)
	switch {
	case s.gone:
		refused(t, "retry", err, fault.Missing, "no_such_job")
	case !s.state.Final():
		refused(t, "retry", err, fault.Conflict, "not_final")
	case s.hidden:
		refused(t, "retry", err, fault.Conflict, "request_dropped")
	case full:
		refused(t, "retry", err, fault.Busy, "max_pending_per_user")
	default:
		m.must(err)
		m.accepted(t, job.Submission{User: s.sub.User, PromptID: string(j.ID), Class: s.class, Request: s.sub.Request}, j)
	}
}

// prune lets all go but the newest of each person, of those in history and of the others.
func (m *model) prune(t *rapid.T) {
	want := 0
	for _, user := range people {
		for _, hidden := range []bool{false, true} {
			final := m.some(func(s *subject) bool {
				return s.sub.User == user && s.state.Final() && s.hidden == hidden && !s.gone
			})
			slices.SortFunc(final, func(x, y *subject) int { return cmp.Compare(x.end, y.end) })
			for _, s := range final[:max(0, len(final)-modelKept)] {
				s.gone = true
				delete(m.jobs, s.id)
				m.past = append(m.past, s)
				want++
			}
		}
	}
	n, err := m.Prune(m.t.Context())
	m.must(err)
	if n != want {
		t.Fatalf("%d jobs went, want %d", n, want)
	}
}

// control changes the mode or a pause.
func (m *model) control(t *rapid.T) {
	if rapid.Bool().Draw(t, "mode") {
		m.mode = rapid.SampledFrom([]string{queue.FIFO, queue.RoundRobin, queue.Priority, queue.Fair}).Draw(t, "mode")
		m.must(m.SetMode(m.t.Context(), m.mode))
		return
	}
	p := queue.Pause{
		Scope: rapid.SampledFrom([]string{queue.PauseAll, queue.PauseGroup + "a", queue.PauseBackEnd + "gpu"}).Draw(t, "scope"),
		On:    rapid.Bool().Draw(t, "on"), Since: at,
	}
	m.must(m.Pause(m.t.Context(), p))
	if delete(m.pauses, p.Scope); p.On {
		m.pauses[p.Scope] = p
	}
}
