package usage

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Bounds of what is remembered.
const (
	maxGroups = 8192 // of graphs that are alike
	maxRates  = 32   // runs that tell how fast a back end is
	leastRuns = 3    // before which a person's own graphs, or a back end's speed, are not told from others'
)

// key names a group of graphs that are taken to be alike. Those of one person begin with a hash of who it is.
type key [16]byte

// The levels on which graphs are taken to be alike, from the most to the least certain.
const (
	own    = iota // the person's, of the same classes with the same models
	same          // anybody's, of the same classes with the same models
	like          // anybody's, of the same classes
	models        // anybody's with the same models
	all           // all there are
	levels
)

// unlike is the spread that comes with a level: how different graphs may be that are taken to be alike.
var unlike = [levels]float64{own: 0, same: 0, like: 0.5, models: 0.75, all: 1}

// digest makes a key of a level and what is alike on it.
func digest(level byte, parts ...string) (k key) {
	text := append(make([]byte, 0, 256), level)
	for _, p := range parts {
		text = binary.AppendUvarint(text, uint64(len(p)))
		text = append(text, p...)
	}
	sum := sha256.Sum256(text)
	copy(k[:], sum[:])
	return k
}

// keyOn returns the name of the group that a job belongs to on a level.
func keyOn(level int, j *job.Job) (k key) {
	switch level {
	case own:
		k = digest(own, j.User)
		which := digest(same, j.Profile.Like, j.Profile.Models)
		copy(k[half:], which[:])
		return k
	case same:
		return digest(same, j.Profile.Like, j.Profile.Models)
	case like:
		return digest(like, j.Profile.Like)
	case models:
		return digest(models, j.Profile.Models)
	}
	return key{all}
}

// half of a key of a person's own graphs says who it is.
const half = len(key{}) / 2

// group is what is known of graphs that are alike.
type group struct {
	samples []sample // at most maxSamples; next is the oldest when it is full
	next    int
	fit     fit
	pace    int   // of the estimator when fit was made
	news    int   // samples that came since
	dirty   bool  // it is not saved as it is
	saved   bool  // it is, or an earlier one
	used    int64 // Unix seconds
}

func (g *group) add(s sample) {
	g.news++
	g.dirty, g.used = true, s.at
	if len(g.samples) < maxSamples {
		g.samples = append(g.samples, s)
		return
	}
	g.samples[g.next] = s
	g.next = (g.next + 1) % maxSamples
}

// rates is how fast a back end's runs were beside what was expected, as logarithms.
type rates struct {
	list   []float64
	next   int
	middle float64 // of list
	speed  float64
	dirty  bool // it is not saved
}

func (r *rates) add(log float64) {
	r.dirty = true
	if len(r.list) < maxRates {
		r.list = append(r.list, log)
	} else {
		r.list[r.next] = log
		r.next = (r.next + 1) % maxRates
	}
	r.settle()
}

// settle finds the middle of the list.
func (r *rates) settle() {
	var room [maxRates]weighted
	list := room[:0]
	for _, v := range r.list {
		list = append(list, weighted{v, 1})
	}
	if len(list) > 0 {
		r.middle = median(list)
	}
}

// nameOf is how a back end's name is remembered.
func nameOf(backEnd string) uint32 { return uint32(hashOf(backEnd)) } //nolint:gosec // a part of it will do

// estimator learns from runs how long others will take. It is safe for concurrent use.
type estimator struct {
	halfLife float64 // seconds
	most     int     // groups

	mu       sync.Mutex
	groups   map[key]*group
	backEnds map[uint32]*rates
	pace     int          // grows when a speed changed so much that fits are worth making anew
	gone     map[key]bool // forgotten, and still saved
}

func newEstimator(halfLife time.Duration) *estimator {
	return &estimator{
		halfLife: halfLife.Seconds(), most: maxGroups,
		groups: map[key]*group{}, backEnds: map[uint32]*rates{}, gone: map[key]bool{},
	}
}

// estimate returns how long a job will take at usual speed, in seconds, and the standard deviation. ok is false while
// nothing is known.
func (e *estimator) estimate(j *job.Job) (mean, spread float64, ok bool) {
	for level := range levels {
		if mean, spread, ok = e.on(level, keyOn(level, j), j); ok {
			break
		}
	}
	return mean, spread, ok
}

// on is estimate by the group of one level.
func (e *estimator) on(level int, k key, j *job.Job) (mean, spread float64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.groups[k]
	if g == nil || level == own && len(g.samples) < leastRuns {
		return 0, 0, false
	}
	f := e.fitOf(g)
	mean = max(f.seconds(workOn(level, j)), 1e-3)
	return mean, mean * math.Hypot(f.spread, unlike[level]), true
}

// workOn is how much there is to do in a job. In graphs that have nothing in common it means something else in each,
// and does not count.
func workOn(level int, j *job.Job) float64 {
	if level == all {
		return 1
	}
	return j.Profile.Work
}

// fitOf returns what a group's runs say, reckoned anew when there is reason to: a quarter of the runs are new.
func (e *estimator) fitOf(g *group) fit {
	if g.news*4 >= len(g.samples) || g.pace != e.pace {
		g.fit = learn(g.samples, e.speedOf, e.halfLife)
		g.news, g.pace = 0, e.pace
	}
	return g.fit
}

// ran takes in a run.
func (e *estimator) ran(j *job.Job, backEnd string, seconds float64, at time.Time) {
	var k [levels]key
	for level := range levels {
		k[level] = keyOn(level, j)
	}
	name := nameOf(backEnd)
	s := sample{work: j.Profile.Work, seconds: seconds, at: at.Unix(), backEnd: name}
	e.mu.Lock()
	defer e.mu.Unlock()
	if g := e.groups[k[same]]; g != nil && len(g.samples) >= leastRuns {
		e.paced(name, e.fitOf(g).seconds(s.work)/seconds)
	}
	for level := range levels {
		g := e.groups[k[level]]
		if g == nil {
			g = &group{saved: e.gone[k[level]]}
			e.groups[k[level]] = g
			delete(e.gone, k[level])
		}
		s.work = workOn(level, j)
		g.add(s)
	}
	if len(e.groups) > e.most {
		e.evict()
	}
}

// paced takes in how much faster than usual a back end made a run.
func (e *estimator) paced(name uint32, faster float64) {
	r := e.backEnds[name]
	if r == nil {
		r = &rates{speed: 1}
		e.backEnds[name] = r
	}
	log := math.Log(min(max(faster, 1.0/32), 32))
	if math.IsNaN(log) {
		return
	}
	r.add(log)
	e.compare()
}

// compare reckons the speeds of the back ends. They are relative to one another: on average they are 1.
func (e *estimator) compare() {
	var sum float64
	known := 0
	for _, r := range e.backEnds {
		if len(r.list) >= leastRuns {
			sum += r.middle
			known++
		}
	}
	moved := false
	for _, r := range e.backEnds {
		if len(r.list) < leastRuns {
			continue
		}
		speed := math.Exp(r.middle - sum/float64(known))
		if math.Abs(math.Log(speed/r.speed)) > 0.03 {
			r.speed, moved = speed, true
		}
	}
	if moved {
		e.pace++
	}
}

func (e *estimator) speedOf(name uint32) float64 {
	if r := e.backEnds[name]; r != nil {
		return r.speed
	}
	return 1
}

// evict forgets the quarter of the groups that were not run for the longest time.
func (e *estimator) evict() {
	used := make([]int64, 0, len(e.groups))
	for _, g := range e.groups {
		used = append(used, g.used)
	}
	slices.Sort(used)
	limit, left := used[len(used)/4], len(e.groups)-e.most*3/4
	for k, g := range e.groups {
		if g.used <= limit && left > 0 {
			e.drop(k)
			left--
		}
	}
}

func (e *estimator) drop(k key) {
	if e.groups[k].saved {
		e.gone[k] = true
	}
	delete(e.groups, k)
}

// forget drops what a person's own graphs taught.
func (e *estimator) forget(user string) {
	who := digest(own, user)
	e.mu.Lock()
	defer e.mu.Unlock()
	for k := range e.groups {
		if [half]byte(k[:half]) == [half]byte(who[:half]) {
			e.drop(k)
		}
	}
}
