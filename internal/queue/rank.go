package queue

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// The methods of this file change the place of jobs that wait; a staged job waits too, and whoever staged it hears of
// the change. Whose jobs they may be is the caller's matter. A job that does not wait any more is a conflict
// (not_pending).

// SetClass changes a waiting job's priority.
func (s *Service) SetClass(ctx context.Context, id job.ID, c job.Class) (job.Job, error) {
	if c > job.ClassLow {
		return job.Job{}, fault.New(fault.Invalid, "There is no class %d.", c).WithRemedy("Use 0 to 3.")
	}
	return s.move(ctx, id, func(j job.Job) (Rank, bool) {
		r := rankOf(j)
		r.Class = c
		return r, j.Class != c
	})
}

// Hold keeps a waiting job from running, or lets it go again. A held job keeps its place.
func (s *Service) Hold(ctx context.Context, id job.ID, on bool) (job.Job, error) {
	return s.move(ctx, id, func(j job.Job) (Rank, bool) {
		r := rankOf(j)
		r.Held = on
		return r, j.Held != on
	})
}

// SetDeadline notes when a waiting job is needed; the zero time: nobody says. It changes nobody's turn.
func (s *Service) SetDeadline(ctx context.Context, id job.ID, at time.Time) (job.Job, error) {
	return s.move(ctx, id, func(j job.Job) (Rank, bool) {
		r := rankOf(j)
		r.Deadline = millis(at)
		return r, !j.Deadline.Equal(r.Deadline)
	})
}

// ToFront puts a waiting job before its owner's other waiting jobs of its class.
func (s *Service) ToFront(ctx context.Context, id job.ID) (job.Job, error) {
	return s.move(ctx, id, func(j job.Job) (Rank, bool) {
		r := rankOf(j)
		first, ok := s.book.first(j)
		if !ok {
			return r, false
		}
		number, mark := s.book.frontNumber(j.User)
		if r.Number, r.NumberMark = number, mark; r.Number >= first {
			r.Number = below(first)
		}
		return r, true
	})
}

// below returns a number that runs before n.
func below(n float64) float64 {
	if n-1 < n {
		return n - 1
	}
	return max(math.Nextafter(n, math.Inf(-1)), -math.MaxFloat64)
}

// above returns a number that runs after n, as close as can be.
func above(n float64) float64 { return min(math.Nextafter(n, math.Inf(1)), math.MaxFloat64) }

// Reorder puts these waiting jobs of the person, all of one class, into this order, in the places that they have now.
// It returns those that it moved: a job that goes on at the same moment is left out.
func (s *Service) Reorder(ctx context.Context, user string, ids []job.ID) ([]job.Job, error) {
	jobs := make([]job.Job, len(ids))
	seen := make(map[job.ID]bool, len(ids))
	for i, id := range ids {
		j, err := s.Get(ctx, id)
		switch {
		case err != nil:
			return nil, err
		case j.User != user:
			return nil, missing()
		case visible(j) != job.Pending:
			return nil, notPending()
		case seen[id]:
			return nil, fault.New(fault.Invalid, "The job %s is named twice.", id)
		case j.Class != jobs[0].Class && i > 0:
			return nil, fault.New(fault.Invalid, "Jobs of different priority can't change places.").
				WithRemedy("Reorder those of one priority at a time.")
		}
		jobs[i], seen[id] = j, true
	}
	places := slices.Clone(jobs)
	slices.SortFunc(places, func(x, y job.Job) int { return Compare(&x, &y) })
	ranks := make([]Rank, 0, len(jobs))
	for i, j := range jobs {
		r := rankOf(j)
		r.Number = places[i].Number
		if i > 0 { // equal numbers run in order of acceptance
			if last := ranks[i-1]; r.Number < last.Number || r.Number == last.Number && j.Seq < jobs[i-1].Seq {
				r.Number = above(last.Number)
			}
		}
		ranks = append(ranks, r)
	}
	for i := len(jobs) - 1; i >= 0; i-- { // those that stay where they are need no change
		if ranks[i].Number == jobs[i].Number {
			jobs, ranks = slices.Delete(jobs, i, i+1), slices.Delete(ranks, i, i+1)
		}
	}
	return s.rank(ctx, jobs, ranks)
}

func rankOf(j job.Job) Rank {
	r := Rank{Ref: Ref{Seq: j.Seq}, User: j.User, Class: j.Class, Number: j.Number, Held: j.Held, Deadline: j.Deadline}
	if j.State == job.Running {
		r.Fence = j.Attempt.Fence
	}
	return r
}

// move gives one waiting job the rank that fn chooses, if that is news.
func (s *Service) move(ctx context.Context, id job.ID, fn func(job.Job) (Rank, bool)) (job.Job, error) {
	for {
		j, err := s.Get(ctx, id)
		if err != nil {
			return job.Job{}, err
		}
		if visible(j) != job.Pending {
			return job.Job{}, notPending()
		}
		r, news := fn(j)
		if !news {
			return j, s.store.Settled(ctx)
		}
		moved, err := s.rank(ctx, []job.Job{j}, []Rank{r})
		if err != nil {
			return job.Job{}, err
		}
		if len(moved) == 1 {
			return moved[0], nil
		}
		// It went on between the look and the change: look again.
	}
}

// rank gives jobs their ranks, as far as they are still as they were, and returns those that got theirs.
func (s *Service) rank(ctx context.Context, jobs []job.Job, ranks []Rank) (moved []job.Job, err error) {
	if len(jobs) == 0 {
		return nil, nil
	}
	err = s.store.Rank(ctx, ranks, func(ranked []bool) {
		for i, ok := range ranked {
			s.book.reserved(ranks[i].User, ranks[i].NumberMark)
			if !ok {
				continue
			}
			s.replace(jobs[i].ID, job.Moved, func(j *job.Job) {
				j.Class, j.Number, j.Held, j.Deadline = ranks[i].Class, ranks[i].Number, ranks[i].Held, ranks[i].Deadline
				moved = append(moved, *j)
			})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("move jobs: %w", err)
	}
	return moved, nil
}
