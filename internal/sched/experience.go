package sched

import (
	"maps"
	"math"
	"slices"
	"time"
)

// experience is what the runs so far teach.
type experience struct {
	typical mean                // how long a job runs
	load    mean                // how long models are loaded
	loads   map[string]mean     // by models
	error   mean                // the square of the error of estimates, in powers of e
	shared  mean                // of it what the error of a run has in common with those before
	recent  mean                // error of those
	kept    [len(farthest)]kept // how bands were kept
}

// mean is a mean over the last so many values.
type mean struct {
	value float64
	n     float64
}

// add takes one more value into a mean over about most values.
func (a *mean) add(v, most float64) {
	a.n = min(a.n+1, most)
	a.value += (v - a.value) / a.n
}

const (
	firstTypical = 10 // seconds, until runs tell
	firstLoad    = 20
	mostLoads    = 1000 // models whose loading is remembered
)

func newExperience() experience {
	e := experience{
		typical: mean{value: firstTypical}, load: mean{value: firstLoad}, loads: map[string]mean{},
		error: mean{0.09, 5}, shared: mean{0.003, 5},
	}
	for i := range e.kept {
		e.kept[i] = kept{firstKept[i], firstKept[i]}
	}
	return e
}

// learn takes in how long a run was.
func (m *Machine) learn(r *run, ran time.Duration) {
	if ran <= 0 || !r.posted || m.dream {
		return
	}
	e := &m.known
	took, models := ran.Seconds(), r.lot.kind.models
	usual := m.cost(r.item).Seconds() / r.on.speed()
	if r.cold {
		if r.cost > 0 {
			load := max(took-usual, 0)
			r.on.loadedIn(models, load)
			e.load.add(load, 50)
			one, ok := e.loads[models]
			if ok || len(e.loads) < mostLoads {
				one.add(load, 10)
				e.loads[models] = one
			}
		}
		return
	}
	e.typical.add(took*r.on.speed(), 50)
	if r.cost > 0 {
		miss := math.Log(max(took, 0.001) / max(usual, 0.001))
		miss = min(max(miss, -3), 3)
		e.error.add(miss*miss, 100)
		e.shared.add(miss*e.recent.value, 100)
		e.recent.add(miss, 30)
		r.on.pace.add(r.on.pace.value-miss, 20)
		r.on.taught++
	}
}

// Learnt is what runs taught of a back end.
type Learnt struct {
	BackEnd string
	Runs    int     // without a load of models, that taught its speed
	Speed   float64 // how many times as fast as usual
	Loaded  string  // the models that it has loaded, as far as that is known
	Loads   []Load  // in order of their names
}

// Load is how long models take to load on a back end.
type Load struct {
	Models string
	Takes  time.Duration
	Times  int // that it was seen, of late
}

// Learnt returns what runs taught of the back ends.
func (m *Machine) Learnt() []Learnt {
	list := make([]Learnt, 0, len(m.backends))
	for _, b := range m.backends {
		l := Learnt{BackEnd: b.Name, Runs: b.taught, Speed: b.speed(), Loaded: b.warm()}
		for _, models := range slices.Sorted(maps.Keys(b.loads)) {
			one := b.loads[models]
			l.Loads = append(l.Loads, Load{models, seconds(one.value), int(one.n)})
		}
		list = append(list, l)
	}
	return list
}

// mostLoadsOf is of how many models it is remembered how long they load on one back end.
const mostLoadsOf = 64

// loadedIn takes in how many seconds models were loaded.
func (b *backEnd) loadedIn(models string, took float64) {
	one, ok := b.loads[models]
	if !ok && len(b.loads) >= mostLoadsOf {
		return
	}
	if b.loads == nil {
		b.loads = map[string]mean{}
	}
	one.add(took, 10)
	b.loads[models] = one
}

// speed is how many times as fast as usual the back end is: as it was said, else as its runs showed.
func (b *backEnd) speed() float64 {
	if b.Speed > 0 {
		return b.Speed
	}
	return math.Exp(b.pace.value)
}

// cost is how long an item is expected to run at usual speed.
func (m *Machine) cost(it *item) time.Duration {
	if it.cost > 0 {
		return time.Duration(it.cost) * time.Millisecond
	}
	return seconds(m.known.typical.value)
}

// errors returns by how much estimates are wrong, as powers of e: all of them together, and each run for itself. A batch
// evens out the latter.
func (e *experience) errors() (shared, own float64) {
	of := min(max(e.shared.value, 0), e.error.value)
	return math.Sqrt(of), math.Sqrt(e.error.value - of)
}

// loading is how long models are expected to be loaded.
func (m *Machine) loading(models string) time.Duration {
	if one, ok := m.known.loads[models]; ok {
		return seconds(one.value)
	}
	return seconds(m.known.load.value)
}

// expected is how long an item would keep a back end busy.
func (m *Machine) expected(it *item, b *backEnd) time.Duration {
	d := time.Duration(float64(m.cost(it)) / b.speed())
	if b.cold(it.lot.kind) {
		d += m.loading(it.lot.kind.models)
	}
	return d + b.lead()
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
