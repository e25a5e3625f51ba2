package sched

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
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
	WhyRunning   = "running"      // it does not wait
	WhyStaged    = "staged"       // a back end has it next
	WhyPaused    = "paused"       // the operator, or a full disk, stopped the queue
	WhyNoBackEnd = "no_back_end"  // none is configured or none answers
	WhyMissing   = "missing_node" // no back end has all that it needs, such as a node or a model
	WhyRetry     = "retry"        // it is tried again a little later
	WhyLimit     = "max_running"  // the person has as many running as allowed
	WhyTurn      = "turn"         // others go first
	WhyNext      = "next"         // it is the first in line
	WhyUnknown   = "unknown"      // no such job

	WhyHeld          = "held"           // its owner, or an operator, holds it
	WhyPausedGroup   = "paused_group"   // the jobs of the person's group wait
	WhyPausedBackEnd = "paused_backend" // the back ends that could run it are given nothing
	WhyMemory        = "memory"         // no back end has the memory that it needs
)

// Why says why the job waits at this time.
func (m *Machine) Why(id job.ID, now time.Time) Reason {
	it := m.items[id]
	switch {
	case it == nil:
		return Reason{WhyUnknown, "There is no such job."}
	case it.posted:
		return Reason{WhyRunning, fmt.Sprintf("It runs on %s.", it.on.Name)}
	case it.on != nil && it.on.items[0] == it:
		return Reason{WhyStaged, fmt.Sprintf("%s is getting ready for it.", it.on.Name)}
	case it.on != nil:
		return Reason{WhyStaged, fmt.Sprintf("It is the next one on %s.", it.on.Name)}
	case m.paused:
		return Reason{WhyPaused, strings.TrimSpace("The queue is paused. " + m.reason)}
	}
	if r, stuck := m.stuck(it); stuck {
		return r
	}
	if it.notBefore.After(now) {
		return Reason{WhyRetry, strings.TrimSpace(it.why + " It is tried again in a moment.")}
	}
	if m.limited(it) {
		return Reason{WhyLimit, fmt.Sprintf("You have %d running at once, and that is the limit for one person.",
			m.opts.MaxRunningPerUser)}
	}
	pos, _ := m.Place(id)
	if pos == 1 {
		return Reason{WhyNext, "It is the first in line."}
	}
	if pos == 2 {
		return Reason{WhyTurn, "One job goes before it."}
	}
	return Reason{WhyTurn, fmt.Sprintf("%d jobs go before it.", pos-1)}
}

// stuck says why no back end could run the job even if all were free.
func (m *Machine) stuck(it *item) (Reason, bool) {
	ready := 0
	var down []string
	var fewest []string
	for _, b := range m.backends {
		if !b.Ready {
			if b.known && b.Reason != "" {
				down = append(down, b.Reason)
			}
			continue
		}
		ready++
		lacking := b.lacks(it.needs)
		if len(lacking) == 0 {
			return Reason{}, false
		}
		if fewest == nil || len(lacking) < len(fewest) {
			fewest = lacking
		}
	}
	switch {
	case ready == 0 && len(m.backends) == 0:
		return Reason{WhyNoBackEnd, "No GPU is connected to the studio."}, true
	case ready == 0:
		return Reason{WhyNoBackEnd, strings.TrimSpace("No GPU answers at the moment. " + strings.Join(down, " "))}, true
	}
	return Reason{WhyMissing, "No GPU has all that the graph needs: " + few(fewest) + "."}, true
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
		if !b.Ready || len(b.items) >= b.Slots || !m.runs(b, it.needs, it.avoid) {
			continue
		}
		if m.within(it.user, b, nil) {
			return false
		}
		denied = true
	}
	return denied
}

// Place returns where the job stands in the order in which waiting jobs will be chosen, 1 being next, as if every
// back end could run every job. ok is false when it does not wait.
func (m *Machine) Place(id job.ID) (position int, ok bool) {
	it := m.items[id]
	if it == nil || it.filed == nil {
		return 0, false
	}
	rank, _ := it.user.all.search(it)
	if m.opts.Order == FIFO {
		return m.placeFIFO(it.user, rank), true
	}
	position = rank + 1
	before := true
	for _, u := range m.rotation {
		switch {
		case u == it.user:
			before = false
		case before:
			position += min(len(u.all), rank+1)
		default:
			position += min(len(u.all), rank)
		}
	}
	return position, true
}

// placeFIFO counts what goes before the person's job of that rank. A person's job can't go before those ahead of it,
// so what counts is the latest acceptance up to it.
func (m *Machine) placeFIFO(own *user, rank int) int {
	latest := int64(0)
	for _, it := range own.all[:rank+1] {
		latest = max(latest, it.Seq)
	}
	position := rank + 1
	for _, u := range m.rotation {
		if u == own {
			continue
		}
		for _, it := range u.all {
			if it.Seq > latest {
				break
			}
			position++
		}
	}
	return position
}

// Place is where one waiting job stands.
type Place struct {
	Job      job.ID
	Position int
}

// Places returns where all of the person's waiting jobs stand, in their order. It costs one look at everybody's
// queue, not one per job.
func (m *Machine) Places(name string) []Place {
	own := m.users[name]
	if own == nil || len(own.all) == 0 {
		return nil
	}
	out := make([]Place, len(own.all))
	if m.opts.Order == FIFO {
		m.placesFIFO(own, out)
		return out
	}
	// Of each other person, rank+1 jobs (or rank, behind us in the rotation) go before ours, as long as there are
	// that many: sorted lengths let one pass over the ranks count that.
	var lengths []int
	before := true
	for _, u := range m.rotation {
		switch {
		case u == own:
			before = false
		case before:
			lengths = append(lengths, len(u.all))
		default: // one round later
			lengths = append(lengths, -len(u.all))
		}
	}
	ahead, behind := split(lengths)
	for rank, it := range own.all {
		out[rank] = Place{Job: it.ID, Position: rank + 1 + ahead.sum(rank+1) + behind.sum(rank)}
	}
	return out
}

func (m *Machine) placesFIFO(own *user, out []Place) {
	var seqs []int64 // of others' jobs, each with the latest acceptance up to it
	for _, u := range m.rotation {
		if u == own {
			continue
		}
		latest := int64(0)
		for _, it := range u.all {
			latest = max(latest, it.Seq)
			seqs = append(seqs, latest)
		}
	}
	slices.Sort(seqs)
	latest := int64(0)
	for rank, it := range own.all {
		latest = max(latest, it.Seq)
		before, _ := slices.BinarySearch(seqs, latest)
		out[rank] = Place{Job: it.ID, Position: rank + 1 + before}
	}
}

// cut sums min(length, most) over sorted lengths.
type cut struct {
	lengths []int
	sums    []int // sums[i] is the sum of the first i lengths
}

func split(lengths []int) (ahead, behind cut) {
	var a, b []int
	for _, n := range lengths {
		if n > 0 {
			a = append(a, n)
		} else {
			b = append(b, -n)
		}
	}
	return newCut(a), newCut(b)
}

func newCut(lengths []int) cut {
	slices.SortFunc(lengths, cmp.Compare[int])
	sums := make([]int, len(lengths)+1)
	for i, n := range lengths {
		sums[i+1] = sums[i] + n
	}
	return cut{lengths, sums}
}

func (c cut) sum(most int) int {
	i := sort.SearchInts(c.lengths, most)
	return c.sums[i] + (len(c.lengths)-i)*most
}

// Band is how long a waiting job will wait from now: in three of five cases it begins between From and To. The zero
// value says that nobody can tell.
type Band struct{ From, To time.Duration }

// Outlook is what the machine knew at a moment, as far as it tells how long jobs wait. Another goroutine may use it
// while the machine goes on.
type Outlook struct{}

// Outlook returns the state as it is now. It costs less than a thousandth of what Bands costs.
func (m *Machine) Outlook(now time.Time) *Outlook { return &Outlook{} }

// Bands simulates what comes and returns how long each waiting job waits, as far ahead as one can see: jobs that are
// left out begin later. The same outlook gives the same bands.
func (o *Outlook) Bands() map[job.ID]Band { return nil }

// Forecast returns the bands of the state as it is now.
func (m *Machine) Forecast(now time.Time) map[job.ID]Band { return m.Outlook(now).Bands() }
