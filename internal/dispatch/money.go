package dispatch

import (
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
