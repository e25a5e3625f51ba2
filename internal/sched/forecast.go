package sched

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Band is how long a waiting job will wait from now: in three of five cases or a little more it begins between From and
// To. The zero value says that nobody can tell.
type Band struct{ From, To time.Duration }

// Forecast is how long jobs will wait.
type Forecast struct {
	At    time.Time         // when that was so
	Bands map[job.ID]Band   // of those that begin first
	order []job.ID          // in which they are expected to begin
	each  time.Duration     // between the begins of two jobs
	said  map[job.ID]strict // before it was corrected by how earlier ones were kept
}

// strict is a band as the simulation says it, with its middle, of a job at places that are judged together.
type strict struct {
	from, middle, to time.Duration
	bucket           int
}

// Band returns how long the job at a place will wait. Beyond those that were simulated it goes on at the same pace.
func (f Forecast) Band(id job.ID, place int) Band {
	if b, ok := f.Bands[id]; ok || f.each == 0 || place <= len(f.order) {
		return b
	}
	wait := f.each * time.Duration(place)
	return Band{wait * 3 / 4, wait * 4 / 3}
}

const (
	mostSeen    = 1500   // waiting jobs in an outlook
	mostSeenOf  = 300    // of one person
	mostSteps   = 12_000 // decisions in all simulations of an outlook
	mostReplays = 24     // simulations of one outlook
	fewReplays  = 10
	mostPressed = 5_000 // jobs of people who press Run, in one simulation: where they come faster than they run there is no end
	lookAhead   = 24 * time.Hour
	farther     = 2   // times as far as a simulation saw begins, as a rule, what did not begin in it
	unsteady    = 0.5 // by how much people press Run more or less often than lately, as a power of e
)

// Forecast simulates what comes, from the state as it is now, and remembers what it said: what came of it corrects
// what is said next.
func (m *Machine) Forecast(now time.Time) map[job.ID]Band {
	f := m.Outlook(now).Look()
	m.Said(f)
	return f.Bands
}

// Outlook is what the machine knew at a moment, as far as it tells how long jobs wait. Another goroutine may use it
// while the machine goes on.
type Outlook struct {
	opts    Options
	now     time.Time
	known   experience
	served  int64
	virtual int64
	groups  []group
	people  []person
	gpus    []gpu
	money   Budget
	presses []press
	rate    float64 // presses per second
	jobs    int
}

// person, gpu and going are copies of what the machine has.
type (
	person struct {
		user
		jobs []Job
	}
	gpu struct {
		backEnd
		runs []going
		can  map[string]bool // by the name of the kind
		last string
	}
	going struct {
		Job
		run
	}
)

// named is the one need that stands for a kind in an outlook: what a back end can run was found out before.
func (k *kind) named() []string { return []string{fmt.Sprint(k.no)} }

func (m *Machine) job(it *item) Job {
	l := it.lot
	return Job{
		ID: m.id(it), User: l.user.name, Group: l.user.group.name, Class: l.class, Number: it.number, Seq: it.seq,
		Created: time.UnixMilli(it.created), Needs: l.kind.named(), Models: l.kind.models, Like: it.like.Value(),
		Cost: time.Duration(it.cost) * time.Millisecond,
	}
}

// Outlook returns the state as it is now: of each person the first jobs, and of so many people those whose turn is
// first.
func (m *Machine) Outlook(now time.Time) *Outlook {
	o := &Outlook{opts: m.opts, now: now, known: m.known, served: m.served, virtual: m.virtual, money: m.money.Budget}
	o.money.Groups = maps.Clone(o.money.Groups)
	o.known.loads = nil // they are asked for here
	if m.paused {
		return o
	}
	for _, g := range m.groups {
		o.groups = append(o.groups, group{name: g.name, weight: g.weight, tag: g.tag, now: g.now})
	}
	slices.SortFunc(o.groups, func(x, y group) int { return cmp.Compare(x.name, y.name) })
	o.see(m)
	kinds := map[string]*kind{}
	for _, k := range m.kinds {
		kinds[k.named()[0]] = k
	}
	loads := map[string]mean{}
	for _, k := range m.kinds {
		if one, ok := m.known.loads[k.models]; ok {
			loads[k.models] = one
		}
	}
	o.known.loads = loads
	for _, b := range m.backends {
		g := gpu{backEnd: *b, can: map[string]bool{}}
		g.backEnd.runs, g.fits, g.lastUser, g.Missing, g.loads = nil, nil, nil, nil, nil
		for name, k := range kinds {
			g.can[name] = b.can(k)
		}
		if b.lastUser != nil {
			g.last = b.lastUser.name
		}
		for _, r := range b.runs {
			g.runs = append(g.runs, going{m.job(r.item), *r})
		}
		o.gpus = append(o.gpus, g)
	}
	o.presses, o.rate = m.recent(now)
	return o
}

// see takes in who waits: the jobs whose turn is first.
func (o *Outlook) see(m *Machine) {
	each := m.sharesByTurn
	if m.lined() {
		each = m.sharesByAcceptance
	}
	people, shares := each()
	for i, u := range people {
		p := person{user: *u}
		p.lots, p.runs = nil, nil
		for it := range m.inOrder(u) {
			if len(p.jobs) == shares[i] {
				break
			}
			p.jobs = append(p.jobs, m.job(it))
		}
		o.jobs += len(p.jobs)
		o.people = append(o.people, p)
	}
}

// sharesByTurn returns who is seen, and how many jobs of each, where people have turns: of each the first jobs, and of
// so many people those whose turn is first.
func (m *Machine) sharesByTurn() (people []*user, shares []int) {
	type turn struct {
		key
		*user
	}
	var turns []turn
	for _, u := range m.active {
		if u.group.paused {
			continue
		}
		k := key{0, u.turn, u.joined}
		if m.opts.Order == Fair {
			k.tag = u.group.tag - m.virtual + u.tag - u.group.now
		}
		turns = append(turns, turn{k, u})
	}
	if len(turns) > mostSeen {
		slices.SortFunc(turns, func(x, y turn) int { return x.key.compare(y.key) })
		turns = turns[:mostSeen]
	}
	each := min(mostSeenOf, mostSeen/max(len(turns), 1))
	for _, t := range turns {
		people, shares = append(people, t.user), append(shares, each)
	}
	return people, shares
}

// sharesByAcceptance is the same where jobs stand in lines: however many are one person's, all of them come first.
func (m *Machine) sharesByAcceptance() (people []*user, shares []int) {
	var lines [len(m.lines)]cursor[bySeq]
	for c := range m.lines {
		lines[c].list = &m.lines[c]
	}
	class := func(it *item) int {
		if m.opts.Order == FIFO {
			return 0
		}
		return m.aged(it.lot.class, it)
	}
	at := map[*user]int{}
	for range mostSeen {
		best := -1
		var first bySeq
		for c := range lines {
			x, ok := lines[c].at()
			if ok && (best < 0 || cmp.Or(cmp.Compare(class(x.item), class(first.item)), x.compare(first)) < 0) {
				best, first = c, x
			}
		}
		if best < 0 {
			break
		}
		lines[best].next()
		u := first.lot.user
		i, known := at[u]
		if !known {
			i = len(people)
			at[u] = i
			people, shares = append(people, u), append(shares, 0)
		}
		shares[i]++
	}
	return people, shares
}

// Bands returns the bands of Look.
func (o *Outlook) Bands() map[job.ID]Band { return o.Look().Bands }

// Look simulates what comes a number of times, with runs as long as estimates were wrong before and people who press Run
// as they did lately. The same outlook gives the same forecast.
func (o *Outlook) Look() Forecast {
	f := Forecast{At: o.now, Bands: map[job.ID]Band{}, said: map[job.ID]strict{}}
	if o.jobs == 0 || !slices.ContainsFunc(o.gpus, func(g gpu) bool { return g.open() }) {
		return f // nobody can tell
	}
	waits := make(map[job.ID][]time.Duration, o.jobs)
	for _, p := range o.people {
		for _, j := range p.jobs {
			waits[j.ID] = nil
		}
	}
	replays, steps := 0, 0
	for replays < mostReplays && (steps < mostSteps || replays < fewReplays && steps < 2*mostSteps) {
		took, seen := o.play(uint64(replays), waits)
		steps += took
		replays++
		for id, w := range waits {
			if len(w) < replays { // it did not begin as far as that one saw
				waits[id] = append(w, -seen)
			}
		}
	}
	places := o.places()
	for id, w := range waits {
		slices.Sort(w)
		beyond, _ := slices.BinarySearch(w, 0)
		if beyond > replays/2 { // nobody can tell
			continue
		}
		for i := range beyond {
			w[i] = -w[i] * farther
		}
		slices.Sort(w)
		s := strict{quantile(w, 0.2), quantile(w, 0.5), quantile(w, 0.8), bucket(places[id])}
		f.said[id], f.Bands[id] = s, o.known.kept[s.bucket].correct(s)
		f.order = append(f.order, id)
	}
	slices.SortFunc(f.order, func(x, y job.ID) int {
		return cmp.Or(cmp.Compare(f.said[x].middle, f.said[y].middle), cmp.Compare(x, y))
	})
	if n := len(f.order); n > 0 {
		f.each = f.said[f.order[n-1]].middle / time.Duration(n)
	}
	return f
}

// places returns where those who wait stand, as they are told.
func (o *Outlook) places() map[job.ID]int {
	places := make(map[job.ID]int, o.jobs)
	m := o.machine()
	for _, p := range o.people {
		m.eachPlace(p.name, math.MaxInt, func(it *item, position int) { places[m.id(it)] = position })
	}
	return places
}

// quantile is what one more draw stays below with probability q, as far as these in order tell: n draws leave n+1 gaps,
// and it falls into each of them as often.
func quantile(sorted []time.Duration, q float64) time.Duration {
	at := min(max(q*float64(len(sorted)+1)-1, 0), float64(len(sorted)-1))
	i := int(at)
	low, high := sorted[i], sorted[min(i+1, len(sorted)-1)]
	return low + time.Duration((at-float64(i))*float64(high-low))
}

// machine returns a machine in the state of the outlook.
func (o *Outlook) machine() *Machine {
	m := New(o.opts)
	m.now, m.known, m.dream = o.now, o.known, true
	m.money.Budget = o.money
	m.money.Groups = maps.Clone(o.money.Groups) // each simulation spends its own
	for _, g := range o.groups {
		m.group(g.name).weight = g.weight
	}
	for i := range o.gpus {
		g := &o.gpus[i]
		m.Apply(BackEnd{
			Name: g.Name, Ready: g.open(), Slots: g.Slots, Parallel: g.Parallel, Groups: g.Groups,
			Price: g.Price, Prefer: g.Prefer, Cold: g.Cold, Wake: g.Wake, Speed: g.speed(), Models: g.loaded,
			Missing: func(needs []string) []string {
				if g.can[needs[0]] {
					return nil
				}
				return needs
			},
		})
		for _, r := range g.runs {
			it := m.add(r.Job)
			m.unfile(it)
			run := m.claim(it, m.backEnd(g.Name))
			run.posted, run.began, run.charged, run.turn = r.posted, r.began, r.charged, 0
		}
	}
	for _, p := range o.people {
		for _, j := range p.jobs {
			m.add(j)
		}
	}
	for i := range o.people {
		p := &o.people[i]
		u := m.users[p.name]
		u.weight, u.tag, u.turn, u.joined, u.served, u.passed = p.weight, p.tag, p.turn, p.joined, p.served, p.passed
		m.joins = max(m.joins, u.joined)
		m.restand(u)
	}
	for _, g := range o.groups {
		h := m.group(g.name)
		m.unlist(h)
		h.tag, h.now = g.tag, g.now
		h.listed = h.people > 0 && m.parties.insert(h)
	}
	m.virtual, m.served = o.virtual, o.served
	return m
}
