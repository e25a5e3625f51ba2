package usage

import (
	"time"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/job"
)

// Hour is what one person took in one hour as a member of a group.
type Hour struct {
	Start time.Time
	User  string // empty: somebody who is gone; KeptAwake: nobody
	Group string // empty: none
	Jobs  int    // accepted in this hour, without those that were taken out before they ran
	GPU   time.Duration
	Spent Money
}

// KeptAwake stands in place of a person for what was spent on containers that were kept awake and worked at nothing. Nobody
// can be called so.
const KeptAwake = "(kept awake)"

// Money is an amount in millionths of the unit that prices are in.
type Money int64

// Unit is one of the unit that prices are in.
const Unit Money = 1e6

// kept is for how long hours are kept in memory: the longest day has 25.
const kept = 26 * time.Hour

// clock divides time into the hours and days of a place.
type clock struct {
	zone *time.Location
	// The hour that was looked up last.
	start, end int64
}

// hour returns the Unix time at which the hour of t begins. Clocks that are not whole hours apart from Greenwich, and
// the hour that comes twice in autumn, have hours of their own.
func (c *clock) hour(t time.Time) int64 {
	u := t.Unix()
	if c.start <= u && u < c.end {
		return c.start
	}
	_, offset := t.In(c.zone).Zone()
	past := (u + int64(offset)) % 3600
	if past < 0 {
		past += 3600
	}
	c.start, c.end = u-past, u-past+3600
	return c.start
}

// day returns the beginning of the day of t, and of the next one.
func (c *clock) day(t time.Time) (from, to time.Time) {
	y, m, d := t.In(c.zone).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, c.zone), time.Date(y, m, d+1, 0, 0, 0, 0, c.zone)
}

// bucket is one hour of an account.
type bucket struct {
	start int64
	jobs  int
	gpu   time.Duration
	spent Money
	awake Money // of spent, for containers that were kept awake
}

// account is what a person or a group took lately, and what they have open.
type account struct {
	hours  []bucket      // in order of time
	due    time.Duration // that open jobs are expected to take
	coming int           // submissions that were admitted and are not accepted yet
}

// at returns the bucket of an hour, made when it is new.
func (a *account) at(start int64) *bucket {
	i := len(a.hours)
	for i > 0 && a.hours[i-1].start > start {
		i--
	}
	if i > 0 && a.hours[i-1].start == start {
		return &a.hours[i-1]
	}
	a.hours = append(a.hours, bucket{})
	copy(a.hours[i+1:], a.hours[i:])
	a.hours[i] = bucket{start: start}
	return &a.hours[i]
}

// since sums up the hours that begin from one time on and before another.
func (a *account) since(from, to int64) (jobs int, gpu time.Duration) {
	for _, b := range a.hours {
		if from <= b.start && b.start < to {
			jobs += b.jobs
			gpu += b.gpu
		}
	}
	return jobs, gpu
}

// paid sums up what was spent in the hours that begin from one time on and before another, and what of that on containers
// that were kept awake.
func (a *account) paid(from, to int64) (spent, awake Money) {
	for _, b := range a.hours {
		if from <= b.start && b.start < to {
			spent += b.spent
			awake += b.awake
		}
	}
	return spent, awake
}

// empty drops the hours before a time and reports whether nothing is left to remember.
func (a *account) empty(before int64) bool {
	i := 0
	for i < len(a.hours) && a.hours[i].start < before {
		i++
	}
	a.hours = append(a.hours[:0], a.hours[i:]...)
	return len(a.hours) == 0 && a.due == 0 && a.coming == 0
}

// row is an hour on its way into the store.
type row struct {
	start       int64
	user, group string
}

// book counts jobs and GPU time. The ledger's lock guards it.
type book struct {
	clock  clock
	users  map[string]*account
	groups map[string]*account
	all    account // what everybody spends; its jobs and GPU time are not counted
	rows   map[row]*bucket
	dirty  map[row]bool // not saved
	first  int64        // the first hour that is counted whole; earlier ones are over and saved
}

func newBook(zone *time.Location) *book {
	return &book{
		clock: clock{zone: zone}, users: map[string]*account{}, groups: map[string]*account{},
		rows: map[row]*bucket{}, dirty: map[row]bool{},
	}
}

func named(m map[string]*account, name string) *account {
	a := m[name]
	if a == nil {
		a = &account{}
		m[name] = a
	}
	return a
}

// accounts calls fn with the accounts that a job counts for.
func (b *book) accounts(user, group string, fn func(*account)) {
	fn(named(b.users, user))
	if group != "" {
		fn(named(b.groups, group))
	}
}

// add counts jobs and GPU time in the hour that begins at start.
func (b *book) add(user, group string, start int64, jobs int, gpu time.Duration) {
	if start < b.first {
		return
	}
	b.accounts(user, group, func(a *account) {
		h := a.at(start)
		h.jobs += jobs
		h.gpu += gpu
	})
	r := row{start, user, group}
	h := b.rows[r]
	if h == nil {
		h = &bucket{start: start}
		b.rows[r] = h
	}
	h.jobs += jobs
	h.gpu += gpu
	b.dirty[r] = true
}

// pay counts money in the hour that begins at start.
func (b *book) pay(user, group string, start int64, m Money) {
	if start < b.first || m == 0 {
		return
	}
	b.add(user, group, start, 0, 0)
	b.rows[row{start, user, group}].spent += m
	add := func(a *account) {
		h := a.at(start)
		h.spent += m
		if user == KeptAwake {
			h.awake += m
		}
	}
	b.accounts(user, group, add)
	add(&b.all)
}

// spent counts GPU time that ended at a time in the hours in which it passed.
func (b *book) spent(user, group string, end time.Time, gpu time.Duration) {
	for gpu > 0 {
		start := b.clock.hour(end.Add(-1))
		part := min(gpu, end.Sub(time.Unix(start, 0)))
		b.add(user, group, start, 0, part)
		gpu -= part
		end = time.Unix(start, 0)
	}
}

// age drops what is too old to count for a quota and saved already, once an hour.
func (b *book) age(now time.Time) {
	before := b.clock.hour(now.Add(-kept))
	if before == b.first {
		return
	}
	b.first = before
	b.all.empty(before)
	for _, m := range []map[string]*account{b.users, b.groups} {
		for name, a := range m {
			if a.empty(before) {
				delete(m, name)
			}
		}
	}
	for r := range b.rows {
		if r.start < before && !b.dirty[r] {
			delete(b.rows, r)
		}
	}
}

// longest bounds what a single job may count: a back end's clock may be wrong.
const longest = 48 * time.Hour

// gpuTime is how long a finished job had a GPU: what its back end said, else the time from its start to its end.
func gpuTime(j *job.Job) time.Duration {
	whole := min(max(j.Duration(), 0), longest)
	if s := comfy.ExecSeconds(j.Summary); s > 0 && s < whole.Seconds() {
		return time.Duration(s * float64(time.Second))
	}
	return whole
}

// counts reports whether a job counts for a quota of jobs: it is open, or it began to run.
func counts(j *job.Job) bool { return !j.State.Final() || !j.Started.IsZero() }
