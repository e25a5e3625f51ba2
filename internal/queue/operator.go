package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/ahelme/comfyume/internal/job"
)

// The methods of this file are for operators: they see and change everybody's jobs.

// Counts returns how many jobs there are now, and how many ended since the program started.
func (s *Service) Counts() job.Counts {
	s.book.mu.RLock()
	defer s.book.mu.RUnlock()
	return s.book.counts
}

// CountsByUser returns the open jobs of everybody who has some.
func (s *Service) CountsByUser() map[string]job.Counts { return s.book.byUser() }

// Get returns anybody's job, also one that is out of history.
func (s *Service) Get(ctx context.Context, id job.ID) (job.Job, error) {
	if j, ok := s.book.get(id); ok {
		return j, nil
	}
	j, err := s.store.Get(ctx, id)
	if errors.Is(err, ErrMissing) {
		return job.Job{}, missing()
	}
	if err != nil {
		return job.Job{}, fmt.Errorf("find a job: %w", err)
	}
	return j, nil
}

// ListAll lists everybody's jobs, or one person's, also those that are out of history.
func (s *Service) ListAll(ctx context.Context, q job.ListQuery, user string) ([]job.Job, int, error) {
	return s.list(ctx, Scope{User: user, Hidden: true}, q)
}

// Cancel ends anybody's job: a waiting one is taken out, a running one is asked to stop. It returns the job as it
// is then.
func (s *Service) Cancel(ctx context.Context, id job.ID) (job.Job, error) {
	for {
		j, err := s.Get(ctx, id)
		if err != nil || j.State.Final() {
			return j, err
		}
		act := s.stop
		if visible(j) == job.Pending {
			act = s.withdraw
		}
		done, err := act(ctx, []job.Job{j})
		if err != nil {
			return job.Job{}, err
		}
		if len(done) == 1 {
			return done[0], nil
		}
		// It went on to another state between the look and the change: look again.
	}
}
