package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// Causes for which an attempt is cancelled.
var (
	errShutdown  = errors.New("the server stops")
	errRemoved   = errors.New("its owner took the job out of the queue")
	errStopped   = errors.New("its owner stopped the job before it began")
	errRecalled  = errors.New("another back end is free for it")
	errTakenBack = errors.New("the run before it takes longer than expected")
	errLeaseLost = errors.New("the lease of the attempt was lost")
	errTooLong   = errors.New("the run takes longer than its back end allows")
	errDone      = errors.New("the attempt is over")
)

// Errors by which an attempt says what it met; those of package backend say the rest.
var (
	errGone   = errors.New("the job does not wait any more")
	errMisfit = errors.New("the back end lacks nodes of the graph")
)

// The phases of an attempt. Who moves it on from staged decides its fate.
const (
	staged    int32 = iota // nothing was posted yet
	starting               // it has its turn: from now on it can only be interrupted
	withdrawn              // it will not start
	resuming               // it may run already, from before our start
)

// attempt is one try of one job on one back end.
type attempt struct {
	*Dispatcher
	id      job.ID
	user    string
	backEnd string
	driver  backend.Driver
	on      *backend.Status // its back end, as it was known when the attempt was made; nobody changes it
	past    past            // what came of earlier attempts
	made    time.Time
	turn    chan struct{}   // closed when the back end is free for it
	final   context.Context // ends with the server
	ctx     context.Context // ends when the attempt is to end; its cause says why
	cancel  context.CancelCauseFunc
	done    chan struct{}

	phase     atomic.Int32
	fence     atomic.Int64 // zero before the claim
	held      atomic.Bool  // its lease is to be renewed
	stopped   atomic.Bool  // its owner wants it interrupted
	begun     atomic.Bool  // its back end works at it
	tooLong   atomic.Bool  // it is interrupted for that
	interrupt sync.Once
	run       backend.Run // set before the phase becomes starting

	// Set by work, read by the loop after a message of it.
	job     job.Job
	resumed *job.Job // the job as it was found at our start
	tells   bool     // set before its turn: others wait for it to be posted

	// Of work alone.
	entry   job.Entry
	tr      Translation
	posted  bool
	starved bool // it ran out of memory, and there is no more anywhere
	broke   bool // its GPU failed, as others did under the job: that is its answer
	whole   bool // its outcome is that of a run, with all that the run gave
	frames  frames
	names   names

	// Of the loop alone.
	called     time.Time // when it got its turn
	cold       bool      // its back end slept then
	taken      time.Time // when its back end had it
	paid       bool      // what it cost is in the books
	ran        time.Duration
	there      bool // the back end has it
	freed      bool // the schedule takes it for over
	delivering bool // it counts among those brought home
}

// attempt makes an attempt; begin lets it work.
func (l *loop) attempt(id job.ID, user, backEnd string) *attempt {
	a := &attempt{
		Dispatcher: l.Dispatcher, id: id, user: user, backEnd: backEnd, driver: l.drivers[backEnd], on: l.line(backEnd).status,
		made: time.Now(), final: l.ctx, turn: make(chan struct{}), done: make(chan struct{}),
	}
	if p := l.pasts[id]; p != nil {
		a.past = *p
	}
	a.ctx, a.cancel = context.WithCancelCause(l.ctx)
	a.frames.attempt, a.names.attempt = a, a
	return a
}

// recall takes a staged attempt back. It reports false when the attempt has started.
func (a *attempt) recall() bool {
	if a.phase.CompareAndSwap(staged, withdrawn) {
		a.cancel(errRecalled)
	}
	return a.phase.Load() == withdrawn
}

// stop has a started run interrupted, and withdraws one that has not started.
func (a *attempt) stop() {
	a.stopped.Store(true)
	switch {
	case a.phase.CompareAndSwap(staged, withdrawn):
		a.cancel(errStopped)
	case a.phase.Load() == starting:
		a.interruptLater()
	}
}

// interruptEvery is the pause before a back end is asked again to interrupt a run that still goes on.
const interruptEvery = 10 * time.Second

// interruptLater asks the back end to interrupt the run until the attempt is over.
func (a *attempt) interruptLater() {
	a.interrupt.Do(func() {
		a.wg.Go(func() {
			for {
				ctx, cancel := context.WithTimeout(a.ctx, interruptEvery)
				err := a.run.Interrupt(ctx)
				cancel()
				if err != nil && a.ctx.Err() == nil {
					a.note().Warn("the run could not be interrupted", "err", err)
				}
				select {
				case <-a.done:
					return
				case <-time.After(interruptEvery):
				}
			}
		})
	})
}

// work makes the try and settles it.
func (a *attempt) work() {
	defer close(a.done)
	defer a.cancel(errDone)
	out, err := a.try()
	a.settle(out, err)
}

// try brings the job to its outcome, or says why it could not.
func (a *attempt) try() (job.Outcome, error) {
	if a.driver == nil {
		return job.Outcome{}, fmt.Errorf("%w: it is not configured any more", backend.ErrUnreachable)
	}
	start := a.stage
	if a.resumed != nil {
		start = a.takeUp
	}
	if err := start(); err != nil {
		return job.Outcome{}, err
	}
	if a.stopped.Load() && a.resumed != nil {
		a.interruptLater()
	}
	result, err := a.run.Start(a.ctx, a.hasPosted, a.frames.update)
	if err != nil {
		return job.Outcome{}, err
	}
	a.free()
	switch {
	case result.State == job.Cancelled && a.tooLong.Load() && !a.stopped.Load():
		return job.Outcome{}, errTooLong
	case diskFull(result):
		return job.Outcome{}, fmt.Errorf("%w: %w", backend.ErrLost, fault.New(fault.Unavailable, "Its disk is full."))
	case brokenGPU(result):
		if err := a.gpuFailed(); err != nil {
			return job.Outcome{}, err
		}
	case outOfMemory(result):
		a.hunger.ranOut(a.job, a.on.Memory)
		if a.bigger() {
			return job.Outcome{}, backend.ErrMemory
		}
		a.starved = true
	case result.State == job.Completed && a.on.Memory > 0:
		a.hunger.fitted(a.job, a.on.Memory)
	}
	return a.bringHome(result)
}

// stage claims the job, readies its run and waits for its turn.
func (a *attempt) stage() error {
	entry, credentials, err := a.claim()
	if fault.Is(err, fault.Conflict) || fault.Is(err, fault.Missing) {
		return errGone
	}
	if err != nil {
		return fmt.Errorf("claiming: %w", err)
	}
	a.own(entry, true)
	if err := a.translate(credentials); err != nil {
		return err
	}
	if a.deps.Missing != nil && len(a.deps.Missing(a.backEnd, a.tr.Needs())) > 0 {
		return errMisfit
	}
	if a.run, err = a.driver.Prepare(a.ctx, a.task()); err != nil {
		return err
	}
	select {
	case <-a.turn:
	case <-a.ctx.Done():
		return context.Cause(a.ctx)
	}
	if a.deps.Room != nil {
		if err := a.deps.Room(); err != nil {
			return hindrance{err}
		}
	}
	if !a.phase.CompareAndSwap(staged, starting) {
		<-a.ctx.Done() // whoever withdrew it says why
		return context.Cause(a.ctx)
	}
	return nil
}

// claim claims the job, unless that was done when it was accepted.
func (a *attempt) claim() (job.Entry, map[string]string, error) {
	if fence := a.fence.Load(); fence != 0 {
		return a.deps.Queue.Load(a.ctx, a.id, fence)
	}
	return a.deps.Queue.Claim(a.ctx, a.id, a.params(a.backEnd, a.driver))
}

// own takes over a claimed job.
func (a *attempt) own(entry job.Entry, hold bool) {
	a.entry, a.job = entry, entry.Job
	a.fence.Store(entry.Job.Attempt.Fence)
	a.held.Store(hold)
}

// hindrance marks what keeps every run from starting just now: the disk.
type hindrance struct{ error }

func (h hindrance) Unwrap() error { return h.error }

// graphError marks what is wrong with the graph itself: its owner has to know, and no other try would help.
type graphError struct{ error }

func (e graphError) Unwrap() error { return e.error }

// takeUp looks for a run from before our start. Until its back end answers, or its lease ends, nothing is known.
func (a *attempt) takeUp() (err error) {
	a.phase.Store(resuming)
	a.job = *a.resumed
	defer func() {
		// Whoever takes the job on from here does not have the run: should the back end have it, nobody would end it.
		if err != nil && !errors.Is(err, backend.ErrUnknownRun) && a.final.Err() == nil {
			a.driver.Cancel(a.job.Attempt.RunID)
		}
	}()
	entry, credentials, err := a.deps.Queue.Load(a.ctx, a.id, a.fence.Load())
	if fault.Is(err, fault.Conflict) || fault.Is(err, fault.Missing) {
		return errGone
	}
	if err != nil {
		return fmt.Errorf("loading: %w", err)
	}
	a.own(entry, false)
	if err := a.translate(credentials); err != nil {
		return err
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		a.run, err = a.driver.Resume(a.ctx, a.task())
		if err == nil {
			break
		}
		if a.ctx.Err() != nil {
			return context.Cause(a.ctx)
		}
		if !errors.Is(err, backend.ErrUnreachable) || !time.Now().Before(a.job.Attempt.LeaseUntil) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-a.ctx.Done():
			return context.Cause(a.ctx)
		}
	}
	a.note().Info("taken up after a restart")
	a.posted = true
	a.held.Store(true)
	a.phase.Store(starting)
	a.bound(cmp.Or(a.job.Started, time.Now()))
	return nil
}

// hasPosted is called once the back end has the prompt.
func (a *attempt) hasPosted() {
	a.posted = true
	a.held.Store(true)
	if err := a.deps.Queue.Posted(a.id, a.fence.Load()); err != nil {
		a.cancel(errRemoved)
		return
	}
	a.line("Run %s is on %s.", a.job.PromptID, a.backEnd)
	now := time.Now()
	a.bound(now)
	if a.tells {
		a.inbox.send(posted{a, now})
	} else {
		a.inbox.leave(posted{a, now})
	}
}

// free tells the loop that the back end can take the next run.
func (a *attempt) free() {
	if a.frames.ended.CompareAndSwap(false, true) {
		a.inbox.send(ended{a})
	}
}

// settle makes of the try's end what the job's owner and the queue have to know.
func (a *attempt) settle(out job.Outcome, err error) {
	cause := err
	if err != nil && a.ctx.Err() != nil {
		cause = context.Cause(a.ctx)
	}
	switch {
	case cause == nil:
		how := causeOfEnd(out.State)
		switch {
		case a.starved:
			how = job.CauseMemory
		case a.broke:
			how = job.CauseBroken
		}
		a.finish(out, how)
	case errors.Is(cause, errTooLong):
		a.finish(a.overtime(), job.CauseTooLong)
	case errors.Is(cause, errShutdown):
		return // the run goes on and is taken up again
	case errors.Is(cause, errGone), errors.Is(cause, errRemoved), errors.Is(cause, errLeaseLost):
		a.close()
		a.inbox.send(over{a})
	case errors.Is(cause, errStopped), a.stopped.Load() && !a.personal(cause):
		a.finish(a.interrupted(), job.CauseStopped)
	case a.fence.Load() == 0 && errors.Is(cause, errRecalled): // before it was claimed
		a.inbox.send(released{a: a})
	case a.fence.Load() == 0: // the claim failed
		a.note().Error("a job could not be claimed", "err", err)
		if fault.Is(err, fault.Unavailable) { // it would be the same with all others
			a.inbox.send(hindered{err})
		}
		a.inbox.send(released{a: a, notBefore: time.Now().Add(a.options.RetryDelay)})
	case a.personal(cause):
		a.finish(a.failure(cause), job.CauseGraph)
	default:
		a.giveBack(cause)
	}
}

// finish makes the job final. Whatever hinders it, it is tried until it holds or somebody else ended the job. What came
// of the attempt is kept where the job itself does not tell it.
func (a *attempt) finish(out job.Outcome, how job.Cause) {
	if a.past.failed > 0 || a.job.Attempt.N > 1 || how != causeOfEnd(out.State) {
		t := a.record(how, out.Error)
		out.Try = &t
	}
	if !a.whole || a.job.Attempt.N > 1 {
		a.frames.drop() // what is on its way home counts too
		if !a.keepTrying(func() error { return a.show(a.final, &a.job, &out) }) && a.final.Err() != nil {
			return // as below
		}
	}
	switch out.State {
	case job.Completed:
		a.line("Run %s is completed after %.2f s.", a.job.PromptID, out.ExecSeconds)
	case job.Cancelled:
		a.line("Run %s was interrupted.", a.job.PromptID)
	default:
		a.line("Run %s failed: %s", a.job.PromptID, out.Error)
	}
	held := a.keepTrying(func() error { return a.deps.Queue.Finish(a.final, a.id, a.fence.Load(), out) })
	if !held && a.final.Err() != nil {
		return // the run is taken up again, and its result is still there
	}
	if held && a.log.Enabled(a.final, slog.LevelDebug) {
		a.note().Debug("finished", "state", string(out.State), "dur", out.ExecSeconds)
	}
	if held && out.State == job.Completed {
		a.deaths.ended(&a.job, time.Now())
	}
	if held && a.posted && a.deps.Ran != nil {
		a.deps.Ran(a.job, a.backEnd, time.Duration(out.ExecSeconds*float64(time.Second)), out.State == job.Completed)
	}
	a.close()
	if ofRun := a.frames.ended.Load(); ofRun && held && !a.broke { // the loop has gone on at its end frame already
		a.deps.Fleet.Report(a.backEnd, nil)
	}
	if held && out.State == job.Completed {
		a.tellLate(time.Now())
	}
	a.inbox.send(over{a})
}

// tellLate tells the owner of a run that was done after they needed it.
func (a *attempt) tellLate(now time.Time) {
	if !a.job.Late(now) {
		return
	}
	text := fmt.Sprintf("Run %s was done %s after it was needed.", a.job.PromptID, max(now.Sub(a.job.Deadline).Round(time.Second), time.Second))
	a.line("%s", text)
	a.deps.Bus.Publish(event.Event{User: a.user, Body: event.Notice{Severity: "info", Text: text}})
}

// keepTrying repeats a change of the queue until it is done. It reports false when the attempt has no right to it
// any more, or the server stops.
func (a *attempt) keepTrying(change func() error) bool {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := change()
		switch {
		case err == nil:
			return true
		case fault.Is(err, fault.Conflict), fault.Is(err, fault.Missing):
			a.note().Info("a late report of a job that moved on", "err", err)
			return false
		}
		a.note().Error("the queue did not take a report; it is tried again", "err", err)
		select {
		case <-time.After(pause):
		case <-a.final.Done():
			return false
		}
	}
}

// close has the back end forget the run.
func (a *attempt) close() {
	if a.run == nil {
		return
	}
	if err := a.run.Close(); err != nil {
		a.note().Warn("the back end keeps traces of the run", "err", err)
	}
}

// line adds a line to the log of its owner's own runs, where somebody can see it.
func (a *attempt) line(format string, args ...any) {
	if a.deps.Bus.Watched(a.user) {
		a.deps.Bus.Publish(event.Event{User: a.user, Body: event.LogLines{Job: a.id, Lines: []string{fmt.Sprintf(format, args...)}}})
	}
}

// note returns the log with what the attempt is about.
func (a *attempt) note() *slog.Logger {
	return a.log.With("job", string(a.id), "user", a.user, "backend", a.backEnd, "attempt", a.job.Attempt.N)
}
