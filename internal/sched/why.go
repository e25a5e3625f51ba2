package sched

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Reason says why a job waits. Sentence is for the person it belongs to.
type Reason struct {
	Code     string
	Sentence string
}

// The codes of reasons.
const (
	WhyRunning       = "running"        // it does not wait
	WhyStaged        = "staged"         // a back end has it next
	WhyWaking        = "waking"         // the back end that is to run it wakes up
	WhyHeld          = "held"           // its owner, or an operator, holds it
	WhyPaused        = "paused"         // the operator, or a full disk, stopped the queue
	WhyPausedGroup   = "paused_group"   // the jobs of the person's group wait
	WhyPausedBackEnd = "paused_backend" // the back ends that could run it are given nothing
	WhyNoBackEnd     = "no_back_end"    // none is configured or none answers
	WhyMissing       = "missing_node"   // no back end has all that it needs, such as a node or a model
	WhyMemory        = "memory"         // no back end has the memory that it needs
	WhyGroup         = "group"          // the back ends that could run it are for other groups
	WhyBudget        = "budget"         // no more may be spent on the back ends that would run it
	WhyRetry         = "retry"          // it is tried again a little later
	WhyLimit         = "max_running"    // the person has as many running as allowed
	WhyTurn          = "turn"           // others go first
	WhyNext          = "next"           // it is the first in line
	WhyUnknown       = "unknown"        // no such job
)

// Why says why the job waits at this time.
func (m *Machine) Why(id job.ID, now time.Time) Reason {
	it := m.item(id)
	switch {
	case it == nil:
		return Reason{WhyUnknown, "There is no such job."}
	case it.claimed:
		return m.whyClaimed(m.runs[it])
	}
	position, _ := m.Place(id)
	return m.whyWaiting(it, position, now)
}

func (m *Machine) whyWaiting(it *item, position int, now time.Time) Reason {
	r := m.whyWaits(it, position, now)
	if at, has := m.deadline(it); has {
		switch r.Code {
		case WhyTurn, WhyNext, WhyBudget, WhyLimit:
		default: // nobody can tell when it goes on
			position = 0
		}
		r.Sentence += " " + m.hope(it, at, position, now)
	}
	return r
}

func (m *Machine) whyWaits(it *item, position int, now time.Time) Reason {
	switch {
	case it.lot.held:
		return Reason{WhyHeld, "It is held until somebody lets it go."}
	case m.paused:
		return because(WhyPaused, "The queue is paused.", m.reason)
	case it.lot.user.group.paused:
		return because(WhyPausedGroup, "The jobs of your group are paused.", it.lot.user.group.reason)
	}
	if r, stuck := m.stuck(it); stuck {
		return r
	}
	if r := it.lot.retry; r != nil && r.notBefore.After(now) {
		return because(WhyRetry, r.why, "It is tried again in a moment.")
	}
	if spent, ok := m.poor(it, position); ok {
		return because(WhyBudget, spent, "It waits for the studio's own GPUs.")
	}
	if m.limited(it) {
		return Reason{WhyLimit, fmt.Sprintf("You have %d running at once, and that is the limit for one person.",
			m.opts.MaxRunningPerUser)}
	}
	switch position {
	case 1:
		return Reason{WhyNext, "It is the first in line."}
	case 2:
		return Reason{WhyTurn, "One job goes before it."}
	}
	return Reason{WhyTurn, fmt.Sprintf("%d jobs go before it.", position-1)}
}

func because(code string, sentences ...string) Reason {
	return Reason{code, strings.TrimSpace(strings.Join(sentences, " "))}
}

func (m *Machine) whyClaimed(r *run) Reason {
	switch {
	case r.posted:
		return Reason{WhyRunning, fmt.Sprintf("It runs on %s.", r.on.Name)}
	case slices.Index(r.on.runs, r) < r.on.Parallel && r.on.Cold != "":
		return because(WhyWaking, r.on.Cold, r.on.usually())
	case slices.Index(r.on.runs, r) < r.on.Parallel:
		return Reason{WhyStaged, fmt.Sprintf("%s is getting ready for it.", r.on.Name)}
	}
	return Reason{WhyStaged, fmt.Sprintf("It is the next one on %s.", r.on.Name)}
}

// stuck says why no back end could run the job even if all were free.
func (m *Machine) stuck(it *item) (Reason, bool) {
	k := it.lot.kind
	ready, small, others, paused := 0, 0, 0, ""
	held := false // by a pause
	poor, spent := false, ""
	var down, fewest []string
	for _, b := range m.backends {
		switch {
		case !b.Ready:
			if b.known && b.Reason != "" {
				down = append(down, b.Reason)
			}
			continue
		case b.can(k) && !b.serves(it.lot.user.group):
			others++
			continue
		case b.can(k) && !b.paused:
			of, ok := m.affords(b, it)
			if ok {
				return Reason{}, false
			}
			poor, spent = true, of
		case b.can(k):
			held, paused = true, b.why
		case b.small(k):
			small++
		default:
			if lacking := b.lacks(k); fewest == nil || len(lacking) < len(fewest) {
				fewest = lacking
			}
		}
		ready++
	}
	switch {
	case held:
		return because(WhyPausedBackEnd, "The GPUs that could run it are paused.", paused), true
	case poor:
		return because(WhyBudget, spent, "No GPU of the studio's own can run it now."), true
	case others > 0:
		return Reason{WhyGroup, "The GPUs that are ready and could run it are for other groups."}, true
	case ready == 0 && len(m.backends) == 0:
		return Reason{WhyNoBackEnd, "No GPU is connected to the studio."}, true
	case ready == 0:
		return because(WhyNoBackEnd, "No GPU answers at the moment.", strings.Join(down, " ")), true
	case small == ready || fewest == nil:
		return Reason{WhyMemory, "No GPU has enough memory for it."}, true
	}
	return Reason{WhyMissing, "No GPU has all that the graph needs: " + few(fewest) + "."}, true
}

// poor reports what is spent, where only money keeps an item from a paid back end that would be worth it.
func (m *Machine) poor(it *item, position int) (spent string, ok bool) {
	for _, b := range m.backends {
		if b.Price <= 0 || !b.open() || !m.runsOn(b, it.lot) {
			continue
		}
		of, affordable := m.affords(b, it)
		if affordable {
			return "", false
		}
		spent, ok = of, true
	}
	if ok && !m.worth(it) {
		at, has := m.deadline(it)
		ok = has && m.late(it, at, position, m.now)
	}
	return spent, ok
}

// usually says how long waking usually takes.
func (b *backEnd) usually() string {
	if b.Wake <= 0 {
		return ""
	}
	return fmt.Sprintf("That usually takes %s.", roughly(b.Wake))
}

// roughly says a time the way people do.
func roughly(d time.Duration) string {
	if d < 2*time.Minute {
		return fmt.Sprintf("%d seconds", max(1, int(d.Round(time.Second).Seconds())))
	}
	return fmt.Sprintf("%d minutes", int(d.Round(time.Minute).Minutes()))
}

// few lists the first of names.
func few(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// limited reports whether only the person's limit keeps the job from a back end that has room for it.
func (m *Machine) limited(it *item) bool {
	denied := false
	for _, b := range m.backends {
		if !b.open() || len(b.runs) >= b.Slots || !m.runsOn(b, it.lot) {
			continue
		}
		if m.within(it.lot.user, b, nil) {
			return false
		}
		denied = true
	}
	return denied
}
