package sched_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// crowd is a machine with waiting jobs of many people.
type crowd struct {
	m     *sched.Machine
	users int
	names []string
	seq   int64
}

func newCrowd(b *testing.B, o sched.Options, users, jobs int) *crowd {
	b.Helper()
	c := &crowd{m: machine(o, "gpu1", "gpu2", "gpu3", "gpu4"), users: users}
	for i := range users {
		c.names = append(c.names, fmt.Sprint("user", i))
	}
	for range jobs {
		c.add()
	}
	return c
}

func (c *crowd) id(seq int64) job.ID {
	return job.ID(fmt.Sprintf("01990000-0000-7000-8000-%012x", seq))
}

func (c *crowd) add() {
	c.seq++
	c.m.Apply(sched.Added{Job: sched.Job{
		ID: c.id(c.seq), User: c.names[c.seq%int64(c.users)], Group: "class", Class: job.ClassNormal,
		Number: float64(c.seq), Seq: c.seq, Created: noon.Add(time.Duration(c.seq) * time.Millisecond),
		Models: [...]string{"sdxl", "flux", "wan", "qwen"}[c.seq%4], Cost: time.Duration(c.seq%7+1) * time.Second,
	}})
}

// run lets the next job run, and adds one.
func (c *crowd) run(b *testing.B) {
	d, ok := c.m.Next(noon)
	if !ok {
		b.Fatal("nothing to do")
	}
	c.m.Apply(sched.Posted{Job: d.Job})
	c.m.Apply(sched.Ended{Job: d.Job, Ran: 3 * time.Second})
	c.add()
}

var sizes = []struct{ users, jobs int }{{100, 1000}, {10_000, 10_000}, {10_000, 100_000}, {10_000, 1_000_000}}

// BenchmarkNext is a whole job: it is added, chosen, posted and ended.
func BenchmarkNext(b *testing.B) {
	for _, order := range orders {
		for _, size := range sizes {
			b.Run(fmt.Sprintf("order=%s/users=%d/jobs=%d", order, size.users, size.jobs), func(b *testing.B) {
				c := newCrowd(b, sched.Options{Order: order}, size.users, size.jobs)
				b.ReportAllocs()
				for b.Loop() {
					c.run(b)
				}
			})
		}
	}
}

// BenchmarkDecision is Next alone.
func BenchmarkDecision(b *testing.B) {
	for _, order := range orders {
		b.Run(fmt.Sprintf("order=%s/users=10000", order), func(b *testing.B) {
			c := newCrowd(b, sched.Options{Order: order}, 10_000, 100_000)
			for b.Loop() {
				d, ok := c.m.Next(noon)
				if !ok {
					b.Fatal("nothing to do")
				}
				b.StopTimer()
				c.m.Apply(sched.Ended{Job: d.Job, Ran: 3 * time.Second})
				c.add()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkChange adds a job to those that wait and takes one out that is anywhere.
func BenchmarkChange(b *testing.B) {
	for _, order := range orders {
		for _, jobs := range []int{1000, 1_000_000} {
			b.Run(fmt.Sprintf("order=%s/jobs=%d", order, jobs), func(b *testing.B) {
				c := newCrowd(b, sched.Options{Order: order}, 1000, jobs)
				gone := int64(0)
				for b.Loop() {
					c.add()
					gone++
					c.m.Apply(sched.Ended{Job: c.id(gone)})
				}
			})
		}
	}
}

func BenchmarkPlace(b *testing.B) {
	for _, order := range orders {
		b.Run(fmt.Sprintf("order=%s/jobs=1000000", order), func(b *testing.B) {
			c := newCrowd(b, sched.Options{Order: order}, 10_000, 1_000_000)
			n := int64(0)
			for b.Loop() {
				n = (n + 7919) % c.seq
				if _, ok := c.m.Place(c.id(n + 1)); !ok {
					b.Fatal("it does not wait")
				}
			}
		})
	}
}

// BenchmarkMemory reports what a waiting job takes.
func BenchmarkMemory(b *testing.B) {
	const jobs = 1_000_000
	for b.Loop() {
		ids := make([]job.ID, jobs+1)
		c := &crowd{}
		for i := range ids {
			ids[i] = c.id(int64(i))
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		m := machine(sched.Options{}, "gpu")
		for i := range int64(jobs) {
			m.Apply(sched.Added{Job: sched.Job{
				ID: ids[i], User: fmt.Sprint("user", i%1000), Class: job.ClassNormal, Number: float64(i), Seq: i, Created: noon, Models: "sdxl",
			}})
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/jobs, "B/job")
		runtime.KeepAlive(m)
		runtime.KeepAlive(ids)
	}
}
