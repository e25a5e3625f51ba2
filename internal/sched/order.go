package sched

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// key is where a lot stands in a pool: smaller goes first.
type key struct{ tag, turn, joined int64 }

func (k key) compare(other key) int {
	return cmp.Or(cmp.Compare(k.tag, other.tag), cmp.Compare(k.turn, other.turn), cmp.Compare(k.joined, other.joined))
}

// pool holds lots of one kind that may have their turn, in its order.
type pool struct {
	kind  *kind
	class job.Class // all lots have it, in Priority
	lots  list[*lot]
}

// party is people among whom the turn goes round: those of a group in Fair, else everybody. Its pools are one for each
// kind, so that those whom no free back end can serve are not looked at one by one.
type party struct {
	pools []*pool
	of    *group // whose it is; nil: everybody's
}

// servesSome reports whether the back end runs jobs of somebody in the party.
func (b *backEnd) servesSome(p *party) bool { return p.of == nil || b.serves(p.of) }

// group is people who have a weight together.
type group struct {
	name   string
	weight float64
	tag    int64 // virtual time at which its next job begins
	now    int64 // virtual time of its people: the latest begin of one of their jobs
	left   time.Time
	people int  // with waiting jobs
	listed bool // in Machine.parties
	work        // that waits and is not held
	party
	paused bool
	reason string
}

func (g *group) compare(other *group) int {
	return cmp.Or(cmp.Compare(g.tag, other.tag), cmp.Compare(g.name, other.name))
}

func (m *Machine) group(name string) *group {
	g := m.groups[name]
	if g == nil {
		g = &group{name: name, weight: 1}
		g.of = g
		m.groups[name] = g
	}
	return g
}

// lined reports whether the order goes by acceptance, so that the jobs stand in lines.
func (m *Machine) lined() bool { return m.opts.Order == FIFO || m.opts.Order == Priority }

// setOrder changes the order: people stand anew, their jobs stay where they are.
func (m *Machine) setOrder(o Order) {
	if o == m.opts.Order {
		return
	}
	for _, u := range m.users {
		for _, l := range u.lots {
			m.unstand(l)
		}
	}
	m.opts.Order, m.stirred = o, true
	m.all = party{}
	for _, g := range m.groups {
		g.party = party{of: g}
	}
	m.lines = [job.ClassLow + 1]list[bySeq]{}
	for _, u := range m.byName() {
		for _, l := range u.lots {
			m.stand(l)
			m.line(l)
		}
	}
}

// line puts what is in a lot in line, where jobs stand in lines.
func (m *Machine) line(l *lot) {
	if !m.lined() || l.held {
		return
	}
	line := &m.lines[min(l.class, job.ClassLow)]
	for it := range l.items.all() {
		if x := (bySeq{it.seq, it}); !l.user.group.paused {
			line.insert(x)
		} else {
			line.remove(x)
		}
	}
}

// byName returns the people with waiting jobs, so that what is done for all is done in one order.
func (m *Machine) byName() []*user {
	var list []*user
	for _, u := range m.users {
		if len(u.lots) > 0 {
			list = append(list, u)
		}
	}
	slices.SortFunc(list, func(x, y *user) int { return cmp.Compare(x.name, y.name) })
	return list
}

// keyOf returns where a lot with items stands.
func (m *Machine) keyOf(l *lot) key {
	switch u := l.user; m.opts.Order {
	case FIFO, Priority:
		return key{tag: l.items.first().seq}
	case RoundRobin:
		return key{0, u.turn, u.joined}
	default:
		return key{u.tag, u.turn, u.joined}
	}
}

// stand puts a lot where its turn will be, as far as it may have one.
func (m *Machine) stand(l *lot) {
	if l.items.n == 0 || l.held || l.user.group.paused {
		m.unstand(l)
		return
	}
	if l.retry != nil && l.retry.notBefore.After(m.now) {
		if !l.late {
			m.unstand(l)
			l.late = m.later.insert(later{l})
		}
		return
	}
	k := m.keyOf(l)
	if l.pool != nil && l.key == k {
		return
	}
	m.unstand(l)
	l.pool, l.key = m.pool(l), k
	l.pool.lots.insert(l)
}

func (m *Machine) unstand(l *lot) {
	if l.late {
		m.later.remove(later{l})
		l.late = false
	}
	if l.pool != nil {
		l.pool.lots.remove(l)
		l.pool = nil
	}
}

// pool returns where a lot belongs.
func (m *Machine) pool(l *lot) *pool {
	p := &m.all
	if m.opts.Order == Fair {
		p = &l.user.group.party
	}
	class := job.Class(0)
	if m.opts.Order == Priority {
		class = l.class
	}
	for _, q := range p.pools {
		if q.kind == l.kind && q.class == class {
			return q
		}
	}
	q := &pool{kind: l.kind, class: class}
	p.pools = append(p.pools, q)
	return q
}

// restand puts all of a person's lots where they belong now.
func (m *Machine) restand(u *user) {
	for _, l := range u.lots {
		m.stand(l)
	}
}

// wake lets lots stand whose time has come.
func (m *Machine) wake(now time.Time) {
	if now.After(m.now) {
		m.now = now
	}
	for m.later.n > 0 && !m.later.first().retry.notBefore.After(m.now) {
		l := m.later.first().lot
		m.unstand(l)
		m.stand(l)
		m.stirred = true
	}
}

// enter takes in a person who has waiting jobs now. What they did not use while they had none is not saved up for them,
// and what they used beyond their share is forgiven by and by.
func (m *Machine) enter(u *user) {
	g := u.group
	m.active = append(m.active, u)
	u.place = len(m.active)
	if g.people++; g.people == 1 {
		if !u.kept {
			now := m.virtual
			if m.parties.n > 0 {
				now = min(now, m.parties.first().tag)
			}
			g.tag = now + m.debt(g.tag-now, g.left)
		}
		g.listed = !g.paused && m.parties.insert(g)
	}
	if !u.kept {
		m.joins++
		u.joined = m.joins
		now := m.present(g)
		u.tag = now + m.debt(u.tag-now, u.left)
	}
	u.kept = false
}

// present is the virtual time at which people come in: that of the group, or where the first stands who waits for a turn.
// Who has back ends to themselves, since others' jobs can't run there, gets far ahead, and nobody who comes is put behind
// them.
func (m *Machine) present(g *group) int64 {
	now := g.now
	for _, q := range g.pools {
		if q.lots.n == 0 || !slices.ContainsFunc(m.backends, func(b *backEnd) bool { return b.open() && b.can(q.kind) && b.serves(g) }) {
			continue
		}
		now = min(now, q.lots.first().key.tag)
	}
	return now
}

// debt is what is left, after a time, of what was used beyond a share.
func (m *Machine) debt(used int64, since time.Time) int64 {
	if used <= 0 || since.IsZero() {
		return max(used, 0)
	}
	return int64(float64(used) * math.Exp2(-float64(m.now.Sub(since))/float64(m.opts.HalfLife)))
}

// exit forgets a person who has no waiting jobs any more.
func (m *Machine) exit(u *user) {
	last := m.active[len(m.active)-1]
	m.active[u.place-1], last.place = last, u.place
	m.active[len(m.active)-1] = nil
	m.active = m.active[:len(m.active)-1]
	u.place, u.left = 0, m.now
	g := u.group
	if g.people--; g.people == 0 {
		g.left = m.now
		m.unlist(g)
	}
}

func (m *Machine) unlist(g *group) {
	if g.listed {
		m.parties.remove(g)
		g.listed = false
	}
}

// charge adds GPU time to what a person and their group used, or takes it back.
func (m *Machine) charge(u *user, used time.Duration) {
	if used == 0 {
		return
	}
	g := u.group
	u.tag += int64(float64(used) / u.weight)
	listed := g.listed
	m.unlist(g)
	g.tag += int64(float64(used) / g.weight)
	if listed {
		g.listed = m.parties.insert(g)
	}
}

// serve counts the claim of an item for its person: it goes behind the others.
func (m *Machine) serve(r *run) {
	m.served++
	u := r.lot.user
	r.turn, r.before, r.joined = m.served, u.turn, u.joined
	r.tag, r.groupTag = u.tag, u.group.tag
	u.turn, u.served, u.passed = m.served, m.now, 0
	m.charge(u, r.charged)
	m.restand(u)
}

// begun moves virtual time on to where a job that runs now began.
func (m *Machine) begun(r *run) {
	g := r.lot.user.group
	g.now, m.virtual = max(g.now, r.tag), max(m.virtual, r.groupTag)
}

// giveBack undoes what a claim cost: a lost attempt costs nobody their place.
func (m *Machine) giveBack(r *run) {
	u := r.lot.user
	m.charge(u, -r.charged)
	r.charged = 0
	if r.turn != 0 && u.turn == r.turn { // it was the person's last turn
		u.turn, u.joined, u.kept = r.before, r.joined, u.place == 0
	}
	m.restand(u)
}

// settle corrects what a claim was charged to what it took.
func (m *Machine) settle(r *run, ran time.Duration) {
	m.charge(r.lot.user, ran-r.charged)
	m.restand(r.lot.user)
}

// share sets a weight.
func (m *Machine) share(e Share) {
	if e.Weight <= 0 || math.IsInf(e.Weight, 0) || math.IsNaN(e.Weight) {
		e.Weight = 1
	}
	m.stirred = true
	if e.User != "" {
		u := m.users[e.User]
		if u == nil {
			u = &user{name: e.User}
			m.users[e.User] = u
		}
		u.weight = e.Weight
		return
	}
	m.group(e.Group).weight = e.Weight
}

// regroup moves a person to another group: with what they used beyond others, and with what waits.
func (m *Machine) regroup(u *user, g *group) {
	for _, l := range u.lots {
		m.unstand(l)
	}
	active := u.place != 0
	ahead := max(u.tag-u.group.now, 0)
	if active {
		m.exit(u)
	}
	u.group.move(u.work, -1)
	g.move(u.work, 1)
	if u.group.paused != g.paused {
		m.waiting += u.n
		if g.paused {
			m.waiting -= 2 * u.n
		}
	}
	u.group, u.tag = g, g.now+ahead
	if active {
		u.kept = true
		m.enter(u)
	}
	m.restand(u)
	for _, l := range u.lots {
		m.line(l)
	}
}

func (w *work) move(other work, sign int) {
	w.n += sign * other.n
	w.cost += int64(sign) * other.cost
	w.unknown += sign * other.unknown
}

// pauseGroup lets a group's jobs wait, or go on.
func (m *Machine) pauseGroup(name string, on bool, reason string) {
	g := m.group(name)
	g.reason = reason
	if g.paused == on {
		return
	}
	g.paused, m.stirred = on, true
	if on {
		m.unlist(g)
		m.waiting -= g.n
	} else {
		m.waiting += g.n
		if g.people > 0 {
			g.tag = max(g.tag, m.virtual)
			g.listed = m.parties.insert(g)
		}
	}
	for _, u := range m.byName() {
		if u.group == g {
			m.restand(u)
			for _, l := range u.lots {
				m.line(l)
			}
		}
	}
}
