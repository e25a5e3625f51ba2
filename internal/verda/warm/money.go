package warm

import (
	"context"
	"sync"
	"time"
)

// Money is the studio's purse. It is safe for concurrent use.
type Money interface {
	// Awake counts what containers cost that were kept awake from one time to another and worked at nothing: of a group's
	// budget, too, where a group is named.
	Awake(group string, cost float64, from, to time.Time)
	// Left returns what may still be spent beside what runs that have begun will cost, in the budget of the studio and in a
	// group's; and, where that is too little, a sentence that says so, and when there is more.
	Left(group string) (left float64, spent string, more time.Time)
}

// Stop is why a plan is not carried out.
type Stop struct {
	Says  string // a sentence, such as "The budget of today is spent."
	Until time.Time
}

// countEvery is how often it is counted what is kept awake. For so long the money has to reach.
const countEvery = time.Minute

// Books count what containers cost that are kept awake: each for the time in which no run works there, since a run is paid
// for by itself. They say when there is no money for more. Nil books count nothing and stop nothing. They are safe for
// concurrent use.
type Books struct {
	money Money

	mu     sync.Mutex
	meters map[string]*meter // by deployment
	works  map[string]work   // by back end
}

// work is how many runs a back end works at.
type work struct {
	deployment string
	runs       int
}

// meter is one deployment's.
type meter struct {
	group  string
	price  float64 // of a container, per hour
	kept   int     // containers that are awake whatever happens
	busy   int     // runs that go on there
	idle   time.Duration
	at     time.Time // up to which idle is counted
	before time.Time // up to which money was counted
	stop   Stop
}

// NewBooks returns books of a purse.
func NewBooks(m Money) *Books {
	return &Books{money: m, meters: map[string]*meter{}, works: map[string]work{}}
}

// Uses says whose containers a back end's runs work on.
func (b *Books) Uses(backEnd, deployment string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.works[backEnd] = work{deployment: deployment}
}

// pass counts the time up to now.
func (m *meter) pass(now time.Time) {
	if d := now.Sub(m.at); d > 0 {
		m.idle += d * time.Duration(max(m.kept-m.busy, 0))
		m.at = now
	}
}

// Keep says how many containers of a deployment are awake from a time on whatever happens, and what one costs in an hour.
func (b *Books) Keep(deployment, group string, price float64, n int, since time.Time) {
	if b == nil || price <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.meters[deployment]
	if m == nil {
		m = &meter{at: since, before: since}
		for _, w := range b.works {
			if w.deployment == deployment {
				m.busy += w.runs
			}
		}
		b.meters[deployment] = m
	}
	m.pass(since)
	m.group, m.price, m.kept = group, price, n
}

// Working says how many runs a back end works at from now on. It does not block.
func (b *Books) Working(backEnd string, runs int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	w, ok := b.works[backEnd]
	if !ok {
		return
	}
	if m := b.meters[w.deployment]; m != nil {
		m.pass(time.Now())
		m.busy += runs - w.runs
	}
	w.runs = runs
	b.works[backEnd] = w
}

// Count tells the purse what was spent up to a time.
func (b *Books) Count(now time.Time) {
	if b == nil {
		return
	}
	type bill struct {
		group string
		cost  float64
		from  time.Time
	}
	var bills []bill
	b.mu.Lock()
	for _, m := range b.meters {
		m.pass(now)
		if m.idle > 0 {
			bills = append(bills, bill{m.group, m.idle.Hours() * m.price, m.before})
		}
		m.idle, m.before = 0, now
	}
	b.mu.Unlock()
	for _, x := range bills {
		b.money.Awake(x.group, x.cost, x.from, now)
	}
}

// Allows reports whether so many containers may be kept awake: the money reaches until it is counted again. Once it does
// not, nothing is kept awake until there is more.
func (b *Books) Allows(deployment, group string, price float64, n int, now time.Time) (Stop, bool) {
	if b == nil || price <= 0 || n == 0 {
		return Stop{}, true
	}
	left, spent, more := b.money.Left(group)
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.meters[deployment]
	if m == nil {
		m = &meter{group: group, price: price, at: now, before: now}
		b.meters[deployment] = m
	}
	if now.Before(m.stop.Until) {
		return m.stop, false
	}
	m.stop = Stop{}
	if left >= price*float64(n)*countEvery.Hours() {
		return Stop{}, true
	}
	m.stop = Stop{spent, more}
	return m.stop, false
}

// Stopped returns why a deployment's plan is not carried out; the zero value: it is.
func (b *Books) Stopped(deployment string, now time.Time) Stop {
	if b == nil {
		return Stop{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.meters[deployment]; m != nil && now.Before(m.stop.Until) {
		return m.stop
	}
	return Stop{}
}

// Run counts each minute until ctx ends, and then a last time. Whoever runs it next begins with no container kept awake.
func (b *Books) Run(ctx context.Context) {
	if b == nil {
		return
	}
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.Count(time.Now())
		case <-ctx.Done():
			b.Count(time.Now())
			b.mu.Lock()
			clear(b.meters)
			b.mu.Unlock()
			return
		}
	}
}
