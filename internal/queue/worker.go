package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// EachOpen calls fn for every open job of everybody in order of acceptance. After a restart it is how the
// dispatcher learns what waits and what may still run somewhere. What changes meanwhile is given as it is then.
func (s *Service) EachOpen(ctx context.Context, fn func(job.Job) error) error {
	for id := range s.book.ids() {
		if err := ctx.Err(); err != nil {
			return err
		}
		j, ok := s.book.get(id)
		if !ok {
			continue
		}
		if err := fn(j); err != nil {
			return err
		}
	}
	return nil
}

// Claim writes down an attempt for a pending job in one commit, before a byte goes out, and returns the job with
// its new attempt, what it asks for, and the credentials it came with. A job that is not pending any more gives a
// conflict (not_pending), and so does one that is held (held).
func (s *Service) Claim(ctx context.Context, id job.ID, p job.ClaimParams) (job.Entry, map[string]string, error) {
	old, ok := s.book.pending(id)
	switch {
	case !ok:
		return job.Entry{}, nil, notPending()
	case old.held:
		return job.Entry{}, nil, held()
	}
	a := attempt(old.attempts+1, p)
	var claimed job.Job
	err := s.store.Claim(ctx, old.seq, *a, func(fence int64) {
		a.Fence = fence
		s.replace(id, job.Claimed, func(j *job.Job) {
			j.State, j.Attempt = job.Running, *a
			claimed = *j
		})
	})
	if errors.Is(err, ErrStale) {
		if now, ok := s.book.pending(id); ok && now.held {
			return job.Entry{}, nil, held()
		}
		return job.Entry{}, nil, notPending()
	}
	if err != nil {
		return job.Entry{}, nil, fmt.Errorf("claim a job: %w", err)
	}
	entry, credentials, err := s.load(ctx, claimed)
	if err != nil {
		// Nothing went out: give the job back, so that it is not lost until its lease ends.
		back := s.Release(context.WithoutCancel(ctx), id, a.Fence, "its request could not be read")
		return job.Entry{}, nil, errors.Join(err, back)
	}
	return entry, credentials, nil
}

// attempt makes the n-th attempt of a job; its fence is still to come.
func attempt(n int, p job.ClaimParams) *job.Attempt {
	return &job.Attempt{N: n, BackEnd: p.BackEnd, RunID: p.RunID, ClientID: p.ClientID, LeaseUntil: millis(p.LeaseUntil)}
}

// Settled returns once every change that was announced so far is durable; an error: that will never be.
func (s *Service) Settled(ctx context.Context) error { return s.store.Settled(ctx) }

// Load returns what Claim returned for an attempt that is still the job's newest: after a restart it is taken up
// again with it.
func (s *Service) Load(ctx context.Context, id job.ID, fence int64) (job.Entry, map[string]string, error) {
	j, ok := s.book.get(id)
	if !ok || j.State != job.Running || j.Attempt.Fence != fence {
		return job.Entry{}, nil, stale()
	}
	return s.load(ctx, j)
}

func (s *Service) load(ctx context.Context, j job.Job) (job.Entry, map[string]string, error) {
	if req, ok := s.recent.request(j); ok { // jobs with credentials are not remembered
		return job.Entry{Job: j, Request: req}, nil, nil
	}
	req, sealed, err := s.store.Task(ctx, j.Seq)
	if errors.Is(err, ErrMissing) {
		return job.Entry{}, nil, stale()
	}
	if err != nil {
		return job.Entry{}, nil, fmt.Errorf("read what a job asks for: %w", err)
	}
	credentials, err := unseal(s.opts.Sealer, j.ID, sealed)
	if err != nil {
		return job.Entry{}, nil, err
	}
	return job.Entry{Job: j, Request: req}, credentials, nil
}

// Posted notes that the back end was given the job: from now on the person sees it running. It is kept in memory;
// the next Renew and the finish write it down. A stale fence (stale_fence) means that the job was taken away
// meanwhile and the run has to be stopped.
func (s *Service) Posted(id job.ID, fence int64) error {
	held := false
	s.change(func() []job.Changed {
		var j *job.Job
		if j, held = s.book.post(id, fence, now()); j == nil {
			return nil
		}
		if s.shared != nil {
			s.shared.Post(Renewal{Ref: Ref{Seq: j.Seq, Fence: fence}, Posted: true, Started: j.Started})
		}
		return []job.Changed{{Change: job.Posted, Job: j}}
	})
	if !held {
		return stale()
	}
	return nil
}

// Renew extends the leases of attempts. It returns those that were lost: their job has moved on and their run has
// to be stopped.
func (s *Service) Renew(ctx context.Context, fences []job.Fence, until time.Time) (lost []job.Fence, err error) {
	until = millis(until)
	renewals := make([]Renewal, 0, len(fences))
	held := make([]job.Fence, 0, len(fences))
	for _, f := range fences {
		j, ok := s.book.get(f.Job)
		if !ok || j.State != job.Running || j.Attempt.Fence != f.N {
			lost = append(lost, f)
			continue
		}
		held = append(held, f)
		renewals = append(renewals, Renewal{Ref: Ref{Seq: j.Seq, Fence: f.N}, Posted: j.Attempt.Posted, Started: j.Started})
	}
	if len(renewals) == 0 {
		return lost, nil
	}
	renewed, err := s.store.Renew(ctx, renewals, until)
	if err != nil {
		return nil, fmt.Errorf("renew leases: %w", err)
	}
	for i, f := range held {
		if !renewed[i] {
			lost = append(lost, f)
			continue
		}
		s.book.update(f.Job, func(j *job.Job) bool {
			if j.State != job.Running || j.Attempt.Fence != f.N {
				return false
			}
			j.Attempt.LeaseUntil = until
			return true
		})
	}
	return lost, nil
}

// Expired returns the running jobs whose lease ended at or before the time. They are Released, or taken up again.
func (s *Service) Expired(at time.Time) []job.Job { return s.book.expired(at) }

// Finish makes a running job final with what its attempt gave. Outputs and history are readable when it returns;
// the announcement carries the outcome. A stale fence changes nothing; see Rejected.
func (s *Service) Finish(ctx context.Context, id job.ID, fence int64, out job.Outcome) error {
	j, ok := s.book.get(id)
	if !ok || j.State != job.Running || j.Attempt.Fence != fence {
		return s.reject(ctx, id, fence, out.State)
	}
	return s.conclude(ctx, j, out, func() error { return s.reject(ctx, id, fence, out.State) })
}

// Fail makes a pending job final without a run: nobody can run it (Failed), or its owner wanted it interrupted while
// its attempt was lost (Cancelled).
func (s *Service) Fail(ctx context.Context, id job.ID, out job.Outcome) error {
	j, ok := s.book.get(id)
	if !ok || j.State != job.Pending {
		return notPending()
	}
	if out.State == job.Completed {
		return fault.New(fault.Invalid, "A job that never ran can't be completed.")
	}
	return s.conclude(ctx, j, out, notPending)
}

// conclude writes an outcome if the job is still as it was; otherwise it returns what refused gives.
func (s *Service) conclude(ctx context.Context, j job.Job, out job.Outcome, refused func() error) error {
	if !out.State.Final() {
		return fault.New(fault.Invalid, "A job can't end as %q.", out.State)
	}
	end := Ending{
		Ref: Ref{Seq: j.Seq}, User: j.User, State: out.State, Outcome: &out, Started: j.Started, Finished: now(),
	}
	if out.Try != nil {
		t := kept(*out.Try)
		end.Try, out.Try = &t, nil
	}
	if j.State == job.Running {
		end.Fence = j.Attempt.Fence
		if end.Started.IsZero() {
			end.Started = end.Finished
		}
		if end.Finished.Before(end.Started) { // the clock was set back meanwhile
			end.Finished = end.Started
		}
	}
	held := false
	err := s.store.Finish(ctx, []Ending{end}, func(ended []int64) {
		if held = ended[0] > 0; held {
			s.end(&end, ended[0], j.ID, job.Finished)
		}
	})
	if err != nil {
		return fmt.Errorf("finish a job: %w", err)
	}
	if !held {
		return refused()
	}
	return nil
}

// apply changes the job's row the way the store does.
func (e *Ending) apply(j *job.Job) {
	j.State, j.Started, j.Finished = e.State, e.Started, e.Finished
	j.Hidden, j.Attempt.LeaseUntil = e.Hidden, time.Time{}
	if e.Outcome != nil {
		j.Error, j.Summary = e.Outcome.Error, e.Outcome.Summary
	}
}

// Release makes a running job pending again: nothing came of its attempt, and nothing is kept of it. The reason is for
// the log. A stale fence changes nothing. A job whose Stop is set stays so: end it with Fail.
func (s *Service) Release(ctx context.Context, id job.ID, fence int64, reason string) error {
	return s.release(ctx, id, fence, nil, reason)
}

// GiveUp is Release of an attempt that was lost: what came of it is kept with the job.
func (s *Service) GiveUp(ctx context.Context, id job.ID, fence int64, t job.Try) error {
	t = kept(t)
	return s.release(ctx, id, fence, &t, t.Reason)
}

// kept is an attempt that is over as stores keep it.
func kept(t job.Try) job.Try {
	const most = 500 // bytes of a reason
	if len(t.Reason) > most {
		t.Reason = strings.ToValidUTF8(t.Reason[:most], "") + "…"
	}
	t.Began, t.Ended = millis(t.Began), millis(t.Ended)
	return t
}

// Tries returns what came of the job's attempts, in their order: those that were lost, and, where there were any, the
// last one.
func (s *Service) Tries(ctx context.Context, id job.ID) ([]job.Try, error) {
	j, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	tries, err := s.store.Tries(ctx, j.Seq)
	if err != nil {
		return nil, fmt.Errorf("read the attempts of a job: %w", err)
	}
	return tries, nil
}

func (s *Service) release(ctx context.Context, id job.ID, fence int64, try *job.Try, reason string) error {
	j, ok := s.book.get(id)
	if !ok || j.State != job.Running || j.Attempt.Fence != fence {
		return stale()
	}
	err := s.store.Release(ctx, j.Seq, fence, try, func() {
		s.replace(id, job.Released, func(j *job.Job) {
			j.State, j.Attempt.Posted, j.Attempt.LeaseUntil = job.Pending, false, time.Time{}
		})
	})
	if errors.Is(err, ErrStale) {
		return stale()
	}
	if err != nil {
		return fmt.Errorf("release a job: %w", err)
	}
	s.log.Info("a job is pending again", "job", string(id), "user", j.User, "attempt", j.Attempt.N,
		"backend", j.Attempt.BackEnd, "reason", reason)
	return nil
}

// replace changes an open job in the book after the store has, and announces it.
func (s *Service) replace(id job.ID, what job.Change, fn func(*job.Job)) {
	s.change(func() []job.Changed {
		j := s.book.update(id, func(j *job.Job) bool { fn(j); return true })
		if j == nil {
			return nil
		}
		return []job.Changed{{Change: what, Job: j}}
	})
}

// end takes a job out of the book after the store has made it final, and announces it.
func (s *Service) end(e *Ending, ended int64, id job.ID, what job.Change) (j job.Job) {
	s.change(func() []job.Changed {
		final := s.book.end(id, ended, e.apply)
		if final == nil {
			return nil
		}
		if j = *final; e.Outcome != nil {
			s.recent.end(j, *e.Outcome)
		} else {
			s.recent.forget(j.User, j.PromptID)
		}
		return []job.Changed{{Change: what, Job: final, Outcome: e.Outcome}}
	})
	return j
}

func notPending() error {
	return fault.New(fault.Conflict, "The job does not wait any more.").WithCode("not_pending")
}

func held() error {
	return fault.New(fault.Conflict, "The job is held.").WithCode("held")
}
