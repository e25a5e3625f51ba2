package sched_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// day lets 60 jobs wait that take three times as long as was expected, tells how long they wait, and lets them run.
func day(t *testing.T, memory []byte) (first map[job.ID]sched.Band, after []byte) {
	t.Helper()
	m := machine(sched.Options{Memory: memory}, "gpu1")
	now := noon
	for i := range 60 {
		m.Apply(sched.Added{Job: sched.Job{
			ID: job.ID(fmt.Sprint("j", i)), User: fmt.Sprint("user", i%6), Number: float64(i), Seq: int64(i), Created: now,
			Models: "sdxl", Cost: 10 * time.Second,
		}})
	}
	first = m.Forecast(now)
	for {
		d, ok := m.Next(now)
		if !ok {
			return first, m.Memory()
		}
		m.Apply(sched.Posted{Job: d.Job, At: now})
		now = now.Add(30 * time.Second)
		m.Apply(sched.Ended{Job: d.Job, Ran: 30 * time.Second, At: now})
		m.Forecast(now)
	}
}

// TestMemoryGoesOn: what a day taught makes the next one's bands, and nothing is lost on the way.
func TestMemoryGoesOn(t *testing.T) {
	t.Parallel()
	said, taught := day(t, nil)
	again, _ := day(t, taught)
	last := job.ID("j59")
	if fresh, practised := said[last], again[last]; practised.To <= fresh.To {
		t.Errorf("all were late, and the last one is told %v the next day, after %v", practised, fresh)
	}
	if m := sched.New(sched.Options{Memory: taught}); string(m.Memory()) != string(taught) {
		t.Errorf("taken over: %s\nwas: %s", m.Memory(), taught)
	}
}

// TestMemoryThatMakesNoSense: it is as if there were none.
func TestMemoryThatMakesNoSense(t *testing.T) {
	t.Parallel()
	fresh := string(sched.New(sched.Options{}).Memory())
	_, taught := day(t, nil)
	good := string(taught)
	cut := strings.Index(good, `"job":[`) + len(`"job":[`)
	for _, bad := range []string{
		"", "null", "[]", "{", "\x00\xff", good[:len(good)-5],
		strings.Replace(good, `"form":1`, `"form":2`, 1),
		good[:cut] + "-" + good[cut:],
		strings.Replace(good, `"kept":[[`, `"kept":[[9`, 1),
	} {
		if bad == good {
			t.Fatal("the test changes nothing")
		}
		if diff := cmp.Diff(fresh, string(sched.New(sched.Options{Memory: []byte(bad)}).Memory())); diff != "" {
			t.Errorf("of %q it took over (-fresh +got):\n%s", bad, diff)
		}
	}
}
