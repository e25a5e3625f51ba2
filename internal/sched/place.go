package sched

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Place returns where the job stands in the order in which waiting jobs will be chosen, 1 being next, as if every
// back end could run every job and as if nobody came. In Fair it is exact as far as jobs take what they are expected to
// take, and each person's alike; in Priority as of now, before others rise; in FIFO and Priority as far as people let
// their jobs run as they were accepted. ok is false when the job has no turn: it does not wait, is held, or its group
// is paused.
func (m *Machine) Place(id job.ID) (position int, ok bool) {
	it := m.item(id)
	if it == nil || it.claimed || it.lot.held || it.lot.user.group.paused {
		return 0, false
	}
	return m.position(m.rank(it)), true
}

// Place is where one waiting job stands.
type Place struct {
	Job      job.ID
	Position int // 0: it has no turn, being held or paused
}

// Places returns where all of the person's waiting jobs stand, in their order.
func (m *Machine) Places(name string) []Place {
	var out []Place
	m.eachPlace(name, math.MaxInt, func(it *item, position int) { out = append(out, Place{m.id(it), position}) })
	return out
}

// Standing is where one waiting job stands, and why it waits.
type Standing struct {
	Place
	Reason
}

// Standings returns the first of what Places returns, with the reasons.
func (m *Machine) Standings(name string, most int, now time.Time) []Standing {
	var out []Standing
	m.eachPlace(name, most, func(it *item, position int) {
		out = append(out, Standing{Place{m.id(it), position}, m.whyWaiting(it, position, now)})
	})
	return out
}

// Waits reports whether the person has jobs that are not claimed.
func (m *Machine) Waits(name string) bool {
	u := m.users[name]
	return u != nil && len(u.lots) > 0
}

// eachPlace calls f for the first of the person's waiting jobs, in their order.
func (m *Machine) eachPlace(name string, most int, f func(it *item, position int)) {
	u := m.users[name]
	if u == nil {
		return
	}
	var first []*item
	for _, l := range u.lots {
		n := 0
		for it := range l.items.all() {
			if n++; n > most {
				break
			}
			first = append(first, it)
		}
	}
	slices.SortFunc(first, own)
	r := ranked{user: u}
	for _, it := range first[:min(len(first), most)] {
		position := 0
		if !it.lot.held && !u.group.paused {
			r.item = it
			position = m.position(r)
			r.pass(it)
		}
		f(it, position)
	}
}

// ranked is an item with what goes before it of its person.
type ranked struct {
	*item
	user   *user
	rank   int   // jobs of the person before it
	latest int64 // acceptance of them
}

// pass takes in a job that goes before the ranked one.
func (r *ranked) pass(it *item) {
	r.rank++
	r.latest = max(r.latest, it.seq)
}

// rank finds what goes before an item of its person.
func (m *Machine) rank(it *item) ranked {
	r := ranked{item: it, user: it.lot.user}
	for _, l := range r.user.lots {
		switch d := cmp.Compare(l.class, it.lot.class); {
		case l.held, d > 0:
		case d < 0:
			r.rank += l.items.n
		default:
			r.rank += l.items.rank(it)
		}
	}
	if m.opts.Order == FIFO && r.user.mixed {
		for x := range m.inOrder(r.user) {
			if own(x, it) >= 0 {
				break
			}
			r.latest = max(r.latest, x.seq)
		}
	}
	return r
}

// inOrder goes through a person's jobs that have a turn, in their order.
func (m *Machine) inOrder(u *user) func(yield func(*item) bool) {
	return func(yield func(*item) bool) {
		var cursors []cursor[*item]
		for _, l := range u.lots {
			if !l.held {
				cursors = append(cursors, cursor[*item]{list: &l.items})
			}
		}
		for {
			best := -1
			var first *item
			for i := range cursors {
				if it, ok := cursors[i].at(); ok && (first == nil || own(it, first) < 0) {
					best, first = i, it
				}
			}
			if first == nil || !yield(first) {
				return
			}
			cursors[best].next()
		}
	}
}

// position is where a job stands.
func (m *Machine) position(r ranked) int {
	switch m.opts.Order {
	case FIFO:
		return r.rank + 1 + m.othersFIFO(r)
	case Priority:
		return m.beforeInClass(r.item) + 1
	case RoundRobin:
		return r.rank + 1 + m.othersInTurn(r)
	default:
		return r.rank + 1 + m.othersFair(r)
	}
}

// othersInTurn: of each other person, as many jobs go before ours as go before it of our own, and one more of those
// whose turn is before ours.
func (m *Machine) othersInTurn(r ranked) (n int) {
	for _, v := range m.active {
		switch {
		case v == r.user || v.group.paused:
		case key{0, v.turn, v.joined}.compare(key{0, r.user.turn, r.user.joined}) < 0:
			n += min(v.n, r.rank+1)
		default:
			n += min(v.n, r.rank)
		}
	}
	return n
}

// mostWalked bounds how many jobs are looked at one by one for a place. Beyond, a person's jobs count as if they ran
// in order of acceptance.
const mostWalked = 4096

// othersFIFO counts what was accepted before our job. A person's job can't go before those ahead of it, so what counts
// is the latest acceptance up to it.
func (m *Machine) othersFIFO(r ranked) int {
	latest := max(r.latest, r.seq)
	n := -r.rank // our own
	for i := range m.lines {
		n += m.lines[i].rank(bySeq{seq: latest})
	}
	if r.user.mixed { // then our own are not those accepted before it
		n += r.rank
		for x := range m.inOrder(r.user) {
			if x.seq < latest {
				n--
			}
		}
	}
	walked := 0
	for _, v := range m.active {
		if !v.mixed || v == r.user || v.group.paused || walked+v.n > mostWalked {
			continue
		}
		walked += v.n
		before := true
		for x := range m.inOrder(v) {
			before = before && x.seq < latest
			switch {
			case before && x.seq >= latest:
				n++
			case !before && x.seq < latest:
				n--
			}
		}
	}
	return n
}

// beforeInClass counts the jobs of a better class by now, and those accepted before this one of the same.
func (m *Machine) beforeInClass(it *item) (n int) {
	mine := m.aged(it.lot.class, it)
	for c := range m.lines {
		line := &m.lines[c]
		better := line.count(func(x bySeq) bool { return m.aged(x.lot.class, x.item) < mine })
		same := line.count(func(x bySeq) bool { return m.aged(x.lot.class, x.item) <= mine })
		n += max(better, min(same, line.rank(bySeq{seq: it.seq})))
	}
	return n
}

// othersFair counts the jobs that begin, in virtual time, before ours: within the group, then in the other groups
// while the group gets so far.
func (m *Machine) othersFair(r ranked) (n int) {
	u, g := r.user, r.user.group
	each := m.each(u.work)
	begins := u.tag + int64(r.rank)*int64(float64(each)/u.weight)
	before := time.Duration(r.rank) * each // what the group gets until then
	for _, v := range m.active {
		if v == u || v.group != g {
			continue
		}
		k := m.beginBefore(v, begins, r)
		n += k
		before += time.Duration(k) * m.each(v.work)
	}
	if m.parties.n < 2 {
		return n
	}
	begins = g.tag + int64(float64(before)/g.weight)
	for h := range m.parties.all() {
		if h == g {
			continue
		}
		step := max(int64(float64(m.each(h.work))/h.weight), 1)
		behind := begins - h.tag
		if g.compare(h) > 0 { // of two that begin at the same time
			behind++
		}
		if behind > 0 {
			n += min(h.n, int((behind-1)/step)+1)
		}
	}
	return n
}

// beginBefore counts the jobs of v that begin before the virtual time, or at it and before the ranked job.
func (m *Machine) beginBefore(v *user, at int64, r ranked) int {
	if v.tag > at {
		return 0
	}
	step := max(int64(float64(m.each(v.work))/v.weight), 1)
	k := (at - v.tag - 1 + step) / step // those that begin before it: the k-th, from 0, begins at tag + k steps
	if v.tag == at {
		k = 0
	}
	if v.tag+k*step == at { // one begins at the same time: who was served fewer times goes first, then whose turn it is
		u := r.user
		if k < int64(r.rank) || k == int64(r.rank) && (key{0, v.turn, v.joined}).compare(key{0, u.turn, u.joined}) < 0 {
			k++
		}
	}
	return int(min(k, int64(v.n)))
}

// each is what one of the jobs is expected to take.
func (m *Machine) each(w work) time.Duration {
	if w.n == 0 {
		return 0
	}
	total := float64(w.cost)*float64(time.Millisecond) + float64(w.unknown)*m.known.typical.value*float64(time.Second)
	return time.Duration(math.Round(total / float64(w.n)))
}
