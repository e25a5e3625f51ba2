package rehearse

import (
	"fmt"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Person is somebody who presses Run, and how.
type Person struct {
	Name  string
	Kind  string // what the report calls people like this
	Group string
	// Weight is how much of the GPUs is theirs, beside the others of their group; 0: 1.
	Weight float64
	Class  job.Class

	There  []Span        // when they are in the studio
	Think  time.Duration // between the end of their last job and the next press, as a rule
	Press  [2]int        // how many jobs a press of Run brings: from, to
	Ahead  int           // above 0: they never have fewer open jobs than that, and don't think
	Once   bool          // they press once
	Graphs []Graph       // what they run; each is as likely as its Often
	Repeat float64       // how often the next graph is the last one again, with another seed
}

// Span is a time of the class.
type Span struct{ From, To time.Duration }

// Graph is a kind of graph.
type Graph struct {
	Name    string
	Often   float64
	Model   int           // index of the model, counted round when there are fewer
	Work    time.Duration // at usual speed, as a rule
	Spread  float64       // how much size and steps vary
	Prepare time.Duration // of it what the cache of nodes saves when the graph is repeated
}

// graph is one graph that somebody runs.
type graph struct {
	kind    string
	model   *Model
	units   float64 // of work, which the schedule knows
	work    time.Duration
	prepare time.Duration
	nodes   int // the same for graphs that the cache of nodes takes for the same
}

// person is one at work.
type person struct {
	Person
	index   int
	draw    chance
	session int             // index into There
	late    []time.Duration // how long after the begin of each session they first press
	open    int             // jobs that are not over
	last    graph           // what they ran last
	first   bool            // they have not pressed yet
}

// newPerson returns the n-th person. What they draw later does not depend on when they press.
func newPerson(p Person, n int, seed uint64) *person {
	x := &person{Person: p, index: n, draw: newChance(seed, uint64(n)), first: true}
	for range p.There {
		x.late = append(x.late, x.draw.between(0, time.Minute))
	}
	return x
}

// noise is how much runs of like graphs with like work differ.
const noise = 0.08

// graph draws what the person runs next.
func (p *person) next(models []*Model, nodes *int) graph {
	again := p.draw.happens(p.Repeat) && p.last.model != nil
	if !again {
		k := p.kind()
		*nodes++
		p.last = graph{
			kind: k.Name, model: models[k.Model%len(models)], units: p.draw.factor(k.Spread), prepare: k.Prepare, nodes: *nodes,
		}
		p.last.work = millis(float64(k.Work) * p.last.units)
	}
	g := p.last
	g.work = millis(float64(g.work) * p.draw.factor(noise))
	return g
}

func (p *person) kind() Graph {
	sum := 0.0
	for _, g := range p.Graphs {
		sum += g.Often
	}
	x := p.draw.Float64() * sum
	for _, g := range p.Graphs {
		if x -= g.Often; x < 0 {
			return g
		}
	}
	return p.Graphs[len(p.Graphs)-1]
}

// press returns how many jobs the next press brings, and until when the person thinks before.
func (p *person) press(now time.Duration) (at time.Duration, jobs int, ok bool) {
	if p.Once && !p.first {
		return 0, 0, false
	}
	if p.Ahead == 0 && !p.Once {
		now += p.draw.about(p.Think, 0.7)
	}
	jobs = p.draw.number(p.Press[0], p.Press[1])
	for ; p.session < len(p.There); p.session++ {
		s := p.There[p.session]
		if now < s.From {
			now = s.From + p.late[p.session]
		}
		if now < s.To {
			p.first = false
			return now, jobs, true
		}
	}
	return 0, 0, false
}

// numbered returns a name of a row: all have as many digits as long as there are fewer than 1000.
func numbered(name string, i int) string { return fmt.Sprintf("%s%03d", name, i+1) }
