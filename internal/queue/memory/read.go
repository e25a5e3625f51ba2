package memory

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// sorted returns the rows that keep accepts, in the order of by.
func sorted(rows iter.Seq[*row], keep func(*row) bool, by func(x, y *row) int) []*row {
	var out []*row
	for r := range rows {
		if keep(r) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, by)
	return out
}

func bySeq(x, y *row) int   { return cmp.Compare(x.job.Seq, y.job.Seq) }
func byEnded(x, y *row) int { return cmp.Compare(x.ended, y.ended) }

// Settled implements queue.Store.
func (s *Store) Settled(context.Context) error { return nil }

// EachOpen implements queue.Store.
func (s *Store) EachOpen(ctx context.Context, fn func(job.Job) error) (int64, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	open := sorted(maps.Values(s.jobs), func(r *row) bool { return r.ended == 0 }, bySeq)
	ended := s.tick
	end()
	for _, r := range open {
		if err := fn(r.job); err != nil {
			return 0, err
		}
	}
	return ended, nil
}

// Numbers implements queue.Store.
func (s *Store) Numbers(ctx context.Context) (map[string]int64, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	return maps.Clone(s.numbers), nil
}

// Settings implements queue.Store.
func (s *Store) Settings(ctx context.Context) (map[string][]byte, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	out := make(map[string][]byte, len(s.settings))
	for name, value := range s.settings {
		out[name] = bytes.Clone(value)
	}
	return out, nil
}

// Tries implements queue.Store.
func (s *Store) Tries(ctx context.Context, seq int64) ([]job.Try, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if r := s.jobs[seq]; r != nil {
		return r.tries, nil
	}
	return nil, nil
}

// EachRecord implements queue.Store.
func (s *Store) EachRecord(ctx context.Context, fn func(queue.Record) error) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	rows := sorted(maps.Values(s.jobs), func(*row) bool { return true }, bySeq)
	records := make([]queue.Record, len(rows))
	for i, r := range rows {
		records[i] = queue.Record{Job: r.job, Credentials: r.sealed, Outcome: r.outcome, Tries: r.tries, Ended: r.ended, Key: r.key}
		if r.request != nil {
			records[i].Request = *r.request
		}
		if r.key != "" {
			records[i].KeyUntil = s.people[r.job.User].keys[r.key].until
		}
	}
	end()
	for _, r := range records {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	return nil
}

// visible returns the person's visible job with the prompt id; the lock is held.
func (s *Store) visible(user, promptID string) (*row, error) {
	if p := s.people[user]; p != nil {
		if seq, ok := p.prompts[promptID]; ok {
			return s.jobs[seq], nil
		}
	}
	return nil, queue.ErrMissing
}

// Find implements queue.Store.
func (s *Store) Find(ctx context.Context, user, promptID string) (job.Job, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return job.Job{}, err
	}
	defer end()
	r, err := s.visible(user, promptID)
	if err != nil {
		return job.Job{}, err
	}
	return r.job, nil
}

// FindKey implements queue.Store.
func (s *Store) FindKey(ctx context.Context, user, name string, at time.Time) (job.Job, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return job.Job{}, err
	}
	defer end()
	if p := s.people[user]; p != nil {
		if k, used := p.keys[name]; used && k.until.After(at) {
			return s.jobs[k.seq].job, nil
		}
	}
	return job.Job{}, queue.ErrMissing
}

// Get implements queue.Store.
func (s *Store) Get(ctx context.Context, id job.ID) (job.Job, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return job.Job{}, err
	}
	defer end()
	if seq, ok := s.ids[id]; ok {
		return s.jobs[seq].job, nil
	}
	return job.Job{}, queue.ErrMissing
}

// Task implements queue.Store.
func (s *Store) Task(ctx context.Context, seq int64) (job.Request, []byte, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return job.Request{}, nil, err
	}
	defer end()
	if r := s.jobs[seq]; r != nil && r.request != nil {
		return *r.request, r.sealed, nil
	}
	return job.Request{}, nil, queue.ErrMissing
}

// Requests implements queue.Store.
func (s *Store) Requests(ctx context.Context, user string, seqs []int64) (map[int64]job.Request, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	out := map[int64]job.Request{}
	for _, seq := range seqs {
		if r := s.jobs[seq]; r != nil && r.job.User == user && !r.job.Hidden && r.request != nil {
			out[seq] = *r.request
		}
	}
	return out, nil
}

// entry is a row with what was asked and how it ended; a final job always has an outcome.
func (r *row) entry() job.Entry {
	e := job.Entry{Job: r.job}
	if r.request != nil {
		e.Request = *r.request
	}
	if r.job.State.Final() {
		out := job.Outcome{}
		if r.outcome != nil {
			out = *r.outcome
		}
		out.State, out.Error, out.Summary = r.job.State, r.job.Error, r.job.Summary
		e.Outcome = &out
	}
	return e
}

// Entry implements queue.Store.
func (s *Store) Entry(ctx context.Context, user, promptID string) (job.Entry, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return job.Entry{}, err
	}
	defer end()
	r, err := s.visible(user, promptID)
	if err != nil {
		return job.Entry{}, err
	}
	return r.entry(), nil
}

// past returns the person's history in order; the lock is held.
func (s *Store) past(user string) []*row {
	p := s.people[user]
	if p == nil {
		return nil
	}
	return sorted(maps.Values(p.jobs), func(r *row) bool { return r.ended > 0 && !r.job.Hidden }, byEnded)
}

// EachHistory implements queue.Store.
func (s *Store) EachHistory(ctx context.Context, user string, q job.HistoryQuery, fn func(job.Entry) error) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	past := s.past(user)
	end()
	switch {
	case q.Offset < 0 && q.MaxItems >= 0:
		past = past[max(0, len(past)-q.MaxItems):]
	default:
		past = past[min(max(q.Offset, 0), len(past)):]
		if q.MaxItems >= 0 {
			past = past[:min(q.MaxItems, len(past))]
		}
	}
	for _, r := range past {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(r.entry()); err != nil {
			return err
		}
	}
	return nil
}

// List implements queue.Store.
func (s *Store) List(ctx context.Context, scope queue.Scope, q job.ListQuery) ([]job.Job, int, error) {
	if scope.User == "" && !scope.Hidden {
		return nil, 0, fmt.Errorf("list everybody's jobs without the operator's scope")
	}
	end, err := s.begin(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer end()
	rows := sorted(maps.Values(s.jobs), func(r *row) bool {
		return r.ended > 0 && r.ended <= scope.Ended && (scope.User == "" || r.job.User == scope.User) &&
			(scope.Hidden || !r.job.Hidden) && (q.WorkflowID == "" || r.job.WorkflowID == q.WorkflowID) &&
			slices.Contains(q.States, r.job.State)
	}, func(x, y *row) int {
		c := bySeq(x, y)
		if q.ByDuration {
			c = cmp.Or(cmp.Compare(x.job.Duration(), y.job.Duration()), c)
		}
		if !q.Ascending {
			c = -c
		}
		return c
	})
	total := len(rows)
	rows = rows[min(max(q.Offset, 0), total):]
	if q.Limit > 0 {
		rows = rows[:min(q.Limit, len(rows))]
	}
	jobs := make([]job.Job, len(rows))
	for i, r := range rows {
		jobs[i] = r.job
	}
	return jobs, total, nil
}

// Prune implements queue.Store.
func (s *Store) Prune(ctx context.Context, p queue.Pruning, done func(gone []queue.Gone)) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	var gone []queue.Gone
	for _, person := range s.people {
		for name, k := range person.keys {
			if !k.until.After(p.Now) {
				s.unbind(k.seq)
				delete(person.keys, name)
			}
		}
		kept := map[bool]int{} // by whether they are hidden
		final := sorted(maps.Values(person.jobs), func(r *row) bool { return r.ended > 0 }, byEnded)
		for _, r := range slices.Backward(final) {
			kept[r.job.Hidden]++
			old := !p.Before.IsZero() && r.job.Finished.Before(p.Before)
			if (old || p.Keep > 0 && kept[r.job.Hidden] > p.Keep) && len(gone) < p.Limit {
				s.remove(r)
				gone = append(gone, queue.Gone{ID: r.job.ID, User: r.job.User, PromptID: r.job.PromptID, Hidden: r.job.Hidden})
			}
		}
	}
	done(gone)
	return nil
}

// remove takes a final job out for ever.
func (s *Store) remove(r *row) {
	if r.key != "" {
		s.unbind(r.job.Seq)
	}
	p := s.person(r.job.User)
	delete(p.jobs, r.job.Seq)
	delete(s.jobs, r.job.Seq)
	delete(s.ids, r.job.ID)
	if p.prompts[r.job.PromptID] == r.job.Seq {
		delete(p.prompts, r.job.PromptID)
	}
}
