package room

import "time"

// tellStatus sends the person's own numbers to all their sockets, if they may have changed. The lock is held.
func (r *room) tellStatus() {
	if !r.status && !r.soon {
		return
	}
	r.status, r.soon = false, false
	if len(r.sockets) == 0 {
		return
	}
	r.told = time.Now()
	f := statusFrame(r.remaining(), "")
	for _, s := range r.sockets {
		s.push(f)
	}
}

// statusEvery is how often the numbers are told by themselves while jobs come in. With a frame of a run they go at once.
const statusEvery = 50 * time.Millisecond

// tellStatusSoon tells of jobs that came or began: of the first at once, of those that follow together. The lock is held.
func (r *room) tellStatusSoon() {
	if !r.soon || r.later {
		return
	}
	wait := statusEvery - time.Since(r.told)
	if wait <= 0 {
		r.tellStatus()
		return
	}
	r.later = true
	time.AfterFunc(wait, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.later = false
		if r.soon {
			r.tellStatus()
		}
	})
}

// remaining is how many of the person's jobs are open, for a frame that goes out now. A job counts until its own end has
// been told: a client that sees 0 before that takes its run as over and looks no further.
func (r *room) remaining() int { return max(r.hub.queue.Remaining(r.user), r.open) }
