package warm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/verda"
	"github.com/ahelme/comfyume/internal/verda/warm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// provider is minimums in memory.
type provider struct {
	mu     sync.Mutex
	mins   map[string]int
	max    int
	broken bool
	before func() // before a change
}

func (p *provider) Scaling(_ context.Context, name string) (verda.Scaling, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, ok := p.mins[name]
	if !ok {
		return verda.Scaling{}, fault.New(fault.Missing, "There is no deployment %s at Verda.", name)
	}
	return verda.Scaling{Min: n, Max: p.max}, p.fails()
}

func (p *provider) ChangeScaling(_ context.Context, name string, ch verda.ScalingChange) (verda.Scaling, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.before != nil {
		p.before()
	}
	if err := p.fails(); err != nil {
		return verda.Scaling{}, err
	}
	p.mins[name] = *ch.Min
	return verda.Scaling{Min: *ch.Min, Max: p.max}, nil
}

func (p *provider) fails() error {
	if p.broken {
		return fault.New(fault.Unavailable, "Verda's control interface does not answer.").WithRemedy("Wait.")
	}
	return nil
}

func (p *provider) min(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mins[name]
}

func (p *provider) set(name string, n int) {
	p.mu.Lock()
	p.mins[name] = n
	p.mu.Unlock()
}

func (p *provider) breakDown(broken bool) {
	p.mu.Lock()
	p.broken = broken
	p.mu.Unlock()
}

// plan keeps containers awake in hours of the bubble's days; it is 0 o'clock when a bubble begins.
func plan(name string, entries ...config.Warm) warm.Deployment {
	return warm.Deployment{Name: name, BackEnd: "b-" + name, Price: 2.8, Plan: func(t time.Time) (int, time.Time) { return config.WarmAt(entries, t.UTC()) }}
}

func hours(from, to config.Clock, least int) config.Warm {
	return config.Warm{From: from * 60, To: to * 60, Min: least}
}

// written is what the file says.
func written(t testing.TB, file string) map[string]warm.Raised {
	t.Helper()
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var page struct{ Raised map[string]warm.Raised }
	if err == nil {
		err = json.Unmarshal(text, &page)
	}
	if err != nil {
		t.Fatal(err)
	}
	return page.Raised
}

// run runs a keeper until the returned function is called.
func run(t *testing.T, file string, p warm.Provider, log *slog.Logger, plans ...warm.Deployment) (*warm.Keeper, func()) {
	t.Helper()
	k, err := warm.New(file, p, plans, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := k.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return k, func() { cancel(); wg.Wait() }
}

func TestPlan(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "warm.json")
	synctest.Test(t, func(t *testing.T) {
		p := &provider{mins: map[string]int{"d": 0, "mine": 1}, max: 5}
		p.before = func() {
			if n := p.mins["d"]; n == 0 && len(written(t, file)["d"].Set) == 0 {
				t.Error("the minimum is raised before it is written down")
			}
		}
		k, stop := run(t, file, p, slog.New(slog.DiscardHandler), plan("d", hours(9, 17, 2), hours(12, 13, 3)), plan("mine", hours(9, 17, 1)))
		defer stop()
		at := func(hour float64, want int) {
			t.Helper()
			midnight := time.Now().UTC().Truncate(24 * time.Hour)
			time.Sleep(time.Until(midnight.Add(time.Duration(hour*float64(time.Hour)))) + time.Second)
			synctest.Wait()
			if got := p.min("d"); got != want {
				t.Errorf("at %v: %d, want %d", hour, got, want)
			}
			if n := len(written(t, file)); (want > 0) != (n == 1) {
				t.Errorf("at %v: %d are written down", hour, n)
			}
		}
		at(0, 0)
		at(8.9, 0)
		at(9, 2)
		at(10, 2)
		if r := k.Raised(); len(r) != 1 || r[0].PerHour() != 5.6 || r[0].BackEnd != "b-d" {
			t.Errorf("%+v", r)
		}
		if notes := k.Notes(); len(notes) != 1 || notes[0] != "d keeps 2 containers awake by plan: 5.60 per hour, 5.60 so far." {
			t.Errorf("%q", notes)
		}
		other, err := warm.New(file, p, nil, nil, slog.New(slog.DiscardHandler)) // a server that does not lead
		if err != nil || len(other.Raised()) != 1 || len(other.Notes()) != 1 {
			t.Errorf("%v, %v", other.Notes(), err)
		}
		at(12, 3)
		at(13, 2)
		at(17, 0)
		at(33, 2) // the next day
		if p.min("mine") != 1 {
			t.Errorf("what others keep awake was changed to %d", p.min("mine"))
		}
	})
}

func TestByHand(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "warm.json")
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := &provider{mins: map[string]int{"d": 0}, max: 5}
		_, stop := run(t, file, p, slog.New(slog.NewTextHandler(&log, nil)), plan("d", hours(0, 5, 1), hours(6, 7, 1)))
		defer stop()
		p.set("d", 4)
		time.Sleep(5*time.Hour + time.Second)
		synctest.Wait()
		if p.min("d") != 4 || len(written(t, file)) != 0 || !strings.Contains(log.String(), "by hand") {
			t.Errorf("%d %s", p.min("d"), log.String())
		}
	})
}

// TestOutsideEveryPlan: what somebody raised by hand is named with its price, and left.
func TestOutsideEveryPlan(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "warm.json")
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := &provider{mins: map[string]int{"d": 1, "e": 0}, max: 5}
		k, stop := run(t, file, p, slog.New(slog.NewTextHandler(&log, nil)), plan("d"), plan("e", hours(2, 3, 1)))
		defer stop()
		const want = "d keeps 1 awake outside every plan: 2.80 per hour. To lower it: comfyume backend verda scale d --min 0"
		if notes := k.Notes(); len(notes) != 1 || notes[0] != want {
			t.Errorf("%q", notes)
		}
		time.Sleep(2*time.Hour + time.Second)
		p.set("e", 3)
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if notes := strings.Join(k.Notes(), "\n"); !strings.Contains(notes, "e keeps 3 awake, and its plan wants 1: 5.60 per hour.") {
			t.Error(notes)
		}
		p.set("d", 0)
		p.set("e", 0)
		time.Sleep(time.Hour)
		synctest.Wait()
		if notes := k.Notes(); len(notes) != 0 || p.min("e") != 0 {
			t.Errorf("%q", notes)
		}
		if n := strings.Count(log.String(), "than any plan wants"); n != 2 {
			t.Errorf("it was logged %d times: %s", n, log.String())
		}
	})
}

func TestTrouble(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "warm.json")
	synctest.Test(t, func(t *testing.T) {
		p := &provider{mins: map[string]int{"d": 0}, max: 5, broken: true}
		k, stop := run(t, file, p, slog.New(slog.DiscardHandler), plan("d", hours(0, 5, 1)), plan("gone", hours(0, 5, 1)), plan("small", hours(0, 5, 9)))
		defer stop()
		p.set("small", 0)
		if notes := strings.Join(k.Notes(), "\n"); !strings.Contains(notes, "does not answer") || !strings.Contains(notes, "no deployment gone") {
			t.Error(notes)
		}
		p.breakDown(false)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if p.min("d") != 1 {
			t.Errorf("it was not tried again: %d", p.min("d"))
		}
		if notes := strings.Join(k.Notes(), "\n"); strings.Contains(notes, "does not answer") || !strings.Contains(notes, "small may have 5 containers, and its plan keeps 9 awake") {
			t.Error(notes)
		}
		p.breakDown(true)
		time.Sleep(5 * time.Hour)
		p.breakDown(false)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if p.min("d") != 0 || len(written(t, file)) != 0 {
			t.Errorf("it was not lowered after the trouble: %d, %v", p.min("d"), written(t, file))
		}
	})
}

func TestNothingIsRaisedThatIsNotWrittenDown(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "no such folder", "warm.json")
	synctest.Test(t, func(t *testing.T) {
		p := &provider{mins: map[string]int{"d": 0}, max: 5}
		k, stop := run(t, file, p, slog.New(slog.DiscardHandler), plan("d", hours(0, 5, 1)))
		defer stop()
		if p.min("d") != 0 || !strings.Contains(strings.Join(k.Notes(), ""), "can't be written down") {
			t.Errorf("%d %q", p.min("d"), k.Notes())
		}
	})
}

func TestBookThatCantBeRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{", `{"raised": {"d": {}}}`, `{"raised": {"d": {"deployment": "e", "set": [1]}}}`} {
		file := filepath.Join(t.TempDir(), "warm.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := warm.New(file, &provider{}, nil, nil, slog.New(slog.DiscardHandler)); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// crash ends a keeper in the middle of what it does.
type crash struct{ error }

// mortal is a provider at whose n-th call, before it or after it, the program dies.
type mortal struct {
	*provider
	left  int
	after bool
}

func (m *mortal) die(call func()) {
	m.left--
	if m.left == 0 && !m.after {
		panic(crash{})
	}
	call()
	if m.left == 0 {
		panic(crash{})
	}
}

func (m *mortal) Scaling(ctx context.Context, name string) (s verda.Scaling, err error) {
	m.die(func() { s, err = m.provider.Scaling(ctx, name) })
	return s, err
}

func (m *mortal) ChangeScaling(ctx context.Context, name string, ch verda.ScalingChange) (s verda.Scaling, err error) {
	m.die(func() { s, err = m.provider.ChangeScaling(ctx, name, ch) })
	return s, err
}

// live runs a keeper for a while, or until it dies of the provider.
func live(t *testing.T, file string, p warm.Provider, plans []warm.Deployment, d time.Duration) {
	k, err := warm.New(file, p, plans, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
		}
	}()
	if err := k.Run(ctx); err != nil {
		t.Error(err)
	}
}

// history is a studio that dies again and again.
type history struct {
	was     map[string]int
	entries map[string][]config.Warm
	lives   []struct {
		calls int // of the provider, until it dies
		after bool
		time  time.Duration
	}
	noPlan bool // at last the settings have no plan any more
}

func (h history) plans() (list []warm.Deployment) {
	for name, entries := range h.entries {
		list = append(list, plan(name, entries...))
	}
	return list
}

// happens lives through a history.
func (h history) happens(t *testing.T, file string) {
	p := &provider{mins: maps.Clone(h.was), max: 5}
	for _, l := range h.lives {
		live(t, file, &mortal{provider: p, left: l.calls, after: l.after}, h.plans(), l.time)
		for name, before := range h.was {
			if r, has := written(t, file)[name]; p.min(name) > before && (!has || r.Before != before) {
				t.Errorf("%s is %d, was %d, and the file says %+v", name, p.min(name), before, r)
			}
		}
	}
	last := h.plans()
	if h.noPlan {
		last = nil
	} else { // it starts at a moment that no plan has
		time.Sleep(time.Until(time.Now().UTC().Truncate(24 * time.Hour).Add(23*time.Hour + 30*time.Minute)))
	}
	live(t, file, p, last, time.Minute)
	for name, before := range h.was {
		if p.min(name) != before || len(written(t, file)) != 0 {
			t.Errorf("%s is %d, was %d; %v", name, p.min(name), before, written(t, file))
		}
	}
}

// TestCrashes: whenever the program dies, whatever is above what it was is written down; and a studio that runs outside
// the plan, also one whose settings have no plan any more, has everything back as it was.
func TestCrashes(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "warm.json")
	rapid.Check(t, func(rt *rapid.T) {
		h := history{was: map[string]int{}, entries: map[string][]config.Warm{}}
		for _, name := range []string{"a", "b"} {
			h.was[name] = rapid.IntRange(0, 1).Draw(rt, name)
			for range rapid.IntRange(1, 3).Draw(rt, "entries") {
				from := rapid.IntRange(0, 22).Draw(rt, "from")
				to := rapid.IntRange(from+1, 23).Draw(rt, "to")
				h.entries[name] = append(h.entries[name], hours(config.Clock(from), config.Clock(to), rapid.IntRange(1, 4).Draw(rt, "least")))
			}
		}
		h.lives = rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) (l struct {
			calls int
			after bool
			time  time.Duration
		},
		) {
			l.calls, l.after = rapid.IntRange(1, 12).Draw(rt, "calls"), rapid.Bool().Draw(rt, "after")
			l.time = time.Duration(rapid.IntRange(1, 30).Draw(rt, "hours")) * time.Hour
			return l
		}), 1, 8).Draw(rt, "lives")
		h.noPlan = rapid.Bool().Draw(rt, "no plan any more")
		if err := os.RemoveAll(file); err != nil {
			rt.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) { h.happens(t, file) })
		if t.Failed() {
			rt.Fatal("see above")
		}
	})
}
