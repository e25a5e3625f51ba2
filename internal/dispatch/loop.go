package dispatch

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// The messages of the loop.
type (
	changed struct {
		change job.Change
		job    job.Job
	}
	fleetChanged struct{}
	control      struct {
		order  sched.Order
		pauses []Pause
	}
	why struct {
		id     job.ID
		answer chan<- whyAnswer
	}
	whyAnswer struct {
		place  event.Place
		reason sched.Reason
	}
	posted struct { // its back end has it
		a  *attempt
		at time.Time
	}
	ended    struct{ a *attempt } // its back end is free for the next one
	released struct {             // it waits again
		a         *attempt
		failed    bool // it came to nothing, and was not just taken back
		lost      bool // a run was lost, not just a place
		cause     job.Cause
		notBefore time.Time
		reason    string
	}
	needs struct { // it waits again, and needs these classes, or so much memory
		a       *attempt
		classes []string
		memory  int64
	}
	hindered struct{ err error }  // no run can start for now
	over     struct{ a *attempt } // the job is final, or not ours any more
	renewed  struct{ lost []job.Fence }
)

// loop is the state that one goroutine owns.
type loop struct {
	*Dispatcher
	ctx      context.Context
	machine  *sched.Machine
	attempts map[job.ID]*attempt
	lines    map[string]*line // by back end
	drivers  map[string]backend.Driver
	hands    chan *attempt      // to goroutines whose attempt is over
	pasts    map[job.ID]*past   // of jobs whose attempts came to nothing
	bill     time.Time          // when to ask for the budget again; zero: there are no paid back ends
	again    map[job.ID]job.Job // released, and its attempt has not said so yet
	waiting  map[string]bool    // people who may have waiting jobs
	weighed  map[member]bool    // people of whom the schedule knows what they weigh
	places   places
	stale    bool // places may have changed
	moved    bool // what is staged may have to wait again
	pauses   []Pause
	shut     []string // groups that are paused
	full     error    // the disk's trouble
	looked   time.Time
	renewing bool
}

// Run works until ctx ends. Runs that go on at the back ends then are taken up by the next Run.
func (d *Dispatcher) Run(ctx context.Context) error {
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer d.wg.Wait()
	defer stop(errShutdown)
	defer d.offers.set(nil, nil)
	var taught []byte
	if d.deps.Taught != nil {
		taught = d.deps.Taught()
	}
	l := &loop{
		Dispatcher: d, ctx: work,
		hands: make(chan *attempt),
		machine: sched.New(sched.Options{
			Order: d.options.Order, MaxRunningPerUser: d.options.MaxRunningPerUser,
			AgeAfter: d.options.AgeAfter, HalfLife: d.options.HalfLife, Affinity: d.options.Affinity, Memory: taught,
		}),
		attempts: make(map[job.ID]*attempt), lines: make(map[string]*line), drivers: make(map[string]backend.Driver), pasts: make(map[job.ID]*past), again: make(map[job.ID]job.Job),
		waiting: make(map[string]bool), weighed: make(map[member]bool), places: newPlaces(),
	}
	defer func() { l.answer(time.Now()) }()
	defer func() { l.teach(time.Now()) }()
	defer l.workEnds()
	l.fleetChanged()
	if err := d.deps.Queue.EachOpen(ctx, l.found); err != nil {
		return fmt.Errorf("reading the open jobs: %w", err)
	}
	if err := l.tidyUp(ctx); err != nil {
		return err
	}
	renew := time.NewTicker(d.options.Lease / 3)
	defer renew.Stop()
	tell := time.NewTimer(0)
	defer tell.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	var messages []any
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.inbox.wake:
		case <-again.C:
		case <-renew.C:
			l.renew()
			l.releaseOrphans(time.Now())
		case <-tell.C:
			if again := l.tellPlaces(time.Now()); again > 0 {
				tell.Reset(again)
			}
		}
		before := l.stale
		messages = d.inbox.take(messages)
		for i, m := range messages {
			l.handle(m)
			messages[i] = nil
		}
		if at := l.schedule(time.Now()); !at.IsZero() {
			again.Reset(time.Until(at))
		}
		l.tellWork()
		l.offer()
		if l.stale && !before {
			tell.Reset(d.options.PlacesEvery)
		}
	}
}

// past returns what came of a job's attempts, made when nothing did yet.
func (l *loop) past(id job.ID) *past {
	p := l.pasts[id]
	if p == nil {
		p = &past{}
		l.pasts[id] = p
	}
	return p
}

// all reports whether no back end is configured beside these.
func (l *loop) all(names []string) bool {
	for name := range l.drivers {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}

// found takes in a job that was open when the loop began.
func (l *loop) found(j job.Job) error {
	if j.Attempt.N > 1 || j.Attempt.N > 0 && j.State == job.Pending {
		tries, err := l.deps.Queue.Tries(l.ctx, j.ID)
		if err != nil {
			return err
		}
		if p := recallPast(tries); p.failed > 0 {
			l.pasts[j.ID] = &p
		}
		l.remember(&j, tries)
	}
	if j.State == job.Pending {
		l.add(j)
		return nil
	}
	a := l.claimed(j, true)
	a.resumed = &j
	a.stopped.Store(j.Stop) // its back end may not have heard of it
	l.begin(a)
	return nil
}

// placed takes in a job that was claimed when it was accepted.
func (l *loop) placed(j job.Job) {
	l.offers.came(j.Attempt.BackEnd)
	l.stale = true
	a := l.claimed(j, false)
	a.job = j
	l.begin(a)
}

// claimed makes the attempt of a job that is claimed already.
func (l *loop) claimed(j job.Job, posted bool) *attempt {
	l.waiting[j.User] = true
	l.machine.Apply(sched.Resumed{Job: l.known(j), BackEnd: j.Attempt.BackEnd, Posted: posted, At: time.Now()})
	a := l.attempt(j.ID, j.User, j.Attempt.BackEnd)
	a.fence.Store(j.Attempt.Fence)
	return a
}

// add takes in a waiting job.
func (l *loop) add(j job.Job) {
	l.waiting[j.User] = true
	l.stale = true
	if j.Stop { // its owner wanted it interrupted, and its attempt was lost meanwhile
		l.wg.Go(func() { l.giveUpStopped(l.ctx, j) })
		return
	}
	l.machine.Apply(sched.Added{Job: l.known(j)})
}

func (l *loop) handle(m any) {
	switch m := m.(type) {
	case changed:
		l.jobChanged(m)
	case fleetChanged:
		l.fleetChanged()
	case control:
		l.control(m)
		l.offers.release()
	case why:
		l.ask(m, time.Now())
	case asked:
		m(l)
	case foreseen:
		l.foreseen(m, time.Now())
		l.answer(time.Now())
	case posted:
		l.machine.Apply(sched.Posted{Job: m.a.id, At: time.Now()})
		m.a.there, m.a.taken = true, m.at
		if m.a.cold && !m.a.called.IsZero() {
			l.deps.Fleet.Woke(m.a.backEnd, m.at.Sub(m.a.called))
		}
		l.lines[m.a.backEnd].call(time.Now())
		l.stale = true
	case ended:
		l.free(m.a)
	case released:
		l.leave(m.a)
		if m.lost {
			ln := l.lines[m.a.backEnd]
			ln.quick = 0
			l.pace(ln)
		}
		p := l.past(m.a.id)
		if m.failed {
			p.take(m.a.backEnd, m.lost, m.a.posted, m.cause, time.Now())
			if len(p.avoid) > 1 && l.all(p.avoid) { // then that there is another one helps no more
				p.avoid = []string{m.a.backEnd}
			}
		}
		l.back(m.a, p.avoid, m.notBefore, m.reason)
	case needs:
		l.leave(m.a)
		p := l.past(m.a.id)
		l.back(m.a, p.avoid, time.Time{}, "")
		if m.classes != nil {
			p.needs = m.classes
		}
		p.memory = max(p.memory, m.memory)
		l.machine.Apply(sched.Needed{Job: m.a.id, Needs: p.needs, Memory: p.memory})
	case hindered:
		l.hinder(m.err, time.Now())
	case over:
		l.leave(m.a)
		now := time.Now()
		if m.a.there && m.a.ran == 0 {
			m.a.ran = now.Sub(l.lines[m.a.backEnd].began(m.a))
		}
		l.machine.Apply(sched.Ended{Job: m.a.id, Ran: m.a.ran, At: now})
		delete(l.pasts, m.a.id)
		l.stale = true
		if j, ok := l.again[m.a.id]; ok {
			delete(l.again, m.a.id)
			l.add(j)
		}
	case renewed:
		l.renewing = false
		for _, f := range m.lost {
			if a := l.attempts[f.Job]; a != nil && a.fence.Load() == f.N {
				a.cancel(errLeaseLost)
			}
		}
	}
}

func (l *loop) jobChanged(c changed) {
	a := l.attempts[c.job.ID]
	switch c.change {
	case job.Submitted:
		if a != nil { // it was found at our start, and this was told before
			return
		}
		if c.job.State == job.Pending {
			l.add(c.job)
		} else {
			l.placed(c.job)
		}
	case job.Moved:
		l.machine.Apply(sched.Added{Job: l.known(c.job)})
		l.stale, l.moved = true, true
	case job.Released:
		if a == nil {
			l.add(c.job)
		} else { // the attempt itself says what to make of it, unless it was not its doing
			l.again[c.job.ID] = c.job
		}
	case job.Removed:
		if a != nil {
			a.cancel(errRemoved)
			return
		}
		delete(l.pasts, c.job.ID)
		l.machine.Apply(sched.Ended{Job: c.job.ID})
		l.stale = true
	case job.StopRequested:
		if a != nil {
			a.stop()
		}
	}
}

// back puts a job that an attempt gave back where it stood.
func (l *loop) back(a *attempt, avoid []string, notBefore time.Time, reason string) {
	delete(l.again, a.id)
	if a.stopped.Load() && a.fence.Load() != 0 { // its owner wanted it interrupted
		j := a.job
		j.Stop = true
		l.machine.Apply(sched.Ended{Job: a.id})
		l.add(j)
		return
	}
	if a.freed { // the schedule took it for over
		l.machine.Apply(sched.Added{Job: l.known(a.job)})
	}
	l.machine.Apply(sched.Released{Job: a.id, Avoid: avoid, NotBefore: notBefore, Reason: reason, Ran: a.ran})
	l.waiting[a.user] = true
	l.stale = true
}

// fleetChanged takes in the back ends as they are now.
func (l *loop) fleetChanged() {
	known := make(map[string]bool)
	for _, s := range l.deps.Fleet.Status() {
		known[s.Name] = true
		l.drivers[s.Name] = s.Driver
		b := sched.BackEnd{
			Name: s.Name, Ready: s.Ready, Reason: s.Reason, Parallel: s.Parallel, Groups: s.Groups, Memory: s.Memory,
			Price: s.Price, Prefer: s.Prefer, Cold: s.Cold, Wake: s.Wake,
		}
		if l.deps.Missing != nil {
			b.Missing = func(classes []string) []string { return l.deps.Missing(s.Name, classes) }
		}
		if s.Trial { // one job first
			b.Slots, b.Parallel = 1, 1
		}
		ln := l.line(s.Name)
		wasTrial := ln.status.Trial
		ln.status = &s
		if !s.Trial && !wasTrial {
			b.Slots = ln.backEnd.Slots
		}
		ln.backEnd = b
		if b.Price > 0 && l.bill.IsZero() {
			l.bill = time.Now()
		}
		l.machine.Apply(b)
		ln.call(time.Now()) // it may run more at the same time than before
	}
	for name := range l.lines {
		if !known[name] {
			l.machine.Apply(sched.BackEndGone{Name: name})
			delete(l.drivers, name)
		}
	}
	l.stale = true
}

// schedule gives jobs to back ends as long as one can be given, and returns when to try again; zero: when something
// happens.
func (l *loop) schedule(now time.Time) time.Time {
	if l.machine.Waiting() == 0 && l.full == nil && !l.moved && !l.anyStaged() {
		return time.Time{}
	}
	l.look(now)
	l.askBudget(now)
	back := l.takeBack(now)
	l.recall(now)
	for {
		decision, ok := l.machine.Next(now)
		if !ok {
			break
		}
		l.stale = true
		l.begin(l.attempt(decision.Job, decision.User, decision.BackEnd))
	}
	at, _ := l.machine.NextTime(now)
	if at.IsZero() || !back.IsZero() && back.Before(at) {
		at = back
	}
	if l.full != nil {
		if next := l.looked.Add(l.options.RoomEvery); at.IsZero() || next.Before(at) {
			at = next
		}
	}
	return at
}

// recall takes staged jobs back that are to wait again. What can't be written down for want of room stays.
func (l *loop) recall(now time.Time) {
	l.moved = false
	if l.full != nil {
		return
	}
	for id, ok := l.machine.Recall(now); ok; id, ok = l.machine.Recall(now) {
		// One that has started is told as posted, so that the question is not asked again.
		if a := l.attempts[id]; a == nil || !a.recall() {
			l.machine.Apply(sched.Posted{Job: id})
			continue
		}
		l.moved = true
		return // one at a time: its release comes as a message
	}
}

// anyStaged reports whether a job waits behind another one for its back end.
func (l *loop) anyStaged() bool {
	for _, ln := range l.lines {
		if len(ln.queue) > ln.parallel() {
			return true
		}
	}
	return false
}

// look asks from time to time whether the disk has room for another run.
func (l *loop) look(now time.Time) {
	if now.Sub(l.looked) < l.options.RoomEvery {
		return
	}
	l.looked = now
	var full error
	if l.deps.Room != nil {
		full = l.deps.Room()
	}
	switch {
	case full != nil:
		l.hinder(full, now)
	case l.full != nil:
		l.full = nil
		l.log.Info("runs start again")
		l.pause()
	}
}

// hinder lets no run start until the disk is looked at again.
func (l *loop) hinder(err error, now time.Time) {
	if l.full == nil {
		l.log.Warn("no new run starts", "err", err)
	}
	l.full, l.looked = err, now
	l.pause()
}
