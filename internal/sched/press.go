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
	mostTimes   = 16              // jobs of one press
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

// farthest are the last jobs of the buckets, from 0, whose bands are judged together.
var farthest = [...]int{1, 3, 8, 20, 40, 80, 160, math.MaxInt}

// firstKept is what bands are corrected by until runs tell: those near are narrow, as chance has few runs to even out.
var firstKept = [len(farthest)]float64{0.5, 0.3, 0.2, 0.15, 0.15, 0.05, -0.1, -0.1}

func bucket(i int) int {
	return slices.IndexFunc(farthest[:], func(last int) bool { return i <= last })
}

const (
	outside = 0.13 // of the bands, are meant to be too early, and as many too late
	haste   = 0.08 // of corrections
)

// correct opens a band, or narrows it.
func (k kept) correct(s strict) Band {
	least := s.middle / 100 // nobody can tell a wait to the second
	end := func(simulated time.Duration, by float64) time.Duration {
		far := math.Log(max(simulated.Seconds(), 0.001) / max(s.middle.Seconds(), 0.001))
		return seconds(max(s.middle.Seconds(), 0.001) * math.Exp(far*math.Exp(by)))
	}
	b := Band{From: end(s.from, k.below), To: end(s.to, k.above)}
	b.From = min(b.From, s.middle-least)
	b.To = max(b.To, s.middle+least, b.From+time.Second)
	return b
}

// learn takes in what came of a band.
func (k *kept) learn(s strict, waited time.Duration) {
	step := func(v *float64, missed bool) {
		if missed {
			*v += haste * (1 - outside)
		} else {
			*v -= haste * outside
		}
		*v = min(max(*v, -2), 2)
	}
	b := k.correct(s)
	step(&k.below, waited < b.From)
	step(&k.above, waited > b.To)
}

// promise is a band that people were told.
type promise struct {
	at time.Time
	strict
	bucket int
}

// mostPromises bounds how many bands are remembered.
const mostPromises = 4000

// Said remembers what people were told, to learn from what comes of it.
func (m *Machine) Said(f Forecast) {
	for i, id := range f.order {
		it := m.item(id)
		if it == nil || it.claimed {
			continue
		}
		said := m.said[id]
		n := bucket(i)
		if len(said) > 0 && said[len(said)-1].bucket <= n || len(said) == 0 && len(m.said) >= mostPromises {
			continue // only the first that it was told at such a place
		}
		m.said[id] = append(said, promise{f.At, f.said[id], n})
	}
}

// The jobs of a batch are late all together, and that happened once, not five hundred times: of one person's jobs at some
// places one teaches for each lessonFor between the looks, and at most mostLessons of one look.
const (
	lessonFor   = 45 * time.Second
	mostLessons = 12
)

// lessons counts what a person's jobs may teach yet of bands of one bucket.
type lessons struct {
	at   time.Time // of the last look
	left time.Duration
}

// take reports whether a job teaches what came of a look.
func (l *lessons) take(at time.Time) bool {
	if l.at.IsZero() {
		l.at, l.left = at, mostLessons/3*lessonFor
	}
	if gone := at.Sub(l.at); gone > 0 {
		l.at, l.left = at, min(l.left+gone, mostLessons*lessonFor)
	}
	if l.left < lessonFor {
		return false
	}
	l.left -= lessonFor
	return true
}

// keep learns from when a person's job began.
func (m *Machine) keep(id job.ID, u *user) {
	for _, p := range m.said[id] {
		if u.lessons[p.bucket].take(p.at) {
			m.known.kept[p.bucket].learn(p.strict, m.now.Sub(p.at))
		}
	}
	delete(m.said, id)
}
