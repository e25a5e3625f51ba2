package comfyui_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/job"
)

// nodes remembers how long classes were silent.
type nodes struct {
	mu      sync.Mutex
	longest map[string]time.Duration
	runs    map[string]int
}

func (n *nodes) Bound(class string) (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return 2 * n.longest[class], n.runs[class] >= 3
}

func (n *nodes) Silent(class string, longest time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.longest[class] = max(n.longest[class], longest)
	n.runs[class]++
}

// patient runs f with a driver that remembers.
func patient(t *testing.T, f func(b *bench, n *nodes)) {
	inBubble(t, func(b *bench) {
		if err := b.driver.Close(); err != nil {
			b.Fatal(err)
		}
		n := &nodes{longest: map[string]time.Duration{}, runs: map[string]int{}}
		b.patience = n
		b.driver = b.open()
		f(b, n)
	})
}

// waits runs a node that keeps the server from answering for so long, and goes on.
func (b *bench) waits(silent time.Duration) {
	b.Helper()
	a := b.start(b.Context(), b.prepare(b.task("Step", "Wait")))
	synctest.Wait()
	b.fake.SetFrozen(true)
	time.Sleep(silent)
	b.fake.SetFrozen(false)
	time.Sleep(20 * time.Second)
	b.fake.Release()
	<-a.done
	b.wantState(a, job.Completed)
	if told := slices.Contains(a.types, backend.Notice); told != (len(b.silent) > 0) {
		b.Errorf("its owner was told %v, and the operator %d times", told, len(b.silent))
	}
}

// freezes runs a node in which the server stops for good, and returns how long after its last sign of life that was told,
// and the run given up.
func (b *bench) freezes() (told, given time.Duration) {
	b.Helper()
	a := b.start(b.Context(), b.prepare(b.task("Wait")))
	synctest.Wait()
	began := time.Now()
	b.fake.SetFrozen(true)
	select {
	case text := <-b.silent:
		told = time.Since(began)
		if !strings.Contains(text, "gave no sign of life for") || !strings.Contains(text, "at Wait") {
			b.Errorf("told %q", text)
		}
		<-a.done
	case <-a.done:
	}
	given = time.Since(began)
	if !errors.Is(a.err, backend.ErrFrozen) {
		b.Errorf("err = %v, want ErrFrozen", a.err)
	}
	a.run.Close()
	return told, given
}

// TestLongSilentNodeIsLearnt: a node that always takes 40 s without a sign of life of its server is told of the first time,
// and not given up; then it is known. A server that stops in it is noticed when it takes twice as long.
func TestLongSilentNodeIsLearnt(t *testing.T) {
	patient(t, func(b *bench, n *nodes) {
		b.waits(40 * time.Second)
		if len(b.silent) != 1 {
			b.Fatalf("the first time it was told %d times", len(b.silent))
		}
		<-b.silent
		for range 4 {
			b.waits(40 * time.Second)
			if len(b.silent) > 0 {
				b.Fatalf("a node that is known was called silent: %s", <-b.silent)
			}
		}
		bound, _ := n.Bound("Wait")
		if bound < 79*time.Second || bound > 100*time.Second {
			b.Errorf("its bound is %v", bound)
		}
		if _, given := b.freezes(); given < bound || given > bound+2*time.Second {
			b.Errorf("given up after %v, its bound is %v", given, bound)
		}
	})
}

// TestFrozenServerIsNoticedInTime: within 15 s of its last sign of life; a run is given up then where its node is known to
// be quick, and later where nothing is known.
func TestFrozenServerIsNoticedInTime(t *testing.T) {
	patient(t, func(b *bench, n *nodes) {
		told, given := b.freezes()
		if told < 10*time.Second || told > 15*time.Second || given < 2*time.Minute || given > 2*time.Minute+15*time.Second {
			b.Errorf("of an unknown node it was told after %v, given up after %v", told, given)
		}
		time.Sleep(10 * time.Second)
		b.fake.SetFrozen(false) // it was at work, after all
		if _, err := b.driver.Probe(b.Context()); err != nil {
			b.Fatal(err)
		}
		if bound, _ := n.Bound("Wait"); bound < 4*time.Minute {
			b.Errorf("what was taken for frozen and was not has a bound of %v", bound)
		}
		n.mu.Lock()
		clear(n.longest)
		clear(n.runs)
		n.mu.Unlock()
		time.Sleep(time.Minute) // the run that was given up is taken off
		for range 3 {
			b.waits(0)
		}
		if told, given := b.freezes(); told > 0 || given < 10*time.Second || given > 15*time.Second {
			b.Errorf("of a quick node it was told after %v, given up after %v", told, given)
		}
	})
}

func TestBoundOfTheNodesAtWork(t *testing.T) {
	patient(t, func(b *bench, n *nodes) {
		n.Silent("Wait", time.Minute)
		a := b.start(b.Context(), b.prepare(b.task("Step", "Wait")))
		synctest.Wait()
		time.Sleep(time.Second) // frames are gathered
		if got := b.driver.Bound(); got != 2*time.Minute {
			b.Errorf("the bound is %v", got)
		}
		b.release(a)
		if got := b.driver.Bound(); got != 0 {
			b.Errorf("behind the run the bound is %v", got)
		}
	})
}
