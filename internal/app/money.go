package app

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/sched"
	"github.com/ahelme/comfyume/internal/usage"
	"github.com/ahelme/comfyume/internal/verda/warm"
)

// What is spent on back ends with a price: the ledger counts it, the schedule asks what is left.

func budgetsOf(b config.Budget) usage.Budgets {
	all := usage.Budgets{Studio: budgetOf(config.Money{PerHour: b.PerHour, PerDay: b.PerDay}), Groups: map[string]usage.Budget{}}
	for name, m := range b.Groups {
		all.Groups[name] = budgetOf(m)
	}
	return all
}

func budgetOf(m config.Money) usage.Budget {
	return usage.Budget{PerHour: moneyOf(m.PerHour), PerDay: moneyOf(m.PerDay)}
}

func moneyOf(amount float64) usage.Money { return usage.Money(amount * float64(usage.Unit)) }

func amountOf(m usage.Money) float64 { return float64(m) / float64(usage.Unit) }

// spent puts into the books what a run cost.
func (s *Studio) spent(user, group, backEnd string, cost float64) {
	s.usage.Spend(user, group, moneyOf(cost), time.Now())
	s.log.Info("a paid run", "user", user, "backend", backEnd, "cost", cost)
}

// budget is what may be spent now, and when that is to be asked for again.
func (s *Studio) budget(now time.Time) (sched.Budget, time.Time) {
	studio, groups, next := s.usage.Spending(now)
	b := sched.Budget{Wait: time.Duration(s.cfg.Budget.Wait), Studio: purseOf(studio, "The budget"), Groups: map[string]sched.Purse{}}
	for name, spent := range groups {
		if spent.Budget != (usage.Budget{}) {
			b.Groups[name] = purseOf(spent, "Your group's budget")
		}
	}
	return b, next
}

func purseOf(s usage.Spent, whose string) sched.Purse {
	if s.Budget == (usage.Budget{}) {
		return sched.Free()
	}
	left, _ := s.Left()
	return sched.Purse{Left: amountOf(left), Of: spentOf(s, whose)}
}

// spentOf says which budget is spent when nothing is left.
func spentOf(s usage.Spent, whose string) string {
	if _, hour := s.Left(); hour {
		return whose + " of this hour is spent."
	}
	return whose + " of today is spent."
}

// asideFor bounds how long the schedule may take to say what it has taken aside.
const asideFor = 2 * time.Second

// aside is what runs that have begun are expected to cost; nothing where another server gives them out.
func (s *Studio) aside() (a dispatch.Aside) {
	d := s.dispatch.Load()
	if d == nil {
		return a
	}
	ctx, cancel := context.WithTimeout(context.Background(), asideFor)
	defer cancel()
	a, err := d.Aside(ctx)
	if err != nil {
		s.log.Warn("the schedule does not say what it has taken aside", "err", err)
	}
	return a
}

// Budget is what was spent, and what may be, as the interface shows it; of groups, all or the one.
func (s *Studio) Budget(_ context.Context, group string, all bool) api.Budget {
	if s.usage == nil { // a command that looks into the folder
		return api.Budget{Groups: []api.Spending{}}
	}
	now := time.Now()
	studio, groups, hour := s.usage.Spending(now)
	aside, day := s.aside(), s.usage.DayEnds(now)
	for name := range aside.Groups {
		if _, has := groups[name]; !has {
			groups[name] = usage.Spent{}
		}
	}
	out := api.Budget{
		Wait:   time.Duration(s.cfg.Budget.Wait).Seconds(),
		Studio: spendingOf("", "The budget", studio, aside.All, hour, day), Groups: []api.Spending{},
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		if name != "" && (all || name == group) {
			out.Groups = append(out.Groups, spendingOf(name, "The budget of "+name, groups[name], aside.Groups[name], hour, day))
		}
	}
	return out
}

func spendingOf(group, whose string, s usage.Spent, aside float64, hour, day time.Time) api.Spending {
	out := api.Spending{
		Group: group, Hour: amountOf(s.Hour), Day: amountOf(s.Day), PerHour: amountOf(s.PerHour), PerDay: amountOf(s.PerDay),
		Awake: amountOf(s.Awake), Aside: aside,
	}
	if s.Budget == (usage.Budget{}) {
		return out
	}
	money, ofHour := s.Left()
	left := max(amountOf(money)-aside, 0)
	out.Left = &left
	switch {
	case left > 0:
	case money > 0:
		out.Stopped = "What is left of " + strings.ToLower(whose[:1]) + whose[1:] + " is taken aside for runs that go on."
	case ofHour:
		out.Stopped, out.GoesOn = spentOf(s, whose), &hour
	default:
		out.Stopped, out.GoesOn = spentOf(s, whose), &day
	}
	return out
}

// purse is the studio's money for containers that are kept awake.
type purse struct{ *Studio }

// Awake implements warm.Money.
func (p purse) Awake(group string, cost float64, from, to time.Time) {
	p.usage.Awake(group, moneyOf(cost), from, to)
	if d := p.dispatch.Load(); d != nil {
		d.Billed()
	}
}

// Left implements warm.Money.
func (p purse) Left(group string) (left float64, spent string, more time.Time) {
	now := time.Now()
	studio, groups, hour := p.usage.Spending(now)
	aside := p.aside()
	left = math.Inf(1)
	look := func(s usage.Spent, aside float64, whose string) {
		money, ofHour := s.Left()
		if s.Budget == (usage.Budget{}) || amountOf(money)-aside >= left {
			return
		}
		left, spent, more = amountOf(money)-aside, whose+" of today does not reach for it.", p.usage.DayEnds(now)
		if ofHour {
			spent, more = whose+" of this hour does not reach for it.", hour
		}
	}
	look(studio, aside.All, "The budget")
	if group != "" {
		look(groups[group], aside.Groups[group], "The group's budget")
	}
	return left, spent, more
}

// awakeBooks are the books of what is kept awake.
func (s *Studio) awakeBooks() *warm.Books {
	if s.awakeCost == nil {
		s.awakeCost = warm.NewBooks(purse{s})
	}
	return s.awakeCost
}

// onlyGroup is the group whose alone a back end is; empty: it is not one group's.
func onlyGroup(b config.Back) string {
	if len(b.Groups) == 1 {
		return b.Groups[0]
	}
	return ""
}

// awakeByRequests is the plan of a back end whose driver keeps a container awake by light requests. It goes into the books
// of the server that leads, and rests where they say that the money is spent.
func (s *Studio) awakeByRequests(b config.Back) func(time.Time) (int, time.Time) {
	books, group := s.awakeBooks(), onlyGroup(b)
	books.Uses(b.Name, b.Name)
	return func(t time.Time) (int, time.Time) {
		least, next := config.WarmAt(b.Warm, t)
		if s.follows() {
			return least, next
		}
		stop, ok := books.Allows(b.Name, group, b.PricePerHour, min(least, 1), t)
		if !ok {
			least = 0
			if next.IsZero() || stop.Until.Before(next) {
				next = stop.Until
			}
		}
		books.Keep(b.Name, group, b.PricePerHour, min(least, 1), t)
		return least, next
	}
}
