package usage_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/usage"
)

func TestWhatIsSpentIsCountedByHourAndDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // it begins at midnight, UTC
		store := newMemory()
		opts := usage.Options{Zone: time.UTC, Budgets: usage.Budgets{
			Studio: usage.Budget{PerHour: 5, PerDay: 8}, Groups: map[string]usage.Budget{"red": {PerDay: 4}, "blue": {PerHour: 1}},
		}}
		start := func() *usage.Ledger {
			l := open(t, store, opts)
			if err := l.Recount(t.Context(), func(context.Context, time.Time, func(job.Job) error) error { return nil }); err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := start()
		l.Spend("ann", "red", 3, time.Now())
		l.Spend("bob", "", 1, time.Now())
		l.Spend("bob", "", 0, time.Now())
		check := func(want usage.Spent, red usage.Spent) {
			t.Helper()
			studio, groups, next := l.Spending(time.Now())
			if diff := cmp.Diff(want, studio); diff != "" {
				t.Errorf("studio (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]usage.Spent{"red": red, "blue": {Budget: opts.Budgets.Groups["blue"]}}, groups); diff != "" {
				t.Errorf("groups (-want +got):\n%s", diff)
			}
			if d := time.Until(next); d <= 0 || d > time.Hour {
				t.Errorf("the hour is over in %v", d)
			}
		}
		of := func(hour, day usage.Money, b usage.Budget) usage.Spent {
			return usage.Spent{Hour: hour, Day: day, Budget: b}
		}
		check(of(4, 4, opts.Budgets.Studio), of(3, 3, opts.Budgets.Groups["red"]))
		time.Sleep(61 * time.Minute)
		l.Spend("ann", "red", 2, time.Now())
		check(of(2, 6, opts.Budgets.Studio), of(2, 5, opts.Budgets.Groups["red"]))

		// The next process goes on from what was saved.
		if err := l.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		l = start()
		check(of(2, 6, opts.Budgets.Studio), of(2, 5, opts.Budgets.Groups["red"]))
		days, err := l.Days(t.Context(), time.Now().Add(-24*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		var spent usage.Money
		for _, d := range days {
			spent += d.Spent
		}
		if spent != 6 {
			t.Errorf("%d in the days, want 6", spent)
		}
		time.Sleep(24 * time.Hour)
		check(of(0, 0, opts.Budgets.Studio), usage.Spent{Budget: opts.Budgets.Groups["red"]})
	})
}

func TestLeft(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		usage.Spent
		left usage.Money
		hour bool
	}{
		{usage.Spent{}, math.MaxInt64, false},
		{usage.Spent{Hour: 3, Day: 7, Budget: usage.Budget{PerDay: 8}}, 1, false},
		{usage.Spent{Hour: 3, Day: 7, Budget: usage.Budget{PerHour: 4, PerDay: 20}}, 1, true},
		{usage.Spent{Hour: 3, Day: 7, Budget: usage.Budget{PerHour: 9, PerDay: 8}}, 1, false},
		{usage.Spent{Hour: 9, Day: 9, Budget: usage.Budget{PerHour: 4}}, 0, true},
	} {
		if left, hour := c.Left(); left != c.left || hour != c.hour {
			t.Errorf("%+v leaves %d, of the hour: %v; want %d, %v", c.Spent, left, hour, c.left, c.hour)
		}
	}
}
