package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// Remaining counts the person's open jobs, running ones included. It costs no look into the store.
func (s *Service) Remaining(user string) int { return s.book.remaining(user) }

// Open returns the person's open jobs: those a back end works on first, then those that are staged, then the
// waiting ones in the order in which they will run.
func (s *Service) Open(ctx context.Context, user string) ([]job.Job, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.book.open(user), nil
}

// Requests returns what the person's jobs with these ids ask for; others' and unknown ones are left out.
func (s *Service) Requests(ctx context.Context, user string, ids []job.ID) (map[job.ID]job.Request, error) {
	seqs := make([]int64, 0, len(ids))
	byID := make(map[int64]job.ID, len(ids))
	out := make(map[job.ID]job.Request, len(ids))
	for _, id := range ids {
		if j, ok := s.book.get(id); ok && j.User == user {
			if req, ok := s.recent.request(j); ok {
				out[id] = req
				continue
			}
			seqs = append(seqs, j.Seq)
			byID[j.Seq] = id
			continue
		}
		j, err := s.store.Get(ctx, id) // final ones: rare here
		switch {
		case errors.Is(err, ErrMissing):
		case err != nil:
			return nil, fmt.Errorf("find a job: %w", err)
		case j.User == user:
			seqs = append(seqs, j.Seq)
			byID[j.Seq] = id
		}
	}
	if len(seqs) == 0 {
		return out, nil
	}
	found, err := s.store.Requests(ctx, user, seqs)
	if err != nil {
		return nil, fmt.Errorf("read what jobs ask for: %w", err)
	}
	for seq, req := range found {
		out[byID[seq]] = req
	}
	return out, nil
}

// Find returns the person's job with the prompt id, open or in history.
func (s *Service) Find(ctx context.Context, user, promptID string) (job.Job, error) {
	if j, ok := s.book.find(user, promptID); ok {
		return j, nil
	}
	j, err := s.store.Find(ctx, user, promptID)
	if errors.Is(err, ErrMissing) {
		return job.Job{}, missing()
	}
	if err != nil {
		return job.Job{}, fmt.Errorf("find a job: %w", err)
	}
	return j, nil
}

// Entry returns the person's job with the prompt id with what it asks for and, when it is over, how it ended.
func (s *Service) Entry(ctx context.Context, user, promptID string) (job.Entry, error) {
	if j, ok := s.book.find(user, promptID); ok {
		if req, ok := s.recent.request(j); ok {
			return job.Entry{Job: j, Request: req}, nil
		}
	} else if e, ok := s.recent.entry(user, promptID); ok {
		return e, nil
	}
	e, err := s.store.Entry(ctx, user, promptID)
	if errors.Is(err, ErrMissing) {
		return job.Entry{}, missing()
	}
	if err != nil {
		return job.Entry{}, fmt.Errorf("read a job: %w", err)
	}
	if j, ok := s.book.get(e.Job.ID); ok && e.Outcome == nil {
		e.Job = j // with what only memory knows of it
	}
	return e, nil
}

// EachHistory calls fn for the person's finished jobs in the order in which they ended, oldest first, within the
// bounds of GET /history. Nothing is held open while fn runs. Of the jobs, attempts and digests may be left out.
func (s *Service) EachHistory(ctx context.Context, user string, q job.HistoryQuery, fn func(job.Entry) error) error {
	return s.store.EachHistory(ctx, user, q, fn)
}

// Jobs lists the person's jobs the way GET /api/jobs does, and counts them without limit and offset. Pending and
// running are the states that the person sees: a staged job is pending.
func (s *Service) Jobs(ctx context.Context, user string, q job.ListQuery) ([]job.Job, int, error) {
	if user == "" {
		return nil, 0, nil
	}
	return s.list(ctx, Scope{User: user}, q)
}

// list merges open jobs, which are in memory, with final ones from the store.
func (s *Service) list(ctx context.Context, scope Scope, q job.ListQuery) ([]job.Job, int, error) {
	c := choice{user: scope.User, states: q.States, workflowID: q.WorkflowID, ascending: q.Ascending}
	if q.Limit > 0 {
		c.most = q.Limit + max(q.Offset, 0)
	}
	open, total, ended := s.book.list(c)
	scope.Ended = ended
	final := finals(q.States)
	if len(final) == 0 {
		return window(open, q), total, nil
	}
	stored := q
	stored.States, stored.Limit, stored.Offset = final, c.most, 0
	if total == 0 { // the store's order is the whole order
		stored.Limit, stored.Offset = q.Limit, q.Offset
	}
	jobs, more, err := s.store.List(ctx, scope, stored)
	if err != nil {
		return nil, 0, fmt.Errorf("list jobs: %w", err)
	}
	if total == 0 {
		return jobs, more, nil
	}
	all := append(open, jobs...)
	order(all, q)
	return window(all, q), total + more, nil
}

// visible is the state as its owner sees it.
func visible(j job.Job) job.State {
	if j.State == job.Running && !j.Attempt.Posted {
		return job.Pending
	}
	return j.State
}

func finals(states []job.State) []job.State {
	if states == nil {
		return []job.State{job.Completed, job.Failed, job.Cancelled}
	}
	return slices.DeleteFunc(slices.Clone(states), func(s job.State) bool { return !s.Final() })
}

func order(jobs []job.Job, q job.ListQuery) {
	slices.SortStableFunc(jobs, func(x, y job.Job) int {
		c := cmp.Compare(x.Seq, y.Seq)
		if q.ByDuration {
			c = cmp.Or(cmp.Compare(x.Duration(), y.Duration()), c)
		}
		if !q.Ascending {
			c = -c
		}
		return c
	})
}

func window(jobs []job.Job, q job.ListQuery) []job.Job {
	jobs = jobs[min(max(q.Offset, 0), len(jobs)):]
	if q.Limit > 0 && len(jobs) > q.Limit {
		jobs = jobs[:q.Limit]
	}
	return jobs
}

// RemovePending takes the person's jobs with these prompt ids out of the queue if they wait; a staged job waits too,
// and its attempt loses its right. They leave no trace in history. It returns those it took out.
func (s *Service) RemovePending(ctx context.Context, user string, promptIDs []string) ([]job.Job, error) {
	var jobs []job.Job
	for _, id := range promptIDs {
		if j, ok := s.book.find(user, id); ok {
			jobs = append(jobs, j)
		}
	}
	return s.withdraw(ctx, jobs)
}

// ClearPending takes all of the person's waiting jobs out of the queue.
func (s *Service) ClearPending(ctx context.Context, user string) ([]job.Job, error) {
	jobs := s.book.open(user)
	return s.withdraw(ctx, jobs)
}

// withdrawChunk is how many jobs are taken out in one commit, so that others hardly wait for it.
const withdrawChunk = 200

// withdraw cancels those of the jobs that have not begun, and keeps them out of history.
func (s *Service) withdraw(ctx context.Context, jobs []job.Job) (gone []job.Job, err error) {
	if len(jobs) == 0 {
		return nil, s.store.Settled(ctx)
	}
	for chunk := range slices.Chunk(jobs, withdrawChunk) {
		some, err := s.withdrawSome(ctx, chunk)
		if gone = append(gone, some...); err != nil {
			return gone, err
		}
	}
	return gone, nil
}

func (s *Service) withdrawSome(ctx context.Context, jobs []job.Job) ([]job.Job, error) {
	jobs = s.book.withdraw(jobs)
	defer s.book.settleWithdrawal(jobs)
	if len(jobs) == 0 {
		return nil, s.store.Settled(ctx)
	}
	ends := make([]Ending, len(jobs))
	at := now()
	for i, j := range jobs {
		ends[i] = Ending{
			Ref: Ref{Seq: j.Seq}, User: j.User, State: job.Cancelled, Hidden: true, Started: j.Started, Finished: at,
		}
		if j.State == job.Running {
			ends[i].Fence = j.Attempt.Fence
		}
	}
	var gone []job.Job
	err := s.store.Finish(ctx, ends, func(ended []int64) {
		for i, n := range ended {
			if n > 0 { // else it was claimed, or ended, meanwhile
				gone = append(gone, s.end(&ends[i], n, jobs[i].ID, job.Removed))
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("take jobs out of the queue: %w", err)
	}
	return gone, nil
}

// Stop asks for the person's running job with the prompt id to be interrupted, or for all of them when it is empty.
// Waiting jobs are left alone. It returns those it asked for; the dispatcher learns by the announcement.
func (s *Service) Stop(ctx context.Context, user, promptID string) ([]job.Job, error) {
	var jobs []job.Job
	if promptID == "" {
		jobs = s.book.open(user)
	} else if j, ok := s.book.find(user, promptID); ok {
		jobs = []job.Job{j}
	}
	jobs = slices.DeleteFunc(jobs, func(j job.Job) bool { return visible(j) != job.Running })
	return s.stop(ctx, jobs)
}

func (s *Service) stop(ctx context.Context, jobs []job.Job) ([]job.Job, error) {
	if len(jobs) == 0 {
		return nil, nil
	}
	refs := make([]Ref, len(jobs))
	for i, j := range jobs {
		refs[i] = Ref{Seq: j.Seq, Fence: j.Attempt.Fence}
	}
	var asked []job.Job
	err := s.store.Stop(ctx, refs, func(stopped []bool) {
		for i, ok := range stopped {
			if ok {
				s.replace(jobs[i].ID, job.StopRequested, func(j *job.Job) {
					j.Stop = true
					asked = append(asked, *j)
				})
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("ask for an interrupt: %w", err)
	}
	return asked, nil
}

// CancelUser ends all that the person has open: what waits is taken out, what runs is asked to stop. What they submit
// meanwhile is left alone.
func (s *Service) CancelUser(ctx context.Context, user string) (removed, stopped []job.Job, err error) {
	jobs := s.book.open(user)
	for len(jobs) > 0 {
		gone, err := s.withdraw(ctx, jobs)
		if removed = append(removed, gone...); err != nil {
			return removed, stopped, err
		}
		asked, err := s.stop(ctx, slices.DeleteFunc(s.refreshed(jobs), func(j job.Job) bool {
			return visible(j) != job.Running || j.Stop
		}))
		if stopped = append(stopped, asked...); err != nil {
			return removed, stopped, err
		}
		// What went on to another state between the look and the change is looked at again.
		jobs = slices.DeleteFunc(s.refreshed(jobs), func(j job.Job) bool { return visible(j) == job.Running && j.Stop })
	}
	return removed, stopped, nil
}

// refreshed returns those of the jobs that are still open, as they are now.
func (s *Service) refreshed(jobs []job.Job) (now []job.Job) {
	for _, j := range jobs {
		if j, ok := s.book.get(j.ID); ok {
			now = append(now, j)
		}
	}
	return now
}

// Retry submits again what a final job asked for, as a new job with a prompt id of its own, within the limits of its
// owner. Credentials of paid nodes went with the first end. A job that is open is a conflict (not_final), and so is one
// whose request was dropped, because it left history or never was in it (request_dropped).
func (s *Service) Retry(ctx context.Context, id job.ID) (job.Job, error) {
	old, err := s.Get(ctx, id)
	if err != nil {
		return job.Job{}, err
	}
	if !old.State.Final() {
		return job.Job{}, fault.New(fault.Conflict, "The job is not over yet.").WithCode("not_final")
	}
	requests, err := s.store.Requests(ctx, old.User, []int64{old.Seq})
	if err != nil {
		return job.Job{}, fmt.Errorf("read what a job asked for: %w", err)
	}
	req, ok := requests[old.Seq]
	if !ok {
		return job.Job{}, fault.New(fault.Conflict, "What this job asked for is not kept any more.").
			WithRemedy("Run its workflow again from the editor.").WithCode("request_dropped")
	}
	j, _, err := s.Submit(ctx, job.Submission{
		User: old.User, Group: old.Group, ClientID: old.ClientID, Class: old.Class, WorkflowID: old.WorkflowID,
		Profile: old.Profile, Request: req,
	})
	return j, err
}

// DeleteHistory takes the person's finished jobs with these prompt ids out of history; what they asked and gave is
// dropped. Unknown and open ones are left alone.
func (s *Service) DeleteHistory(ctx context.Context, user string, promptIDs []string) error {
	if len(promptIDs) == 0 {
		return nil
	}
	return s.hide(ctx, user, promptIDs)
}

// ClearHistory takes all of the person's finished jobs out of history.
func (s *Service) ClearHistory(ctx context.Context, user string) error { return s.hide(ctx, user, nil) }

func (s *Service) hide(ctx context.Context, user string, promptIDs []string) error {
	err := s.store.Hide(ctx, user, promptIDs, func(n int) {
		if n > 0 {
			s.recent.forgetEnded(user, promptIDs)
			s.change(func() []job.Changed {
				return []job.Changed{{Change: job.HistoryChanged, Job: &job.Job{User: user}}}
			})
		}
	})
	if err != nil {
		return fmt.Errorf("delete history: %w", err)
	}
	return nil
}
