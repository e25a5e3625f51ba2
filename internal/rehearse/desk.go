package rehearse

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// desk is where the product sits: it tells the schedule what happens, as internal/dispatch does, and asks it.
type desk struct {
	class   *Class
	machine *sched.Machine
	history history
	jobs    []job.Job // by sequence
	gpus    []string  // names, by index
}

// begins is when classes begin, on the schedule's clock.
var begins = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

func newDesk(_ context.Context, c *Class, m Mode) (*desk, error) {
	o := sched.Options{Order: m.Order, MaxRunningPerUser: c.MaxRunning}
	if !m.Affinity {
		o.Affinity = -1
	}
	d := &desk{class: c, machine: sched.New(o), history: history{}}
	for _, p := range c.People {
		if p.Weight > 0 {
			d.machine.Apply(sched.Share{User: p.Name, Weight: p.Weight})
		}
	}
	for _, g := range slices.Sorted(maps.Keys(c.Shares)) {
		d.machine.Apply(sched.Share{Group: g, Weight: c.Shares[g]})
	}
	return d, nil
}

const gib = 1 << 30

func (d *desk) backEnd(c *card) {
	d.gpus = append(d.gpus, c.Name)
	d.machine.Apply(sched.BackEnd{
		Name: c.Name, Ready: true, Speed: c.Speed, Memory: int64(c.Memory * gib), Missing: func(needs []string) []string {
			return slices.DeleteFunc(slices.Clone(needs), func(model string) bool {
				return slices.ContainsFunc(d.class.Models, func(m *Model) bool { return m.Name == model && c.holds(m) })
			})
		},
	})
}

func (d *desk) submit(r *Run, now time.Duration) error {
	p, m := d.class.People[r.Person], r.graph.model
	j := job.Job{
		ID: jobID(r.seq), User: p.Name, Group: p.Group, Class: p.Class, Number: float64(r.seq), Seq: int64(r.seq),
		Created: begins.Add(now), State: job.Pending,
		Profile: job.Profile{Like: r.graph.kind, Work: r.graph.units, Models: m.Name},
	}
	d.jobs = append(d.jobs, j)
	job := sched.Of(j, []string{m.Name})
	job.Cost, job.Memory = d.history.estimate(j), int64(m.Size*gib)
	d.machine.Apply(sched.Added{Job: job})
	return nil
}

func (d *desk) recall(now time.Duration) (seq int, ok bool) {
	id, ok := d.machine.Recall(begins.Add(now))
	return seqOf(id), ok
}

func (d *desk) next(now time.Duration) (seq, gpu int, ok bool) {
	decision, ok := d.machine.Next(begins.Add(now))
	return seqOf(decision.Job), slices.Index(d.gpus, decision.BackEnd), ok
}

func (d *desk) claimed(_ *Run, _ *card) error { return nil }

func (d *desk) posted(r *Run) error {
	d.machine.Apply(sched.Posted{Job: jobID(r.seq), At: begins.Add(r.Started)})
	return nil
}

func (d *desk) released(r *Run) error {
	d.machine.Apply(sched.Released{Job: jobID(r.seq)})
	return nil
}

func (d *desk) ended(r *Run, c *card) error {
	ran := r.Ended - r.Started
	d.history.ran(d.jobs[r.seq], millis(float64(ran)*c.Speed))
	d.machine.Apply(sched.Ended{Job: jobID(r.seq), Ran: ran, At: begins.Add(r.Ended)})
	return nil
}

// bands calls told for each waiting job whose wait the schedule can tell, with its place and the band.
func (d *desk) bands(now time.Duration, told func(seq, place int, from, to time.Duration)) {
	all := d.machine.Forecast(begins.Add(now))
	for _, id := range slices.SortedFunc(maps.Keys(all), func(x, y job.ID) int { return cmp.Compare(seqOf(x), seqOf(y)) }) {
		if place, ok := d.machine.Place(id); ok {
			told(seqOf(id), place, all[id].From, all[id].To)
		}
	}
}

func jobID(seq int) job.ID { return job.ID(numbered("", seq)) }

func seqOf(id job.ID) int {
	n := 0
	for _, c := range id {
		n = n*10 + int(c-'0')
	}
	return n - 1
}
