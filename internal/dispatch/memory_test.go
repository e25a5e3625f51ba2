package dispatch_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// memory is a queue without durability: what is left is the cost of driver and dispatcher.
type memory struct {
	notify func(job.Changed)
	fence  atomic.Int64
	mu     sync.Mutex
	jobs   map[job.ID]job.Entry
	tries  map[job.ID][]job.Try
}

func (m *memory) Submit(_ context.Context, s job.Submission) (job.Job, bool, error) {
	j := job.Job{
		ID: s.ID, User: s.User, Group: s.Group, PromptID: string(s.ID), ClientID: s.ClientID, Profile: s.Profile, Created: s.Created,
		State: job.Pending, Seq: m.fence.Add(1),
	}
	m.mu.Lock()
	m.jobs[j.ID] = job.Entry{Job: j, Request: s.Request}
	m.mu.Unlock()
	m.notify(job.Changed{Change: job.Submitted, Job: &j})
	return j, false, nil
}

func (m *memory) Claim(_ context.Context, id job.ID, p job.ClaimParams) (job.Entry, map[string]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.jobs[id]
	e.Job.State = job.Running
	e.Job.Attempt = job.Attempt{N: e.Job.Attempt.N + 1, Fence: m.fence.Add(1), BackEnd: p.BackEnd, RunID: p.RunID, ClientID: p.ClientID}
	m.jobs[id] = e
	return e, nil, nil
}

func (m *memory) Finish(_ context.Context, id job.ID, _ int64, out job.Outcome) error {
	m.mu.Lock()
	e := m.jobs[id]
	delete(m.jobs, id)
	if out.Try != nil {
		m.keep(id, *out.Try)
	}
	m.mu.Unlock()
	e.Job.State = out.State
	m.notify(job.Changed{Change: job.Finished, Job: &e.Job, Outcome: &out})
	return nil
}

func (m *memory) keep(id job.ID, t job.Try) {
	if m.tries == nil {
		m.tries = map[job.ID][]job.Try{}
	}
	m.tries[id] = append(m.tries[id], t)
}

func (m *memory) Release(_ context.Context, id job.ID, _ int64, _ string) error {
	m.mu.Lock()
	e := m.jobs[id]
	e.Job.State = job.Pending
	m.jobs[id] = e
	m.mu.Unlock()
	m.notify(job.Changed{Change: job.Released, Job: &e.Job})
	return nil
}

func (m *memory) GiveUp(ctx context.Context, id job.ID, fence int64, t job.Try) error {
	m.mu.Lock()
	m.keep(id, t)
	m.mu.Unlock()
	return m.Release(ctx, id, fence, t.Reason)
}

// causes are why the attempts of a job came to their ends: "gpu1 memory".
func (m *memory) causes(id job.ID) (list []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.tries[id] {
		list = append(list, fmt.Sprint(t.BackEnd, " ", t.Cause))
	}
	return list
}

func (m *memory) EachOpen(context.Context, func(job.Job) error) error { return nil }
func (m *memory) Posted(job.ID, int64) error                          { return nil }
func (m *memory) Fail(context.Context, job.ID, job.Outcome) error     { return nil }
func (m *memory) ListAll(context.Context, job.ListQuery, string) ([]job.Job, int, error) {
	return nil, 0, nil
}

func (m *memory) Load(context.Context, job.ID, int64) (job.Entry, map[string]string, error) {
	return job.Entry{}, nil, nil
}
func (m *memory) Tries(context.Context, job.ID) ([]job.Try, error) { return nil, nil }
func (m *memory) Expired(time.Time) []job.Job                      { return nil }
func (m *memory) Renew(context.Context, []job.Fence, time.Time) ([]job.Fence, error) {
	return nil, nil
}
