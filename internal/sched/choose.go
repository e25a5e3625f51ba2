package sched

import (
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Decision says that a job is to be claimed for a back end now. It runs behind what is claimed there already.
type Decision struct {
	Job      job.ID
	User     string
	BackEnd  string
	Overtook bool // it goes before its turn, since its models are loaded there
}

// Next makes the next decision, if one can be made at this time, and holds the place for it: the caller claims the
// job and reports with Released or Ended when that fails. Call it until ok is false.
//
// A free back end goes before one that would only stage the job, then one that worked for the same person last,
// then the order in which back ends became known.
func (m *Machine) Next(now time.Time) (d Decision, ok bool) {
	if m.paused || len(m.rotation) == 0 {
		return Decision{}, false
	}
	for _, idle := range []bool{true, false} {
		free := m.free(idle)
		if len(free) == 0 {
			continue
		}
		if it, b := m.choose(free, now); it != nil {
			m.unfile(it)
			m.claim(it, b)
			m.serve(it)
			return Decision{Job: it.ID, User: it.user.name, BackEnd: b.Name}, true
		}
	}
	return Decision{}, false
}

// NextTime returns when a job that must not run yet may run, so that the caller knows when to ask again. ok is false
// when none waits for its time.
func (m *Machine) NextTime(now time.Time) (at time.Time, ok bool) {
	for _, u := range m.rotation {
		for _, g := range u.groups {
			if g.notBefore.After(now) && (!ok || g.notBefore.Before(at)) {
				at, ok = g.notBefore, true
			}
		}
	}
	return at, ok
}

// Recall names a job that is staged behind another one although a back end that could run it at once is free: the
// caller withdraws the attempt and reports Released, and Next gives it to the free back end.
func (m *Machine) Recall(now time.Time) (job.ID, bool) {
	if m.paused {
		return "", false
	}
	free := m.free(true)
	if len(free) == 0 {
		return "", false
	}
	for _, b := range m.backends {
		for _, it := range b.items[min(1, len(b.items)):] {
			if it.posted {
				continue
			}
			for _, f := range free {
				if m.runs(f, it.needs, it.avoid) && m.within(it.user, f, it) {
					return it.ID, true
				}
			}
		}
	}
	return "", false
}

// Idle is a back end that has nothing to do.
type Idle struct {
	BackEnd string
	User    string // for whom it worked last; empty: for nobody yet
}

// Idle returns the back ends that would run a job at once, if no job waits for one.
func (m *Machine) Idle() []Idle {
	if m.paused || len(m.rotation) > 0 {
		return nil
	}
	var idle []Idle
	for _, b := range m.free(true) {
		last := ""
		if b.lastUser != nil {
			last = b.lastUser.name
		}
		idle = append(idle, Idle{b.Name, last})
	}
	return idle
}

// free returns the back ends that have nothing to do, or else those that can stage one more.
func (m *Machine) free(idle bool) []*backEnd {
	var out []*backEnd
	for _, b := range m.backends {
		if b.Ready && (idle && len(b.items) == 0 || !idle && len(b.items) > 0 && len(b.items) < b.Slots) {
			out = append(out, b)
		}
	}
	return out
}

// choose finds the job whose turn it is among those that one of the back ends can run.
func (m *Machine) choose(free []*backEnd, now time.Time) (best *item, where *backEnd) {
	for _, u := range m.rotation {
		it, b := m.head(u, free, now)
		if it == nil {
			continue
		}
		if m.opts.Order != FIFO { // the rotation is the order
			return it, b
		}
		if best == nil || it.Seq < best.Seq {
			best, where = it, b
		}
	}
	return best, where
}

// head returns the person's first job that one of the back ends can run.
func (m *Machine) head(u *user, free []*backEnd, now time.Time) (first *item, where *backEnd) {
	for _, g := range u.groups {
		it := g.items[0]
		if g.notBefore.After(now) || first != nil && compare(first, it) < 0 {
			continue
		}
		if b := m.place(u, g, free); b != nil {
			first, where = it, b
		}
	}
	return first, where
}

// place returns the best of the back ends for the group's jobs, nil if none will do.
func (m *Machine) place(u *user, g *group, free []*backEnd) (best *backEnd) {
	for _, b := range free {
		if !m.runs(b, g.needs, g.avoid) || !m.within(u, b, nil) {
			continue
		}
		if best == nil || len(b.items) < len(best.items) ||
			len(b.items) == len(best.items) && b.lastUser == u && best.lastUser != u {
			best = b
		}
	}
	return best
}

// runs reports whether the back end may be given jobs with these needs that avoid some back ends.
func (m *Machine) runs(b *backEnd, n *needs, avoid []string) bool {
	if len(b.lacks(n)) > 0 {
		return false
	}
	return !slices.Contains(avoid, b.Name) || !slices.ContainsFunc(m.backends, func(other *backEnd) bool {
		return other.Ready && !slices.Contains(avoid, other.Name) && len(other.lacks(n)) == 0
	})
}

// within reports whether one more job on b, in place of moved if that is not nil, keeps to the person's limit. The
// limit counts back ends: what is staged behind the person's own job does not run beside it.
func (m *Machine) within(u *user, b *backEnd, moved *item) bool {
	most := m.opts.MaxRunningPerUser
	if most <= 0 || len(u.claimed) < most {
		return true
	}
	on := make([]*backEnd, 0, len(u.claimed))
	for _, it := range u.claimed {
		if it == moved {
			continue
		}
		if it.on == b {
			return true
		}
		if !slices.Contains(on, it.on) {
			on = append(on, it.on)
		}
	}
	return len(on) < most
}

// serve moves the person of a claimed job to the end of the rotation.
func (m *Machine) serve(it *item) {
	m.served++
	u := it.user
	it.turn, it.before, it.joined = m.served, u.turn, u.joined
	u.turn = m.served
	if i := slices.Index(m.rotation, u); i >= 0 {
		m.rotation = append(slices.Delete(m.rotation, i, i+1), u)
	}
}
