package queue

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// Submit accepts a job durably. When the person already has a job with that prompt id which asks for the same, it is
// returned with existing true and nothing changes. With another body, an open job is a conflict (prompt_id_in_use),
// and a finished one is replaced.
func (s *Service) Submit(ctx context.Context, sub job.Submission) (j job.Job, existing bool, err error) {
	in, err := s.insertion(sub)
	if err != nil {
		return job.Job{}, false, err
	}
	if old, ok := s.book.find(sub.User, in.Job.PromptID); ok {
		return repeated(old, in.Job)
	}
	number, mark, err := s.book.admit(sub.User, s.opts, sub.Number, sub.Front)
	if err != nil {
		return job.Job{}, false, err
	}
	in.Job.Number, in.NumberMark = number, mark
	if s.opts.Place != nil {
		if p, ok := s.opts.Place(in.Job); ok {
			in.Attempt = attempt(1, p)
		}
	}
	accepted := false
	defer func() { s.book.settle(sub.User, mark, accepted) }()
	for {
		clash, err := s.store.Insert(ctx, in, func(seq, fence int64) {
			in.Job.Seq = seq
			accepted = true
			j = in.Job
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
		})
		if err != nil {
			return job.Job{}, false, fmt.Errorf("accept a job: %w", err)
		}
		if clash == nil {
			return j, false, nil
		}
		if clash.Digest == in.Job.Digest || !clash.State.Final() {
			return repeated(*clash, in.Job)
		}
		in.Replace = clash.Seq
	}
}

// repeated answers a submission whose prompt id the person has used before.
func repeated(old, sent job.Job) (job.Job, bool, error) {
	if old.Digest == sent.Digest {
		return old, true, nil
	}
	return job.Job{}, false, fault.New(fault.Conflict,
		"The prompt id %s is used by another run of yours that is not over yet.", old.PromptID).
		WithRemedy("Leave prompt_id out, or send a fresh one.").WithCode("prompt_id_in_use")
}

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
		Class: sub.Class, State: job.Pending, WorkflowID: sub.WorkflowID, Created: millis(sub.Created),
	}
	if j.PromptID == "" {
		j.PromptID = string(id)
	} else {
		j.Digest = Digest(sub)
	}
	if j.Created.IsZero() {
		j.Created = now()
	}
	in := Insertion{Job: j, Request: sub.Request}
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
	p.number++
	if p.number > p.reserved {
		// Until the store has the mark, others behind this one ask for the same: it only ever rises.
		mark = p.number + numberBlock
	}
	number = float64(p.number)
	if front {
		number = -number
	}
	return number, mark, nil
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
