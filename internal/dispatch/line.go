package dispatch

import (
	"slices"

	"github.com/ahelme/comfyume/internal/sched"
)

// line is the attempts of one back end: the first runs or may run, the others are staged.
type line struct {
	queue      []*attempt
	delivering int
}

// begin puts an attempt into its back end's line and lets it work.
func (l *loop) begin(a *attempt) {
	l.attempts[a.id] = a
	ln := l.lines[a.backEnd]
	if ln == nil {
		ln = &line{}
		l.lines[a.backEnd] = ln
	}
	ln.queue = append(ln.queue, a)
	if ln.queue[0] == a {
		close(a.turn)
	}
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
	ln.remove(a)
	if a.freed || l.attempts[a.id] != a || ln.delivering >= l.options.MaxDelivering {
		return
	}
	a.freed, a.delivering = true, true
	ln.delivering++
	l.machine.Apply(sched.Ended{Job: a.id})
}

// leave forgets an attempt.
func (l *loop) leave(a *attempt) {
	ln := l.lines[a.backEnd]
	ln.remove(a)
	if a.delivering {
		ln.delivering--
		a.delivering = false
	}
	if l.attempts[a.id] == a {
		delete(l.attempts, a.id)
	}
}

// remove takes an attempt out; when it was the first one the next gets its turn.
func (ln *line) remove(a *attempt) {
	i := slices.Index(ln.queue, a)
	if i < 0 {
		return
	}
	ln.queue = slices.Delete(ln.queue, i, i+1)
	if i == 0 && len(ln.queue) > 0 {
		close(ln.queue[0].turn)
	}
}
