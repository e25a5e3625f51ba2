package app

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/gateway"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/usage"
)

// newUsage opens the ledger of what people take. Its counts are whole once the queue is open, see recount.
func (s *Studio) newUsage(ctx context.Context) (err error) {
	q := s.cfg.Queue
	s.usage, err = usage.New(ctx, s.stores.took, usage.Options{
		Quotas: usage.Quotas{
			Everyone: quotaOf(q.Quotas.Everyone), EveryGroup: quotaOf(q.Quotas.EveryGroup),
			Users: quotasOf(q.Quotas.Users), Groups: quotasOf(q.Quotas.Groups),
		},
		Weights: usage.Weights{Users: q.Weights.Users, Groups: q.Weights.Groups},
		Budgets: budgetsOf(s.cfg.Budget),
		Kept:    q.KeepPerUser, Log: s.log,
	})
	return err
}

func quotaOf(q config.Quota) usage.Quota {
	return usage.Quota{
		JobsPerHour: q.JobsPerHour, JobsPerDay: q.JobsPerDay,
		GPUPerHour: time.Duration(q.GPUPerHour), GPUPerDay: time.Duration(q.GPUPerDay),
	}
}

func quotasOf(of map[string]config.Quota) map[string]usage.Quota {
	all := make(map[string]usage.Quota, len(of))
	for name, q := range of {
		all[name] = quotaOf(q)
	}
	return all
}

// recount has the ledger count from the jobs that are kept.
func (s *Studio) recount(ctx context.Context) error {
	return s.usage.Recount(ctx, func(ctx context.Context, since time.Time, fn func(job.Job) error) error {
		if err := s.queue.EachOpen(ctx, fn); err != nil {
			return err
		}
		return s.stores.took.EachEnded(ctx, since, fn)
	})
}

// admit asks the ledger about a submission; a command that only looks at the queue has none.
func (s *Studio) admit(ctx context.Context, sub job.Submission) error {
	if s.usage == nil {
		return nil
	}
	return s.usage.Admit(ctx, sub)
}

// estimate is how long a job will have a GPU of usual speed.
func (s *Studio) estimate(j job.Job) time.Duration {
	mean, _ := s.usage.Estimate(j)
	return mean
}

// myQuotas is what a person took and may take, as their own page shows it.
type myQuotas struct{ *usage.Ledger }

// Meters implements gateway.Quotas.
func (q myQuotas) Meters(_ context.Context, user, group string) ([]gateway.Meter, error) {
	return each(usage.Lines(q.Used(user, group)), nil, func(l usage.Line) gateway.Meter { return gateway.Meter(l) })
}
