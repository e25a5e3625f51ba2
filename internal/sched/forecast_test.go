package sched_test

import (
	"testing"
	"time"

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
	_ = time.Second
}
