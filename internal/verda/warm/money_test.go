package warm_test

import (
	"context"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/verda/warm"
)

// purse is a budget by the hour.
type purse struct {
	mu      sync.Mutex
	perHour float64 // 0: no bound
	aside   float64
	hours   map[int]float64 // by hour since the bubble's midnight
	group   string
}

var midnight = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when bubbles begin

func (p *purse) Awake(group string, cost float64, from, to time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.group = group
	per := cost / to.Sub(from).Hours()
	for from.Before(to) {
		hour := int(from.Sub(midnight) / time.Hour)
		end := midnight.Add(time.Duration(hour+1) * time.Hour)
		if end.After(to) {
			end = to
		}
		if p.hours == nil {
			p.hours = map[int]float64{}
		}
		p.hours[hour] += per * end.Sub(from).Hours()
		from = end
	}
}

func (p *purse) Left(string) (float64, string, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.perHour == 0 {
		return math.Inf(1), "", time.Time{}
	}
	hour := int(time.Since(midnight) / time.Hour)
	return p.perHour - p.hours[hour] - p.aside, "The budget of this hour does not reach for it.", midnight.Add(time.Duration(hour+1) * time.Hour)
}

func (p *purse) spent(hour int) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hours[hour]
}

func (p *purse) all() (sum float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.hours {
		sum += m
	}
	return sum
}

// counted runs a keeper with books until the returned function is called.
func counted(t *testing.T, file string, p warm.Provider, money *purse, plans ...warm.Deployment) (*warm.Keeper, *warm.Books, func()) {
	t.Helper()
	books := warm.NewBooks(money)
	for _, d := range plans {
		books.Uses(d.BackEnd, d.Name)
	}
	k, err := warm.New(file, p, plans, books, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { books.Run(ctx) })
	wg.Go(func() {
		if err := k.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return k, books, func() { cancel(); wg.Wait() }
}

// until sleeps until a time of the bubble's first days, and a moment.
func until(hour float64) {
	time.Sleep(time.Until(midnight.Add(time.Duration(hour*float64(time.Hour)))) + time.Millisecond)
	synctest.Wait()
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 0.1 { // two minutes of a container
		t.Errorf("%s: %.3f, want %.3f", what, got, want)
	}
}

func TestWhatIsKeptAwakeIsCounted(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "warm.json")
	synctest.Test(t, func(t *testing.T) {
		p, money := &provider{mins: map[string]int{"d": 0}, max: 5}, &purse{}
		d := plan("d", hours(1, 5, 2))
		d.Group = "class-a"
		_, books, stop := counted(t, file, p, money, d)
		until(1)
		near(t, "before the plan", money.all(), 0)
		until(2.01)
		near(t, "the first hour", money.spent(1), 5.6)
		books.Working("b-d", 1) // it is paid for by itself
		until(2.51)
		books.Working("b-d", 3)
		until(2.76)
		books.Working("b-d", 0)
		until(3.01)
		near(t, "with one run for half an hour, and three for a quarter", money.spent(2), 1.4+0+1.4)
		stop()
		near(t, "at the end", money.spent(3), 0.056)
		until(4.01) // no studio runs, and the containers do
		_, _, stop = counted(t, file, p, money, d)
		until(4.1)
		near(t, "without a studio", money.spent(3), 5.6)
		until(6)
		near(t, "the last hour", money.spent(4), 5.6)
		near(t, "behind the plan", money.spent(5), 0)
		p.set("d", 1) // by hand
		until(7)      // it is looked each half hour
		if m := money.spent(6); m < 1.3 || m > 2.8 {
			t.Errorf("kept awake by hand: %v", m)
		}
		if money.group != "class-a" {
			t.Errorf("it is the money of %q", money.group)
		}
		stop()
	})
}

func TestCapEndsPlans(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "warm.json")
	synctest.Test(t, func(t *testing.T) {
		p, money := &provider{mins: map[string]int{"d": 0, "mine": 1}, max: 5}, &purse{perHour: 2.8}
		k, _, stop := counted(t, file, p, money, plan("d", hours(1, 5, 2)))
		defer stop()
		until(1.4)
		if p.min("d") != 2 {
			t.Errorf("%d are awake", p.min("d"))
		}
		until(1.55)
		if p.min("d") != 0 || len(written(t, file)) != 0 {
			t.Errorf("the money is spent, and %d are awake", p.min("d"))
		}
		want := "d is not kept awake as planned. The budget of this hour does not reach for it. The plan goes on at " + midnight.Add(2*time.Hour).Local().Format("15:04") + "."
		if notes := strings.Join(k.Notes(), "\n"); !strings.Contains(notes, want) {
			t.Errorf("%q", notes)
		}
		until(2.1)
		if p.min("d") != 2 || len(k.Notes()) != 1 {
			t.Errorf("there is money again, and %d are awake: %q", p.min("d"), k.Notes())
		}
		money.mu.Lock()
		money.aside = 2.5 // runs begin
		money.mu.Unlock()
		until(2.15)
		if p.min("d") != 0 {
			t.Errorf("what is left is taken aside for runs, and %d are awake", p.min("d"))
		}
		until(3.5)
		if m := money.spent(3); p.min("d") != 0 || m < 0.1 || m > 0.3 {
			t.Errorf("of 0.3 that the runs leave %v is spent, and %d are awake", m, p.min("d"))
		}
	})
}

// TestCapHolds: whatever the plan, the price and the budget are, no hour costs more than its budget.
func TestCapHolds(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "warm.json")
	rapid.Check(t, func(rt *rapid.T) {
		perHour, n := float64(rapid.IntRange(1, 200).Draw(rt, "budget"))/10, rapid.IntRange(1, 4).Draw(rt, "containers")
		from := rapid.IntRange(0, 3).Draw(rt, "from")
		moments := rapid.SliceOfN(rapid.IntRange(1, 60), 1, 4).Draw(rt, "restarts")
		synctest.Test(t, func(t *testing.T) {
			p, money := &provider{mins: map[string]int{"d": 0}, max: 5}, &purse{perHour: perHour}
			for _, m := range moments {
				_, _, stop := counted(t, file, p, money, plan("d", hours(config.Clock(from), 6, n)))
				time.Sleep(time.Duration(m) * time.Minute)
				synctest.Wait()
				stop()
			}
			last := int(time.Since(midnight) / time.Hour)
			_, _, stop := counted(t, file, p, money, plan("d"))
			stop()
			for hour := range last + 1 {
				if m := money.spent(hour); m > perHour+1e-6 {
					t.Errorf("hour %d cost %v of %v", hour, m, perHour)
				}
			}
			if p.min("d") != 0 {
				t.Errorf("%d stay awake", p.min("d"))
			}
		})
		if t.Failed() {
			rt.Fatal("see above")
		}
	})
}
