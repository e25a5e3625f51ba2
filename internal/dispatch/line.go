package dispatch

import (
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/sched"
)

// line is the attempts of one back end: the first ones, as many as it runs at the same time, run or may run, the others
// are staged. Behind quick runs some more are handed over ahead, so that a back end that runs one at a time need not wait
// for us between two of them.
type line struct {
	queue      []*attempt
	delivering int
	backEnd    sched.BackEnd   // as the schedule knows it
	status     *backend.Status // as the fleet knows it
	quick      int             // runs since the last one that was not quick
	ended      time.Time       // when the last one ended
	works      int             // runs that Working knows of
}

const (
	quickRun  = 50 * time.Millisecond // what takes less is quick
	quickRuns = 8                     // so many in a row, and the next are expected to be
	handAhead = 4                     // runs handed over ahead then
	// waitAhead is how long such a run waits behind one that turns out not to be quick. Then it is taken back: it may
	// run elsewhere, and its owner is not told any longer that it runs.
	waitAhead = 250 * time.Millisecond
)

// line returns the line before a back end, made when it is new.
func (l *loop) line(backEnd string) *line {
	ln := l.lines[backEnd]
	if ln == nil {
		ln = &line{status: &backend.Status{Name: backEnd}}
		l.lines[backEnd] = ln
	}
	return ln
}

// begin puts an attempt into its back end's line and lets it work.
func (l *loop) begin(a *attempt) {
	l.attempts[a.id] = a
	ln := l.line(a.backEnd)
	ln.queue = append(ln.queue, a)
	ln.call(time.Now())
	l.work(a)
}

// work lets an attempt work: on the goroutine of one that is over, which has grown the stack for it, or on a new one.
func (l *loop) work(a *attempt) {
	select {
	case l.hands <- a:
	default:
		l.wg.Go(func() {
			for a != nil {
				a.work()
				select {
				case a = <-l.hands:
				case <-l.ctx.Done():
					a = nil
				}
			}
		})
	}
}

// free takes an attempt whose run is over out of its back end's line: the next one may be posted. The schedule
// takes it for over, too, unless too many results are being brought home from there already.
func (l *loop) free(a *attempt) {
	ln := l.lines[a.backEnd]
	now := time.Now()
	a.ran = max(now.Sub(ln.began(a)), 1) // it did run
	if a.cold && a.there {
		a.ran = max(now.Sub(a.taken), 1) // waking is no work
	}
	l.pay(a, now)
	if ln.quick++; a.ran > quickRun {
		ln.quick = 0
	}
	ln.ended = now
	l.pace(ln)
	ln.remove(a)
	if a.freed || l.attempts[a.id] != a || ln.delivering >= l.options.MaxDelivering*ln.parallel() {
		return
	}
	a.freed, a.delivering = true, true
	ln.delivering++
	l.machine.Apply(sched.Ended{Job: a.id, Ran: a.ran, At: now})
}

// leave forgets an attempt.
func (l *loop) leave(a *attempt) {
	ln := l.lines[a.backEnd]
	ln.remove(a)
	l.pay(a, time.Now())
	if a.delivering {
		ln.delivering--
		a.delivering = false
	}
	if l.attempts[a.id] == a {
		delete(l.attempts, a.id)
	}
}

// parallel is how many runs the back end has at the same time.
func (ln *line) parallel() int { return max(ln.backEnd.Parallel, 1) }

// began is when an attempt could begin on the back end: when it had its turn, and the one before it was over.
func (ln *line) began(a *attempt) time.Time {
	if a.called.After(ln.ended) || ln.parallel() > 1 {
		return a.called
	}
	return ln.ended
}

// ahead is how many runs are handed over before the one that goes on is over.
func (ln *line) ahead() int {
	if ln.quick >= quickRuns && ln.parallel() == 1 {
		return handAhead
	}
	return 0
}

// pace lets the schedule keep as many jobs ready for the back end as its runs are quick.
func (l *loop) pace(ln *line) {
	slots := 0 // as many as it keeps anyway
	if n := ln.ahead(); n > 0 {
		slots = n + 2 // those, the one that goes on, and one that is staged
	}
	if ln.backEnd.Name != "" && !ln.status.Trial && ln.backEnd.Slots != slots {
		ln.backEnd.Slots = slots
		l.machine.Apply(ln.backEnd)
	}
}

// takeBack recalls what was handed over ahead to a back end that is not quick any more. It returns when to look again;
// zero: when something happens.
func (l *loop) takeBack(now time.Time) (next time.Time) {
	for _, ln := range l.lines {
		if len(ln.queue) < 2 || ln.parallel() > 1 || ln.queue[1].called.IsZero() {
			continue
		}
		if at := ln.began(ln.queue[0]).Add(waitAhead); now.Before(at) {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			continue
		}
		ln.quick = 0
		l.pace(ln)
		for _, a := range ln.queue[1:] {
			if !a.called.IsZero() && !a.begun.Load() && !a.recall() {
				a.cancel(errTakenBack)
			}
		}
	}
	return next
}

// call gives those their turn that may be handed over now: as many as run at the same time, and when the back end has
// the first one the next ones, but no run ahead while an earlier one of the same person is still on its way there.
func (ln *line) call(now time.Time) {
	ahead, beside := ln.ahead(), ln.parallel()
	for i, a := range ln.queue[:min(beside+ahead, len(ln.queue))] {
		onTheWay := func(b *attempt) bool { return !b.there && (b == ln.queue[0] || b.user == a.user) }
		if i >= beside && slices.ContainsFunc(ln.queue[:i], onTheWay) {
			continue
		}
		if a.called.IsZero() {
			a.called, a.tells, a.cold = now, ahead > 0, ln.status.Cold != ""
			close(a.turn)
		}
	}
}

// remove takes an attempt out; the next get their turn.
func (ln *line) remove(a *attempt) {
	i := slices.Index(ln.queue, a)
	if i < 0 {
		return
	}
	ln.queue = slices.Delete(ln.queue, i, i+1)
	ln.call(time.Now())
}
