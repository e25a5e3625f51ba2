package dispatch

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/job"
)

// past is what came of a job's earlier attempts, as far as it decides about the next one.
type past struct {
	lost   int      // runs that were lost after they were posted
	failed int      // attempts that came to nothing, posted or not
	avoid  []string // back ends on which that happened
	killed []victim // back ends that died while they worked at it
	broke  int      // GPUs that failed while they worked at it
	needs  []string // node classes it was found to need
	memory int64    // bytes that were found to be too few, and one more
}

// take adds an attempt that was lost.
func (p *past) take(backEnd string, lost, posted bool, cause job.Cause, at time.Time) {
	p.failed++
	if lost {
		p.lost++
	}
	if !slices.Contains(p.avoid, backEnd) {
		p.avoid = append(slices.Clip(p.avoid), backEnd)
	}
	if cause == job.CauseCrashed {
		p.killed = append(slices.Clip(p.killed), victim{backEnd, at, posted})
	}
	if cause == job.CauseBroken {
		p.broke++
	}
}

// recall makes a past of what was kept of attempts before our start.
func recallPast(tries []job.Try) (p past) {
	for _, t := range tries {
		switch t.Cause {
		case job.CauseLost, job.CauseCrashed, job.CauseBroken, job.CauseFrozen, job.CauseUnreachable, job.CauseInternal, job.CauseForeign:
			posted := t.Posted || t.Cause == job.CauseCrashed
			p.take(t.BackEnd, posted && t.Cause != job.CauseForeign, t.Posted, t.Cause, t.Ended)
		}
	}
	return p
}

// causeOf says in a word why an attempt came to nothing.
func causeOf(err error) job.Cause {
	if _, full := errors.AsType[hindrance](err); full {
		return job.CauseFull
	}
	for _, c := range []struct {
		err   error
		cause job.Cause
	}{
		{errMisfit, job.CauseMisfit},
		{errTooLong, job.CauseTooLong},
		{backend.ErrMemory, job.CauseMemory},
		{errBrokenBefore, job.CauseLost},
		{backend.ErrBroken, job.CauseBroken},
		{backend.ErrCrashed, job.CauseCrashed},
		{backend.ErrFrozen, job.CauseFrozen},
		{backend.ErrLost, job.CauseLost},
		{backend.ErrUnknownRun, job.CauseLost},
		{backend.ErrForeign, job.CauseForeign},
	} {
		if errors.Is(err, c.err) {
			return c.cause
		}
	}
	if ofBackEnd(err) {
		return job.CauseUnreachable
	}
	return job.CauseInternal
}

// causeOfEnd says in a word why an attempt came to an end that is the job's.
func causeOfEnd(s job.State) job.Cause {
	switch s {
	case job.Completed:
		return job.CauseDone
	case job.Cancelled:
		return job.CauseStopped
	default:
		return job.CauseGraph
	}
}

// record is what is kept of the attempt.
func (a *attempt) record(cause job.Cause, reason string) job.Try {
	return job.Try{
		N: a.job.Attempt.N, BackEnd: a.backEnd, Began: a.made, Ended: time.Now(), Posted: a.posted, Cause: cause, Reason: reason,
	}
}

// outOfMemory reports whether a run failed since the GPU has too little memory. ComfyUI reports the exception's full
// name, which is torch.OutOfMemoryError or, of older versions, torch.cuda.OutOfMemoryError; other makers' GPUs raise
// errors of other names that say so.
func outOfMemory(r backend.Result) bool {
	if r.State != job.Failed {
		return false
	}
	typ, message := exception(r.Messages)
	name := typ[strings.LastIndexByte(typ, '.')+1:]
	return name == "OutOfMemoryError" ||
		(name == "RuntimeError" || name == "AcceleratorError") && strings.Contains(strings.ToLower(message), "out of memory")
}

// exception returns name and text of the exception that ended a run.
func exception(messages json.RawMessage) (typ, text string) {
	eachMessage(messages, func(kind string, data json.RawMessage) {
		var e executionError
		if kind == "execution_error" && !blocked(data) && json.Unmarshal(data, &e) == nil {
			typ, text = e.ExceptionType, e.ExceptionMessage
		}
	})
	return typ, text
}

// diskFull reports whether a run failed since the disk of its back end is full: that is not the graph's doing.
func diskFull(r backend.Result) bool {
	if r.State != job.Failed {
		return false
	}
	typ, message := exception(r.Messages)
	return typ == "OSError" && strings.Contains(message, "[Errno 28]")
}

// bigger reports whether a configured back end that can run the job has more memory than this one.
func (a *attempt) bigger() bool {
	mine := a.on.Memory
	return mine > 0 && slices.ContainsFunc(a.others(), func(s backend.Status) bool { return s.Memory > mine })
}

// others are the other back ends that could run the job.
func (a *attempt) others() (list []backend.Status) {
	for _, s := range a.deps.Fleet.Status() {
		switch {
		case s.Name == a.backEnd,
			len(s.Groups) > 0 && !slices.Contains(s.Groups, a.job.Group),
			a.deps.Missing != nil && a.tr != nil && len(a.deps.Missing(s.Name, a.tr.Needs())) > 0:
		default:
			list = append(list, s)
		}
	}
	return list
}

// mostDeathsOf is how often one back end may die of a job while others could run it, and are not ready; and how often
// back ends may die of one before they said that they took it: a server that was about to die anyway looks like that.
const mostDeathsOf = 3

// kills reports whether the job is to be stopped since back ends die of it: two of them, or one twice where no other
// could run it. Those that died under other jobs as well do not count. times is how many deaths that were.
func (a *attempt) kills(cause job.Cause) (victims []string, times int, ok bool) {
	if cause != job.CauseCrashed {
		return nil, 0, false
	}
	now := time.Now()
	a.deaths.died(a.backEnd, &a.job, now)
	all := append(slices.Clone(a.past.killed), victim{a.backEnd, now, a.posted})
	victims = a.deaths.against(&a.job, all)
	slices.Sort(victims)
	times = len(victims)
	victims = slices.Compact(victims)
	enough := a.deaths.enough(now)
	if slices.ContainsFunc(all, func(v victim) bool { return !v.taken }) {
		enough = mostDeathsOf
	}
	sure := times >= enough && (len(victims) > 1 || len(a.others()) == 0)
	return victims, times, sure || times >= mostDeathsOf
}

// deadly makes the outcome of a job that back ends die of.
func (a *attempt) deadly(victims []string, times int) job.Outcome {
	text := fmt.Sprintf("The job was stopped: %s died while working at it.", and(victims))
	switch {
	case len(victims) > 1:
	case times == 2:
		text = fmt.Sprintf("The job was stopped: %s died while working at it, twice.", victims[0])
	default:
		text = fmt.Sprintf("The job was stopped: %s died while working at it, %d times.", victims[0], times)
	}
	return a.failed("", "", typeDeadly, text+" Look for a custom node or a size that the GPU can't stand.")
}

// and joins names as people do.
func and(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// appetites are how much memory graphs turned out to need, by likeness: each ran out of what it had. It is safe for
// concurrent use.
type appetites struct {
	mu   sync.Mutex
	seen map[likeness]appetite
}

type likeness struct{ like, models string }

type appetite struct {
	work   float64 // from so much on
	memory int64
}

// mostAppetites bounds what is remembered.
const mostAppetites = 1000

// ranOut notes that a job ran out of so much memory.
func (p *appetites) ranOut(j job.Job, had int64) {
	if j.Profile.Like == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	of := likeness{j.Profile.Like, j.Profile.Models}
	known, ok := p.seen[of]
	if !ok && len(p.seen) >= mostAppetites {
		clear(p.seen)
	}
	if !ok || j.Profile.Work < known.work {
		known.work = j.Profile.Work
	}
	known.memory = max(known.memory, had+1)
	if p.seen == nil {
		p.seen = map[likeness]appetite{}
	}
	p.seen[of] = known
}

// fitted notes that a job found so much memory enough.
func (p *appetites) fitted(j job.Job, had int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := likeness{j.Profile.Like, j.Profile.Models}
	if known, ok := p.seen[of]; ok && j.Profile.Work >= known.work && had < known.memory {
		delete(p.seen, of) // something else took the memory then
	}
}

// of returns what a job needs; 0: nobody knows of a need.
func (p *appetites) of(j job.Job) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.seen[likeness{j.Profile.Like, j.Profile.Models}]; ok && j.Profile.Work >= known.work {
		return known.memory
	}
	return 0
}

// overtime makes the outcome of a run that took too long.
func (a *attempt) overtime() job.Outcome {
	return a.failed("", "", typeTooLong, fmt.Sprintf("The run took longer than %v, which is the most that %s allows, and was stopped.", a.on.MaxRun, a.backEnd))
}

// stopFor is how long a back end is given to stop a run that takes too long.
const stopFor = 30 * time.Second

// bound stops the run when it takes too long from a time on.
func (a *attempt) bound(from time.Time) {
	if a.on.MaxRun <= 0 {
		return
	}
	a.wg.Go(func() {
		select {
		case <-time.After(time.Until(from.Add(a.on.MaxRun))):
		case <-a.done:
			return
		}
		a.tooLong.Store(true)
		a.interruptLater()
		select {
		case <-time.After(stopFor):
			a.cancel(errTooLong)
		case <-a.done:
		}
	})
}
