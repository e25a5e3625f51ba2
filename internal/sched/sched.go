// Package sched chooses which job runs next and where, or says why one waits. It is a deterministic machine: events
// go in, decisions come out; there is no clock, no goroutine and no I/O in it. The same events give the same
// decisions. DESIGN.md tells the rules.
package sched

import (
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/job/index"
)

// Options are the optional settings of New.
type Options struct {
	Order             Order // empty: Fair
	MaxRunningPerUser int   // most back ends that work for one person at once; 0: no limit
	// AgeAfter is when a waiting job rises by one class in Priority: nobody who comes after that time for each class
	// above its own goes before it. 0: 10 min, negative: never.
	AgeAfter time.Duration
	HalfLife time.Duration // after which what somebody used beyond their share weighs half in Fair; 0: 1 h
	// Affinity is how much GPU time the first in line may be overtaken by, for jobs whose models are loaded already.
	// 0: 2 min, negative: none.
	Affinity time.Duration
	// Memory is what runs taught another machine, as its Memory returned it. Nil, or in a form that this one does not
	// know: it learns from the beginning.
	Memory []byte
}

// Machine is the state of the choice. It is owned by one goroutine.
type Machine struct {
	opts     Options
	now      time.Time // the latest that it heard of
	paused   bool
	reason   string // why it is paused
	backends []*backEnd
	users    map[string]*user
	active   []*user // those with waiting jobs that are not held
	groups   map[string]*group
	items    *index.Index[*item]
	long     map[packed]job.ID // ids that are digests in items
	runs     map[*item]*run    // of claimed ones
	kinds    map[kindKey]*kind
	spare    []int // numbers of kinds that are given again

	// The order. In Fair the parties have the turn by their tags, and in each its people; else everybody is in all.
	parties list[*group]
	virtual int64 // virtual time of the groups: the latest begin of one of their jobs
	all     party
	later   list[later]
	lines   [job.ClassLow + 1]list[bySeq] // by class, where the order goes by acceptance
	waiting int                           // jobs that may have their turn some time
	stirred bool                          // others may go before what is staged

	served, joins, lots int64 // how often that happened
	money               money
	due                 deadlines
	known               experience
	pressed             presses
	said                map[job.ID][]promise
	promised            [len(farthest)]time.Time // when jobs at such places were last told of
	dream               bool                     // it only simulates, and learns nothing
	cursors             []cursor[*lot]           // for reuse
}

// New returns a machine without jobs and back ends.
func New(o Options) *Machine {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.AgeAfter, 10*time.Minute)
	set(&o.HalfLife, time.Hour)
	set(&o.Affinity, 2*time.Minute)
	if o.Order == "" {
		o.Order = Fair
	}
	m := &Machine{
		opts: o, users: map[string]*user{}, groups: map[string]*group{}, items: index.New(func(it *item) index.ID { return it.id }), long: map[packed]job.ID{}, runs: map[*item]*run{},
		kinds: map[kindKey]*kind{}, money: newMoney(), due: deadlines{of: map[*item]int64{}}, known: newExperience(), said: map[job.ID][]promise{},
	}
	m.known.remember(o.Memory)
	m.opts.Memory = nil // simulations have theirs from the machine
	return m
}

// Apply takes an event in. Events about unknown jobs change nothing.
func (m *Machine) Apply(e Event) {
	switch e := e.(type) {
	case Added:
		m.add(e.Job)
	case Needed:
		if it := m.item(e.Job); it != nil {
			m.need(it, e)
		}
	case Estimated:
		if it := m.item(e.Job); it != nil {
			m.estimate(it, e.Cost)
		}
	case Resumed:
		m.resume(e)
	case Posted:
		if r := m.runs[m.item(e.Job)]; r != nil {
			m.heard(e.At)
			m.post(r)
		}
	case Released:
		m.release(e)
	case Ended:
		m.heard(e.At)
		m.end(e)
	case BackEnd:
		m.update(e)
	case BackEndGone:
		m.remove(e.Name)
	case Paused:
		m.pause(e)
	case Mode:
		m.setOrder(e.Order)
	case Share:
		m.share(e)
	case Budget:
		m.budget(e)
	}
}

// heard moves the time on.
func (m *Machine) heard(at time.Time) {
	if at.After(m.now) {
		m.now = at
	}
}

func (m *Machine) need(it *item, e Needed) {
	k := m.intern(e.Needs, e.Memory, it.lot.kind.models)
	k.items++
	m.drop(it.lot.kind)
	refile := func() {
		l := *it.lot
		it.lot = &lot{user: l.user, kind: k, class: l.class, held: l.held, retry: l.retry}
	}
	if it.claimed {
		refile()
		return
	}
	m.unfile(it)
	refile()
	m.file(it)
}

func (m *Machine) resume(e Resumed) {
	it := m.add(e.Job)
	if r := m.runs[it]; r != nil {
		m.unclaim(r)
		m.pay(r, 0)
	} else {
		m.unfile(it)
	}
	m.heard(e.At)
	r := m.claim(it, m.backEnd(e.BackEnd))
	m.serve(r)
	if e.Posted {
		m.post(r)
		if !e.At.IsZero() {
			r.began = e.At
		}
	}
}

// post notes that a run has begun, or does so as soon as the one before it is over.
func (m *Machine) post(r *run) {
	if r.posted {
		return
	}
	r.posted, r.began = true, m.now
	if models := r.lot.kind.models; models != "" {
		r.on.loaded = models
	}
	m.begun(r)
	if len(m.said) > 0 {
		m.keep(m.id(r.item))
	}
}

func (m *Machine) release(e Released) {
	it := m.item(e.Job)
	if it == nil {
		return
	}
	var retried *retry
	if len(e.Avoid) > 0 || !e.NotBefore.IsZero() || e.Reason != "" {
		retried = &retry{e.Avoid, e.NotBefore, e.Reason}
	}
	if r := m.runs[it]; r != nil {
		m.unclaim(r)
		m.pay(r, r.on.price(e.Ran))
		m.giveBack(r)
	} else {
		m.unfile(it)
	}
	l := it.lot
	it.lot = &lot{user: l.user, kind: l.kind, class: l.class, held: l.held || it.held, retry: retried}
	it.held = false
	m.file(it)
}

func (m *Machine) end(e Ended) {
	it := m.item(e.Job)
	if it == nil {
		return
	}
	if r := m.runs[it]; r != nil {
		m.unclaim(r)
		m.pay(r, r.on.price(e.Ran))
		m.learn(r, e.Ran)
		m.settle(r, e.Ran)
	} else {
		m.unfile(it)
	}
	m.drop(it.lot.kind)
	m.date(it, time.Time{})
	m.items.Delete(it.id)
	delete(m.long, it.id)
	if len(m.said) > 0 {
		delete(m.said, e.Job)
	}
}

func (m *Machine) pause(e Paused) {
	m.stirred = true
	switch {
	case e.BackEnd != "":
		b := m.backEnd(e.BackEnd)
		b.paused, b.why = e.On, e.Reason
	case e.Group != "":
		m.pauseGroup(e.Group, e.On, e.Reason)
	default:
		m.paused, m.reason = e.On, e.Reason
	}
}

// Waiting counts the jobs that wait for their turn: they are not claimed, not held, and their group is not paused.
func (m *Machine) Waiting() int { return m.waiting }
