package queue

import (
	"context"
	"fmt"

	"github.com/ahelme/comfyume/internal/job"
)

// pruneChunk is how many jobs go in one commit, so that others hardly wait for it.
const pruneChunk = 100

// Prune takes final jobs out for ever that are older than Options.KeepFor, or are more than Options.KeepPerUser of one
// person, the oldest first, and keys that have expired. What is in history and what is not count apart. To its owner a
// job that goes is one deleted from history; files stay. It returns how many jobs went.
func (s *Service) Prune(ctx context.Context) (int, error) {
	p := Pruning{Keep: s.opts.KeepPerUser, Limit: pruneChunk, Now: now()}
	if s.opts.KeepFor > 0 {
		p.Before = p.Now.Add(-s.opts.KeepFor)
	}
	for total := 0; ; {
		n := 0
		if err := s.store.Prune(ctx, p, func(gone []Gone) {
			n = len(gone)
			s.pruned(gone)
		}); err != nil {
			return total, fmt.Errorf("forget old jobs: %w", err)
		}
		if total += n; n < p.Limit {
			return total, nil
		}
	}
}

// pruned tells everybody whose history has lost something.
func (s *Service) pruned(gone []Gone) {
	lost := map[string][]string{}
	for _, g := range gone {
		if !g.Hidden {
			lost[g.User] = append(lost[g.User], g.PromptID)
		}
	}
	for user, promptIDs := range lost {
		s.recent.forgetEnded(user, promptIDs)
		s.change(func() []job.Changed {
			return []job.Changed{{Change: job.HistoryChanged, Job: &job.Job{User: user}}}
		})
	}
}
