package queue

import (
	"context"
	"sync/atomic"

	"github.com/ahelme/comfyume/internal/job"
)

// Rejected counts results that came and were kept out, since the program started.
type Rejected struct {
	Late      int64 // their attempt had lost the job: its lease had ended, or it was taken away
	Doubled   int64 // their attempt had given a result before
	Cancelled int64 // their job was cancelled meanwhile
}

type rejected struct{ late, doubled, cancelled atomic.Int64 }

// Rejected returns the counts of results that were kept out.
func (s *Service) Rejected() Rejected {
	return Rejected{Late: s.rejected.late.Load(), Doubled: s.rejected.doubled.Load(), Cancelled: s.rejected.cancelled.Load()}
}

// reject counts and logs a result whose attempt may not report, and returns what to answer. Where it may be the attempt's own
// earlier report that stands in its way, and that one is not on the disk, nothing is said against it.
func (s *Service) reject(ctx context.Context, id job.ID, fence int64, state job.State) error {
	if err := s.store.Settled(ctx); err != nil {
		return err
	}
	count, why := &s.rejected.late, "late"
	// What became of the job is for the count only: where it can't be read, late is true enough.
	if j, err := s.Get(context.WithoutCancel(ctx), id); err == nil {
		switch {
		case j.State == job.Cancelled:
			count, why = &s.rejected.cancelled, "cancelled"
		case j.State.Final() && j.Attempt.Fence == fence:
			count, why = &s.rejected.doubled, "doubled"
		}
	}
	count.Add(1)
	s.log.Warn("a result was kept out", "job", string(id), "fence", fence, "result", string(state), "reason", why)
	return stale()
}
