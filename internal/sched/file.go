package sched

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"time"
	"unique"

	"github.com/ahelme/comfyume/internal/job"
)

// item is a job in the machine. There may be a million: it is kept small.
type item struct {
	id      packed
	number  float64
	seq     int64
	created int64 // in ms
	like    unique.Handle[string]
	lot     *lot   // where it waits, or waited before it was claimed
	cost    uint32 // in ms; 0: nobody knows
	claimed bool
	held    bool // asked for while it was claimed
	// recalled says that it was staged and others went before it: once is enough.
	recalled bool
}

// compare orders jobs of one person and class.
func (it *item) compare(other *item) int {
	return cmp.Or(cmp.Compare(it.number, other.number), cmp.Compare(it.seq, other.seq), bytes.Compare(it.id[:], other.id[:]))
}

// own orders jobs of one person: by class, number and acceptance.
func own(x, y *item) int { return cmp.Or(cmp.Compare(x.lot.class, y.lot.class), x.compare(y)) }

// bySeq is an item in order of acceptance.
type bySeq struct {
	seq int64
	*item
}

func (x bySeq) compare(other bySeq) int { return cmp.Compare(x.seq, other.seq) }

// lot holds those of a person's waiting jobs that can run at the same places and times: whether its first one can run
// says it for all of them.
type lot struct {
	user  *user
	kind  *kind
	class job.Class
	held  bool
	retry *retry // nil: it was not tried yet
	items list[*item]
	no    int64 // of all lots that ever were
	pool  *pool // where it stands for its turn; nil: it can't have one now
	key   key   // by which it stands there
	late  bool  // it is in Machine.later
}

func (l *lot) compare(other *lot) int {
	return cmp.Or(l.key.compare(other.key), cmp.Compare(l.no, other.no))
}

// retry is what a lost attempt leaves behind.
type retry struct {
	avoid     []string
	notBefore time.Time
	why       string
}

func (r *retry) same(other *retry) bool {
	return r == other || r != nil && other != nil &&
		r.notBefore.Equal(other.notBefore) && slices.Equal(r.avoid, other.avoid) && r.why == other.why
}

// avoids reports whether the lot's jobs were lost on that back end.
func (l *lot) avoids(name string) bool { return l.retry != nil && slices.Contains(l.retry.avoid, name) }

// later is a lot that may not run before some time.
type later struct{ *lot }

func (x later) compare(other later) int {
	return cmp.Or(x.retry.notBefore.Compare(other.retry.notBefore), cmp.Compare(x.no, other.no))
}

// user is a person with jobs in the machine.
type user struct {
	name   string
	group  *group
	weight float64
	turn   int64 // number of the last decision for this person
	joined int64 // when they got jobs that wait; decides between equal turns
	kept   bool  // joined is to stay when they get jobs again
	tag    int64 // virtual time at which their next job begins, in Fair
	left   time.Time
	served time.Time // when they were served last
	passed time.Duration
	work          // that waits and is not held
	place  int    // in Machine.active, from 1; 0: not there
	lots   []*lot // with waiting jobs
	runs   []*run
	top    mark // the job accepted last that was filed
	mixed  bool // their jobs may not wait in order of acceptance
}

// mark is where a job stands among those of its person.
type mark struct {
	seq    int64
	class  job.Class
	number float64
}

// work sums up jobs.
type work struct {
	n       int
	cost    int64 // in ms, of those whose cost is known
	unknown int   // those of which nobody knows
}

func (w *work) add(it *item, sign int) {
	w.n += sign
	w.cost += int64(sign) * int64(it.cost)
	if it.cost == 0 {
		w.unknown += sign
	}
}

// mostLots bounds what one person's jobs can differ in: beyond, models are not told apart any more.
const mostLots = 64

func millis(d time.Duration) uint32 {
	return uint32(min(max(d.Milliseconds(), 0), math.MaxUint32))
}

// add files a job, anew when it is known already.
func (m *Machine) add(j Job) *item {
	it := m.item(j.ID)
	if it == nil {
		it = &item{id: m.pack(j.ID), lot: &lot{user: m.user(j.User, j.Group)}}
		m.items.Put(it)
		m.describe(it, j)
		m.file(it)
		if !m.dream {
			at := m.now
			if j.Created.After(at) {
				at = j.Created
			}
			m.pressed.note(it, at)
		}
		return it
	}
	if it.lot.user.name != j.User {
		return it
	}
	if it.claimed { // it goes on, unless it is held or others are to go first
		it.held, it.number = j.Held, j.Number
		m.date(it, j.Deadline)
		if j.Class != it.lot.class {
			l := *it.lot
			l.class, l.items = j.Class, list[*item]{}
			it.lot = &l
		}
		m.stirred = true
		return it
	}
	u := it.lot.user
	u.mixed = u.mixed || it.number != j.Number || it.lot.class != j.Class
	retry := it.lot.retry
	m.unfile(it)
	m.describe(it, j)
	it.lot.retry = retry
	m.file(it)
	return it
}

// describe takes over what the machine has to know of a job that is not filed.
func (m *Machine) describe(it *item, j Job) {
	k := m.intern(j.Needs, j.Memory, j.Models)
	k.items++
	if old := it.lot.kind; old != nil {
		m.drop(old)
	}
	it.lot = &lot{user: it.lot.user, kind: k, class: j.Class, held: j.Held}
	if it.seq != j.Seq {
		m.date(it, time.Time{}) // it stands in the order of deadlines by that
	}
	it.number, it.seq, it.like = j.Number, j.Seq, unique.Make(j.Like)
	it.held = false
	m.date(it, j.Deadline)
	if !j.Created.IsZero() {
		it.created = j.Created.UnixMilli()
	}
	if j.Cost > 0 || it.cost == 0 {
		it.cost = millis(j.Cost)
	}
}

func (m *Machine) user(name, group string) *user {
	u := m.users[name]
	if u == nil {
		u = &user{name: name, weight: 1}
		m.users[name] = u
	}
	g := m.group(group)
	if u.group == nil {
		u.group = g
	} else if u.group != g { // moved to another class: what waits goes with them
		m.regroup(u, g)
	}
	return u
}

// file puts an item where its lot says that it waits.
func (m *Machine) file(it *item) {
	want, u := it.lot, it.lot.user
	i := slices.IndexFunc(u.lots, func(l *lot) bool {
		return l.kind == want.kind && l.class == want.class && l.held == want.held && l.retry.same(want.retry)
	})
	if i < 0 && len(u.lots) >= mostLots && want.kind.models != "" {
		k := m.intern(want.kind.needs, want.kind.memory, "")
		k.items++
		m.drop(want.kind)
		want.kind = k
		m.file(it)
		return
	}
	l := want
	if i < 0 {
		m.lots++
		l.no = m.lots
		u.lots = append(u.lots, l)
	} else {
		l = u.lots[i]
	}
	it.lot = l
	l.items.insert(it)
	if !l.held {
		m.counted(it, 1)
		if u.place == 0 {
			m.enter(u)
		}
		u.note(it)
	}
	m.stand(l)
	m.stirred = true
}

// note watches whether the person's jobs wait in order of acceptance.
func (u *user) note(it *item) {
	now := mark{it.seq, it.lot.class, it.number}
	before := cmp.Or(cmp.Compare(now.class, u.top.class), cmp.Compare(now.number, u.top.number)) < 0
	switch {
	case u.n == 1:
		u.top, u.mixed = now, false
	case now.seq > u.top.seq:
		u.mixed = u.mixed || before
		u.top = now
	default: // given back: it should go before all others
		u.mixed = u.mixed || slices.ContainsFunc(u.lots, func(l *lot) bool {
			if l.held || l.items.n == 0 {
				return false
			}
			first := l.items.first()
			return own(first, it) < 0 || first.seq < it.seq
		})
	}
}

func (m *Machine) unfile(it *item) {
	l, u := it.lot, it.lot.user
	l.items.remove(it)
	if !l.held {
		m.counted(it, -1)
	}
	if l.items.n == 0 {
		m.unstand(l)
		i := slices.Index(u.lots, l)
		u.lots = slices.Delete(u.lots, i, i+1)
	} else {
		m.stand(l)
	}
	if u.n == 0 && u.place != 0 {
		m.exit(u)
	}
}

// counted sums up a job that waits and is not held, or with -1 takes it out of the sums.
func (m *Machine) counted(it *item, sign int) {
	u := it.lot.user
	if !u.group.paused {
		m.waiting += sign
	}
	u.add(it, sign)
	u.group.add(it, sign)
	if m.lined() && !u.group.paused {
		line := &m.lines[min(it.lot.class, job.ClassLow)]
		if x := (bySeq{it.seq, it}); sign > 0 {
			line.insert(x)
		} else {
			line.remove(x)
		}
	}
}

// estimate changes what a waiting job is expected to cost.
func (m *Machine) estimate(it *item, cost time.Duration) {
	if it.claimed || it.lot.held {
		it.cost = millis(cost)
		return
	}
	for _, w := range []*work{&it.lot.user.work, &it.lot.user.group.work} {
		w.add(it, -1)
		w.n++ // only its cost changes
	}
	it.cost = millis(cost)
	for _, w := range []*work{&it.lot.user.work, &it.lot.user.group.work} {
		w.n--
		w.add(it, 1)
	}
}
