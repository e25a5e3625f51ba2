package queue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// keyLife is how long an Idempotency-Key names the job that was submitted with it.
const keyLife = 24 * time.Hour

// Submit accepts a job durably. What the person has submitted before is returned with existing true, and nothing
// changes: by its key, also when it is over or out of history, as long as the key lives; then by its prompt id. A key
// that came with another body is a conflict (idempotency_key_reused). So is a prompt id whose job is open
// (prompt_id_in_use); a finished one is replaced.
func (s *Service) Submit(ctx context.Context, sub job.Submission) (j job.Job, existing bool, err error) {
	in, err := s.insertion(sub)
	if err != nil {
		return job.Job{}, false, err
	}
	if old, ok := s.book.find(sub.User, in.Job.PromptID); ok && in.Key == "" {
		stored, err := s.store.Get(ctx, old.ID) // digests are not in memory
		if err == nil && !stored.State.Final() {
			return s.settled(ctx, Clash{Job: stored}, in)
		}
		if err != nil && !errors.Is(err, ErrMissing) {
			return job.Job{}, false, fmt.Errorf("look for an earlier submission: %w", err)
		}
	}
	mark, err := s.admit(ctx, sub, &in)
	if err != nil {
		return s.refused(ctx, in, err)
	}
	accepted := false
	defer func() { s.book.settle(sub.User, mark, accepted) }()
	for {
		clash, err := s.store.Insert(ctx, in, func(seq, fence int64) {
			accepted = true
			j = s.accepted(&in, seq, fence)
		})
		if err != nil {
			return job.Job{}, false, fmt.Errorf("accept a job: %w", err)
		}
		if clash == nil {
			return j, false, nil
		}
		if clash.Key || clash.Job.Digest == in.Job.Digest || !clash.Job.State.Final() {
			return s.repeated(*clash, in)
		}
		in.Replace = clash.Job.Seq
	}
}

// admit asks everybody who may refuse a submission, gives it its number, and maybe its first attempt. After an error
// there is nothing to settle.
func (s *Service) admit(ctx context.Context, sub job.Submission, in *Insertion) (mark int64, err error) {
	if s.opts.Admit != nil {
		if err := s.opts.Admit(ctx, sub); err != nil {
			return 0, err
		}
	}
	in.Job.Number, mark, err = s.book.admit(sub.User, s.opts, sub.Number, sub.Front)
	if err != nil {
		return 0, err
	}
	in.NumberMark = mark
	if s.opts.Place != nil && !in.Job.Held && in.Credentials == nil { // those leave when the disk has the job, not before
		if p, ok := s.opts.Place(in.Job); ok {
			in.Attempt = attempt(1, p)
		}
	}
	return mark, nil
}

// accepted takes a job in that the store has accepted, and announces it.
func (s *Service) accepted(in *Insertion, seq, fence int64) job.Job {
	j := in.Job
	j.Seq = seq
	if in.Attempt != nil {
		j.State, j.Attempt = job.Running, *in.Attempt
		j.Attempt.Fence = fence
	}
	if in.Credentials == nil {
		s.recent.add(j, in.Request)
	} else {
		s.recent.forget(j.User, j.PromptID)
	}
	s.change(func() []job.Changed {
		s.book.put(&j)
		return []job.Changed{{Change: job.Submitted, Job: &j}}
	})
	return j
}

// refused answers a submission that may not be accepted: what the person has submitted before is answered as before.
func (s *Service) refused(ctx context.Context, in Insertion, why error) (job.Job, bool, error) {
	clash := Clash{Key: true}
	err := ErrMissing
	if in.Key != "" {
		clash.Job, err = s.store.FindKey(ctx, in.Job.User, in.Key, in.Now)
	}
	if errors.Is(err, ErrMissing) && in.Job.PromptID != string(in.Job.ID) {
		clash.Key = false
		clash.Job, err = s.store.Find(ctx, in.Job.User, in.Job.PromptID)
	}
	switch {
	case err == nil && (clash.Key || clash.Job.Digest == in.Job.Digest || !clash.Job.State.Final()):
		return s.settled(ctx, clash, in)
	case err != nil && !errors.Is(err, ErrMissing):
		return job.Job{}, false, fmt.Errorf("look for an earlier submission: %w", err)
	}
	return job.Job{}, false, why
}

// settled is repeated for what was only read: it may not be on the disk yet.
func (s *Service) settled(ctx context.Context, clash Clash, in Insertion) (job.Job, bool, error) {
	if err := s.store.Settled(ctx); err != nil {
		return job.Job{}, false, fmt.Errorf("look for an earlier submission: %w", err)
	}
	return s.repeated(clash, in)
}

// repeated answers a submission whose key or prompt id the person has used before.
func (s *Service) repeated(clash Clash, in Insertion) (job.Job, bool, error) {
	old, same := clash.Job, clash.Job.Digest == in.Job.Digest
	if j, ok := s.book.get(old.ID); ok {
		old = j // with what only memory knows of it
	}
	if clash.Key {
		if same && givenPromptID(old) == givenPromptID(in.Job) {
			return old, true, nil
		}
		return job.Job{}, false, fault.New(fault.Conflict, "You have used this Idempotency-Key for another run.").
			WithRemedy("Send a fresh key with each new run, and the same key only to repeat the same one.").
			WithCode("idempotency_key_reused")
	}
	if same {
		return old, true, nil
	}
	return job.Job{}, false, fault.New(fault.Conflict,
		"The prompt id %s is used by another run of yours that is not over yet.", old.PromptID).
		WithRemedy("Leave prompt_id out, or send a fresh one.").WithCode("prompt_id_in_use")
}

// givenPromptID returns the prompt id that came with a submission; empty: it left that to us.
func givenPromptID(j job.Job) string {
	if j.PromptID == string(j.ID) {
		return ""
	}
	return j.PromptID
}

// maxKey is how long an Idempotency-Key may be, in bytes.
const maxKey = 255

// insertion checks a submission and makes the row of it.
func (s *Service) insertion(sub job.Submission) (Insertion, error) {
	switch {
	case sub.User == "":
		return Insertion{}, fault.New(fault.Invalid, "A job needs the person it belongs to.")
	case len(sub.Request.Prompt) == 0:
		return Insertion{}, fault.New(fault.Invalid, "A job needs a prompt.")
	case sub.Class > job.ClassLow:
		return Insertion{}, fault.New(fault.Invalid, "There is no class %d.", sub.Class).WithRemedy("Use 0 to 3.")
	case sub.Number != nil && (math.IsNaN(*sub.Number) || math.IsInf(*sub.Number, 0)):
		return Insertion{}, fault.New(fault.Invalid, "number must be a finite number.")
	case len(sub.Key) > maxKey:
		return Insertion{}, fault.New(fault.Invalid, "An Idempotency-Key has at most %d characters.", maxKey)
	}
	id := sub.ID
	if id == "" {
		u, err := uuid.NewV7()
		if err != nil {
			return Insertion{}, fmt.Errorf("make a job id: %w", err)
		}
		id = job.ID(u.String())
	}
	j := job.Job{
		ID: id, User: sub.User, Group: sub.Group, PromptID: sub.PromptID, ClientID: sub.ClientID,
		Class: sub.Class, State: job.Pending, WorkflowID: sub.WorkflowID, Profile: sub.Profile, Held: sub.Held,
		Created: millis(sub.Created), Deadline: millis(sub.Deadline),
	}
	if j.PromptID == "" {
		j.PromptID = string(id)
	}
	if sub.PromptID != "" || sub.Key != "" {
		j.Digest = Digest(sub)
	}
	if j.Created.IsZero() {
		j.Created = now()
	}
	in := Insertion{Job: j, Request: sub.Request}
	if sub.Key != "" {
		in.Key, in.Now = sub.Key, now()
		in.KeyUntil = in.Now.Add(keyLife)
	}
	if len(sub.Credentials) == 0 {
		return in, nil
	}
	var err error
	in.Credentials, err = seal(s.opts.Sealer, id, sub.Credentials)
	return in, err
}

// admit takes a place for a submission within the limits and gives it its number. mark is above zero when the
// person's reservation of numbers has to be raised with the submission.
func (b *book) admit(user string, o Options, given *float64, front bool) (number float64, mark int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.person(user)
	if most := o.MaxPendingPerUser; most > 0 && p.pending+p.coming >= most {
		return 0, 0, &fault.Error{
			Kind: fault.Busy, Code: "max_pending_per_user", RetryAfter: 5 * time.Second,
			Public: fmt.Sprintf("You have %s waiting already, and that is the limit for one person.", plural(p.pending+p.coming, "jobs")),
			Remedy: "Wait until some are done, or delete some from your queue.",
		}
	}
	if most := o.MaxPending; most > 0 && b.counts.Pending+b.coming >= most {
		return 0, 0, &fault.Error{
			Kind: fault.Busy, Code: "max_pending", RetryAfter: 5 * time.Second,
			Public: fmt.Sprintf("The studio's queue is full: %s wait already.", plural(b.counts.Pending+b.coming, "jobs")),
			Remedy: "Try again in a little while.",
		}
	}
	p.coming++
	b.coming++
	if given != nil {
		return *given, 0, nil
	}
	number, mark = p.next()
	if front {
		number = -number
	}
	return number, mark, nil
}

// next gives the next number of the person's counter. mark is above zero when the reservation has to be raised in the
// store with what gets the number. The book's lock is held.
func (p *person) next() (number float64, mark int64) {
	p.counter++
	if p.counter > p.reserved {
		// Until the store has the mark, others behind this one ask for the same: it only ever rises.
		mark = p.counter + numberBlock
	}
	return float64(p.counter), mark
}

// frontNumber gives a number before all that the person's counter has given so far.
func (b *book) frontNumber(user string) (number float64, mark int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	number, mark = b.person(user).next()
	return -number, mark
}

// reserved notes that numbers up to mark are reserved in the store.
func (b *book) reserved(user string, mark int64) {
	if mark == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.person(user)
	p.reserved = max(p.reserved, mark)
}

// settle gives the place back that admit took: the job is in the book by now, or was not accepted.
func (b *book) settle(user string, mark int64, accepted bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.person(user)
	p.coming--
	b.coming--
	if accepted {
		p.reserved = max(p.reserved, mark)
	}
}
