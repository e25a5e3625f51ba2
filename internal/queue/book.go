package queue

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// numberBlock is how many numbers of a person's counter are reserved in the store at once. After a restart the
// counter goes on behind the reserved ones, so that it never runs backwards: editors tell new history entries from
// old ones by it.
const numberBlock = 64

// book mirrors the open jobs in memory. A *job.Job in it is never changed, only replaced, so that readers may keep
// what they got. It is safe for concurrent use.
type book struct {
	mu     sync.RWMutex
	jobs   map[job.ID]*job.Job
	runs   map[job.ID]*job.Job // those of jobs that are running
	people map[string]*person
	counts job.Counts
	coming int   // submissions on their way to the store
	ended  int64 // number of the last end that the book knows

	// withdrawn holds the fences of staged attempts that their owner is just taking away: such an attempt may no
	// longer report that it was posted.
	withdrawn map[job.ID]int64
}

// person is what the book knows of one user.
type person struct {
	open     map[string]*job.Job // by prompt id
	pending  int
	coming   int
	number   int64 // last number given
	reserved int64 // numbers up to here are reserved in the store
}

func newBook() *book {
	return &book{
		jobs: map[job.ID]*job.Job{}, runs: map[job.ID]*job.Job{}, people: map[string]*person{}, withdrawn: map[job.ID]int64{},
	}
}

func (b *book) setNumbers(marks map[string]int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for user, mark := range marks {
		p := b.person(user)
		p.number, p.reserved = mark, mark
	}
}

// person returns the user's entry; the lock is held for writing.
func (b *book) person(user string) *person {
	p := b.people[user]
	if p == nil {
		p = &person{open: map[string]*job.Job{}}
		b.people[user] = p
	}
	return p
}

// put adds a job or replaces what the book knew of it; a final one is taken out.
func (b *book) put(j *job.Job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replace(j)
}

// replace is put with the lock held.
func (b *book) replace(j *job.Job) {
	p := b.person(j.User)
	if old := b.jobs[j.ID]; old != nil {
		b.counts.Add(old.State, -1)
		if old.State == job.Pending {
			p.pending--
		}
	}
	b.counts.Add(j.State, 1)
	if j.State == job.Running {
		b.runs[j.ID] = j
	} else {
		delete(b.runs, j.ID)
	}
	if j.State.Final() {
		delete(b.jobs, j.ID)
		delete(p.open, j.PromptID)
		return
	}
	if j.State == job.Pending {
		p.pending++
	}
	b.jobs[j.ID] = j
	p.open[j.PromptID] = j
}

// update replaces the open job with a copy that fn changed, and returns the copy; nil when the job is no longer open or
// fn declines.
func (b *book) update(id job.ID, fn func(*job.Job) bool) *job.Job {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.updateLocked(id, fn)
}

func (b *book) updateLocked(id job.ID, fn func(*job.Job) bool) *job.Job {
	old := b.jobs[id]
	if old == nil {
		return nil
	}
	next := *old
	if !fn(&next) {
		return nil
	}
	b.replace(&next)
	return &next
}

func (b *book) get(id job.ID) (job.Job, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if j := b.jobs[id]; j != nil {
		return *j, true
	}
	return job.Job{}, false
}

func (b *book) find(user, promptID string) (job.Job, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if p := b.people[user]; p != nil {
		if j := p.open[promptID]; j != nil {
			return *j, true
		}
	}
	return job.Job{}, false
}

// remaining counts the user's open jobs.
func (b *book) remaining(user string) int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if p := b.people[user]; p != nil {
		return len(p.open)
	}
	return 0
}

// open returns the user's open jobs in the order in which they are shown, and the number of the last end that they
// already leave out.
func (b *book) open(user string) ([]job.Job, int64) {
	b.mu.RLock()
	p, ended := b.people[user], b.ended
	if p == nil || len(p.open) == 0 {
		b.mu.RUnlock()
		return nil, ended
	}
	list := make([]*job.Job, 0, len(p.open))
	for _, j := range p.open {
		list = append(list, j)
	}
	b.mu.RUnlock()
	slices.SortFunc(list, shown)
	return values(list), ended
}

// all returns everybody's open jobs in order of acceptance, and the number of the last end that they leave out.
func (b *book) all() ([]job.Job, int64) {
	b.mu.RLock()
	ended := b.ended
	list := slices.AppendSeq(make([]*job.Job, 0, len(b.jobs)), maps.Values(b.jobs))
	b.mu.RUnlock()
	slices.SortFunc(list, func(x, y *job.Job) int { return cmp.Compare(x.Seq, y.Seq) })
	return values(list), ended
}

// first returns the lowest number of the person's other waiting jobs of the job's class; false: it runs before all of them.
func (b *book) first(j job.Job) (number float64, ok bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	p := b.people[j.User]
	if p == nil {
		return 0, false
	}
	var lowest *job.Job
	for _, other := range p.open {
		if other.ID != j.ID && other.Class == j.Class && visible(*other) == job.Pending && (lowest == nil || Compare(other, lowest) < 0) {
			lowest = other
		}
	}
	if lowest == nil || Compare(&j, lowest) < 0 {
		return 0, false
	}
	return lowest.Number, true
}

// end takes an open job out: fn makes it final. ended is the number of its end. Nil: it was not open.
func (b *book) end(id job.ID, ended int64, fn func(*job.Job)) *job.Job {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = max(b.ended, ended)
	return b.updateLocked(id, func(j *job.Job) bool { fn(j); return true })
}

// withdraw notes that these jobs, as far as they are staged, are being taken away. It returns those that are
// still pending in their owner's eyes; settleWithdrawal ends it.
func (b *book) withdraw(jobs []job.Job) (still []job.Job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range jobs {
		now := b.jobs[j.ID]
		if now == nil || visible(*now) != job.Pending {
			continue
		}
		if now.State == job.Running {
			b.withdrawn[j.ID] = now.Attempt.Fence
		}
		still = append(still, *now)
	}
	return still
}

func (b *book) settleWithdrawal(jobs []job.Job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range jobs {
		if b.withdrawn[j.ID] == j.Attempt.Fence {
			delete(b.withdrawn, j.ID)
		}
	}
}

// post notes that the attempt was given to its back end. held says whether it may report; j is nil when that is no news.
func (b *book) post(id job.ID, fence int64, at time.Time) (j *job.Job, held bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j = b.updateLocked(id, func(j *job.Job) bool {
		if held = j.State == job.Running && j.Attempt.Fence == fence && b.withdrawn[id] != fence; !held || j.Attempt.Posted {
			return false
		}
		j.Attempt.Posted = true
		if j.Started.IsZero() {
			j.Started = at
		}
		return true
	})
	return j, held
}

// expired returns the running jobs whose lease is over.
func (b *book) expired(at time.Time) []job.Job {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var list []job.Job
	for _, j := range b.runs {
		if !j.Attempt.LeaseUntil.After(at) {
			list = append(list, *j)
		}
	}
	slices.SortFunc(list, func(x, y job.Job) int { return cmp.Compare(x.Seq, y.Seq) })
	return list
}

// byUser returns the counts of open jobs of everybody who has some.
func (b *book) byUser() map[string]job.Counts {
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := map[string]job.Counts{}
	for user, p := range b.people {
		if len(p.open) > 0 {
			out[user] = job.Counts{Pending: p.pending, Running: len(p.open) - p.pending}
		}
	}
	return out
}

// shown orders one person's open jobs as their editor shows them: what a back end works on, then what is staged,
// then what waits in the order in which it will run.
func shown(x, y *job.Job) int {
	if c := cmp.Compare(stage(x), stage(y)); c != 0 {
		return c
	}
	if x.State == job.Running {
		return cmp.Compare(x.Attempt.Fence, y.Attempt.Fence)
	}
	return Compare(x, y)
}

// Compare orders pending jobs of one person: by class, number and acceptance.
func Compare(x, y *job.Job) int {
	return cmp.Or(cmp.Compare(x.Class, y.Class), cmp.Compare(x.Number, y.Number), cmp.Compare(x.Seq, y.Seq))
}

func stage(j *job.Job) int {
	switch {
	case j.State == job.Running && j.Attempt.Posted:
		return 0
	case j.State == job.Running:
		return 1
	default:
		return 2
	}
}

func values(list []*job.Job) []job.Job {
	out := make([]job.Job, len(list))
	for i, j := range list {
		out[i] = *j
	}
	return out
}
