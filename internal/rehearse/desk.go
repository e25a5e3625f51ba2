package rehearse

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/memory"
	"github.com/ahelme/comfyume/internal/sched"
	"github.com/ahelme/comfyume/internal/usage"
)

// desk is where the product sits: the queue, over a store in memory, and the schedule, which hears from it as it does
// in internal/dispatch.
type desk struct {
	class   *Class
	queue   *queue.Service
	machine *sched.Machine
	ledger  *usage.Ledger // learns how long graphs take
	jobs    []job.Job     // by sequence, as the queue accepted them
	fences  []int64       // of the last attempts, by sequence
	gpus    []string      // names, by index
	begins  time.Time     // when the class does, on the schedule's clock
}

// firstDay is when classes begin. The queue notes when runs begin and end by its own clock; the rehearsal doesn't look at
// that.
var firstDay = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)

// Past is what a studio has learnt on the days before. The zero value: it opens for the first time.
type Past struct {
	days   int
	memory []byte        // the schedule's
	ledger *usage.Ledger // nil: a new one
}

func newDesk(ctx context.Context, c *Class, m Mode, past *Past) (d *desk, err error) {
	o := sched.Options{Order: m.Order, MaxRunningPerUser: c.MaxRunning, Affinity: c.Affinity, Memory: past.memory}
	if !m.Affinity {
		o.Affinity = -1
	}
	d = &desk{class: c, machine: sched.New(o), ledger: past.ledger, begins: firstDay.AddDate(0, 0, past.days)}
	for _, p := range c.People {
		if p.Weight > 0 {
			d.machine.Apply(sched.Share{User: p.Name, Weight: p.Weight})
		}
	}
	for _, g := range slices.Sorted(maps.Keys(c.Shares)) {
		d.machine.Apply(sched.Share{Group: g, Weight: c.Shares[g]})
	}
	if d.ledger == nil {
		if d.ledger, err = usage.New(ctx, blank{}, usage.Options{Zone: time.UTC}); err != nil {
			return nil, err
		}
	}
	d.queue, err = queue.New(ctx, memory.New(), queue.Options{Mode: string(m.Order), Notify: d.changed})
	return d, err
}

// close adds to the past what was learnt.
func (d *desk) close(past *Past) {
	past.days, past.memory, past.ledger = past.days+1, d.machine.Memory(), d.ledger
}

const gib = 1 << 30

func (d *desk) backEnd(c *card) {
	d.gpus = append(d.gpus, c.Name)
	d.machine.Apply(sched.BackEnd{
		Name: c.Name, Ready: true, Memory: int64(c.Memory * gib), Missing: func(needs []string) []string {
			return slices.DeleteFunc(slices.Clone(needs), func(model string) bool {
				return slices.ContainsFunc(d.class.Models, func(m *Model) bool { return m.Name == model && c.holds(m) })
			})
		},
	})
}

// changed takes in what the queue announces.
func (d *desk) changed(c job.Changed) {
	switch c.Change {
	case job.Submitted:
		d.jobs, d.fences = append(d.jobs, *c.Job), append(d.fences, 0)
		j := sched.Of(*c.Job, []string{c.Job.Profile.Models})
		j.Cost, _ = d.ledger.Estimate(*c.Job)
		j.Memory = d.memory(c.Job.Profile.Models)
		d.machine.Apply(sched.Added{Job: j})
	case job.Claimed:
		d.fences[seqOf(c.Job.ID)] = c.Job.Attempt.Fence
	case job.Released:
		d.machine.Apply(sched.Released{Job: c.Job.ID})
	}
}

// memory is what the model takes, in bytes.
func (d *desk) memory(model string) int64 {
	i := slices.IndexFunc(d.class.Models, func(m *Model) bool { return m.Name == model })
	return int64(d.class.Models[i].Size * gib)
}

func (d *desk) submit(ctx context.Context, r *Run, now time.Duration) error {
	p := d.class.People[r.Person]
	_, _, err := d.queue.Submit(ctx, job.Submission{
		ID: jobID(r.seq), User: p.Name, Group: p.Group, Class: p.Class, Created: d.begins.Add(now),
		Profile: job.Profile{Like: r.graph.kind, Work: r.graph.units, Models: r.graph.model.Name},
		Request: job.Request{Prompt: json.RawMessage(`{}`)},
	})
	return err
}

func (d *desk) recall(now time.Duration) (seq int, ok bool) {
	id, ok := d.machine.Recall(d.begins.Add(now))
	return seqOf(id), ok
}

func (d *desk) next(now time.Duration) (seq, gpu int, ok bool) {
	decision, ok := d.machine.Next(d.begins.Add(now))
	return seqOf(decision.Job), slices.Index(d.gpus, decision.BackEnd), ok
}

func (d *desk) claimed(ctx context.Context, r *Run, c *card) error {
	_, _, err := d.queue.Claim(ctx, jobID(r.seq), job.ClaimParams{BackEnd: c.Name, RunID: string(jobID(r.seq)), LeaseUntil: d.begins.Add(farAway)})
	return err
}

// farAway is when leases end: nothing is lost in a rehearsal.
const farAway = 365 * 24 * time.Hour

func (d *desk) posted(r *Run) error {
	d.machine.Apply(sched.Posted{Job: jobID(r.seq), At: d.begins.Add(r.Started)})
	return d.queue.Posted(jobID(r.seq), d.fences[r.seq])
}

func (d *desk) released(ctx context.Context, r *Run) error {
	return d.queue.Release(ctx, jobID(r.seq), d.fences[r.seq], "a GPU is free")
}

// ended frees the GPU in the schedule's eyes, then makes the job final, as results come home after the GPU is free.
func (d *desk) ended(ctx context.Context, r *Run, c *card) error {
	ran := r.Ended - r.Started
	d.ledger.Learn(d.jobs[r.seq], c.Name, ran, d.begins.Add(r.Ended))
	d.machine.Apply(sched.Ended{Job: jobID(r.seq), Ran: ran, At: d.begins.Add(r.Ended)})
	return d.queue.Finish(ctx, jobID(r.seq), d.fences[r.seq], job.Outcome{State: job.Completed, ExecSeconds: ran.Seconds()})
}

// bands calls told for each waiting job whose wait the schedule can tell, with its place and the band.
func (d *desk) bands(now time.Duration, told func(seq, place int, from, to time.Duration)) {
	all := d.machine.Forecast(d.begins.Add(now))
	for _, id := range slices.SortedFunc(maps.Keys(all), func(x, y job.ID) int { return cmp.Compare(seqOf(x), seqOf(y)) }) {
		if place, ok := d.machine.Place(id); ok {
			told(seqOf(id), place, all[id].From, all[id].To)
		}
	}
}

// blank is a ledger's store in which nothing is written: the ledger itself goes from day to day.
type blank struct{}

func (blank) Learned(context.Context) ([]usage.Learned, error)       { return nil, nil }
func (blank) Hours(context.Context, time.Time) ([]usage.Hour, error) { return nil, nil }
func (blank) Save(context.Context, usage.Snapshot) error             { return nil }
func (blank) Forget(context.Context, string) error                   { return nil }

func jobID(seq int) job.ID { return job.ID(numbered("", seq)) }

func seqOf(id job.ID) int {
	n := 0
	for _, c := range id {
		n = n*10 + int(c-'0')
	}
	return n - 1
}
