package usage

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Store keeps what a ledger must not forget. What it is given is written wholly or not at all.
type Store interface {
	// Learned returns everything that was saved of how long graphs take.
	Learned(ctx context.Context) ([]Learned, error)
	// Hours returns the hours that begin at or after a time, in order of time.
	Hours(ctx context.Context, since time.Time) ([]Hour, error)
	// Save writes hours and what was learned over what there is of them, and deletes hours that began before a time.
	Save(ctx context.Context, s Snapshot) error
	// Forget leaves of a person only what their groups took.
	Forget(ctx context.Context, user string) error
}

// Learned is something that a ledger learned, in a form of its own.
type Learned struct {
	Key  []byte
	Body []byte // nil: it is forgotten
}

// Snapshot is what changed since the last time that a ledger saved.
type Snapshot struct {
	Hours   []Hour
	Learned []Learned
	Before  time.Time // hours that began earlier are over and done with
}

// Options are the optional settings of New. The zero value counts and learns, and bounds nobody.
type Options struct {
	Quotas   Quotas
	Budgets  Budgets
	Weights  Weights
	HalfLife time.Duration  // after which a run counts half for how long the next will take; 0: 7 days
	Zone     *time.Location // whose hours and days count; nil: the machine's
	Kept     int            // finished jobs of one person that are kept at most, so that Recount can find no more; 0: all
	SaveFor  time.Duration  // how often what changed is saved, money apart, which is saved at once; 0: 10 s
	Log      *slog.Logger   // nil: discarded
}

// keepHours is how long hours are kept for whoever looks back.
const keepHours = 400 * 24 * time.Hour

// admitted is for how long a submission that was admitted counts although nobody said that it was accepted.
const admitted = 10 * time.Second

// Ledger counts what people take, and learns how long their graphs will. It is safe for concurrent use.
type Ledger struct {
	store Store
	log   *slog.Logger
	opts  Options
	learn *estimator

	// Silences and what the schedule learnt ride with what the ledger learned.
	Silences
	Schedule

	mu    sync.Mutex
	book  *book
	open  map[job.ID]time.Duration // what open jobs are expected to take; kept where a quota asks for it
	asked map[job.ID]asked         // submissions that were admitted
	queue []job.ID                 // the same, in order of time
	paid  chan struct{}            // money was spent, and is to be saved
}

type asked struct {
	user, group string
	at          time.Time
	due         time.Duration // that it is expected to take
}

// New returns a ledger with what was learned before. Recount makes its counts whole.
func New(ctx context.Context, store Store, o Options) (*Ledger, error) {
	if o.HalfLife <= 0 {
		o.HalfLife = 7 * 24 * time.Hour
	}
	if o.Zone == nil {
		o.Zone = time.Local
	}
	if o.SaveFor <= 0 {
		o.SaveFor = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Ledger{
		store: store, log: o.Log, opts: o, learn: newEstimator(o.HalfLife),
		book: newBook(o.Zone), open: map[job.ID]time.Duration{}, asked: map[job.ID]asked{}, paid: make(chan struct{}, 1),
	}
	saved, err := store.Learned(ctx)
	if err != nil {
		return nil, fmt.Errorf("read how long graphs take: %w", err)
	}
	l.learn.restore(saved)
	l.Silences.Restore(saved)
	l.Schedule.restore(saved)
	return l, nil
}

// Relearn replaces what was learned by what was saved, where another server of the studio has learned and saved since.
func (l *Ledger) Relearn(ctx context.Context) error {
	saved, err := l.store.Learned(ctx)
	if err != nil {
		return fmt.Errorf("read how long graphs take: %w", err)
	}
	l.Silences.Restore(saved)
	l.Schedule.restore(saved)
	l.learn.mu.Lock()
	defer l.learn.mu.Unlock()
	clear(l.learn.groups)
	clear(l.learn.backEnds)
	clear(l.learn.gone)
	l.learn.restore(saved)
	return nil
}

// Recount counts the hours that may still count for a quota from the jobs themselves, so that they are true whenever
// and however the program ended. each calls fn for everybody's jobs that are open, or ended at or after a time; several
// goroutines may call it at once. It is called once, before any change.
func (l *Ledger) Recount(ctx context.Context, each func(ctx context.Context, since time.Time, fn func(job.Job) error) error) error {
	l.mu.Lock()
	since := l.book.clock.hour(time.Now().Add(time.Hour - kept))
	l.book.first = since // other runs of the hours before are not among these
	l.mu.Unlock()
	from := time.Unix(since, 0)
	saved, err := l.store.Hours(ctx, from)
	if err != nil {
		return fmt.Errorf("read the hours of people: %w", err)
	}
	found := map[string]int{}
	err = each(ctx, from, func(j job.Job) error {
		gpu := gpuTime(&j)
		l.mu.Lock()
		defer l.mu.Unlock()
		if counts(&j) {
			l.book.add(j.User, j.Group, l.book.clock.hour(j.Created), 1, 0)
		}
		if j.State.Final() {
			found[j.User]++
			l.book.spent(j.User, j.Group, j.Finished, gpu)
		} else {
			l.expect(&j)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("count what people took: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range saved {
		l.book.pay(h.User, h.Group, h.Start.Unix(), h.Spent) // no job tells of it
		if h.User == "" {                                    // of somebody who is gone no job tells: what is saved stays
			delete(l.book.dirty, row{h.Start.Unix(), "", h.Group})
			continue
		}
		l.book.add(h.User, h.Group, h.Start.Unix(), 0, 0) // so that what no job tells of any more is put right
		if b := l.book.rows[row{h.Start.Unix(), h.User, h.Group}]; l.opts.Kept > 0 && found[h.User] >= l.opts.Kept {
			// Some of their jobs are not kept any more: what was saved may be more of the truth.
			l.book.add(h.User, h.Group, h.Start.Unix(), max(h.Jobs-b.jobs, 0), max(h.GPU-b.gpu, 0))
		}
	}
	return nil
}

// JobChanged takes in a change of a job, in the order of the queue. It does not block.
func (l *Ledger) JobChanged(c job.Changed) {
	switch c.Change {
	case job.Submitted:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.settle(c.Job.ID)
		l.book.add(c.Job.User, c.Job.Group, l.book.clock.hour(c.Job.Created), 1, 0)
		l.expect(c.Job)
	case job.Removed, job.Finished:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ended(c.Job)
	}
}

// ended counts what a job took. The lock is held.
func (l *Ledger) ended(j *job.Job) {
	if due, ok := l.open[j.ID]; ok {
		delete(l.open, j.ID)
		l.book.accounts(j.User, j.Group, func(a *account) { a.due -= due })
	}
	if !j.State.Final() {
		return
	}
	if !counts(j) {
		l.book.add(j.User, j.Group, l.book.clock.hour(j.Created), -1, 0)
	}
	l.book.spent(j.User, j.Group, j.Finished, gpuTime(j))
}

// expect notes what a job will take, where a quota asks for it. The lock is held.
func (l *Ledger) expect(j *job.Job) {
	if !l.opts.Quotas.gpu(j.User, j.Group) {
		return
	}
	if due, _ := l.Estimate(*j); due > 0 {
		l.open[j.ID] = due
		l.book.accounts(j.User, j.Group, func(a *account) { a.due += due })
	}
}

// settle forgets that a submission was admitted: it is accepted, or nobody came back. The lock is held.
func (l *Ledger) settle(id job.ID) {
	if a, ok := l.asked[id]; ok {
		delete(l.asked, id)
		l.book.accounts(a.user, a.group, func(to *account) {
			to.coming--
			to.due -= a.due
		})
	}
}

// Ran learns from a run on a back end: how long it took, from its start to its end there. ok is false when it failed
// or was interrupted, and then it teaches nothing.
func (l *Ledger) Ran(j job.Job, backEnd string, ran time.Duration, ok bool) {
	if ok {
		l.Learn(j, backEnd, ran, time.Now())
	}
}

// Learn is what Ran does with a run that went well and ended at a time.
func (l *Ledger) Learn(j job.Job, backEnd string, ran time.Duration, at time.Time) {
	if ran > 0 {
		l.learn.ran(&j, backEnd, ran.Seconds(), at)
	}
}

// Estimate returns how long a job will have a GPU of usual speed, and the standard deviation of that. Both are zero
// while nothing is known.
func (l *Ledger) Estimate(j job.Job) (mean, spread time.Duration) {
	m, s, ok := l.learn.estimate(&j)
	if !ok {
		return 0, 0
	}
	return seconds(m), seconds(s)
}

// seconds is a number of seconds, bounded by what a Duration holds many of.
func seconds(s float64) time.Duration {
	const most = 365 * 24 * time.Hour
	return time.Duration(min(s, most.Seconds()) * float64(time.Second))
}

// Speed returns how fast a back end is beside the others: 1 is usual, and what it is while nothing is known.
func (l *Ledger) Speed(backEnd string) float64 {
	l.learn.mu.Lock()
	defer l.learn.mu.Unlock()
	return l.learn.speedOf(nameOf(backEnd))
}

// Share returns the weights of a person and of a group in GPU time; 1 where nothing is said.
func (l *Ledger) Share(user, group string) (userWeight, groupWeight float64) {
	return weightIn(l.opts.Weights.Users, user), weightIn(l.opts.Weights.Groups, group)
}

// Weights are shares in GPU time: of people inside their group, of groups inside the studio.
type Weights struct{ Users, Groups map[string]float64 }

func weightIn(m map[string]float64, name string) float64 {
	if w, ok := m[name]; ok && w > 0 {
		return w
	}
	return 1
}

// Hours returns what everybody took in the hours that begin at or after a time.
func (l *Ledger) Hours(ctx context.Context, since time.Time) ([]Hour, error) {
	if err := l.Save(ctx); err != nil {
		return nil, err
	}
	return l.store.Hours(ctx, since)
}

// Days is Hours summed up to days: each Hour stands for the day that begins at its Start.
func (l *Ledger) Days(ctx context.Context, since time.Time) ([]Hour, error) {
	hours, err := l.Hours(ctx, since)
	if err != nil {
		return nil, err
	}
	index := map[row]int{}
	var days []Hour
	c := clock{zone: l.opts.Zone}
	for _, h := range hours {
		from, _ := c.day(h.Start)
		r := row{from.Unix(), h.User, h.Group}
		i, ok := index[r]
		if !ok {
			i = len(days)
			index[r] = i
			days = append(days, Hour{Start: from, User: h.User, Group: h.Group})
		}
		days[i].Jobs += h.Jobs
		days[i].GPU += h.GPU
		days[i].Spent += h.Spent
	}
	return days, nil
}

// Forget leaves of a person only what their groups took.
func (l *Ledger) Forget(ctx context.Context, user string) error {
	if err := l.Save(ctx); err != nil {
		return err
	}
	l.learn.forget(user)
	l.mu.Lock()
	delete(l.book.users, user)
	maps.DeleteFunc(l.book.rows, func(r row, _ *bucket) bool { return r.user == user })
	l.mu.Unlock()
	if err := l.store.Forget(ctx, user); err != nil {
		return fmt.Errorf("forget what a person took: %w", err)
	}
	return l.Save(ctx)
}

// Run saves what changes until ctx ends, and then what is left.
func (l *Ledger) Run(ctx context.Context) error {
	tick := time.NewTicker(l.opts.SaveFor)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			l.save(last)
			return nil
		case <-l.paid:
			l.save(ctx)
		case <-tick.C:
			l.save(ctx)
		}
	}
}

// save saves, and says when it could not. Nothing is lost: what was learned is saved with the next time, and the counts
// are made whole at the next start.
func (l *Ledger) save(ctx context.Context) {
	if err := l.Save(ctx); err != nil && ctx.Err() == nil {
		l.log.Warn("what people took was not saved", "err", err)
	}
}

// Save saves what changed since the last time.
func (l *Ledger) Save(ctx context.Context) error {
	now := time.Now()
	l.mu.Lock()
	l.drop(now)
	s := Snapshot{Before: now.Add(-keepHours)}
	saving := l.book.dirty
	l.book.dirty = map[row]bool{}
	for r := range saving {
		if h := l.book.rows[r]; h != nil {
			s.Hours = append(s.Hours, Hour{Start: time.Unix(r.start, 0), User: r.user, Group: r.group, Jobs: h.jobs, GPU: h.gpu, Spent: h.spent})
		}
	}
	l.book.age(now)
	l.mu.Unlock()
	learned, undo := l.learn.changed()
	silent, unsay := l.Silences.Changed()
	schedule, unlearn := l.Schedule.changed()
	s.Learned = slices.Concat(learned, silent, schedule)
	if len(s.Hours)+len(s.Learned) == 0 {
		return nil
	}
	slices.SortFunc(s.Hours, func(a, b Hour) int { return a.Start.Compare(b.Start) })
	err := l.store.Save(ctx, s)
	if err == nil {
		return nil
	}
	undo()
	unsay()
	unlearn()
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range saving {
		if l.book.rows[r] != nil {
			l.book.dirty[r] = true
		}
	}
	return fmt.Errorf("save what people took: %w", err)
}

// drop forgets submissions that were admitted and of which nobody heard again. The lock is held.
func (l *Ledger) drop(now time.Time) {
	for len(l.queue) > 0 {
		id := l.queue[0]
		if a, ok := l.asked[id]; ok && now.Sub(a.at).Abs() < admitted {
			return
		}
		l.settle(id)
		l.queue = l.queue[1:]
	}
}
