package dispatch

import (
	"errors"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/job"
)

// personal reports whether an error is the graph's own, and so its owner's to know.
func (a *attempt) personal(err error) bool {
	_, refused := errors.AsType[*backend.Refused](err)
	_, wrong := errors.AsType[graphError](err)
	return refused || wrong
}

// ofBackEnd reports whether an error is the back end's, and not our own.
func ofBackEnd(err error) bool {
	for _, class := range []error{
		backend.ErrUnreachable, backend.ErrNotComfyUI, backend.ErrTooOld, backend.ErrUnknownRun, backend.ErrLost,
		backend.ErrFrozen, backend.ErrForeign, backend.ErrBroken,
	} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// giveBack lets the job wait again, for another try, unless it was tried often enough.
func (a *attempt) giveBack(cause error) {
	lost, misfit, recalled := false, errors.Is(cause, errMisfit), errors.Is(cause, errRecalled) || errors.Is(cause, errTakenBack)
	unknown := a.resumed != nil && errors.Is(cause, backend.ErrUnknownRun) // most likely it was never posted
	noRoom, full := errors.AsType[hindrance](cause)
	how, memory := causeOf(cause), errors.Is(cause, backend.ErrMemory)
	if !misfit && !recalled && !unknown && !full && !memory {
		if lost = a.posted || how == job.CauseCrashed; ofBackEnd(cause) {
			a.deps.Fleet.Report(a.backEnd, cause)
		} else {
			lost = true // ours: the next try may do better, but not for ever
		}
		lost = lost && !errors.Is(cause, errBrokenBefore) // it met what another run left
		a.note().Warn("the attempt failed", "posted", a.posted, "cause", string(how), "err", cause)
	}
	if victims, times, ok := a.kills(how); ok {
		a.note().Error("back ends die of a job; it is stopped", "backends", victims)
		a.deaths.explained(a.id)
		for _, name := range victims {
			a.deps.Fleet.Forgive(name)
		}
		a.finish(a.deadly(victims, times), how)
		return
	}
	if lost && a.past.lost+1 >= a.options.MaxAttempts {
		a.finish(a.lostTooOften(cause), how)
		return
	}
	a.close()
	reason := a.sentence(cause)
	if a.posted {
		a.line("Run %s waits again: %s", a.job.PromptID, reason)
	}
	if !a.keepTrying(func() error { return a.letGo(recalled, how, reason) }) {
		a.inbox.send(over{a})
		return
	}
	switch {
	case full:
		a.inbox.send(hindered{noRoom.error})
		a.inbox.send(released{a: a})
	case misfit:
		a.inbox.send(needs{a: a, classes: a.tr.Needs()})
	case memory:
		a.inbox.send(needs{a: a, memory: a.on.Memory + 1})
	case recalled, unknown:
		a.inbox.send(released{a: a})
	default:
		pause := a.options.RetryDelay << min(a.past.failed, 6)
		a.inbox.send(released{a: a, failed: true, lost: lost, cause: how, notBefore: time.Now().Add(pause), reason: reason})
	}
}

// letGo writes down that the job waits again. That it was only taken back is not kept.
func (a *attempt) letGo(recalled bool, how job.Cause, reason string) error {
	if recalled {
		return a.deps.Queue.Release(a.final, a.id, a.fence.Load(), reason)
	}
	return a.deps.Queue.GiveUp(a.final, a.id, a.fence.Load(), a.record(how, reason))
}
