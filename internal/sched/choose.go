package sched

import (
	"cmp"
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
// A free back end goes before one that would only stage the job, then the one that is done with it first, models to
// load counted, then one that worked for the same person last, then the order in which back ends became known.
func (m *Machine) Next(now time.Time) (d Decision, ok bool) {
	m.wake(now)
	if m.paused || m.waiting == 0 {
		return Decision{}, false
	}
	c := m.choose(m.free(true, false))
	if c.item == nil {
		c = m.paid()
	}
	if c.item == nil {
		c = m.choose(m.free(false, false))
		if c.item != nil && m.early(c) {
			return Decision{}, false
		}
	}
	if c.item == nil {
		return Decision{}, false
	}
	m.unfile(c.item)
	m.serve(m.claim(c.item, c.on))
	return Decision{Job: m.id(c.item), User: c.lot.user.name, BackEnd: c.on.Name, Overtook: c.overtook}, true
}

// NextTime returns when a job that must not run yet may run, or a paid back end may have become worth it, so that the
// caller knows when to ask again. ok is false when nothing waits for its time.
func (m *Machine) NextTime(now time.Time) (at time.Time, ok bool) {
	if m.watches() {
		at, ok = now.Add(looksAgain), true
	}
	for l := range m.later.all() {
		if l.retry.notBefore.After(now) {
			if !ok || l.retry.notBefore.Before(at) {
				return l.retry.notBefore, true
			}
			break
		}
	}
	return at, ok
}

// Idle is a back end that has nothing to do.
type Idle struct {
	BackEnd string
	User    string   // for whom it worked last; empty: for nobody yet
	Models  string   // what it has loaded, as far as that is known
	Groups  []string // whose jobs it runs; empty: everybody's
	Prefer  int
	Memory  int64
}

// Idle returns the back ends that would run a job at once, and for which no job waits: those that cost nothing and are
// awake, the preferred ones first.
func (m *Machine) Idle() []Idle {
	if m.paused {
		return nil
	}
	var idle []Idle
	for _, b := range m.free(true, false) {
		if b.Cold != "" || m.waiting > 0 && m.wanted(b) {
			continue
		}
		last := ""
		if b.lastUser != nil {
			last = b.lastUser.name
		}
		idle = append(idle, Idle{b.Name, last, b.warm(), b.Groups, b.Prefer, b.Memory})
	}
	slices.SortStableFunc(idle, func(x, y Idle) int { return cmp.Compare(y.Prefer, x.Prefer) })
	return idle
}

// wanted reports whether a job waits that the back end can run.
func (m *Machine) wanted(b *backEnd) bool {
	for p := range m.turns() {
		for _, q := range p.pools {
			if q.lots.n > 0 && b.can(q.kind) && b.servesSome(p) {
				return true
			}
		}
	}
	return false
}

// free returns the back ends that would run one more job at once, or else those that can stage one more: those that
// cost nothing, or the paid ones.
func (m *Machine) free(idle, paid bool) []*backEnd {
	var out []*backEnd
	for _, b := range m.backends {
		if b.open() && paid == (b.Price > 0) && idle == b.idle() && (idle || len(b.runs) < b.Slots) {
			out = append(out, b)
		}
	}
	return out
}

// choice is a job and a back end for it.
type choice struct {
	*item
	on       *backEnd
	overtook bool
}

// choose finds the job whose turn it is among those that one of the back ends can run, or one whose models are loaded
// and that may go before it.
func (m *Machine) choose(free []*backEnd) choice {
	if len(free) == 0 {
		return choice{}
	}
	first := m.first(free, "")
	if first.item == nil || m.opts.Affinity <= 0 || !first.on.cold(first.lot.kind) {
		return first
	}
	var best choice
	spared := make([]*backEnd, 0, len(free)) // nobody waits for what they have loaded
	for _, b := range free {
		var warm choice
		if models := b.warm(); models != "" {
			if warm = m.first([]*backEnd{b}, models); warm.item != nil && !m.mayOvertake(warm, first.item, 0) {
				warm.item = nil
			}
		}
		switch {
		case warm.item == nil:
			spared = append(spared, b)
		case best.item == nil || m.ahead(warm.lot, best.lot):
			best = warm
		}
	}
	if best.item == nil {
		return first
	}
	if b := m.place(first.item, spared); b != nil {
		return choice{item: first.item, on: b}
	}
	first.lot.user.passed += m.expected(best.item, best.on)
	best.overtook = true
	return best
}

// early reports whether a job would be staged to load models that another back end has, one that costs nothing: the load
// is spared if that is free first. The job loses nothing, as the back end takes it once it is idle.
func (m *Machine) early(c choice) bool {
	return m.opts.Affinity > 0 && c.on.cold(c.lot.kind) && slices.ContainsFunc(m.backends, func(b *backEnd) bool {
		return b != c.on && b.open() && b.Price <= 0 && !b.cold(c.lot.kind) && m.runsOn(b, c.lot)
	})
}

// newcomer is who was not served for so long: nobody overtakes them.
const newcomer = 10 * time.Minute

// mayOvertake reports whether a job whose models are loaded may go before the first in line. charged is what its person
// was charged for it already.
func (m *Machine) mayOvertake(c choice, first *item, charged time.Duration) bool {
	u, v := first.lot.user, c.lot.user
	cost := charged
	if cost == 0 {
		cost = m.expected(c.item, c.on)
	}
	if u == v || u.served.IsZero() || m.now.Sub(u.served) >= newcomer || u.passed+cost > m.opts.Affinity {
		return false
	}
	if m.opts.Order != Fair {
		return true
	}
	// Nobody gets so far ahead that all who wait together were overtaken by more than that on each back end, nor by half
	// of it when they are few: more may come, and then that is much.
	lead, sharing := v.tag-u.tag-int64(float64(charged)/v.weight), u.group.people*max(m.parties.n, 1)
	if u.group != v.group {
		lead, sharing = v.group.tag-u.group.tag-int64(float64(charged)/v.group.weight), m.parties.n
	}
	ready := 0
	for _, b := range m.backends {
		if b.open() {
			ready += b.Parallel
		}
	}
	return time.Duration(lead)*time.Duration(max(sharing, 2*ready)) <= m.opts.Affinity*time.Duration(ready)
}

// turns goes through the parties in the order of their turns.
func (m *Machine) turns() func(yield func(*party) bool) {
	return func(yield func(*party) bool) {
		if m.opts.Order != Fair {
			yield(&m.all)
			return
		}
		for g := range m.parties.all() {
			if !yield(&g.party) {
				return
			}
		}
	}
}

// first finds the job whose turn it is among those that one of the back ends can run, and that load the models; empty:
// any.
func (m *Machine) first(free []*backEnd, models string) choice {
	return m.firstOf(free, func(_ *party, k *kind) bool { return models == "" || k.models == models })
}

// firstOf is first among the kinds of jobs that only lets through.
func (m *Machine) firstOf(free []*backEnd, only func(*party, *kind) bool) choice {
	for p := range m.turns() {
		cursors := m.cursors[:0]
		for _, q := range p.pools {
			if q.lots.n > 0 && only(p, q.kind) && slices.ContainsFunc(free, func(b *backEnd) bool { return b.can(q.kind) && b.servesSome(p) }) {
				cursors = append(cursors, cursor[*lot]{list: &q.lots})
			}
		}
		m.cursors = cursors
		for {
			l := m.draw(cursors)
			if l == nil {
				break
			}
			if c := m.head(l, free); c.item != nil && only(p, c.lot.kind) {
				return c
			}
		}
	}
	return choice{}
}

// draw takes the lot whose turn is first from under the cursors; nil when there is none.
func (m *Machine) draw(cursors []cursor[*lot]) *lot {
	best := -1
	var first *lot
	for i := range cursors {
		if l, ok := cursors[i].at(); ok && (first == nil || m.before(l, first)) {
			best, first = i, l
		}
	}
	if first != nil {
		cursors[best].next()
	}
	return first
}

// before reports whether x has its turn before y, of the same party.
func (m *Machine) before(x, y *lot) bool {
	if m.opts.Order == Priority {
		if d := cmp.Compare(m.class(x), m.class(y)); d != 0 {
			return d < 0
		}
	}
	return x.compare(y) < 0
}

// ahead reports whether x has its turn before y.
func (m *Machine) ahead(x, y *lot) bool {
	if g, h := x.user.group, y.user.group; m.opts.Order == Fair && g != h {
		return g.compare(h) < 0
	}
	return m.before(x, y)
}

// class is what the lot's first job has become by waiting.
func (m *Machine) class(l *lot) int { return m.aged(l.class, l.items.first()) }

// aged is the class that an item of a class has become by waiting.
func (m *Machine) aged(c job.Class, it *item) int {
	if m.opts.AgeAfter < 0 || c == 0 {
		return int(c)
	}
	waited := m.now.UnixMilli() - it.created
	return max(0, int(c)-int(min(max(waited, 0)/max(m.opts.AgeAfter.Milliseconds(), 1), int64(c))))
}

// head returns the first job that one of the back ends can run of the person whose turn came up with the lot; none
// when it is another lot's, whose turn comes up for itself.
func (m *Machine) head(l *lot, free []*backEnd) (first choice) {
	u := l.user
	for _, other := range u.lots {
		if other.pool == nil || m.opts.Order == Priority && other.class != l.class {
			continue
		}
		it := other.items.first()
		if first.item != nil && own(first.item, it) < 0 {
			continue
		}
		if b := m.place(it, free); b != nil {
			first = choice{item: it, on: b}
		}
	}
	if first.item != nil && first.lot != l && m.lined() {
		return choice{}
	}
	return first
}

// place returns the best of the back ends for a waiting item, nil if none will do.
func (m *Machine) place(it *item, free []*backEnd) (best *backEnd) {
	if len(free) == 1 { // the usual case
		if b := free[0]; m.takes(b, it) {
			return b
		}
		return nil
	}
	var least time.Duration
	var most int
	for _, b := range free {
		if !m.takes(b, it) {
			continue
		}
		lasts, knows := m.expected(it, b), 0
		if b.lastUser == it.lot.user {
			knows = 2
		}
		if b.lastLike == it.like {
			knows++
		}
		if best != nil {
			d := cmp.Or(b.rank(best), cmp.Compare(b.staged(), best.staged()), cmp.Compare(lasts, least), cmp.Compare(most, knows))
			if d >= 0 {
				continue
			}
		}
		best, least, most = b, lasts, knows
	}
	return best
}

// rank orders back ends that would run a job at once by preference, then by price.
func (b *backEnd) rank(other *backEnd) int {
	if !b.idle() || !other.idle() {
		return 0
	}
	return cmp.Or(cmp.Compare(other.Prefer, b.Prefer), cmp.Compare(b.Price, other.Price))
}

// takes reports whether the back end may be given a waiting item now, room apart.
func (m *Machine) takes(b *backEnd, it *item) bool {
	if !m.runsOn(b, it.lot) || !m.within(it.lot.user, b, nil) {
		return false
	}
	_, ok := m.affords(b, it)
	return ok
}

// runsOn reports whether the back end may be given jobs of the lot, room apart.
func (m *Machine) runsOn(b *backEnd, l *lot) bool {
	if !b.can(l.kind) || !b.serves(l.user.group) {
		return false
	}
	return !l.avoids(b.Name) || !slices.ContainsFunc(m.backends, func(other *backEnd) bool {
		return other.open() && !l.avoids(other.Name) && other.can(l.kind) && other.serves(l.user.group)
	})
}

// within reports whether one more job on b, in place of moved if that is not nil, keeps to the person's limit. The
// limit counts what can run at the same time: what is staged behind the person's own job does not run beside it.
func (m *Machine) within(u *user, b *backEnd, moved *run) bool {
	most := m.opts.MaxRunningPerUser
	if most <= 0 || len(u.runs) < most {
		return true
	}
	count := func(on *backEnd) (n int) {
		for _, r := range u.runs {
			if r != moved && r.on == on {
				n++
			}
		}
		return n
	}
	if count(b) >= b.Parallel { // then it waits for one of theirs
		return true
	}
	n := 1
	seen := make([]*backEnd, 0, len(u.runs))
	for _, r := range u.runs {
		if !slices.Contains(seen, r.on) {
			seen = append(seen, r.on)
			n += min(count(r.on), r.on.Parallel)
		}
	}
	return n <= most
}
