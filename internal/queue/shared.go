package queue

import (
	"encoding/json"

	"github.com/ahelme/comfyume/internal/job"
)

// Shared is what a store has beside Store's methods when several servers of one studio change it. The Service follows
// what the others do, so that its picture of the open jobs stays true and what they do is announced here too.
type Shared interface {
	// Follow calls fn for each change that another server made: one call at a time, in one order with the done calls of
	// this server's changes, beginning behind what EachOpen returned. fn is quick and does not call the store. Follow is
	// called once, after EachOpen and before the first change.
	Follow(fn func(Change))
	// Post tells the other servers that an attempt was given to its back end. It does not wait; Renew makes up for one
	// that is lost.
	Post(Renewal)
}

// Change is what another server did, or that changes were missed.
type Change struct {
	What    job.Change   // empty: a lease was renewed, or one of the cases below; of HistoryChanged only Job.User is set
	Job     job.Job      // as it is after the change, whole
	Outcome *job.Outcome // with Finished
	Ended   int64        // with Finished and Removed: the number of the end

	Setting string // a setting of this name was changed
	Value   []byte // to this; nil: it was deleted

	Anew bool      // changes were missed: Open is everything that is open now
	Open []job.Job // in order of acceptance
}

// follow takes in what another server did, and announces it as if it had happened here.
func (s *Service) follow(c Change) {
	switch {
	case c.Anew:
		s.takeAnew(c.Open, c.Ended)
	case c.Setting != "":
		s.followSetting(c.Setting, c.Value)
	case c.What == job.HistoryChanged:
		s.recent.forgetEnded(c.Job.User, nil)
		s.change(func() []job.Changed {
			return []job.Changed{{Change: job.HistoryChanged, Job: &job.Job{User: c.Job.User}}}
		})
	default:
		s.followJob(c)
	}
}

func (s *Service) followJob(c Change) {
	j := c.Job
	old, open := s.book.get(j.ID)
	what := c.What
	switch {
	case j.State.Final():
		s.recent.forget(j.User, j.PromptID)
		s.book.saw(c.Ended)
		if !open {
			return
		}
	case what == "" && open && j.Attempt.Posted && !old.Attempt.Posted: // the word that it was posted was lost
		what = job.Posted
	case what == job.Submitted:
		s.recent.forget(j.User, j.PromptID)
		s.book.numbered(j.User, j.Number)
	}
	s.change(func() []job.Changed {
		s.book.put(&j)
		if what == "" {
			return nil
		}
		return []job.Changed{{Change: what, Job: &j, Outcome: c.Outcome}}
	})
}

func (s *Service) followSetting(name string, value []byte) {
	take := func() {}
	switch name {
	case settingMode:
		saved := savedMode{Mode: s.opts.Mode}
		if value != nil && (json.Unmarshal(value, &saved) != nil || checkMode(saved.Mode) != nil) {
			s.log.Warn("another server has set a mode of the queue that this one does not know", "mode", string(value))
			return
		}
		take = func() { s.control.mode = saved.Mode }
	case settingPauses:
		pauses := map[string]Pause{}
		if value != nil && json.Unmarshal(value, &pauses) != nil {
			s.log.Warn("another server has set pauses of the queue that this one does not know")
			return
		}
		take = func() { s.control.pauses = pauses }
	}
	s.opts.Control(s.control.set(take))
}

// takeAnew replaces what is known of open jobs. What is gone is announced as removed, and everything else as moved:
// whoever listens looks anew.
func (s *Service) takeAnew(open []job.Job, ended int64) {
	now := make(map[job.ID]bool, len(open))
	for i := range open {
		now[open[i].ID] = true
	}
	s.book.saw(ended)
	s.change(func() (all []job.Changed) {
		for id := range s.book.ids() {
			j, known := s.book.get(id)
			if !known || now[id] {
				continue
			}
			j.State, j.Hidden = job.Cancelled, true // how it ended is in the store
			s.recent.forget(j.User, j.PromptID)
			s.book.put(&j)
			all = append(all, job.Changed{Change: job.Removed, Job: &j})
		}
		for i := range open {
			j := &open[i]
			what := job.Moved
			if _, ok := s.book.get(j.ID); !ok {
				what = job.Submitted
				s.book.numbered(j.User, j.Number)
			}
			s.book.put(j)
			all = append(all, job.Changed{Change: what, Job: j})
		}
		return all
	})
}

// saw takes in the number of an end.
func (b *book) saw(ended int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = max(b.ended, ended)
}

// numbered lets the person's counter go on behind a number that another server gave. A number far away is the client's
// own.
func (b *book) numbered(user string, number float64) {
	n := int64(max(number, -number)) // negative: before the person's other jobs
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.person(user); n > p.counter && n-p.counter <= 16*numberBlock {
		p.counter = n
	}
}
