package room

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// room is one person's live side. Its lock is held for moments: never while something is written or read.
// Lock order: room, then hub or socket.
type room struct {
	hub     *Hub
	user    string
	created time.Time
	pumping atomic.Bool

	mu       sync.Mutex
	dead     bool
	sub      *event.Subscription
	sockets  []*socket
	reserved int    // upgrades on their way
	runs     []*run // open ones, and finished ones until they are surely seen; in order of submission
	open     int    // how many of them are open
	holds    map[job.ID]*Hold
	places   map[job.ID]event.Place
	proven   map[string]int64     // by session: until when its closed sockets surely got what was sent, ns
	logging  map[string]time.Time // sessions that subscribed to log lines: when their socket was lost
	log      *logRing
	batch    []event.Event
	lagged   bool
	status   bool      // the numbers may have changed since the last status frame
	soon     bool      // they have, in a way that can wait a moment
	later    bool      // a timer tells them
	told     time.Time // when they were told last
	studio   bool      // what our extension shows may have changed
}

// wake sees to it that waiting events are handled. It is called by publishers and does not block.
func (r *room) wake() {
	if r.pumping.CompareAndSwap(false, true) && !r.hub.spawn(r.pump) {
		r.pumping.Store(false)
	}
}

// pump handles the events that wait. Taking and handling them is one step under the lock, so that two pumps can't
// overtake one another; an event that comes meanwhile starts the next one.
func (r *room) pump() {
	r.mu.Lock()
	r.pumping.Store(false)
	r.drain()
	r.settle()
	lagged := r.lagged
	r.lagged = false
	r.mu.Unlock()
	if lagged {
		r.resync()
		if r.hub.options.Several {
			return // what was lost was between servers, and often: sockets have all that came here
		}
		r.mu.Lock()
		for _, s := range r.sockets {
			r.refresh(s)
		}
		r.mu.Unlock()
	}
}

// drain handles the events that wait. It reports whether there were any. The lock is held.
func (r *room) drain() bool {
	r.batch = r.sub.TryBatch(r.batch[:0])
	n := len(r.batch)
	for _, e := range r.batch {
		r.handle(e)
	}
	clear(r.batch)
	if cap(r.batch) > 64 { // a burst is over
		r.batch = nil
	}
	return n > 0
}

// settle sends what several events have in common: one status frame, one state of our extension. It then gives slow
// sockets the truth in place of what waits for them.
func (r *room) settle() {
	if r.status {
		r.tellStatus()
	} else {
		r.tellStatusSoon()
	}
	r.tellStudio()
	for _, s := range r.sockets {
		if s.crowded() {
			r.refresh(s)
		}
	}
	if len(r.runs) > r.open+keepRuns+16 { // else the next tick forgets
		r.reap(time.Now())
	}
}

// empty reports whether nobody needs the room. The lock is held.
func (r *room) empty() bool {
	return !r.dead && len(r.sockets)+r.reserved+len(r.runs)+len(r.holds)+len(r.logging) == 0
}

// handle deals with one event. The lock is held.
func (r *room) handle(e event.Event) {
	switch b := e.Body.(type) {
	case event.JobChanged:
		if r.held(b.Job.ID, e) {
			return
		}
		r.jobChanged(b.Changed)
	case event.RunFrame:
		if r.held(b.Job, e) {
			return
		}
		r.runFrame(b)
	case event.RunBinary:
		if r.held(b.Job, e) {
			return
		}
		r.runBinary(b)
	case event.LogLines:
		if r.held(b.Job, e) {
			return
		}
		r.logLines(b.Lines...)
	case event.Notice:
		r.notice(b)
	case event.Queued:
		r.places, r.studio = b.Places, true
	case event.FleetChanged:
		r.fleetChanged()
	case event.Lagged:
		r.lagged = true
	}
}

// held keeps what happened to a job whose POST is not answered yet until it is. The lock is held.
func (r *room) held(id job.ID, e event.Event) bool {
	h := r.holds[id]
	if h != nil {
		h.events = append(h.events, e)
	}
	return h != nil
}

// jobChanged follows the changes of a job's state. The lock is held.
func (r *room) jobChanged(c job.Changed) {
	switch c.Change {
	case job.Submitted:
		r.of(c.Job)
		r.soon, r.studio = true, true
		r.logLines("accepted " + c.Job.PromptID)
	case job.Claimed, job.StopRequested:
		r.of(c.Job)
	case job.Posted:
		r.of(c.Job).posted = true
		r.soon, r.studio = true, true
		r.logLines("running " + c.Job.PromptID + " on " + c.Job.Attempt.BackEnd)
	case job.Released:
		n := r.of(c.Job)
		n.posted, n.at = false, nil
		n.drop("executing", "progress", "progress_state", previewKey)
		r.status, r.studio = true, true
		r.logLines("waiting again " + c.Job.PromptID)
	case job.Moved:
		r.of(c.Job)
		r.status, r.studio = true, true
	case job.Removed:
		r.remove(c.Job.ID)
		delete(r.places, c.Job.ID)
		r.status, r.studio = true, true
	case job.Finished:
		r.finish(c)
	}
}

// of returns the run of j, made when it is new, with j as what is known of it. The lock is held.
func (r *room) of(j *job.Job) *run {
	n := r.find(j.ID)
	if n == nil {
		n = &run{}
		r.runs = append(r.runs, n)
		r.open++
	}
	n.job = j
	return n
}

// remove forgets a run. The lock is held.
func (r *room) remove(id job.ID) {
	i := slices.IndexFunc(r.runs, func(n *run) bool { return n.job.ID == id })
	if i < 0 {
		return
	}
	if r.runs[i].ended.IsZero() {
		r.open--
	}
	r.runs = slices.Delete(r.runs, i, i+1)
}

func (r *room) find(id job.ID) *run {
	for _, n := range slices.Backward(r.runs) {
		if n.job.ID == id {
			return n
		}
	}
	return nil
}

// session yields the sockets of sid. The lock is held.
func (r *room) session(sid string) func(yield func(*socket) bool) {
	return func(yield func(*socket) bool) {
		if sid == "" {
			return
		}
		for _, s := range r.sockets {
			if s.sid == sid && !yield(s) {
				return
			}
		}
	}
}

// waits reports whether a session has an open job. The lock is held.
func (r *room) waits(sid string) bool {
	return slices.ContainsFunc(r.runs, func(n *run) bool { return n.job.ClientID == sid && n.ended.IsZero() })
}

// resync reads the truth anew after events may have been lost: runs that ended meanwhile end now.
func (r *room) resync() {
	open, err := r.hub.queue.Open(r.hub.ctx, r.user)
	if err != nil {
		r.hub.log.Warn("reading open jobs after lost events", "user", r.user, "err", err)
		return
	}
	r.mu.Lock()
	var missing []job.Job
	for _, n := range r.runs {
		if n.ended.IsZero() && !slices.ContainsFunc(open, func(j job.Job) bool { return j.ID == n.job.ID }) {
			missing = append(missing, *n.job)
		}
	}
	for _, j := range open {
		if n := r.find(j.ID); n != nil && n.ended.IsZero() {
			n.job, n.posted = &j, j.State == job.Running && j.Attempt.Posted
		}
	}
	r.mu.Unlock()
	over := r.outcomes(missing)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range over {
		r.jobChanged(c)
	}
	r.status, r.studio = true, true
	r.settle()
}

// outcomes reads how jobs ended that are open no more.
func (r *room) outcomes(jobs []job.Job) []job.Changed {
	var over []job.Changed
	for _, j := range jobs {
		e, err := r.hub.queue.Entry(r.hub.ctx, r.user, j.PromptID)
		switch {
		case fault.Is(err, fault.Missing), err == nil && e.Job.ID != j.ID:
			over = append(over, job.Changed{Change: job.Removed, Job: &j})
		case err != nil:
			r.hub.log.Warn("reading how a job ended", "user", r.user, "job", j.ID, "err", err)
		case e.Outcome != nil:
			over = append(over, job.Changed{Change: job.Finished, Job: &e.Job, Outcome: e.Outcome})
		}
	}
	return over
}

// tick does what is due at now: pings, a sign of life for programs that wait, forgetting.
func (r *room) tick(now time.Time, second int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	period := max(1, int(r.hub.options.Ping/time.Second))
	remaining := -1
	for _, s := range r.sockets {
		due := second%period == s.slot%period
		if due {
			if silent := now.Sub(s.since); silent > r.hub.options.Ping*5/2 && now.Sub(time.Unix(0, s.lastIn.Load())) > r.hub.options.Ping*5/2 {
				r.hub.spawn(s.cut)
				continue
			}
		}
		if due || s.owed {
			s.ping(time.Now())
		}
		if s.talks.Load() || now.Sub(time.Unix(0, s.lastOut.Load())) < r.hub.options.Idle || !r.waits(s.sid) {
			continue
		}
		if remaining < 0 {
			remaining = r.remaining()
		}
		s.push(statusFrame(remaining, ""))
	}
	r.reap(now)
	if r.open > 0 && r.hub.queue.Remaining(r.user) == 0 {
		// An end is about to be told, or was lost: then this finds it.
		r.hub.spawn(r.resync)
	}
}

// Limits of what is remembered of finished runs.
const (
	keepHeard   = time.Minute      // somebody listened when it ended, and may have been cut off
	keepUnheard = 15 * time.Minute // nobody did: the session may come yet
	keepRuns    = 64               // finished runs in all
)

// reap forgets finished runs that nobody will ask for, and the room itself when it is empty. The lock is held.
func (r *room) reap(now time.Time) {
	finished := 0
	for _, n := range slices.Backward(r.runs) {
		if n.ended.IsZero() {
			continue
		}
		keep := keepHeard
		switch {
		case n.job.ClientID == "": // nobody can come for its frames
			keep = lingerAlone
		case !n.heard:
			keep = keepUnheard
		}
		from := n.ended
		if n.recalled.After(from) { // other pages of the session may be reading it too, and find it here
			from = n.recalled
		}
		if finished++; finished > keepRuns || now.Sub(from) > keep {
			n.gone = true
		}
	}
	r.runs = slices.DeleteFunc(r.runs, func(n *run) bool { return n.gone })
	if len(r.runs) == 0 {
		r.runs, r.proven = nil, nil
	}
	maps.DeleteFunc(r.logging, func(_ string, lost time.Time) bool { return now.Sub(lost) > keepHeard })
	if r.empty() && r.drain() {
		r.tellStatus() // what came meanwhile may need the room
	}
	if r.empty() {
		r.dead = true
		r.sub.Close()
		r.hub.forget(r)
	}
}

// close says goodbye to every socket.
func (r *room) close() {
	r.mu.Lock()
	sockets := slices.Clone(r.sockets)
	r.sub.Close()
	r.mu.Unlock()
	for _, s := range sockets {
		// The reader is alive and counted, so that Close waits for this too.
		r.hub.wg.Go(s.goodbye)
	}
}

// cut ends every socket's connection. One that says goodbye is not ended by anything less.
func (r *room) cut() {
	r.mu.Lock()
	sockets := slices.Clone(r.sockets)
	r.mu.Unlock()
	for _, s := range sockets {
		_ = s.nc.Close() // whatever comes of it, its reader leaves
	}
}
