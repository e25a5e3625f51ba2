// Package memory is a store of the queue that forgets everything with the process: for tests, simulations, and as the
// plainest reading of the contract.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// Store is a queue.Store in memory. It is safe for concurrent use.
type Store struct {
	mu       sync.Mutex // held over done, so that its calls come one at a time and in order
	tick     int64      // last number given for sequences, fences and ends
	jobs     map[int64]*row
	ids      map[job.ID]int64
	people   map[string]*person
	numbers  map[string]int64
	settings map[string][]byte
}

// person is what is kept of one user.
type person struct {
	prompts map[string]int64 // visible jobs by prompt id
	keys    map[string]key
	jobs    map[int64]*row
}

type key struct {
	seq   int64
	until time.Time
}

// row is a job. A row is replaced, never changed: whoever reads may keep it.
type row struct {
	job     job.Job
	request *job.Request // nil when it was dropped
	sealed  []byte
	outcome *job.Outcome // nil while open, and when it was dropped
	tries   []job.Try
	ended   int64 // zero while open
	key     string
}

var _ queue.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	s := &Store{}
	s.clear()
	return s
}

func (s *Store) clear() {
	s.tick = 0
	s.jobs, s.ids, s.people = map[int64]*row{}, map[job.ID]int64{}, map[string]*person{}
	s.numbers, s.settings = map[string]int64{}, map[string][]byte{}
}

// begin takes the lock for a caller who has not gone away yet; end gives it back.
func (s *Store) begin(ctx context.Context) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	return s.mu.Unlock, nil
}

func (s *Store) next() int64 { s.tick++; return s.tick }

func (s *Store) person(user string) *person {
	p := s.people[user]
	if p == nil {
		p = &person{prompts: map[string]int64{}, keys: map[string]key{}, jobs: map[int64]*row{}}
		s.people[user] = p
	}
	return p
}

// put adds a row or replaces the one that is there.
func (s *Store) put(r *row) {
	j, p := &r.job, s.person(r.job.User)
	s.jobs[j.Seq], p.jobs[j.Seq], s.ids[j.ID] = r, r, j.Seq
	switch {
	case !j.Hidden:
		p.prompts[j.PromptID] = j.Seq
	case p.prompts[j.PromptID] == j.Seq:
		delete(p.prompts, j.PromptID)
	}
}

// update replaces the job with a copy that fn changed if it meets the condition.
func (s *Store) update(ref queue.Ref, fn func(*row)) bool {
	r := s.jobs[ref.Seq]
	if r == nil || !holds(r.job, ref.Fence) {
		return false
	}
	next := *r
	fn(&next)
	s.put(&next)
	return true
}

// holds is the condition of a change: pending, or running with this as newest fence.
func holds(j job.Job, fence int64) bool {
	if fence == 0 {
		return j.State == job.Pending
	}
	return j.State == job.Running && j.Attempt.Fence == fence
}

// Insert implements queue.Store.
func (s *Store) Insert(ctx context.Context, in queue.Insertion, done func(seq, fence int64)) (*queue.Clash, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	j, p := in.Job, s.person(in.Job.User)
	if k, used := p.keys[in.Key]; in.Key != "" && used && k.until.After(in.Now) {
		return &queue.Clash{Job: s.jobs[k.seq].job, Key: true}, nil
	}
	seq, taken := p.prompts[j.PromptID]
	if old := s.jobs[seq]; taken && (seq != in.Replace || !old.job.State.Final()) {
		return &queue.Clash{Job: old.job}, nil
	}
	if _, used := s.ids[j.ID]; used {
		return nil, fmt.Errorf("there is a job %s already", j.ID)
	}
	if taken {
		s.hide(s.jobs[seq])
	}
	j.Seq, j.State = s.next(), job.Pending
	if in.Attempt != nil {
		j.State, j.Attempt = job.Running, *in.Attempt
		j.Attempt.Fence = s.next()
	}
	req := in.Request
	req.Prompt, req.ExtraData = bytes.Clone(req.Prompt), bytes.Clone(req.ExtraData)
	s.put(&row{job: j, request: &req, sealed: bytes.Clone(in.Credentials)})
	if in.Key != "" {
		s.bind(j.Seq, in.Key, in.KeyUntil)
	}
	s.mark(j.User, in.NumberMark)
	done(j.Seq, j.Attempt.Fence)
	return nil, nil
}

// bind gives the job its key, and takes it from the job that had it.
func (s *Store) bind(seq int64, name string, until time.Time) {
	next := *s.jobs[seq]
	p := s.person(next.job.User)
	if old, used := p.keys[name]; used {
		s.unbind(old.seq)
	}
	next.key = name
	p.keys[name] = key{seq, until}
	s.put(&next)
}

// unbind takes the job's key away.
func (s *Store) unbind(seq int64) {
	next := *s.jobs[seq]
	delete(s.person(next.job.User).keys, next.key)
	next.key = ""
	s.put(&next)
}

func (s *Store) mark(user string, number int64) {
	if number > s.numbers[user] {
		s.numbers[user] = number
	}
}

// Claim implements queue.Store.
func (s *Store) Claim(ctx context.Context, seq int64, a job.Attempt, done func(fence int64)) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if r := s.jobs[seq]; r == nil || r.job.State != job.Pending || r.job.Held {
		return queue.ErrStale
	}
	a.Fence = s.next()
	s.update(queue.Ref{Seq: seq}, func(r *row) { r.job.State, r.job.Attempt = job.Running, a })
	done(a.Fence)
	return nil
}

// Renew implements queue.Store.
func (s *Store) Renew(ctx context.Context, renewals []queue.Renewal, until time.Time) ([]bool, error) {
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	renewed := make([]bool, len(renewals))
	for i, n := range renewals {
		renewed[i] = n.Fence > 0 && s.update(n.Ref, func(r *row) {
			r.job.Attempt.LeaseUntil, r.job.Attempt.Posted, r.job.Started = until, n.Posted, n.Started
		})
	}
	return renewed, nil
}

// Release implements queue.Store.
func (s *Store) Release(ctx context.Context, seq, fence int64, try *job.Try, done func()) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if fence == 0 || !s.update(queue.Ref{Seq: seq, Fence: fence}, func(r *row) {
		r.job.State, r.job.Attempt.Posted, r.job.Attempt.LeaseUntil = job.Pending, false, time.Time{}
		r.keep(try)
	}) {
		return queue.ErrStale
	}
	done()
	return nil
}

// keep adds an attempt that is over. Rows that share the list before it do not see it.
func (r *row) keep(t *job.Try) {
	if t != nil {
		r.tries = append(slices.Clip(r.tries), *t)
	}
}

// Stop implements queue.Store.
func (s *Store) Stop(ctx context.Context, jobs []queue.Ref, done func(stopped []bool)) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	stopped := make([]bool, len(jobs))
	for i, ref := range jobs {
		stopped[i] = ref.Fence > 0 && s.update(ref, func(r *row) { r.job.Stop = true })
	}
	done(stopped)
	return nil
}

// Finish implements queue.Store.
func (s *Store) Finish(ctx context.Context, ends []queue.Ending, done func(ended []int64)) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	ended := make([]int64, len(ends))
	for i, e := range ends {
		s.update(e.Ref, func(r *row) {
			ended[i] = s.next()
			finish(r, e, ended[i])
		})
	}
	done(ended)
	return nil
}

func finish(r *row, e queue.Ending, ended int64) {
	j := &r.job
	j.State, j.Started, j.Finished, j.Hidden = e.State, e.Started, e.Finished, e.Hidden
	j.Attempt.LeaseUntil, j.Attempt.Posted = time.Time{}, false
	r.ended, r.sealed = ended, nil
	r.keep(e.Try)
	if e.Outcome != nil {
		j.Error, j.Summary = e.Outcome.Error, e.Outcome.Summary
		out := *e.Outcome
		r.outcome = &out
	}
	if e.Hidden {
		r.request, r.outcome = nil, nil
	}
}

// hide takes a final job out of history.
func (s *Store) hide(r *row) {
	next := *r
	next.job.Hidden, next.request, next.outcome = true, nil, nil
	s.put(&next)
}

// Hide implements queue.Store.
func (s *Store) Hide(ctx context.Context, user string, prompts []string, done func(n int)) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	wanted := map[string]bool{}
	for _, id := range prompts {
		wanted[id] = true
	}
	n := 0
	for _, r := range s.person(user).jobs {
		if r.ended > 0 && !r.job.Hidden && (prompts == nil || wanted[r.job.PromptID]) {
			s.hide(r)
			n++
		}
	}
	done(n)
	return nil
}

// Rank implements queue.Store.
func (s *Store) Rank(ctx context.Context, ranks []queue.Rank, done func(ranked []bool)) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	ranked := make([]bool, len(ranks))
	for i, k := range ranks {
		ranked[i] = s.update(k.Ref, func(r *row) {
			r.job.Class, r.job.Number, r.job.Held, r.job.Deadline = k.Class, k.Number, k.Held, k.Deadline
		})
		s.mark(k.User, k.NumberMark)
	}
	done(ranked)
	return nil
}

// PutSetting implements queue.Store.
func (s *Store) PutSetting(ctx context.Context, name string, value []byte, done func()) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if value == nil {
		delete(s.settings, name)
	} else {
		s.settings[name] = bytes.Clone(value)
	}
	done()
	return nil
}

// Restore implements queue.Store.
func (s *Store) Restore(ctx context.Context, numbers map[string]int64, records iter.Seq2[queue.Record, error]) error {
	end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if len(s.jobs) > 0 || len(s.numbers) > 0 {
		return queue.ErrNotEmpty
	}
	settings := s.settings
	for rec, err := range records {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			s.clear()
			s.settings = settings
			return err
		}
		j := rec.Job
		r := &row{job: j, sealed: rec.Credentials, outcome: rec.Outcome, tries: rec.Tries, ended: rec.Ended}
		if !j.Hidden {
			r.request = &rec.Request
		}
		s.put(r)
		if rec.Key != "" {
			s.bind(j.Seq, rec.Key, rec.KeyUntil)
		}
		s.tick = max(s.tick, j.Seq, j.Attempt.Fence, rec.Ended)
	}
	s.numbers = maps.Clone(numbers)
	if s.numbers == nil {
		s.numbers = map[string]int64{}
	}
	return nil
}
