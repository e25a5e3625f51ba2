package sched_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// BenchmarkForecast is what looking ahead costs: the outlook in the loop, the simulations beside it.
func BenchmarkForecast(b *testing.B) {
	for _, size := range []struct {
		name        string
		users, jobs int
	}{{"users=20/jobs=60", 20, 60}, {"users=200/jobs=2000", 200, 2000}, {"users=10000/jobs=100000", 10_000, 100_000}} {
		c := newCrowd(b, sched.Options{}, size.users, size.jobs)
		for range 100 {
			c.run(b)
		}
		b.Run("outlook/"+size.name, func(b *testing.B) {
			for b.Loop() {
				c.m.Outlook(noon)
			}
		})
		b.Run("look/"+size.name, func(b *testing.B) {
			o := c.m.Outlook(noon)
			for b.Loop() {
				if f := o.Look(); len(f.Bands) == 0 {
					b.Fatal("nothing is seen")
				}
			}
		})
	}
}

// TestForecastIsBounded: however many are expected to press Run before those who wait have had their turn, looking ahead
// takes little.
func TestForecastIsBounded(t *testing.T) {
	for name, state := range map[string]sched.BackEnd{
		"nothing open": {Name: "gpu", Slots: 1, Parallel: 1},
		"slow":         {Name: "gpu", Slots: 1, Parallel: 1, Ready: true},
	} {
		m := machine(sched.Options{})
		m.Apply(state)
		for i := range 20 * 64 {
			m.Apply(sched.Added{Job: sched.Job{
				ID: job.ID(fmt.Sprint("j", i)), User: fmt.Sprint("user", i/64), Number: float64(i), Seq: int64(i), Created: noon,
				Cost: 10 * time.Minute,
			}})
		}
		m.Next(noon)
		o := m.Outlook(noon)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		o.Look()
		runtime.ReadMemStats(&after)
		if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 64 {
			t.Errorf("%s: looking ahead took %d MB", name, mb)
		}
	}
}
