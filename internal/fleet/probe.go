package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// wake has the prober look now.
func (m *member) wake() { signal(m.wakeup) }

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// become changes the state and reports whether that is news. The lock is held.
func (m *member) become(s State, reason string, cause error) bool {
	if cause != nil {
		m.now.Cause = cause.Error()
	}
	if m.now.State == s && m.now.Reason == reason {
		return false
	}
	m.now.State, m.now.Reason, m.now.Since = s, reason, time.Now()
	return true
}

// lost counts a lost run. The lock is held.
func (m *member) lost(o Options, cause error) bool {
	trial := m.tried && !time.Now().Before(m.until)
	if m.losses++; m.losses < o.MaxLosses*max(m.Parallel, 1) && !trial {
		return m.become(Unreachable, fmt.Sprintf("%s lost a run and is looked at.", m.Name), cause)
	}
	length := o.QuarantineFor << min(m.quarantines, 4)
	m.quarantines++
	lost := m.losses
	m.losses = 0
	m.until, m.tried = time.Now().Add(length), true
	m.now.Until = m.until
	if trial {
		return m.become(Quarantined, fmt.Sprintf("%s lost the run with which it was tried and is left alone for %v.", m.Name, length), cause)
	}
	return m.become(Quarantined, fmt.Sprintf("%s lost %d runs in a row and is left alone for %v.", m.Name, lost, length), cause)
}

// broke takes a back end out whose GPU failed, until it was started anew, or after a while for one job, in case that was
// said in error. One that runs several at the same time has more than one program: its losses are counted. The lock is held.
func (m *member) broke(o Options, cause error) bool {
	if m.Parallel > 1 {
		return m.lost(o, cause)
	}
	if m.broken == m.now.Epoch && time.Now().Before(m.until) {
		return false
	}
	length := o.QuarantineFor << min(m.quarantines, 4)
	m.quarantines++
	m.broken, m.losses = m.now.Epoch, 0
	m.until, m.tried = time.Now().Add(length), true
	m.now.Until = m.until
	return m.become(Quarantined, fmt.Sprintf("The GPU of %s failed: nothing runs there until its ComfyUI is started anew.", m.Name), cause)
}

// count counts an attempt that came to nothing. The lock is held.
func (m *member) count(err error) {
	cause := job.CauseUnreachable
	for _, c := range []struct {
		err   error
		cause job.Cause
	}{
		{backend.ErrCrashed, job.CauseCrashed},
		{backend.ErrFrozen, job.CauseFrozen},
		{backend.ErrLost, job.CauseLost},
		{backend.ErrUnknownRun, job.CauseLost},
		{backend.ErrForeign, job.CauseForeign},
		{backend.ErrBroken, job.CauseBroken},
	} {
		if errors.Is(err, c.err) {
			cause = c.cause
			break
		}
	}
	losses := maps.Clone(m.now.Losses) // whoever was told of the last one may still read it
	if losses == nil {
		losses = map[job.Cause]int{}
	}
	losses[cause]++
	m.now.Losses = losses
}

// takenOut is what people read of a back end that was taken out, where nobody wrote better.
func takenOut(name string) string { return fmt.Sprintf("%s was taken out by the operator.", name) }

// drain takes the back end out. The lock is held.
func (m *member) drain() bool {
	m.now.Until = m.end
	reason := takenOut(m.Name)
	if m.text != "" {
		reason = fmt.Sprintf("%s is being looked after: %s", m.Name, m.text)
	}
	if !m.end.IsZero() {
		reason = fmt.Sprintf("%s Until %s.", reason, m.end.Local().Format("2 January 15:04"))
	}
	return m.become(Drained, reason, nil)
}

// out reports whether the back end is taken out. The lock is held.
func (m *member) out() bool {
	if m.drained && !m.end.IsZero() && !time.Now().Before(m.end) {
		m.drained, m.text, m.end = false, "", time.Time{}
	}
	return m.drained
}

// watch probes one back end until ctx ends or it is no member any more.
func (f *Fleet) watch(ctx context.Context, m *member) {
	defer close(m.left)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-m.gone:
			cancel()
		case <-stop:
		}
	}()
	for ctx.Err() == nil {
		f.rest(ctx, m, f.probe(ctx, m))
	}
}

// rest waits until the back end is to be looked at again: after the pause, or earlier when there is a reason.
func (f *Fleet) rest(ctx context.Context, m *member, pause time.Duration) {
	probed := time.Now()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	nudge := m.nudge
	for {
		select {
		case <-nudge:
			// Somebody else's runs can come and go hundreds of times a second, and a probe is work for the server.
			timer.Reset(min(f.options.NudgeEvery, pause) - time.Since(probed))
			nudge = nil
		case <-timer.C:
			return
		case <-m.wakeup:
			return
		case <-ctx.Done():
			return
		}
	}
}

// probe looks at one back end and returns when to look again.
func (f *Fleet) probe(ctx context.Context, m *member) time.Duration {
	m.one.Lock() // who asks beside wants what the look that is under way finds taken in
	defer m.one.Unlock()
	snap, err := m.Driver.Probe(ctx)
	if ctx.Err() != nil {
		return 0
	}
	if err == nil {
		err = f.takeIn(ctx, m, snap)
	}
	m.mu.Lock()
	before := m.now.State
	var changed bool
	pause := f.options.ProbeEvery
	if err == nil {
		m.failures = 0
		changed = m.answered(snap, f.options.Follows())
	} else {
		m.failures++
		changed = m.unanswered(err)
		pause = min(f.options.RetryFirst<<min(m.failures-1, 10), f.options.RetryMost)
	}
	for _, at := range []time.Time{m.until, m.end} {
		if wait := time.Until(at); wait > 0 {
			pause = min(pause, wait)
		}
	}
	now := m.now
	m.mu.Unlock()
	if changed {
		f.options.Changed()
	}
	if now.State != before {
		f.logChange(m.Name, now, err)
	}
	return pause
}

// logChange tells that a back end came or went. One that can't be used is somebody's work.
func (f *Fleet) logChange(name string, now BackEnd, err error) {
	if err == nil {
		f.log.Info("a back end changed", "backend", name, "state", string(now.State), "version", now.Version)
		return
	}
	f.log.Warn("a back end changed", "backend", name, "state", string(now.State), "reason", now.Reason, "err", err)
}

// takeIn passes on what a back end can run, and that it was started anew.
func (f *Fleet) takeIn(ctx context.Context, m *member, snap backend.Snapshot) error {
	m.mu.Lock()
	old := m.now.Epoch
	m.mu.Unlock()
	if snap.Epoch != old && snap.Epoch != "" && f.options.Restarted != nil {
		if err := f.options.Restarted(ctx, m.Name, snap.Epoch); err != nil {
			return fmt.Errorf("taking in a new start: %w", err)
		}
	}
	changed, err := f.catalog.Update(m.Name, snap)
	if err != nil {
		return fmt.Errorf("taking in what it can run: %w", err)
	}
	if f.options.Packs != nil {
		f.options.Packs.Note(m.Name, m.Driver, snap.Epoch, snap.Extensions)
	}
	if changed {
		f.options.Changed()
	}
	return nil
}

// answered takes in an answer. The lock is held.
func (m *member) answered(snap backend.Snapshot, follows bool) bool {
	if follows {
		snap.QueueOther = 0
	}
	cold, memory := m.now.Cold, m.now.Memory()
	if snap.Cold == "" || snap.Version != "" { // one that sleeps may tell nothing
		m.now.Version, m.now.Epoch, m.now.Devices = snap.Version, snap.Epoch, snap.Devices
	}
	m.now.QueueOther, m.now.Seen, m.now.Cold = snap.QueueOther, snap.Taken, snap.Cold
	other := cold != m.now.Cold || memory != m.now.Memory()
	if m.broken != "" && m.now.Epoch != m.broken { // it was started anew
		m.broken, m.until, m.tried = "", time.Time{}, false
	}
	switch {
	case m.out():
		return m.drain()
	case time.Now().Before(m.until):
		return false
	case snap.QueueOther > 0:
		return m.become(Busy, fmt.Sprintf("%s is busy with other work.", m.Name), nil)
	}
	m.now.Cause, m.now.Until = "", time.Time{}
	if m.tried {
		return m.become(Trial, fmt.Sprintf("%s is tried with one job, after it lost several.", m.Name), nil) || other
	}
	return m.become(Ready, "", nil) || other
}

// unanswered takes in that a probe failed. The lock is held.
func (m *member) unanswered(err error) bool {
	switch {
	case m.out() || time.Now().Before(m.until):
		m.now.Cause = err.Error()
		return false
	case errors.Is(err, backend.ErrTooOld):
		return m.become(Refused, fmt.Sprintf("%s can't be used: %v. It needs an update.", m.Name, err), err)
	case errors.Is(err, backend.ErrNotComfyUI):
		return m.become(Refused, fmt.Sprintf("%s is not a ComfyUI server: its address in the settings leads to something else.", m.Name), err)
	case errors.Is(err, context.DeadlineExceeded) && (m.now.State == Ready || m.now.State == Trial) && m.failures < 2:
		m.now.Cause = err.Error() // a heavy node can keep a server from answering for a while
		return false
	}
	reason := fmt.Sprintf("%s does not answer.", m.Name)
	if why, ok := errors.AsType[*fault.Error](err); ok && why.Kind == fault.Unavailable { // the driver knows more
		reason = why.Public
	}
	return m.become(Unreachable, reason, err)
}
