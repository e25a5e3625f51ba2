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

// TestWhatIsKeptAwakeCounts: in the hours in which it passed, for its group, also after a restart; and the hours of people
// who are gone stay as they were saved.
func TestWhatIsKeptAwakeCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // it begins at midnight, UTC
		store := newMemory()
		opts := usage.Options{Zone: time.UTC, Budgets: usage.Budgets{Studio: usage.Budget{PerDay: 100}, Groups: map[string]usage.Budget{"red": {PerHour: 10}}}}
		start := func() *usage.Ledger {
			l := open(t, store, opts)
			if err := l.Recount(t.Context(), func(context.Context, time.Time, func(job.Job) error) error { return nil }); err != nil {
				t.Fatal(err)
			}
			return l
		}
		gone := usage.Hour{Start: time.Now(), Group: "red", Jobs: 7, GPU: time.Minute, Spent: 3}
		if err := store.Save(t.Context(), usage.Snapshot{Hours: []usage.Hour{gone}}); err != nil {
			t.Fatal(err)
		}
		l := start()
		time.Sleep(90 * time.Minute)
		now := time.Now()
		l.Awake("red", 6, now.Add(-45*time.Minute), now) // a quarter of an hour before one o'clock
		l.Awake("", 5, now.Add(-10*time.Minute), now)
		l.Awake("red", 0, now.Add(-time.Minute), now)
		l.Awake("red", 9, now, now)
		l.Spend("ann", "red", 1, now)
		for range 2 {
			studio, groups, _ := l.Spending(now)
			if want := (usage.Spent{Hour: 4 + 5 + 1, Day: 3 + 6 + 5 + 1, Awake: 11, Budget: opts.Budgets.Studio}); studio != want {
				t.Errorf("studio %+v, want %+v", studio, want)
			}
			if want := (usage.Spent{Hour: 4 + 1, Day: 3 + 6 + 1, Awake: 6, Budget: opts.Budgets.Groups["red"]}); groups["red"] != want {
				t.Errorf("red %+v, want %+v", groups["red"], want)
			}
			if ends := l.DayEnds(now); ends.Sub(now) != 22*time.Hour+30*time.Minute {
				t.Errorf("the day ends at %v", ends)
			}
			if err := l.Save(t.Context()); err != nil {
				t.Fatal(err)
			}
			l = start()
		}
		hours, err := l.Hours(t.Context(), now.Add(-2*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		var awake usage.Money
		for _, h := range hours {
			if h.User == "" && (h.Jobs != gone.Jobs || h.GPU != gone.GPU || h.Spent != gone.Spent) {
				t.Errorf("of who is gone %+v is left", h)
			}
			if h.User == usage.KeptAwake {
				awake += h.Spent
			}
		}
		if awake != 11 {
			t.Errorf("%v is saved", awake)
		}
	})
}
