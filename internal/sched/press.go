package sched

import (
	"math"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// press is that somebody pressed Run, once or a few times in a row.
type press struct {
	Job
	kind  *kind
	times int
}

// presses are the last ones.
type presses struct {
	list []press
	at   int // where the next one goes, once the list is full
}

const (
	mostPresses = 128
	mostTimes   = 64              // jobs of one press
	inARow      = 2 * time.Second // between jobs of one press
	lately      = 20 * time.Minute
)

// note takes in a new job.
func (p *presses) note(it *item, at time.Time) {
	u := it.lot.user
	if n := len(p.list); n > 0 {
		last := &p.list[(p.at+n-1)%n]
		if last.User == u.name && at.Sub(last.Created) < inARow {
			last.times = min(last.times+1, mostTimes)
			return
		}
	}
	x := press{kind: it.lot.kind, times: 1, Job: Job{
		User: u.name, Group: u.group.name, Class: it.lot.class, Created: at, Models: it.lot.kind.models, Like: it.like.Value(),
		Cost: time.Duration(it.cost) * time.Millisecond,
	}}
	if len(p.list) < mostPresses {
		p.list = append(p.list, x)
		return
	}
	p.list[p.at] = x
	p.at = (p.at + 1) % mostPresses
}

// recent returns the presses of late, and how many there are in a second.
func (m *Machine) recent(now time.Time) (list []press, rate float64) {
	first := now
	for _, x := range m.pressed.list {
		if age := now.Sub(x.Created); age < 0 || age > lately || m.kinds[x.kind.kindKey] != x.kind {
			continue
		}
		x.Needs = x.kind.named()
		list = append(list, x)
		if x.Created.Before(first) {
			first = x.Created
		}
	}
	if len(list) < 4 { // too few to say
		return nil, 0
	}
	return list, float64(len(list)-1) / max(now.Sub(first).Seconds(), 60)
}

// kept is how bands were kept, of jobs at some places: how many times as far from the middle either end is to be, as a
// power of e.
type kept struct{ below, above float64 }

// farthest are the last places of the buckets whose bands are judged together.
var farthest = [...]int{1, 2, 3, 5, 8, 12, 20, 40, 80, 160, math.MaxInt}

// firstKept is what bands are corrected by until runs tell: those near are narrow, as chance has few runs to even out.
var firstKept = [len(farthest)]float64{0.5, 0.5, 0.3, 0.25, 0.2, 0.15, 0.15, 0.15, 0.05, -0.1, -0.1}

func bucket(place int) int {
	return slices.IndexFunc(farthest[:], func(last int) bool { return place <= last })
}

const (
	outside = 0.15 // of the bands, are meant to be too early, and as many too late
	haste   = 0.03 // of corrections

	mostCorrected = 2 // as a power of e
)

// correct opens a band, or narrows it.
func (k kept) correct(s strict) Band {
	least := s.middle / 100 // nobody can tell a wait to the second
	end := func(simulated time.Duration, by float64) time.Duration {
		far := math.Log(max(simulated.Seconds(), 0.001) / max(s.middle.Seconds(), 0.001))
		return seconds(max(s.middle.Seconds(), 0.001) * math.Exp(far*math.Exp(by)))
	}
	b := Band{From: end(s.from, k.below), To: end(s.to, k.above)}
	b.From = min(b.From, s.middle-least).Truncate(time.Second)
	b.To = max(b.To, s.middle+least, b.From+time.Second)
	return b
}

// learn takes in what came of a band that was told, as a part of a lesson. What would have come of the present one says
// nothing: where times change, it fits those that are over. Told bands are kept as often as they are meant to be in the long
// run, whatever happens: that is adaptive conformal inference (Gibbs and Candès, 2021).
func (k *kept) learn(told Band, waited time.Duration, part float64) {
	step := func(v *float64, missed bool) {
		by := -outside
		if missed {
			by = 1 - outside
		}
		*v = min(max(*v+haste*part*by, -mostCorrected), mostCorrected)
	}
	step(&k.below, waited < told.From)
	step(&k.above, waited > told.To)
}

// promise is a band that people were told.
type promise struct {
	at     time.Time
	told   Band
	bucket int
	part   float64 // of a lesson that it teaches
}

const (
	// mostPromises bounds how many jobs' bands are remembered, and mostPromisesOf how many of one.
	mostPromises   = 4000
	mostPromisesOf = 64
	// lessonsOfAWait is how many lessons there are in the time that jobs at some place wait: those that wait at the same
	// time are early or late together, and that happened once, not as often as there are jobs.
	lessonsOfAWait = 40
	// promisesOfAWait is how often a job is told anew, for its lessons, while it waits as long as it is told.
	promisesOfAWait = 4
)

// Said remembers what people were told, to learn from what comes of it.
func (m *Machine) Said(f Forecast) {
	var fresh [len(farthest)][]*item
	var waits [len(farthest)]time.Duration
	jobs := len(m.said)
	for _, id := range f.order {
		it := m.item(id)
		if it == nil || it.claimed {
			continue
		}
		said := m.said[id]
		n := f.said[id].bucket
		switch k := len(said); {
		case k == 0 && jobs >= mostPromises || k >= mostPromisesOf:
			continue
		case k == 0:
			jobs++
		case said[k-1].bucket <= n && f.At.Sub(said[k-1].at) < f.said[id].middle/promisesOfAWait:
			continue // it was told just now
		}
		fresh[n] = append(fresh[n], it)
		waits[n] += f.said[id].middle
	}
	for n, list := range fresh {
		if len(list) == 0 {
			continue
		}
		lesson := max(waits[n]/time.Duration(len(list)), time.Second) / lessonsOfAWait
		lessons := lessonsOfAWait / 2.
		if last := m.promised[n]; !last.IsZero() {
			lessons = f.At.Sub(last).Seconds() / lesson.Seconds()
		}
		m.promised[n] = f.At
		part := min(max(lessons, 0)/float64(len(list)), 1)
		for _, it := range list {
			id := m.id(it)
			m.said[id] = append(m.said[id], promise{f.At, f.Bands[id], n, part})
		}
	}
}

// keep learns from when a job began.
func (m *Machine) keep(id job.ID) {
	for _, p := range m.said[id] {
		m.known.kept[p.bucket].learn(p.told, m.now.Sub(p.at), p.part)
	}
	delete(m.said, id)
}
