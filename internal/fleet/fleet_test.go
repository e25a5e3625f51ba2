package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// driver answers probes as it is told.
type driver struct {
	backend.Driver
	mu     sync.Mutex
	snap   backend.Snapshot
	err    error
	probes int
	files  map[string]string
	reads  int
	webErr error
}

func (d *driver) Probe(context.Context) (backend.Snapshot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.probes++
	s := d.snap
	s.Taken = time.Now()
	return s, d.err
}

func (d *driver) probed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.probes
}

func (d *driver) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *driver) WebFile(_ context.Context, path string) (io.ReadCloser, string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads++
	if d.webErr != nil {
		return nil, "", d.webErr
	}
	text, ok := d.files[path]
	if !ok {
		return nil, "", fault.New(fault.Missing, "no %s", path)
	}
	return io.NopCloser(newReader(text)), "text/javascript", nil
}

// catalog counts updates.
type catalog struct {
	mu      sync.Mutex
	updates int
	err     error
}

func (c *catalog) Update(_ string, s backend.Snapshot) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.updates++
	return s.ObjectInfo != nil, c.err
}

type table struct {
	*testing.T
	driver    *driver
	catalog   *catalog
	fleet     *fleet.Fleet
	changes   atomic.Int64
	follows   atomic.Bool
	restarted []string
}

// inBubble runs f beside a fleet of one back end in virtual time.
func inBubble(t *testing.T, f func(b *table)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &table{T: t, driver: &driver{snap: backend.Snapshot{Version: "0.3.64", Epoch: "e1"}}, catalog: &catalog{}}
		var err error
		b.fleet, err = fleet.New([]fleet.Member{{
			Name: "gpu1", Driver: b.driver, Parallel: 4, Groups: []string{"red"}, Price: 2.5, Prefer: 1,
		}}, b.catalog, fleet.Options{
			Changed: func() { b.changes.Add(1) }, Follows: b.follows.Load,
			Restarted: func(_ context.Context, name, epoch string) error {
				b.restarted = append(b.restarted, name+epoch)
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.fleet.Run(ctx) }()
		synctest.Wait()
		f(b)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func (b *table) want(s fleet.State) {
	b.Helper()
	synctest.Wait()
	got := b.fleet.BackEnds()[0]
	if got.State != s {
		b.Errorf("state %q (%s; %s), want %q", got.State, got.Reason, got.Cause, s)
	}
	if st := b.fleet.Status()[0]; st.Ready != (s == fleet.Ready || s == fleet.Trial) || (s == fleet.Ready) != (st.Reason == "") || st.Trial != (s == fleet.Trial) {
		b.Errorf("status %+v for state %q", st, s)
	}
}

// nudge has the back end looked at, some time after it was looked at before.
func (b *table) nudge() {
	time.Sleep(time.Second)
	b.fleet.Nudge("gpu1")
}

func TestStatesFollowTheProbes(t *testing.T) {
	inBubble(t, func(b *table) {
		b.want(fleet.Ready)
		if len(b.restarted) != 1 || b.restarted[0] != "gpu1e1" {
			b.Errorf("restarted: %v", b.restarted)
		}
		for _, c := range []struct {
			err  error
			want fleet.State
		}{
			{backend.ErrUnreachable, fleet.Unreachable},
			{fmt.Errorf("%w: 0.3.1", backend.ErrTooOld), fleet.Refused},
			{backend.ErrNotComfyUI, fleet.Refused},
			{nil, fleet.Ready},
		} {
			b.driver.set(func() { b.driver.err = c.err })
			before := b.changes.Load()
			b.nudge()
			b.want(c.want)
			if b.changes.Load() == before {
				b.Errorf("nobody was told of %v", c.err)
			}
		}
		b.driver.set(func() { b.driver.snap.QueueOther = 2 })
		b.nudge()
		b.want(fleet.Busy)
		b.driver.set(func() { b.driver.snap.QueueOther = 0 })
		time.Sleep(11 * time.Second)
		b.want(fleet.Ready)
		b.driver.set(func() { b.driver.snap.Epoch = "e2" })
		time.Sleep(11 * time.Second)
		b.want(fleet.Ready)
		if len(b.restarted) != 2 {
			b.Errorf("restarted: %v", b.restarted)
		}
	})
}

// TestWorkOfAnotherServerIsNotForeign: while another server of the studio gives out the work, a back end that has some
// is as good as any.
func TestWorkOfAnotherServerIsNotForeign(t *testing.T) {
	inBubble(t, func(b *table) {
		b.follows.Store(true)
		b.driver.set(func() { b.driver.snap.QueueOther = 2 })
		b.nudge()
		b.want(fleet.Ready)
		b.follows.Store(false) // it gives out the work from now on
		b.nudge()
		b.want(fleet.Busy)
	})
}

func TestNoNewsIsNotTold(t *testing.T) {
	inBubble(t, func(b *table) {
		before := b.changes.Load()
		time.Sleep(time.Minute)
		synctest.Wait()
		if b.changes.Load() != before {
			b.Errorf("told %d times that nothing changed", b.changes.Load()-before)
		}
		if n := b.driver.probed(); n < 6 || n > 8 {
			b.Errorf("%d probes in a minute", n)
		}
	})
}

// Others' runs come and go: their every start and end is no reason to ask, and the last one is not missed.
func TestManyNudgesAreFewProbes(t *testing.T) {
	inBubble(t, func(b *table) {
		start := b.driver.probed()
		for range 1000 {
			time.Sleep(time.Millisecond)
			b.fleet.Nudge("gpu1")
			synctest.Wait()
		}
		if n := b.driver.probed() - start; n > 3 {
			b.Errorf("%d probes in a second", n)
		}
		b.driver.set(func() { b.driver.snap.QueueOther = 1 })
		b.fleet.Nudge("gpu1")
		time.Sleep(501 * time.Millisecond)
		b.want(fleet.Busy)
	})
}

func TestSilentBackEndIsAskedLessOften(t *testing.T) {
	inBubble(t, func(b *table) {
		b.driver.set(func() { b.driver.err = backend.ErrUnreachable })
		b.nudge()
		synctest.Wait()
		start := b.driver.probed()
		time.Sleep(5 * time.Minute)
		if n := b.driver.probed() - start; n < 20 || n > 30 {
			b.Errorf("%d probes in five minutes, want about 24", n)
		}
	})
}

func TestOneMissedAnswerIsForgiven(t *testing.T) {
	inBubble(t, func(b *table) {
		slow := fmt.Errorf("%w: %w", backend.ErrUnreachable, context.DeadlineExceeded)
		b.driver.set(func() { b.driver.err = slow })
		b.nudge()
		b.want(fleet.Ready)
		time.Sleep(time.Second)
		b.want(fleet.Unreachable)
	})
}

func TestAttemptsReportTrouble(t *testing.T) {
	inBubble(t, func(b *table) {
		b.driver.set(func() { b.driver.err = backend.ErrUnreachable })
		b.fleet.Report("gpu1", fmt.Errorf("%w: gone", backend.ErrLost))
		if st := b.fleet.Status()[0]; st.Ready { // at once, without a probe
			b.Error("ready right after a lost run")
		}
		b.want(fleet.Unreachable)
		b.driver.set(func() { b.driver.err = nil })
		b.fleet.Report("gpu1", backend.ErrForeign)
		b.want(fleet.Ready) // the probe finds the queue empty again
		b.fleet.Report("nobody", backend.ErrLost)
	})
}

func TestLosingEveryRunLeadsToQuarantine(t *testing.T) {
	inBubble(t, func(b *table) {
		lose := func(n int) {
			for range n {
				b.fleet.Report("gpu1", backend.ErrLost)
				synctest.Wait()
			}
		}
		lose(19) // it runs four at the same time
		b.want(fleet.Ready)
		b.fleet.Report("gpu1", nil) // one that went well
		lose(19)
		b.want(fleet.Ready)
		lose(1)
		b.want(fleet.Quarantined)
		if until := time.Until(b.fleet.BackEnds()[0].Until); until != time.Minute {
			t.Errorf("it lasts %v", until)
		}
		time.Sleep(59 * time.Second)
		b.want(fleet.Quarantined)
		time.Sleep(2 * time.Second)
		b.want(fleet.Trial)
		lose(1) // its trial
		b.want(fleet.Quarantined)
		time.Sleep(110 * time.Second)
		b.want(fleet.Quarantined) // the second one is longer
		time.Sleep(15 * time.Second)
		b.want(fleet.Trial)
		before := b.changes.Load()
		b.fleet.Report("gpu1", nil)
		b.want(fleet.Ready)
		if b.changes.Load() == before {
			t.Error("nobody was told that it may have all again")
		}
		lose(19)
		b.fleet.Forgive("gpu1")
		lose(1)
		b.want(fleet.Ready)
		b.fleet.Report("gpu1", fmt.Errorf("%w: killed", backend.ErrCrashed))
		got := b.fleet.BackEnds()[0]
		if want := map[job.Cause]int{job.CauseLost: 60, job.CauseCrashed: 1}; got.Runs != 2 || !maps.Equal(got.Losses, want) {
			t.Errorf("%d runs, losses %v; want 2, %v", got.Runs, got.Losses, want)
		}
	})
}

// TestBrokenGPUWaitsForARestart: it is taken out at once, and is back as soon as it was started anew; or after a while for
// one job, should that have been said in error. One that runs several jobs has more than one GPU.
func TestBrokenGPUWaitsForARestart(t *testing.T) {
	inBubble(t, func(b *table) {
		gpu := &driver{snap: backend.Snapshot{Version: "0.3.64", Epoch: "e1"}}
		if err := b.fleet.Add(fleet.Member{Name: "one", Driver: gpu}); err != nil {
			b.Fatal(err)
		}
		want := func(state fleet.State) fleet.BackEnd {
			b.Helper()
			synctest.Wait()
			got := b.fleet.BackEnds()[1]
			if got.State != state {
				b.Errorf("state %q (%s), want %q", got.State, got.Reason, state)
			}
			return got
		}
		want(fleet.Ready)
		b.fleet.Report("one", backend.ErrBroken)
		if got := want(fleet.Quarantined); !strings.Contains(got.Reason, "started anew") || got.Losses[job.CauseBroken] != 1 {
			t.Errorf("%q, %v", got.Reason, got.Losses)
		}
		time.Sleep(20 * time.Second)
		want(fleet.Quarantined)
		gpu.set(func() { gpu.snap.Epoch = "e2" })
		time.Sleep(20 * time.Second)
		want(fleet.Ready)
		b.fleet.Report("one", backend.ErrBroken)
		b.fleet.Report("one", backend.ErrBroken) // of those that stood behind
		want(fleet.Quarantined)
		time.Sleep(150 * time.Second)
		want(fleet.Trial)
		b.fleet.Report("one", nil)
		want(fleet.Ready)
		b.fleet.Report("gpu1", backend.ErrBroken)
		time.Sleep(20 * time.Second)
		b.want(fleet.Ready)
	})
}

func TestMaintenanceHasATextAndAnEnd(t *testing.T) {
	inBubble(t, func(b *table) {
		end := time.Now().Add(5 * time.Minute)
		if err := b.fleet.Maintain("gpu1", true, "new models are copied.", end); err != nil {
			b.Fatal(err)
		}
		b.want(fleet.Drained)
		got := b.fleet.BackEnds()[0]
		if !strings.Contains(got.Reason, "new models are copied. Until ") || !got.Until.Equal(end) {
			t.Errorf("%q until %v", got.Reason, got.Until)
		}
		time.Sleep(5*time.Minute - time.Second)
		b.want(fleet.Drained)
		time.Sleep(2 * time.Second)
		b.want(fleet.Ready)
		if got := b.fleet.BackEnds()[0]; !got.Until.IsZero() {
			t.Errorf("until %v", got.Until)
		}
	})
}

func TestDrainAndTest(t *testing.T) {
	inBubble(t, func(b *table) {
		if err := b.fleet.Drain("gpu1", true); err != nil {
			b.Fatal(err)
		}
		b.want(fleet.Drained)
		time.Sleep(time.Minute)
		b.want(fleet.Drained)
		if err := b.fleet.Drain("gpu1", false); err != nil {
			b.Fatal(err)
		}
		b.want(fleet.Ready)
		if _, err := b.fleet.Test(b.Context(), "gpu2"); !fault.Is(err, fault.Missing) {
			b.Errorf("testing an unknown back end: %v", err)
		}
		b.driver.set(func() { b.driver.err = backend.ErrNotComfyUI })
		if got, err := b.fleet.Test(b.Context(), "gpu1"); err != nil || got.State != fleet.Refused || got.Cause == "" {
			b.Errorf("%+v, %v", got, err)
		}
	})
}

// TestStatusSaysWhatADispatcherHasToKnow: what is configured, and what the back end told.
func TestStatusSaysWhatADispatcherHasToKnow(t *testing.T) {
	inBubble(t, func(b *table) {
		b.driver.set(func() {
			b.driver.snap.Devices = []backend.Device{{VRAMTotal: 8}, {VRAMTotal: 24}}
			b.driver.snap.Cold = "gpu1 sleeps."
		})
		before := b.changes.Load()
		b.nudge()
		b.want(fleet.Ready)
		if b.changes.Load() == before {
			t.Error("nobody was told that it sleeps")
		}
		b.driver.set(func() { b.driver.snap.Version, b.driver.snap.Devices = "", nil }) // asleep, and tells nothing
		time.Sleep(11 * time.Second)
		b.want(fleet.Ready)
		want := backend.Status{
			Name: "gpu1", Driver: b.driver, Ready: true, Memory: 24, Cold: "gpu1 sleeps.",
			Parallel: 4, Groups: []string{"red"}, Price: 2.5, Prefer: 1,
		}
		if diff := cmp.Diff(want, b.fleet.Status()[0], cmp.Comparer(func(x, y backend.Driver) bool { return x == y })); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
		if got := b.fleet.BackEnds()[0].Version; got != "0.3.64" {
			t.Errorf("version %q of one that sleeps", got)
		}
	})
}

func TestCatalogTroubleKeepsABackEndOut(t *testing.T) {
	inBubble(t, func(b *table) {
		b.catalog.mu.Lock()
		b.catalog.err = errors.New("disk full")
		b.catalog.mu.Unlock()
		b.nudge()
		b.want(fleet.Unreachable)
	})
}

func TestNamesAreUnique(t *testing.T) {
	t.Parallel()
	d := &driver{}
	for _, members := range [][]fleet.Member{{{Name: "a", Driver: d}, {Name: "a", Driver: d}}, {{Driver: d}}, {{Name: "a"}}} {
		if _, err := fleet.New(members, &catalog{}, fleet.Options{}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: %v", members, err)
		}
	}
}

// TestSilentBackEndGetsNoMoreUntilItAnswers: also between two probes.
func TestSilentBackEndGetsNoMoreUntilItAnswers(t *testing.T) {
	inBubble(t, func(b *table) {
		state := func(want fleet.State, reason string) {
			b.Helper()
			synctest.Wait()
			if now := b.fleet.BackEnds()[0]; now.State != want || now.Reason != reason {
				b.Errorf("%s: %q, want %s: %q", now.State, now.Reason, want, reason)
			}
		}
		state(fleet.Ready, "")
		before := b.changes.Load()
		b.fleet.Silent("gpu1", "gave no sign of life for 12s, at Slow")
		b.fleet.Silent("nobody", "is told of")
		state(fleet.Unreachable, "gpu1 gave no sign of life for 12s, at Slow.")
		if b.changes.Load() != before+1 {
			b.Errorf("told of %d changes", b.changes.Load()-before)
		}
		time.Sleep(11 * time.Second)
		state(fleet.Ready, "")
		if err := b.fleet.Drain("gpu1", true); err != nil {
			b.Fatal(err)
		}
		b.fleet.Silent("gpu1", "gave no sign of life for 12s, at Slow")
		state(fleet.Drained, "gpu1 was taken out by the operator.")
	})
}
