package dispatch

import (
	"context"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

const (
	// mostUntidy is for how many of the last runs back ends are asked at a start to forget them.
	mostUntidy = 64
	// mostTelling is how many of the last jobs tell at a start which back ends died under them: as many as a busy studio
	// has in half a minute, so that one in which back ends are killed all the time accuses no job of it.
	mostTelling = 1000
)

// tidyUp has back ends forget the last runs: a process that was killed had not come to it, and what people asked for
// must not stay there for others to read. What those runs tell of deaths is taken in.
func (l *loop) tidyUp(ctx context.Context) error {
	over := []job.State{job.Completed, job.Failed, job.Cancelled}
	jobs, _, err := l.deps.Queue.ListAll(ctx, job.ListQuery{States: over, Limit: mostTelling, Uncounted: true}, "")
	if err != nil {
		return fmt.Errorf("reading the last jobs: %w", err)
	}
	var from time.Time
	for i, j := range jobs {
		if len(jobs) == mostTelling && (from.IsZero() || j.Finished.Before(from)) {
			from = j.Finished
		}
		if driver := l.drivers[j.Attempt.BackEnd]; i < mostUntidy && driver != nil && j.Attempt.RunID != "" {
			driver.Cancel(j.Attempt.RunID)
		}
		if j.State == job.Completed {
			l.deaths.ended(&j, j.Finished)
		}
		if j.Attempt.N < 2 {
			continue
		}
		tries, err := l.deps.Queue.Tries(ctx, j.ID)
		if err != nil {
			return fmt.Errorf("reading the attempts of the last jobs: %w", err)
		}
		// One that ended by a death was stopped for it: that says nothing of the back ends.
		if n := len(tries); j.State != job.Failed || n == 0 || tries[n-1].Cause != job.CauseCrashed {
			l.remember(&j, tries)
		}
	}
	l.deaths.knows(from)
	return nil
}

// remember takes in which back ends died under a job before our start.
func (l *loop) remember(j *job.Job, tries []job.Try) {
	for _, t := range tries {
		if t.Cause == job.CauseCrashed {
			l.deaths.died(t.BackEnd, j, t.Ended)
		}
	}
}
