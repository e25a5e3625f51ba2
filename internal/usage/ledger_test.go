package usage_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/usage"
)

// memory is a store in memory.
type memory struct {
	mu      sync.Mutex
	learned map[string][]byte
	hours   map[hour]usage.Hour
	broken  error
	saves   int
}

type hour struct {
	start       int64
	user, group string
}

func newMemory() *memory {
	return &memory{learned: map[string][]byte{}, hours: map[hour]usage.Hour{}}
}

func (m *memory) Learned(context.Context) ([]usage.Learned, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []usage.Learned
	for k, b := range m.learned {
		all = append(all, usage.Learned{Key: []byte(k), Body: b})
	}
	return all, nil
}

func (m *memory) Hours(_ context.Context, since time.Time) ([]usage.Hour, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []usage.Hour
	for _, h := range m.hours {
		if !h.Start.Before(since) {
			all = append(all, h)
		}
	}
	slices.SortFunc(all, func(a, b usage.Hour) int { return a.Start.Compare(b.Start) })
	return all, nil
}

func (m *memory) Save(_ context.Context, s usage.Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return m.broken
	}
	m.saves++
	for _, h := range s.Hours {
		m.hours[hour{h.Start.Unix(), h.User, h.Group}] = h
	}
	for _, l := range s.Learned {
		if l.Body == nil {
			delete(m.learned, string(l.Key))
		} else {
			m.learned[string(l.Key)] = l.Body
		}
	}
	maps.DeleteFunc(m.hours, func(_ hour, h usage.Hour) bool { return h.Start.Before(s.Before) })
	return nil
}

func (m *memory) Forget(_ context.Context, user string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.hours, func(k hour, _ usage.Hour) bool { return k.user == user })
	return nil
}

func open(t testing.TB, s usage.Store, o usage.Options) *usage.Ledger {
	t.Helper()
	if o.Zone == nil {
		o.Zone = time.UTC
	}
	l, err := usage.New(context.Background(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func asked(user, likeness, files string, work float64) job.Job {
	return job.Job{User: user, Group: "class-a", Profile: job.Profile{Like: likeness, Models: files, Work: work}}
}

// near fails the test when an estimate is further than a part of it from what it should be.
func near(t *testing.T, what string, got time.Duration, want, part float64) {
	t.Helper()
	if math.Abs(got.Seconds()-want) > part*want {
		t.Errorf("%s: expected %v, want %.1f s", what, got, want)
	}
}

func TestEstimateGoesFromOwnToAll(t *testing.T) {
	t.Parallel()
	l := open(t, newMemory(), usage.Options{})
	mean := func(j job.Job) time.Duration {
		m, spread := l.Estimate(j)
		if m > 0 && spread <= 0 {
			t.Errorf("%v without a spread", m)
		}
		return m
	}
	if m, s := l.Estimate(asked("ann", "portrait", "a.ckpt", 20)); m != 0 || s != 0 {
		t.Errorf("before any run: %v ± %v", m, s)
	}
	for range 4 {
		l.Ran(asked("ben", "portrait", "a.ckpt", 20), "gpu1", 10*time.Second, true)
		l.Ran(asked("ben", "portrait", "big.ckpt", 20), "gpu1", 40*time.Second, true)
		l.Ran(asked("ben", "film", "a.ckpt", 1000), "gpu1", 500*time.Second, true)
		l.Ran(asked("ben", "portrait", "a.ckpt", 20), "gpu1", time.Millisecond, false) // interrupted
	}
	near(t, "everybody's like graphs", mean(asked("ann", "portrait", "a.ckpt", 20)), 10, 0.01)
	near(t, "twice as much of them", mean(asked("ann", "portrait", "a.ckpt", 40)), 20, 0.01)
	near(t, "the same classes with another model", mean(asked("ann", "portrait", "new.ckpt", 20)), 25, 0.7)
	near(t, "other classes with a known model", mean(asked("ann", "collage", "a.ckpt", 100)), 50, 0.2)
	near(t, "nothing in common", mean(asked("ann", "song", "s.gguf", 3)), 40, 0.01)
	for range 3 { // ann uses another sampler in them, say
		l.Ran(asked("ann", "portrait", "a.ckpt", 20), "gpu1", 30*time.Second, true)
	}
	near(t, "her own", mean(asked("ann", "portrait", "a.ckpt", 20)), 30, 0.01)
	near(t, "not his", mean(asked("ben", "portrait", "a.ckpt", 20)), 10, 0.01)
	_, sure := l.Estimate(asked("ann", "portrait", "a.ckpt", 20))
	_, unsure := l.Estimate(asked("ann", "song", "s.gguf", 3))
	if unsure < 2*sure {
		t.Errorf("the spread of something new is %v, of something known %v", unsure, sure)
	}
}

// TestSpeeds mixes runs of two back ends, one of which is three times as fast.
func TestSpeeds(t *testing.T) {
	t.Parallel()
	store := newMemory()
	l := open(t, store, usage.Options{})
	if s := l.Speed("fast"); s != 1 {
		t.Errorf("before any run the speed is %v", s)
	}
	r := rand.New(rand.NewPCG(3, 4))
	speed := map[string]float64{"fast": math.Sqrt(3), "slow": 1 / math.Sqrt(3)}
	for range 400 {
		name := []string{"fast", "slow"}[r.IntN(2)]
		work := 10 + 90*r.Float64()
		seconds := (2 + work/5) / speed[name] * (0.95 + 0.1*r.Float64())
		l.Ran(asked("ann", fmt.Sprint("graph", r.IntN(3)), "a.ckpt", work), name, time.Duration(seconds*1e9), true)
	}
	check := func(l *usage.Ledger) {
		t.Helper()
		for name, want := range speed {
			if got := l.Speed(name); math.Abs(got-want) > 0.15*want {
				t.Errorf("%s has speed %.2f, want %.2f", name, got, want)
			}
		}
		mean, _ := l.Estimate(asked("ann", "graph1", "a.ckpt", 50))
		near(t, "at usual speed", mean, 12, 0.15)
	}
	check(l)
	if err := l.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(open(t, store, usage.Options{}))
}

// TestOneBackEndIsUsual holds that a single back end never drifts away from speed 1.
func TestOneBackEndIsUsual(t *testing.T) {
	t.Parallel()
	l := open(t, newMemory(), usage.Options{})
	for i := range 200 {
		l.Ran(asked("ann", "a", "", 1), "gpu1", time.Duration(i+1)*time.Second, true)
	}
	if s := l.Speed("gpu1"); s != 1 {
		t.Errorf("the speed is %v", s)
	}
	mean, _ := l.Estimate(asked("ann", "a", "", 1))
	near(t, "of what grows", mean, 192, 0.05)
}

// TestLearnedIsBounded runs more kinds of graphs than are remembered.
func TestLearnedIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		l := open(t, store, usage.Options{})
		for i := range 6000 {
			time.Sleep(time.Second)
			l.Ran(asked("ann", fmt.Sprint(i), "m.ckpt", 1), "gpu1", 5*time.Second, true)
			if i%1000 == 0 {
				if err := l.Save(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		l.Ran(asked("ann", "last", "m.ckpt", 1), "gpu1", 9*time.Second, true)
		if err := l.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(store.learned); n > 8200 || n < 4000 {
			t.Errorf("%d groups are saved", n)
		}
		mean, _ := open(t, store, usage.Options{}).Estimate(asked("ben", "last", "m.ckpt", 1))
		near(t, "the last one", mean, 9, 0.01)
	})
}

func TestForgottenPeopleTeachNobody(t *testing.T) {
	t.Parallel()
	store := newMemory()
	l := open(t, store, usage.Options{})
	for range 4 {
		l.Ran(asked("ann", "a", "", 1), "gpu1", 30*time.Second, true)
		l.Ran(asked("ben", "a", "", 1), "gpu1", 10*time.Second, true)
		l.Ran(asked("cid", "a", "", 1), "gpu1", 10*time.Second, true)
	}
	if err := l.Forget(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*usage.Ledger{"at once": l, "after a restart": open(t, store, usage.Options{})} {
		mean, _ := l.Estimate(asked("ann", "a", "", 1))
		near(t, "a new ann, "+name, mean, 10, 0.01)
	}
}

// TestSavedIsReadLeniently gives what no version wrote.
func TestSavedIsReadLeniently(t *testing.T) {
	t.Parallel()
	store := newMemory()
	l := open(t, store, usage.Options{})
	for range 20 {
		l.Ran(asked("ann", "a", "", 1), "gpu1", 30*time.Second, true)
		l.Ran(asked("ann", "a", "", 1), "gpu2", 30*time.Second, true)
	}
	if err := l.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	for k, b := range store.learned {
		for range 200 {
			bad := slices.Clone(b)
			bad[r.IntN(len(bad))] ^= byte(1 + r.IntN(255))
			bad = bad[:r.IntN(len(bad)+1)]
			one := newMemory()
			one.learned[k], one.learned["odd"] = bad, bad
			mean, spread := open(t, one, usage.Options{}).Estimate(asked("ann", "a", "", 1))
			if mean < 0 || spread < 0 {
				t.Fatalf("%x gave %v ± %v", bad, mean, spread)
			}
		}
	}
}

func TestSavingIsTriedAgain(t *testing.T) {
	t.Parallel()
	store := newMemory()
	l := open(t, store, usage.Options{})
	l.Ran(asked("ann", "a", "", 1), "gpu1", 30*time.Second, true)
	l.JobChanged(job.Changed{Change: job.Submitted, Job: &job.Job{ID: "1", User: "ann", State: job.Pending, Created: time.Now()}})
	store.broken = errors.New("disk full")
	if err := l.Save(t.Context()); !errors.Is(err, store.broken) {
		t.Fatalf("got %v", err)
	}
	store.broken = nil
	if err := l.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(store.hours) != 1 || len(store.learned) != 5 {
		t.Errorf("saved %d hours and %d groups", len(store.hours), len(store.learned))
	}
	if err := l.Save(t.Context()); err != nil || store.saves != 1 {
		t.Errorf("saved %d times, %v: nothing had changed", store.saves, err)
	}
}

func TestRunSavesWhatIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		l := open(t, store, usage.Options{})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		l.Ran(asked("ann", "a", "", 1), "gpu1", 30*time.Second, true)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		store.mu.Lock()
		saved := len(store.learned)
		store.mu.Unlock()
		if saved == 0 {
			t.Error("nothing was saved by itself")
		}
		l.Ran(asked("ann", "b", "", 1), "gpu1", 30*time.Second, true)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(store.learned) <= saved {
			t.Error("the last run was not saved")
		}
	})
}

func TestShare(t *testing.T) {
	t.Parallel()
	l := open(t, newMemory(), usage.Options{Weights: usage.Weights{
		Users: map[string]float64{"ann": 2}, Groups: map[string]float64{"class-a": 3, "class-b": 0},
	}})
	var got []float64
	for _, who := range [][2]string{{"ann", "class-a"}, {"ben", "class-b"}, {"cid", ""}} {
		u, g := l.Share(who[0], who[1])
		got = append(got, u, g)
	}
	if diff := cmp.Diff([]float64{2, 3, 1, 1, 1, 1}, got); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkLedger(b *testing.B) {
	l := open(b, newMemory(), usage.Options{})
	j := asked("ann", "0123456789abcdef", "ae.safetensors\nclip_l.safetensors\nflux1-dev.safetensors\nt5xxl_fp16.safetensors", 20)
	for i := range 64 {
		j.Profile.Work = float64(10 + i)
		l.Ran(j, "gpu1", time.Duration(i+1)*time.Second, true)
	}
	b.Run("Estimate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			l.Estimate(j)
		}
	})
	for name, works := range map[string]int{"Ran and Estimate": 50, "Ran and Estimate of like work": 1} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				j.Profile.Work = float64(10 + i%works)
				l.Ran(j, "gpu1", time.Second+time.Duration(i%7)*time.Millisecond, true)
				l.Estimate(j)
			}
		})
	}
	quotas := open(b, newMemory(), usage.Options{Quotas: usage.Quotas{Everyone: usage.Quota{JobsPerHour: math.MaxInt, GPUPerDay: 1e18}}})
	for name, l := range map[string]*usage.Ledger{"Admit without quotas": l, "Admit": quotas} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				id := job.ID(fmt.Sprint(i))
				if err := l.Admit(b.Context(), job.Submission{ID: id, User: "ann", Group: "class-a", Profile: j.Profile}); err != nil {
					b.Fatal(err)
				}
				now := time.Now()
				l.JobChanged(job.Changed{Change: job.Submitted, Job: &job.Job{ID: id, User: "ann", Group: "class-a", State: job.Pending, Created: now}})
				l.JobChanged(job.Changed{Change: job.Finished, Job: &job.Job{
					ID: id, User: "ann", Group: "class-a", State: job.Completed, Created: now, Started: now, Finished: now.Add(time.Millisecond),
				}})
			}
		})
	}
}

// TestRelearn: a server that leads from now on knows what the one before it learned.
func TestRelearn(t *testing.T) {
	t.Parallel()
	store := newMemory()
	before, next := open(t, store, usage.Options{}), open(t, store, usage.Options{})
	for range 4 {
		before.Ran(asked("ann", "a", "", 1), "gpu1", 30*time.Second, true)
		next.Ran(asked("ben", "b", "", 1), "gpu1", 70*time.Second, true) // it led once, and that was not saved
	}
	if err := before.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := next.Relearn(t.Context()); err != nil {
		t.Fatal(err)
	}
	mean, _ := next.Estimate(asked("ann", "a", "", 1))
	near(t, "what the other server learned", mean, 30, 0.01)
}
