package dispatch

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/internal/sched"
)

// pay puts into the books what an attempt cost, once: from its turn on, waking included, whatever came of it.
func (l *loop) pay(a *attempt, now time.Time) {
	price := a.on.Price
	if a.paid || price <= 0 || a.called.IsZero() || a.phase.Load() != starting {
		return
	}
	a.paid = true
	if a.ran == 0 {
		a.ran = now.Sub(a.called)
	}
	if l.deps.Spent != nil {
		l.deps.Spent(a.user, a.job.Group, a.backEnd, price*now.Sub(a.called).Hours())
	}
	l.bill = now
}

// askBudget tells the schedule what may be spent, when that may have changed.
func (l *loop) askBudget(now time.Time) {
	if l.deps.Budget == nil || l.bill.IsZero() || now.Before(l.bill) {
		return
	}
	var b sched.Budget
	b, l.bill = l.deps.Budget(now)
	l.machine.Apply(b)
	l.stale = true
}

// Billed says that money was spent elsewhere: what is left is asked for again. It does not block.
func (d *Dispatcher) Billed() {
	d.inbox.send(asked(func(l *loop) {
		if !l.bill.IsZero() {
			l.bill = time.Now()
		}
	}))
}

// Aside is what the runs that have begun are expected to cost, in all and by group.
type Aside struct {
	All    float64
	Groups map[string]float64
}

// Aside returns what is taken aside for runs that have begun.
func (d *Dispatcher) Aside(ctx context.Context) (Aside, error) {
	return question(ctx, d, func(m *sched.Machine) (a Aside) {
		a.All, a.Groups = m.Aside()
		return a
	})
}

// tellWork says how many runs the paid back ends work at, where that is news.
func (l *loop) tellWork() {
	if l.deps.Working == nil || l.bill.IsZero() {
		return
	}
	for name, ln := range l.lines {
		runs := 0
		for _, a := range ln.queue {
			if a.on.Price > 0 && !a.called.IsZero() {
				runs++
			}
		}
		if runs != ln.works {
			ln.works = runs
			l.deps.Working(name, runs)
		}
	}
}

// workEnds says that this loop works at nothing any more.
func (l *loop) workEnds() {
	for name, ln := range l.lines {
		if ln.works > 0 {
			l.deps.Working(name, 0)
		}
	}
}
