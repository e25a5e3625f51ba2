// Package sched chooses which job runs next and where, or says why one waits. It is a deterministic machine: events
// go in, decisions come out; there is no clock, no goroutine and no I/O in it. The same events give the same
// decisions.
//
// Order has two levels. One person's jobs run by class, number and acceptance. Between people the mode decides:
// fifo serves the person whose next job was accepted first, round_robin the one who was served longest ago.
package sched

import (
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Order is how the machine chooses between people.
type Order string

// The orders.
const (
	FIFO       Order = "fifo"
	RoundRobin Order = "round_robin"
)

// Options are the optional settings of New.
type Options struct {
	Order             Order // empty: RoundRobin
	MaxRunningPerUser int   // most back ends that work for one person at once; 0: no limit
}

// defaultSlots is one running job and one staged behind it.
const defaultSlots = 2

// Machine is the state of the choice. It is owned by one goroutine.
type Machine struct {
	opts     Options
	paused   bool
	reason   string // why it is paused
	backends []*backEnd
	users    map[string]*user
	rotation []*user // people with waiting jobs, the longest unserved first
	items    map[job.ID]*item
	needs    map[string]*needs
	served   int64 // counts decisions
	joins    int64 // counts how often somebody got into the rotation
}

// New returns a machine without jobs and back ends.
func New(o Options) *Machine {
	if o.Order == "" {
		o.Order = RoundRobin
	}
	return &Machine{opts: o, users: map[string]*user{}, items: map[job.ID]*item{}, needs: map[string]*needs{}}
}

// Job is what the machine has to know of a job.
type Job struct {
	ID     job.ID
	User   string
	Class  job.Class
	Number float64
	Seq    int64
	Needs  []string // node classes it cannot do without; nil: any back end will do
}

// Of returns what the machine has to know of j, which needs the node classes.
func Of(j job.Job, needs []string) Job {
	return Job{ID: j.ID, User: j.User, Class: j.Class, Number: j.Number, Seq: j.Seq, Needs: needs}
}

// Event is something that happened. The types below are the events.
type Event interface{ event() }

// Added says that a job waits. A job that is known already is taken as moved to its new place.
type Added struct{ Job Job }

// Needed says what a waiting job turned out to need.
type Needed struct {
	Job   job.ID
	Needs []string
}

// Resumed says that a job was claimed for a back end before the machine was made.
type Resumed struct {
	Job     Job
	BackEnd string
	Posted  bool
}

// Posted says that a back end was given a staged job.
type Posted struct{ Job job.ID }

// Released says that a claimed job waits again, where it stood before.
type Released struct {
	Job       job.ID
	Avoid     []string  // back ends that it is not given to as long as another one that is ready can run it
	NotBefore time.Time // zero: at once
	Reason    string    // a sentence for the person, such as "The GPU gpu1 was lost."
}

// Ended says that a job is over, or was taken out of the queue, in whatever state it was.
type Ended struct{ Job job.ID }

// BackEnd says what a back end is like now. The order in which back ends become known decides between equals.
type BackEnd struct {
	Name   string
	Ready  bool
	Reason string // why it is not ready, in a sentence
	Slots  int    // most claimed jobs at once; 0: 2, one running and one staged
	// Missing returns which of the needed node classes the back end lacks; nil: it lacks none. It must give the
	// same answer until the next BackEnd event for this name.
	Missing func(needs []string) []string
}

// BackEndGone says that a back end is no longer configured. Jobs claimed for it stay claimed until Released or Ended.
type BackEndGone struct{ Name string }

// Paused stops decisions, or lets them go on.
type Paused struct {
	On     bool
	Reason string // a sentence for people; may be empty
}

func (Added) event()       {}
func (Needed) event()      {}
func (Resumed) event()     {}
func (Posted) event()      {}
func (Released) event()    {}
func (Ended) event()       {}
func (BackEnd) event()     {}
func (BackEndGone) event() {}
func (Paused) event()      {}

// Apply takes an event in. Events about unknown jobs change nothing.
func (m *Machine) Apply(e Event) {
	switch e := e.(type) {
	case Added:
		m.add(e.Job)
	case Needed:
		if it := m.items[e.Job]; it != nil {
			m.refile(it, func() { m.setNeeds(it, e.Needs) })
		}
	case Resumed:
		m.add(e.Job)
		it := m.items[e.Job.ID]
		m.unclaim(it)
		m.unfile(it)
		m.claim(it, m.backEnd(e.BackEnd))
		it.posted = e.Posted
	case Posted:
		if it := m.items[e.Job]; it != nil && it.on != nil {
			it.posted = true
		}
	case Released:
		if it := m.items[e.Job]; it != nil {
			m.unclaim(it)
			m.giveBack(it)
			m.refile(it, func() { it.avoid, it.notBefore, it.why = e.Avoid, e.NotBefore, e.Reason })
		}
	case Ended:
		if it := m.items[e.Job]; it != nil {
			m.unclaim(it)
			m.unfile(it)
			m.setNeeds(it, nil)
			delete(m.items, it.ID)
		}
	case BackEnd:
		m.update(e)
	case BackEndGone:
		m.remove(e.Name)
	case Paused:
		m.paused, m.reason = e.On, e.Reason
	}
}

// Waiting counts the jobs that wait and are not claimed.
func (m *Machine) Waiting() (n int) {
	for _, u := range m.rotation {
		n += len(u.all)
	}
	return n
}

// backEnd is one GPU source.
type backEnd struct {
	BackEnd
	known    bool
	items    []*item // claimed for it, in order of the claim
	lastUser *user
	missing  map[*needs][]string
}

// backEnd returns the entry with that name and makes one that is not ready if there is none.
func (m *Machine) backEnd(name string) *backEnd {
	i := slices.IndexFunc(m.backends, func(b *backEnd) bool { return b.Name == name })
	if i >= 0 {
		return m.backends[i]
	}
	b := &backEnd{BackEnd: BackEnd{Name: name, Slots: defaultSlots}, missing: map[*needs][]string{}}
	m.backends = append(m.backends, b)
	return b
}

func (m *Machine) update(e BackEnd) {
	if e.Slots <= 0 {
		e.Slots = defaultSlots
	}
	b := m.backEnd(e.Name)
	b.BackEnd, b.known = e, true
	clear(b.missing)
}

func (m *Machine) remove(name string) {
	i := slices.IndexFunc(m.backends, func(b *backEnd) bool { return b.Name == name })
	if i < 0 {
		return
	}
	b := m.backends[i]
	b.known, b.Ready = false, false
	if len(b.items) == 0 {
		m.backends = slices.Delete(m.backends, i, i+1)
	}
}

// lacks returns what the back end lacks for the needs.
func (b *backEnd) lacks(n *needs) []string {
	if b.Missing == nil || len(n.classes) == 0 {
		return nil
	}
	lacking, ok := b.missing[n]
	if !ok {
		lacking = b.Missing(n.classes)
		b.missing[n] = lacking
	}
	return lacking
}

// needs is a set of node classes, one for all jobs with the same.
type needs struct {
	classes []string
	key     string
	jobs    int // items that have it
}

// setNeeds changes what a job needs; nil leaves it without needs.
func (m *Machine) setNeeds(it *item, classes []string) {
	old := it.needs
	it.needs = m.intern(classes)
	it.needs.jobs++
	if old == nil {
		return
	}
	if old.jobs--; old.jobs == 0 && len(old.classes) > 0 {
		delete(m.needs, old.key)
		for _, b := range m.backends {
			delete(b.missing, old)
		}
	}
}

// intern returns the one entry for a set of classes.
func (m *Machine) intern(classes []string) *needs {
	classes = slices.Clone(classes)
	slices.Sort(classes)
	classes = slices.Compact(classes)
	key := strings.Join(classes, "\x00")
	n := m.needs[key]
	if n == nil {
		n = &needs{classes: classes, key: key}
		m.needs[key] = n
	}
	return n
}

func (m *Machine) claim(it *item, b *backEnd) {
	it.on, it.posted = b, false
	b.items = append(b.items, it)
	b.lastUser = it.user
	it.user.claimed = append(it.user.claimed, it)
}

func (m *Machine) unclaim(it *item) {
	b := it.on
	if b == nil {
		return
	}
	same := func(other *item) bool { return other == it }
	b.items = slices.DeleteFunc(b.items, same)
	it.user.claimed = slices.DeleteFunc(it.user.claimed, same)
	it.on, it.posted = nil, false
	if !b.known && len(b.items) == 0 {
		m.remove(b.Name)
	}
}
