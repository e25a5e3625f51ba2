package sched

import (
	"maps"
	"math"
	"time"
)

// Budget says what may be spent on paid back ends from now on, beside what the runs that have begun will cost, and when
// it is worth it. Until told otherwise there is no bound.
type Budget struct {
	Wait   time.Duration // a paid back end is used when people would wait longer for the rest; 0: 2 min
	Studio Purse
	Groups map[string]Purse // of groups that have a budget of their own
}

// Purse is what is left of a budget.
type Purse struct {
	Left float64 // in the unit of prices
	Of   string  // what is spent when nothing is left, such as "The budget of today"
}

func (Budget) event() {}

// Free is a purse without a bound.
func Free() Purse { return Purse{Left: math.Inf(1)} }

// usualWait is how long people wait for what costs nothing.
const usualWait = 2 * time.Minute

// money is what the machine knows of budgets.
type money struct {
	Budget
	taken  float64            // by paid runs that are open, as far as they are expected to cost
	groups map[string]float64 // the same by group
}

func newMoney() money {
	return money{Budget: Budget{Wait: usualWait, Studio: Free()}, groups: map[string]float64{}}
}

func (m *Machine) budget(e Budget) {
	if e.Wait <= 0 {
		e.Wait = usualWait
	}
	m.money.Budget = e
	m.stirred, m.due.looked = true, time.Time{}
}

// price is what so long a run costs.
func (b *backEnd) price(d time.Duration) float64 { return b.Price * d.Hours() }

// lead is how long a run on the back end takes to begin: it may have to wake.
func (b *backEnd) lead() time.Duration {
	if b.Cold == "" {
		return 0
	}
	return b.Wake
}

// reserve takes aside what a run is expected to cost.
func (m *Machine) reserve(r *run) {
	if r.on.Price <= 0 {
		return
	}
	r.price = r.on.price(r.charged)
	m.money.taken += r.price
	m.money.groups[r.lot.user.group.name] += r.price
}

// pay gives back what was taken aside for a run, and spends what it cost. Whoever keeps the books tells Budget anew.
func (m *Machine) pay(r *run, spent float64) {
	if r.price == 0 && spent == 0 {
		return
	}
	g := r.lot.user.group.name
	m.money.taken -= r.price
	if m.money.groups[g] -= r.price; math.Abs(m.money.groups[g]) < 1e-9 {
		delete(m.money.groups, g)
	}
	r.price = 0
	if len(m.money.groups) == 0 {
		m.money.taken = 0 // what rounding left
	}
	m.money.Studio.Left -= spent
	if p, ok := m.money.Groups[g]; ok {
		p.Left -= spent
		m.money.Groups[g] = p
	}
}

// Aside is what runs that have begun are expected to cost, in all and by group.
func (m *Machine) Aside() (all float64, groups map[string]float64) {
	return m.money.taken, maps.Clone(m.money.groups)
}

// affords reports whether an item may cost what it is expected to cost on the back end, and if not, what is spent.
func (m *Machine) affords(b *backEnd, it *item) (spent string, ok bool) {
	if b.Price <= 0 {
		return "", true
	}
	g := it.lot.user.group.name
	cost := b.price(m.expected(it, b))
	if p, has := m.money.Groups[g]; has && m.money.groups[g]+cost > p.Left {
		return p.Of, false
	}
	return m.money.Studio.Of, m.money.taken+cost <= m.money.Studio.Left
}

// worth reports whether a waiting item is worth a paid back end: nobody else can run it, or people would wait for too
// long. It is the wait of whoever is last in line that counts, not only the item's own: the line is served in its order.
func (m *Machine) worth(it *item) bool {
	l := m.ours(it)
	return l.places == 0 || max(l.first, (l.ahead+m.queued())/time.Duration(l.places)) > m.money.Wait
}

// overdue is how long a run is expected to go on. One that takes longer than expected will take as long again.
func (m *Machine) overdue(r *run) time.Duration {
	if !r.posted {
		return r.charged
	}
	return (r.charged - m.now.Sub(r.began)).Abs()
}

// paid makes a decision for a paid back end, where one is worth it.
func (m *Machine) paid() choice {
	if m.free(true, true) == nil {
		return choice{}
	}
	c := m.first(m.free(true, true), "")
	if c.item != nil && (m.worth(c.item) || m.pressing(c)) {
		return c
	}
	// Others may wait that nobody else can run.
	for _, b := range m.free(true, true) {
		c := m.firstOf([]*backEnd{b}, func(p *party, k *kind) bool { return !m.ownRuns(p, k) })
		if c.item != nil && m.worth(c.item) {
			return c
		}
	}
	return choice{}
}

// ownRuns reports whether a back end that costs nothing may run jobs of the kind.
func (m *Machine) ownRuns(p *party, k *kind) bool {
	for _, b := range m.backends {
		if b.Price <= 0 && b.open() && b.can(k) && b.servesSome(p) {
			return true
		}
	}
	return false
}

// looksAgain is how often it is looked whether a paid back end has become worth it.
const looksAgain = 5 * time.Second

// watches reports whether a paid back end is free and jobs wait: runs that take longer than expected make it worth it.
func (m *Machine) watches() bool { return m.waiting > 0 && !m.paused && len(m.free(true, true)) > 0 }
