package dispatch

import (
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// Pause keeps jobs from being given to back ends: all of them, or as far as Scope says "group:NAME" or "backend:NAME".
type Pause struct {
	Scope  string
	Reason string // a sentence for people; may be empty
}

// PauseAll is the scope of a pause of everything.
const PauseAll = "all"

// control takes in the order and the pauses.
func (l *loop) control(c control) {
	for _, p := range l.pauses {
		l.machine.Apply(p.event(false))
	}
	l.pauses, l.shut = c.pauses, nil
	for _, p := range l.pauses {
		e := p.event(true)
		l.machine.Apply(e)
		if e.Group != "" {
			l.shut = append(l.shut, e.Group)
		}
	}
	l.machine.Apply(sched.Mode{Order: c.order})
	for who := range l.weighed {
		l.weigh(who)
	}
	l.pause()
	l.moved = true
}

// event is what a pause, or its end, is to the schedule.
func (p Pause) event(on bool) sched.Paused {
	e := sched.Paused{On: on, Reason: p.Reason}
	if kind, name, ok := strings.Cut(p.Scope, ":"); ok && kind == "group" {
		e.Group = name
	} else if ok {
		e.BackEnd = name
	}
	return e
}

// pause tells the schedule whether all is paused, by the operator or by the disk.
func (l *loop) pause() {
	all := sched.Paused{}
	for _, p := range l.pauses {
		if p.Scope == PauseAll {
			all = p.event(true)
		}
	}
	if l.full != nil {
		all.On = true
		all.Reason, _ = fault.Public(l.full)
	}
	l.machine.Apply(all)
	l.stale = true
}

// member is a person in a group.
type member struct{ user, group string }

// known returns what the schedule has to know of a job, and tells it what its owner weighs.
func (l *loop) known(j job.Job) sched.Job {
	if who := (member{j.User, j.Group}); l.deps.Share != nil && !l.weighed[who] {
		l.weighed[who] = true
		l.weigh(who)
	}
	var needs []string
	if p := l.pasts[j.ID]; p != nil {
		needs = p.needs
	}
	known := sched.Of(j, needs)
	known.Memory = l.need(j)
	if l.deps.Estimate != nil {
		known.Cost = l.deps.Estimate(j)
	}
	return known
}

// need is how much memory a job is known to need, where a configured back end has as much.
func (l *loop) need(j job.Job) int64 {
	need := l.hunger.of(j)
	if p := l.pasts[j.ID]; p != nil {
		need = max(need, p.memory)
	}
	if need == 0 {
		return 0
	}
	for name, ln := range l.lines {
		if l.drivers[name] != nil && ln.status.Memory >= need {
			return need
		}
	}
	return 0
}

func (l *loop) weigh(who member) {
	user, group := l.deps.Share(who.user, who.group)
	l.machine.Apply(sched.Share{User: who.user, Weight: user})
	l.machine.Apply(sched.Share{Group: who.group, Weight: group})
}
