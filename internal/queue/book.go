package queue

import (
	"cmp"
	"iter"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// numberBlock is how many numbers of a person's counter are reserved in the store at once. After a restart the
// counter goes on behind the reserved ones, so that it never runs backwards: editors tell new history entries from
// old ones by it.
const numberBlock = 64

// book mirrors the open jobs in memory: those that wait in little room, the others as they are. What comes out of it is
// never changed, so that readers may keep it; digests of waiting jobs are left out. It is safe for concurrent use.
type book struct {
	mu      sync.RWMutex
	waiting *waiting
	whole   map[job.ID]*job.Job // those that run, and those that waiting does not take; replaced, never changed
	people  map[string]*person
	counts  job.Counts
	coming  int   // submissions on their way to the store
	ended   int64 // number of the last end that the book knows

	// withdrawn holds the fences of staged attempts that their owner is just taking away: such an attempt may no
	// longer report that it was posted.
	withdrawn map[job.ID]int64
}

// person is what the book knows of one user.
type person struct {
	user     string
	number   uint32              // in waiting; zero: none so far
	first    uint32              // of the jobs in waiting
	named    map[string]uint32   // those of them whose prompt id is not their id
	whole    map[string]*job.Job // the other open jobs by prompt id
	open     int
	pending  int
	coming   int
	counter  int64 // last number given
	reserved int64 // numbers up to here are reserved in the store
}

func (p *person) name(promptID string, n uint32) {
	if p.named == nil {
		p.named = map[string]uint32{}
	}
	p.named[promptID] = n
}

func newBook() *book {
	return &book{
		waiting: newWaiting(), whole: map[job.ID]*job.Job{}, people: map[string]*person{}, withdrawn: map[job.ID]int64{},
	}
}

func (b *book) setNumbers(marks map[string]int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for user, mark := range marks {
		p := b.person(user)
		p.counter, p.reserved = mark, mark
	}
}

// person returns the user's entry; the lock is held for writing.
func (b *book) person(user string) *person {
	p := b.people[user]
	if p == nil {
		p = &person{user: user, whole: map[string]*job.Job{}}
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
	if old, ok := b.whole[j.ID]; ok {
		delete(b.whole, j.ID)
		delete(p.whole, j.PromptID)
		b.count(p, old.State, -1)
	} else if n := b.waiting.find(j.ID); n != 0 {
		b.waiting.remove(n)
		b.count(p, job.Pending, -1)
	}
	b.count(p, j.State, 1)
	if j.State.Final() {
		return
	}
	if id, ok := plain(j); ok {
		b.waiting.add(id, j, p)
		return
	}
	b.whole[j.ID], p.whole[j.PromptID] = j, j
}

func (b *book) count(p *person, s job.State, n int) {
	b.counts.Add(s, n)
	if !s.Final() {
		p.open += n
	}
	if s == job.Pending {
		p.pending += n
	}
}

// lookup returns an open job, which is not to be changed; nil: it is not open. The lock is held.
func (b *book) lookup(id job.ID) *job.Job {
	if j := b.whole[id]; j != nil {
		return j
	}
	if n := b.waiting.find(id); n != 0 {
		return b.waiting.job(n)
	}
	return nil
}

// update replaces the open job with a copy that fn changed, and returns the copy; nil when the job is no longer open or
// fn declines.
func (b *book) update(id job.ID, fn func(*job.Job) bool) *job.Job {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.updateLocked(id, fn)
}

func (b *book) updateLocked(id job.ID, fn func(*job.Job) bool) *job.Job {
	var next *job.Job
	if old := b.whole[id]; old != nil {
		changed := *old
		next = &changed
	} else if n := b.waiting.find(id); n != 0 {
		next = b.waiting.job(n)
	}
	if next == nil || !fn(next) {
		return nil
	}
	b.replace(next)
	return next
}

// glance is what a claim has to know of a job.
type glance struct {
	seq      int64
	attempts int
	held     bool
}

// pending returns what a claim has to know of a job that waits; false: it does not.
func (b *book) pending(id job.ID) (glance, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if j := b.whole[id]; j != nil {
		return glance{j.Seq, j.Attempt.N, j.Held}, j.State == job.Pending
	}
	if n := b.waiting.find(id); n != 0 {
		s := b.waiting.at(n)
		return glance{seq: s.seq, held: s.held}, true
	}
	return glance{}, false
}

func (b *book) get(id job.ID) (job.Job, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if j := b.lookup(id); j != nil {
		return *j, true
	}
	return job.Job{}, false
}

func (b *book) find(user, promptID string) (job.Job, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	p := b.people[user]
	if p == nil {
		return job.Job{}, false
	}
	if j := p.whole[promptID]; j != nil {
		return *j, true
	}
	if n := b.waiting.findPrompt(p, promptID); n != 0 {
		return *b.waiting.job(n), true
	}
	return job.Job{}, false
}

// remaining counts the user's open jobs.
func (b *book) remaining(user string) int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if p := b.people[user]; p != nil {
		return p.open
	}
	return 0
}

// open returns the user's open jobs in the order in which they are shown.
func (b *book) open(user string) []job.Job {
	b.mu.RLock()
	p := b.people[user]
	if p == nil || p.open == 0 {
		b.mu.RUnlock()
		return nil
	}
	list := make([]*job.Job, 0, p.open)
	for _, j := range p.whole {
		list = append(list, j)
	}
	b.waiting.each(p, func(n uint32, _ *slot) { list = append(list, b.waiting.job(n)) })
	b.mu.RUnlock()
	slices.SortFunc(list, shown)
	return values(list)
}

// ids returns the ids of everybody's open jobs in order of acceptance.
func (b *book) ids() iter.Seq[job.ID] {
	b.mu.RLock()
	defer b.mu.RUnlock()
	type open struct {
		seq   int64
		id    [16]byte
		whole *job.Job
	}
	all := make([]open, 0, len(b.whole)+b.waiting.n)
	for _, j := range b.whole {
		all = append(all, open{seq: j.Seq, whole: j})
	}
	b.waiting.each(nil, func(_ uint32, s *slot) { all = append(all, open{seq: s.seq, id: s.id}) })
	slices.SortFunc(all, func(x, y open) int { return cmp.Compare(x.seq, y.seq) })
	return func(yield func(job.ID) bool) {
		for _, o := range all {
			id := job.ID("")
			if o.whole != nil {
				id = o.whole.ID
			} else {
				var text [36]byte
				encodeID(&text, o.id)
				id = job.ID(text[:])
			}
			if !yield(id) {
				return
			}
		}
	}
}

// choice says which open jobs a list has.
type choice struct {
	user       string // empty: everybody's
	states     []job.State
	workflowID string
	ascending  bool // the oldest first, else the newest
	most       int  // 0: all
}

func (c *choice) wants(state job.State, workflowID string) bool {
	return (c.states == nil || slices.Contains(c.states, state)) && (c.workflowID == "" || c.workflowID == workflowID)
}

// list returns the open jobs of a choice in order of acceptance, how many there are in all, and the number of the last
// end that they leave out.
func (b *book) list(c choice) (jobs []job.Job, total int, ended int64) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	ended = b.ended
	whole := maps.Values(b.whole)
	var p *person
	if c.user != "" {
		if p = b.people[c.user]; p == nil {
			return nil, 0, ended
		}
		whole = maps.Values(p.whole)
	}
	top := topJobs{ascending: c.ascending, most: c.most}
	for j := range whole {
		if c.wants(visible(*j), j.WorkflowID) {
			top.offer(listed{seq: j.Seq, whole: j})
		}
	}
	pending := c.states == nil || slices.Contains(c.states, job.Pending)
	b.waiting.each(p, func(n uint32, s *slot) {
		if pending && (c.workflowID == "" || b.waiting.origins.all[s.origin].workflowID == c.workflowID) {
			top.offer(listed{seq: s.seq, slot: n})
		}
	})
	for _, l := range top.sorted() {
		if l.whole == nil {
			l.whole = b.waiting.job(l.slot)
		}
		jobs = append(jobs, *l.whole)
	}
	return jobs, top.total, ended
}

// first returns the lowest number of the person's other waiting jobs of the job's class; false: it runs before all of them.
func (b *book) first(j job.Job) (number float64, ok bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	p := b.people[j.User]
	if p == nil {
		return 0, false
	}
	lowest := job.Job{Class: j.Class, Number: math.Inf(1), Seq: math.MaxInt64}
	look := func(other job.Job) {
		if other.Seq != j.Seq && other.Class == j.Class && Compare(&other, &lowest) < 0 {
			lowest, ok = other, true
		}
	}
	for _, other := range p.whole {
		if visible(*other) == job.Pending {
			look(*other)
		}
	}
	b.waiting.each(p, func(_ uint32, s *slot) { look(job.Job{Class: s.class, Number: s.number, Seq: s.seq}) })
	return lowest.Number, ok && Compare(&lowest, &j) < 0
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
		now := b.lookup(j.ID)
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
	for _, j := range b.whole {
		if j.State == job.Running && !j.Attempt.LeaseUntil.After(at) {
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
		if p.open > 0 {
			out[user] = job.Counts{Pending: p.pending, Running: p.open - p.pending}
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
