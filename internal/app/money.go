package app

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/sched"
	"github.com/ahelme/comfyume/internal/usage"
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
	left, hour := s.Left()
	of := whose + " of today is spent."
	if hour {
		of = whose + " of this hour is spent."
	}
	return sched.Purse{Left: amountOf(left), Of: of}
}

// Budget is what was spent, and what may be, as the interface shows it; of groups, all or the one.
func (s *Studio) Budget(_ context.Context, group string, all bool) api.Budget {
	studio, groups, _ := s.usage.Spending(time.Now())
	out := api.Budget{Wait: time.Duration(s.cfg.Budget.Wait).Seconds(), Studio: spendingOf("", studio), Groups: []api.Spending{}}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		if all || name == group {
			out.Groups = append(out.Groups, spendingOf(name, groups[name]))
		}
	}
	return out
}

func spendingOf(group string, s usage.Spent) api.Spending {
	return api.Spending{
		Group: group, Hour: amountOf(s.Hour), Day: amountOf(s.Day), PerHour: amountOf(s.PerHour), PerDay: amountOf(s.PerDay),
	}
}
