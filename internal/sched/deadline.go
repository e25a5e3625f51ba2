package sched

import (
	"bytes"
	"cmp"
	"fmt"
	"time"
)

// A deadline is when somebody needs a job. It moves nobody in the order. It makes a paid back end worth it, which takes the
// first in line then, as ever: so whoever sets one waits no less than those before them.

// deadlines are those of open jobs.
type deadlines struct {
	of     map[*item]int64 // in ms
	order  list[dated]
	looked time.Time // when there was none for which paying was worth it; zero: something changed
}

// dated is an item in order of deadlines.
type dated struct {
	at int64
	*item
}

func (x dated) compare(other dated) int {
	return cmp.Or(cmp.Compare(x.at, other.at), cmp.Compare(x.seq, other.seq), bytes.Compare(x.id[:], other.id[:]))
}

const (
	looksAtDeadlines = time.Second // how often it is looked for deadlines that are worth paying for, while none is
	mostDeadlines    = 64          // jobs whose end is foreseen at one look
)

// date notes when an item is needed; the zero time: nobody says.
func (m *Machine) date(it *item, at time.Time) {
	old, had := m.due.of[it]
	if had == !at.IsZero() && (!had || old == at.UnixMilli()) {
		return
	}
	if had {
		m.due.order.remove(dated{old, it})
		delete(m.due.of, it)
	}
	if !at.IsZero() {
		m.due.of[it] = at.UnixMilli()
		m.due.order.insert(dated{at.UnixMilli(), it})
	}
	m.due.looked = time.Time{}
}

// deadline is when an item is needed.
func (m *Machine) deadline(it *item) (at time.Time, ok bool) {
	ms, ok := m.due.of[it]
	return time.UnixMilli(ms), ok
}

// load is what our own back ends have before them, of those that may run an item.
type load struct {
	places int           // jobs that they run at the same time
	ahead  time.Duration // that all of their runs will go on
	first  time.Duration // until one of them is free
	takes  time.Duration // that the item takes where it is done first
}

// ours returns what our own back ends have before them that may run an item.
func (m *Machine) ours(it *item) load {
	l := load{first: -1, takes: -1}
	for _, b := range m.backends {
		if b.Price > 0 || !b.open() || !m.runsOn(b, it.lot) {
			continue
		}
		var left time.Duration
		for _, r := range b.runs {
			left += m.overdue(r)
		}
		l.ahead += left
		l.places += b.Parallel
		if b.idle() {
			left = 0
		}
		if left /= time.Duration(b.Parallel); l.first < 0 || left < l.first {
			l.first = left
		}
		if takes := m.expected(it, b); l.takes < 0 || takes < l.takes {
			l.takes = takes
		}
	}
	return l
}

// queued is how much work waits in all.
func (m *Machine) queued() (work time.Duration) {
	for _, g := range m.groups {
		if !g.paused {
			work += m.each(g.work) * time.Duration(g.n)
		}
	}
	return work
}

// late reports whether a waiting item, at its place in the order, will not be done in time by our own back ends as they
// are loaded now.
func (m *Machine) late(it *item, at time.Time, place int, now time.Time) bool {
	l := m.ours(it)
	if l.places == 0 {
		return true
	}
	before := time.Duration(float64(m.queued()) * float64(place-1) / float64(max(m.waiting, 1)))
	return now.Add(max(l.first, (l.ahead+before)/time.Duration(l.places)) + l.takes).After(at)
}

// inTime reports whether one of the paid back ends would have an item done by its deadline, if it began now, and the
// budgets allow it. spent says what is spent where only money is lacking.
func (m *Machine) inTime(it *item, at, now time.Time, paid []*backEnd) (spent string, ok bool) {
	for _, b := range paid {
		if b.Price <= 0 || !b.open() || !m.runsOn(b, it.lot) || !m.within(it.lot.user, b, nil) || now.Add(m.expected(it, b)).After(at) {
			continue
		}
		of, affordable := m.affords(b, it)
		if affordable {
			return "", true
		}
		spent = of
	}
	return spent, false
}

// pressing reports whether a deadline makes it worth to pay for a chosen item: its own, or that of one behind it that is
// paid for by the same budgets. One that can't be kept any more spends no money.
func (m *Machine) pressing(c choice) bool {
	if m.due.order.n == 0 || !m.due.looked.IsZero() && m.now.Sub(m.due.looked) < looksAtDeadlines {
		return false
	}
	looks, paid := 0, m.free(true, true)
	for d := range m.due.order.all() {
		at, it := time.UnixMilli(d.at), d.item
		if it.claimed || it.lot.held || it.lot.user.group.paused || !at.After(m.now) || !m.behind(c.item, it) || !m.purses(c.item, it) {
			continue
		}
		if _, ok := m.inTime(it, at, m.now, paid); !ok {
			continue
		}
		if looks++; looks > mostDeadlines {
			break
		}
		if m.late(it, at, m.position(m.rank(it)), m.now) {
			return true
		}
	}
	m.due.looked = m.now
	return false
}

// behind reports whether an item is the first one, or has its turn after it.
func (m *Machine) behind(first, it *item) bool {
	if first.lot.user == it.lot.user {
		return own(first, it) <= 0
	}
	return m.ahead(first.lot, it.lot)
}

// purses reports whether a run of one item spends no budget that is not the other one's too.
func (m *Machine) purses(spends, it *item) bool {
	g := spends.lot.user.group
	_, has := m.money.Groups[g.name]
	return !has || g == it.lot.user.group
}

// rescue reports whether a job that is staged at the i-th place of one of our own back ends would be late there, and in
// time on a paid one.
func (m *Machine) rescue(r *run, i int) bool {
	at, has := m.deadline(r.item)
	if !has || r.on.Price > 0 || i < r.on.Parallel || r.recalled || !at.After(m.now) {
		return false
	}
	var ahead time.Duration
	for _, other := range r.on.runs[:i] {
		ahead += m.overdue(other)
	}
	if !m.now.Add(ahead/time.Duration(r.on.Parallel) + r.charged).After(at) {
		return false
	}
	_, ok := m.inTime(r.item, at, m.now, m.free(true, true))
	return ok
}

// hope says what will come of a waiting item's deadline.
func (m *Machine) hope(it *item, at time.Time, place int, now time.Time) string {
	when := at.Local().Format("15:04")
	if at.Sub(now).Abs() > 12*time.Hour {
		when = at.Local().Format("2 January 15:04")
	}
	if !at.After(now) {
		return fmt.Sprintf("It was needed by %s.", when)
	}
	if place < 1 {
		return fmt.Sprintf("It is needed by %s.", when)
	}
	if !m.late(it, at, place, now) {
		return fmt.Sprintf("It should be done by %s, when it is needed.", when)
	}
	spent, ok := m.inTime(it, at, now, m.backends)
	switch {
	case ok:
		return fmt.Sprintf("It is needed by %s, so that a GPU is paid for when its turn comes.", when)
	case spent != "":
		return fmt.Sprintf("The studio's own GPUs will probably not have it done by %s, and there is no money for others.", when)
	}
	return fmt.Sprintf("It will probably not be done by %s, when it is needed.", when)
}
