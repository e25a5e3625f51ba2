package sched

import (
	"slices"
	"strings"
	"time"
	"unique"
)

// slots is how many jobs are claimed for a back end that runs so many at once: one is staged for each four.
func slots(parallel int) int { return parallel + (parallel+3)/4 }

// backEnd is one GPU source.
type backEnd struct {
	BackEnd
	known    bool
	paused   bool
	why      string // it is paused
	runs     []*run // claimed for it, in order of the claim
	loaded   string // the models of what was posted last
	lastUser *user
	lastLike unique.Handle[string]
	pace     mean            // how fast its runs were, as a power of e
	fits     []fit           // by kind.no
	taught   int             // runs that taught its pace
	loads    map[string]mean // by models
}

// run is a claimed item.
type run struct {
	*item
	on       *backEnd
	posted   bool
	began    time.Time     // when it was posted
	cold     bool          // its models had to be loaded
	charged  time.Duration // to its person
	price    float64       // that was taken aside for it
	tag      int64         // the person's virtual time at the claim
	groupTag int64         // and their group's
	turn     int64         // of the decision that claimed it
	before   int64         // the person's turn before that
	joined   int64         // and when they had got jobs that wait
}

// open reports whether the back end is given jobs.
func (b *backEnd) open() bool { return b.Ready && !b.paused }

// idle reports whether the back end would run one more job at once.
func (b *backEnd) idle() bool { return len(b.runs) < b.Parallel }

// staged counts the jobs that wait for others on the back end.
func (b *backEnd) staged() int { return max(len(b.runs)-b.Parallel, 0) }

// serves reports whether the back end runs jobs of the group.
func (b *backEnd) serves(g *group) bool {
	return len(b.Groups) == 0 || slices.Contains(b.Groups, g.name)
}

// find returns where the back end with that name is, or -1.
func (m *Machine) find(name string) int {
	return slices.IndexFunc(m.backends, func(b *backEnd) bool { return b.Name == name })
}

// backEnd returns the entry with that name and makes one that is not ready if there is none.
func (m *Machine) backEnd(name string) *backEnd {
	if i := m.find(name); i >= 0 {
		return m.backends[i]
	}
	b := &backEnd{BackEnd: BackEnd{Name: name, Slots: slots(1), Parallel: 1}, pace: mean{n: 4}}
	m.backends = append(m.backends, b)
	return b
}

func (m *Machine) update(e BackEnd) {
	e.Parallel = max(e.Parallel, 1)
	if e.Slots <= 0 {
		e.Slots = slots(e.Parallel)
	}
	e.Slots = max(e.Slots, e.Parallel)
	b := m.backEnd(e.Name)
	b.BackEnd, b.known = e, true
	clear(b.fits)
	switch {
	case e.Models != "":
		b.loaded = e.Models
	case !e.Ready:
		b.loaded = ""
	}
	m.stirred = true
}

func (m *Machine) remove(name string) {
	i := m.find(name)
	if i < 0 {
		return
	}
	b := m.backends[i]
	b.known, b.Ready = false, false
	if len(b.runs) == 0 {
		m.backends = slices.Delete(m.backends, i, i+1)
	}
}

// kind is what jobs ask of a back end: one for all jobs that ask for the same.
type kind struct {
	kindKey
	needs []string
	no    int // small, for tables
	items int // that have it
}

// kindKey tells kinds apart.
type kindKey struct {
	classes string // the needs, joined
	memory  int64
	models  string
}

// fit is whether a back end can run jobs of a kind.
type fit uint8

const (
	unasked fit = iota
	fitting
	lacking
)

// runs reports whether the back end has what jobs of the kind need.
func (b *backEnd) can(k *kind) bool {
	if k.no >= len(b.fits) {
		b.fits = append(b.fits, make([]fit, k.no+1-len(b.fits))...)
	}
	if b.fits[k.no] == unasked {
		b.fits[k.no] = fitting
		if b.small(k) || len(b.lacks(k)) > 0 {
			b.fits[k.no] = lacking
		}
	}
	return b.fits[k.no] == fitting
}

// small reports whether the back end has too little memory.
func (b *backEnd) small(k *kind) bool { return b.Memory > 0 && k.memory > b.Memory }

// lacks returns what the back end lacks of the node classes.
func (b *backEnd) lacks(k *kind) []string {
	if b.Missing == nil || len(k.needs) == 0 {
		return nil
	}
	return b.Missing(k.needs)
}

// mostKinds is how many kinds are kept that no job has.
const mostKinds = 256

// intern returns the one entry for what a job asks for.
func (m *Machine) intern(needs []string, memory int64, models string) *kind {
	if len(needs) > 0 && !sorted(needs) {
		needs = slices.Clone(needs)
		slices.Sort(needs)
		needs = slices.Compact(needs)
	}
	key := kindKey{strings.Join(needs, "\x00"), memory, models}
	if k := m.kinds[key]; k != nil {
		return k
	}
	k := &kind{kindKey: key, needs: slices.Clone(needs), no: len(m.kinds)}
	if n := len(m.spare); n > 0 {
		k.no, m.spare = m.spare[n-1], m.spare[:n-1]
	}
	m.kinds[key] = k
	return k
}

// sorted reports whether names are in order, each once.
func sorted(names []string) bool {
	for i := range names[1:] {
		if names[i] >= names[i+1] {
			return false
		}
	}
	return true
}

// drop says that one item less has the kind. Those that nobody has are kept for the next, up to some number.
func (m *Machine) drop(k *kind) {
	if k.items--; k.items > 0 || len(m.kinds) <= mostKinds {
		return
	}
	unused := func(q *pool) bool { return q.kind.items == 0 }
	m.all.pools = slices.DeleteFunc(m.all.pools, unused)
	for _, g := range m.groups {
		g.pools = slices.DeleteFunc(g.pools, unused)
	}
	var gone []int
	for key, k := range m.kinds {
		if k.items == 0 {
			delete(m.kinds, key)
			gone = append(gone, k.no)
			for _, b := range m.backends {
				if k.no < len(b.fits) {
					b.fits[k.no] = unasked
				}
			}
		}
	}
	slices.Sort(gone) // the same numbers for the same events
	m.spare = append(m.spare, gone...)
}

// claim takes an item that is not filed for a back end.
func (m *Machine) claim(it *item, b *backEnd) *run {
	it.claimed = true
	r := &run{item: it, on: b, cold: b.cold(it.lot.kind), charged: m.expected(it, b)}
	b.runs = append(b.runs, r)
	b.lastUser, b.lastLike = it.lot.user, it.like
	it.lot.user.runs = append(it.lot.user.runs, r)
	m.runs[it] = r
	m.reserve(r)
	return r
}

func (m *Machine) unclaim(r *run) {
	b, u := r.on, r.lot.user
	same := func(other *run) bool { return other == r }
	b.runs = slices.DeleteFunc(b.runs, same)
	u.runs = slices.DeleteFunc(u.runs, same)
	r.claimed = false
	delete(m.runs, r.item)
	if !b.known && len(b.runs) == 0 {
		m.remove(b.Name)
	}
}

// warm returns the models that the back end will have loaded when it is done with what is claimed for it.
func (b *backEnd) warm() string {
	for i := len(b.runs) - 1; i >= 0; i-- {
		if models := b.runs[i].lot.kind.models; models != "" {
			return models
		}
	}
	return b.loaded
}

// cold reports whether the back end has to load models for jobs of the kind.
func (b *backEnd) cold(k *kind) bool { return k.models != "" && k.models != b.warm() }
