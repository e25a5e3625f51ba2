package usage

import (
	"maps"
	"math"
	"slices"
	"time"
)

// Budget bounds what may be spent on paid back ends. Zero: as much as one likes. Hours and days are those of the clock.
type Budget struct{ PerHour, PerDay Money }

// Budgets are those of the studio, and of groups inside it.
type Budgets struct {
	Studio Budget
	Groups map[string]Budget
}

// Spent is what was spent in the present hour and day, and what may be.
type Spent struct {
	Hour, Day Money
	Awake     Money // of Day, for containers that were kept awake and worked at nothing
	Budget
}

// Left returns what may still be spent, and whether the hour's budget bounds it and not the day's. Without any it is as
// much as there can be.
func (s Spent) Left() (left Money, hour bool) {
	left = math.MaxInt64
	if s.PerDay > 0 {
		left = s.PerDay - s.Day
	}
	if s.PerHour > 0 && s.PerHour-s.Hour < left {
		left, hour = s.PerHour-s.Hour, true
	}
	return max(left, 0), hour
}

// Spend counts money that a run for a person cost, at the end of it, in the hour in which it ended.
func (l *Ledger) Spend(user, group string, m Money, at time.Time) {
	if m <= 0 {
		return
	}
	l.mu.Lock()
	l.book.pay(user, group, l.book.clock.hour(at), m)
	l.mu.Unlock()
	select {
	case l.paid <- struct{}{}:
	default:
	}
}

// DayEnds is when the present day is over.
func (l *Ledger) DayEnds(now time.Time) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, to := l.book.clock.day(now)
	return to
}

// Awake counts money that containers cost that were kept awake from one time to another and worked at nothing, in the hours
// in which it passed, for a group or, without one, for the studio alone.
func (l *Ledger) Awake(group string, m Money, from, to time.Time) {
	if m <= 0 || !from.Before(to) {
		return
	}
	l.mu.Lock()
	for per := float64(m) / float64(to.Sub(from)); from.Before(to); {
		hour := l.book.clock.hour(from)
		end := time.Unix(hour+3600, 0)
		part := m
		if end.Before(to) {
			part = Money(per * float64(end.Sub(from)))
		}
		l.book.pay(KeptAwake, group, hour, part)
		m -= part
		from = end
	}
	l.mu.Unlock()
	select {
	case l.paid <- struct{}{}:
	default:
	}
}

// Spending returns what the studio, and each group that has a budget or spent something, spent in the present hour and
// day; next is when the hour is over.
func (l *Ledger) Spending(now time.Time) (studio Spent, groups map[string]Spent, next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	hour := l.book.clock.hour(now)
	from, to := l.book.clock.day(now)
	spent := func(a *account, b Budget) Spent {
		s := Spent{Budget: b}
		s.Hour, _ = a.paid(hour, hour+1)
		s.Day, s.Awake = a.paid(from.Unix(), to.Unix())
		return s
	}
	studio = spent(&l.book.all, l.opts.Budgets.Studio)
	groups = map[string]Spent{}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(l.opts.Budgets.Groups)), slices.Collect(maps.Keys(l.book.groups))) {
		a := l.book.groups[name]
		if a == nil {
			a = &account{}
		}
		if s := spent(a, l.opts.Budgets.Groups[name]); s != (Spent{}) {
			groups[name] = s
		}
	}
	return studio, groups, time.Unix(hour+3600, 0)
}
