package sched_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// shop is back ends that work, on a clock that is only a number.
type shop struct {
	m    *sched.Machine
	now  time.Time
	seq  int64
	jobs map[job.ID]*order
	gpus []*gpu
	used map[string]time.Duration // GPU time of runs that ended, by person
	done func(o *order, at time.Time)
}

type order struct {
	sched.Job
	takes        time.Duration
	came, starts time.Time
	started      bool
}

type gpu struct {
	name   string
	line   []*order
	until  time.Time
	loaded string
}

// load is how long a back end loads models.
const load = 20 * time.Second

func newShop(o sched.Options, gpus int) *shop {
	s := &shop{m: sched.New(o), now: noon, jobs: map[job.ID]*order{}, used: map[string]time.Duration{}, done: func(*order, time.Time) {}}
	for i := range gpus {
		name := fmt.Sprint("gpu", i)
		s.gpus = append(s.gpus, &gpu{name: name})
		s.m.Apply(sched.BackEnd{Name: name, Ready: true})
	}
	return s
}

// ask adds a job that takes so long, and is expected to take about that.
func (s *shop) ask(user, models string, class job.Class, takes, expected time.Duration) *order {
	s.seq++
	o := &order{takes: takes, came: s.now, Job: sched.Job{
		ID: job.ID(fmt.Sprint(user, "-", s.seq)), User: user, Class: class, Number: float64(s.seq), Seq: s.seq, Created: s.now,
		Models: models, Cost: expected,
	}}
	s.jobs[o.ID] = o
	s.m.Apply(sched.Added{Job: o.Job})
	return o
}

// settle lets the machine decide until it has nothing to decide.
func (s *shop) settle() {
	for id, ok := s.m.Recall(s.now); ok; id, ok = s.m.Recall(s.now) {
		for _, g := range s.gpus {
			for i, o := range g.line {
				if o.ID == id {
					g.line = append(g.line[:i:i], g.line[i+1:]...)
					break
				}
			}
		}
		s.m.Apply(sched.Released{Job: id})
	}
	for d, ok := s.m.Next(s.now); ok; d, ok = s.m.Next(s.now) {
		for _, g := range s.gpus {
			if g.name == d.BackEnd {
				g.line = append(g.line, s.jobs[d.Job])
			}
		}
	}
	for _, g := range s.gpus {
		if len(g.line) == 0 || g.line[0].started {
			continue
		}
		o := g.line[0]
		o.started, o.starts, g.until = true, s.now, s.now.Add(o.takes)
		if o.Models != "" && o.Models != g.loaded {
			g.loaded, g.until = o.Models, g.until.Add(load)
		}
		s.m.Apply(sched.Posted{Job: o.ID, At: s.now})
	}
}

// run lets time pass.
func (s *shop) run(d time.Duration) {
	for end := s.now.Add(d); ; {
		s.settle()
		var next *gpu
		for _, g := range s.gpus {
			if len(g.line) > 0 && (next == nil || g.until.Before(next.until)) {
				next = g
			}
		}
		if next == nil || next.until.After(end) {
			s.now = end
			return
		}
		o := next.line[0]
		next.line = next.line[1:]
		s.now = next.until
		s.used[o.User] += s.now.Sub(o.starts)
		s.m.Apply(sched.Ended{Job: o.ID, Ran: s.now.Sub(o.starts), At: s.now})
		delete(s.jobs, o.ID)
		s.done(o, s.now)
	}
}

// gpuTime is what somebody used until now, with what runs.
func (s *shop) gpuTime(user string) time.Duration {
	d := s.used[user]
	for _, g := range s.gpus {
		if len(g.line) > 0 && g.line[0].User == user {
			d += s.now.Sub(g.line[0].starts)
		}
	}
	return d
}

// jain is Jain's index of fairness.
func jain(got []time.Duration) float64 {
	sum, squares := 0.0, 0.0
	for _, d := range got {
		sum += d.Seconds()
		squares += d.Seconds() * d.Seconds()
	}
	return sum * sum / (float64(len(got)) * squares)
}

// TestFairShares: people with constant demand get the same GPU time in any half hour and more, whatever they ask for, however
// wrong estimates are, and whatever others submit. No order is fairer than its runs are short: where somebody has only a
// few in that time, no two people are further apart than one run of each.
func TestFairShares(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newShop(sched.Options{Affinity: time.Duration(rapid.SampledFrom([]int{-1, 30, 120}).Draw(t, "affinity")) * time.Second}, rapid.IntRange(1, 4).Draw(t, "gpus"))
		n := rapid.IntRange(2, 8).Draw(t, "people")
		more := func(user string, i int) {
			takes := time.Duration(rapid.IntRange(2, 8+i).Draw(t, "takes")) * time.Second
			s.ask(user, fmt.Sprint("m", i%3), job.ClassNormal, takes, time.Duration(float64(takes)*rapid.Float64Range(0.5, 2).Draw(t, "off")))
		}
		people := map[string]int{}
		for i := range n {
			people[fmt.Sprint("p", i)] = i
			for range 2 + 2*len(s.gpus) {
				more(fmt.Sprint("p", i), i)
			}
		}
		longest := time.Duration(0)
		s.done = func(o *order, at time.Time) {
			if i, ok := people[o.User]; ok {
				longest = max(longest, at.Sub(o.starts))
				more(o.User, i)
			}
		}
		var marks []map[string]time.Duration // what everybody had used, every five minutes
		for i := range 14 {
			if rapid.IntRange(0, 3).Draw(t, "batch") == 0 {
				for range 50 {
					s.ask(fmt.Sprint("other", i%2), "m9", job.ClassInstructor, 20*time.Second, time.Second)
				}
			}
			s.run(5 * time.Minute)
			mark := map[string]time.Duration{}
			for p := range people {
				mark[p] = s.gpuTime(p)
			}
			marks = append(marks, mark)
		}
		for i := 7; i < len(marks); i++ {
			for from := 1; from <= i-6; from++ { // a bias that each half hour hides would show in longer ones
				var got []time.Duration
				for p := range people {
					got = append(got, marks[i][p]-marks[from][p])
				}
				if j := jain(got); j < 0.99 && slices.Max(got)-slices.Min(got) > 2*longest {
					t.Fatalf("Jain's index %.3f of %v, with runs of at most %v", j, got, longest)
				}
			}
		}
	})
}

// TestNewcomer: behind the batch of another somebody starts within one job and one load of a model.
func TestNewcomer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newShop(sched.Options{Order: rapid.SampledFrom([]sched.Order{sched.RoundRobin, sched.Fair}).Draw(t, "order")}, rapid.IntRange(1, 4).Draw(t, "gpus"))
		takes := time.Duration(rapid.IntRange(2, 120).Draw(t, "takes")) * time.Second
		for range 500 {
			s.ask("batch", "sdxl", job.ClassNormal, takes, takes)
		}
		s.run(time.Duration(rapid.IntRange(0, 3600).Draw(t, "after")) * time.Second)
		o := s.ask("ann", rapid.SampledFrom([]string{"sdxl", "flux"}).Draw(t, "models"), job.ClassNormal, 10*time.Second, 10*time.Second)
		s.run(takes + load + time.Second)
		if !o.started {
			t.Fatalf("it waits for more than %v; place and why: %v %v", takes+load, s.m.Places("ann"), s.m.Why(o.ID, s.now))
		}
	})
}

// TestAgeing: nobody who comes AgeAfter for each class above it later goes before a job, whatever they submit.
func TestAgeing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const age = 5 * time.Minute
		s := newShop(sched.Options{Order: sched.Priority, AgeAfter: age, Affinity: -1}, 1)
		low := map[*order]bool{}
		started := func() {
			for _, g := range s.gpus {
				if len(g.line) == 0 {
					continue
				}
				for o := range low {
					bound := o.came.Add(time.Duration(o.Class) * age)
					if first := g.line[0]; !o.started && first.User != o.User && first.came.After(bound) && first.starts.After(bound) {
						t.Fatalf("%s of %v, class %d, waits at %v behind one of %v, class %d", o.ID, o.came, o.Class, s.now, first.came, first.Class)
					}
				}
			}
		}
		for i := range 60 {
			class := job.Class(rapid.IntRange(0, 3).Draw(t, "class"))
			for range rapid.IntRange(0, 4).Draw(t, "jobs") {
				low[s.ask(fmt.Sprint("u", i), "", class, time.Minute, time.Minute)] = true
			}
			s.run(time.Minute)
			started()
		}
	})
}
