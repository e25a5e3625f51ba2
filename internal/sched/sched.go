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

// Options are the optional settings of New.
type Options struct {
	Order             Order         // empty: Fair
	MaxRunningPerUser int           // most back ends that work for one person at once; 0: no limit
	AgeAfter          time.Duration // after which a waiting job rises by one class in Priority; 0: 10 min
	HalfLife          time.Duration // after which what somebody used beyond their share weighs half in Fair; 0: 1 h
	// Affinity is how long, in GPU time, the first in line may be overtaken by jobs whose models are loaded already;
	// 0: 2 min, negative: never.
	Affinity time.Duration
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
		o.Order = Fair
	}
	return &Machine{opts: o, users: map[string]*user{}, items: map[job.ID]*item{}, needs: map[string]*needs{}}
}

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
		if e.Group == "" && e.BackEnd == "" {
			m.paused, m.reason = e.On, e.Reason
		}
	case Mode:
		m.opts.Order = e.Order
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
