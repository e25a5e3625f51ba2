package sched

import (
	"cmp"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// worthRecall is how long a staged job has to run for another one to be put before it: what is over sooner is not worth
// the work.
const worthRecall = time.Second

// Recall names a job that was claimed, and not posted yet, and that is to wait again: it is held or paused, or another
// job is to go before it, or a back end is free that would have it done sooner. The caller withdraws the attempt and
// reports Released, and Next decides anew.
func (m *Machine) Recall(now time.Time) (job.ID, bool) {
	m.wake(now)
	idle := m.free(true, false)
	stirred := m.stirred
	m.stirred = false
	for _, b := range m.backends {
		for i, r := range b.runs {
			if r.posted {
				continue
			}
			if r.held || m.paused || b.paused || r.lot.user.group.paused || i >= b.Parallel && m.sooner(r, i, idle) {
				m.stirred = stirred // there may be more
				return m.id(r.item), true
			}
			if m.rescue(r, i) {
				m.stirred, r.recalled = stirred, true
				return m.id(r.item), true
			}
			if stirred && i >= b.Parallel && i == len(b.runs)-1 && !r.recalled && m.outrun(r) {
				m.stirred, r.recalled = true, true
				return m.id(r.item), true
			}
		}
	}
	return "", false
}

// sooner reports whether an idle back end would have a job done before the one that it is staged for, at the i-th place.
func (m *Machine) sooner(r *run, i int, idle []*backEnd) bool {
	for _, f := range idle {
		if !m.runsOn(f, r.lot) || !m.within(r.lot.user, f, r) {
			continue
		}
		if !f.cold(r.lot.kind) || r.cold { // it costs no more there
			return true
		}
		var ahead time.Duration
		for _, other := range r.on.runs[:i] {
			ahead += m.left(other)
		}
		if ahead/time.Duration(r.on.Parallel) > m.loading(r.lot.kind.models) {
			return true
		}
	}
	return false
}

// left is how long a run is expected to go on.
func (m *Machine) left(r *run) time.Duration {
	if !r.posted {
		return r.charged
	}
	return max(r.charged-m.now.Sub(r.began), 0)
}

// outrun reports whether a waiting job would be chosen instead of the staged one, if that was given back.
func (m *Machine) outrun(r *run) bool {
	if r.charged < worthRecall || m.waiting == 0 || !r.on.open() || len(r.on.runs) > r.on.Slots {
		return false
	}
	rival := m.first([]*backEnd{r.on}, "")
	if rival.item == nil || !m.goesBefore(rival.item, r) || rival.on != nil && m.early(rival) {
		return false
	}
	if m.opts.Affinity <= 0 || r.cold || rival.lot.kind.models == "" || rival.lot.kind.models == r.lot.kind.models {
		return true
	}
	// The staged job has its models loaded, and would overtake.
	return !m.mayOvertake(choice{item: r.item, on: r.on}, rival.item, r.charged)
}

// goesBefore reports whether a waiting item has its turn before a claimed one, were that given back.
func (m *Machine) goesBefore(x *item, r *run) bool {
	u, v := x.lot.user, r.lot.user
	if u == v && (m.opts.Order != Priority || x.lot.class == r.lot.class) {
		return own(x, r.item) < 0
	}
	back := key{turn: v.turn, joined: v.joined}
	if r.turn == v.turn { // its claim was the person's last
		back = key{turn: r.before, joined: r.joined}
	}
	switch m.opts.Order {
	case FIFO:
		return x.seq < r.seq
	case Priority:
		return cmp.Or(cmp.Compare(m.aged(x.lot.class, x), m.aged(r.lot.class, r.item)), cmp.Compare(x.seq, r.seq)) < 0
	case Fair:
		g, h := u.group, v.group
		if g != h {
			return g.tag < h.tag-int64(float64(r.charged)/h.weight)
		}
		back.tag = v.tag - int64(float64(r.charged)/v.weight)
		return key{u.tag, u.turn, u.joined}.compare(back) < 0
	default:
		return key{0, u.turn, u.joined}.compare(back) < 0
	}
}
