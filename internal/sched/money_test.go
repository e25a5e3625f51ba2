package sched_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// rented is a machine with a back end of the studio's own and one that costs an hour's price.
func rented(price float64) *sched.Machine {
	m := machine(sched.Options{}, "own")
	m.Apply(sched.BackEnd{Name: "paid", Ready: true, Speed: 1, Parallel: 4, Price: price})
	return m
}

func addJobs(m *sched.Machine, n int, cost time.Duration) {
	for i := range n {
		m.Apply(sched.Added{Job: sched.Job{ID: job.ID(fmt.Sprint("j", i)), User: fmt.Sprint("u", i), Seq: int64(i + 1), Created: noon, Cost: cost}})
	}
}

// given counts what is decided, by back end; all of it begins at once.
func given(m *sched.Machine, now time.Time) map[string]int {
	on := map[string]int{}
	for d, ok := m.Next(now); ok; d, ok = m.Next(now) {
		on[d.BackEnd]++
		m.Apply(sched.Posted{Job: d.Job, At: now})
	}
	return on
}

func TestPaidBackEndsWaitUntilPeopleWould(t *testing.T) {
	t.Parallel()
	m := rented(3600)
	addJobs(m, 4, 30*time.Second) // two minutes of work
	if got := given(m, noon); got["paid"] > 0 || got["own"] != 2 {
		t.Errorf("given: %v, want two to our own and none to the paid one", got)
	}
	if at, ok := m.NextTime(noon); !ok || at.After(noon.Add(time.Minute)) {
		t.Errorf("looks again at %v, %v", at, ok)
	}
	m.Apply(sched.Budget{Wait: 30 * time.Second, Studio: sched.Free()})
	if got := given(m, noon); got["paid"] == 0 {
		t.Errorf("given: %v, and people wait for longer than half a minute", got)
	}
}

func TestRunThatTakesLongerThanExpectedIsWaitedForNoLonger(t *testing.T) {
	t.Parallel()
	m := rented(3600)
	addJobs(m, 3, time.Second)
	given(m, noon)
	if got := given(m, noon.Add(time.Minute)); got["paid"] > 0 {
		t.Errorf("after a minute: %v", got)
	}
	if got := given(m, noon.Add(5*time.Minute)); got["paid"] == 0 {
		t.Errorf("after five minutes: %v", got)
	}
}

func TestJobThatOnlyAPaidBackEndCanRunGoesThereAtOnce(t *testing.T) {
	t.Parallel()
	m := rented(3600)
	lacks := func([]string) []string { return []string{"Big"} }
	m.Apply(sched.BackEnd{Name: "own", Ready: true, Speed: 1, Missing: lacks})
	addJobs(m, 2, time.Second)
	m.Apply(sched.Added{Job: sched.Job{ID: "big", User: "big", Seq: 9, Needs: []string{"Big"}, Cost: time.Second}})
	if got := given(m, noon); got["paid"] != 1 || got["own"] != 2 {
		t.Errorf("given: %v", got)
	}
}

func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	m := rented(3600) // a second costs one
	m.Apply(sched.Budget{Studio: sched.Purse{Left: 25, Of: "The budget of today is spent."}, Groups: map[string]sched.Purse{"red": {Left: 0, Of: "The budget of your group is spent."}}})
	for i := range 6 {
		group := ""
		if i == 0 {
			group = "red"
		}
		m.Apply(sched.Added{Job: sched.Job{ID: job.ID(fmt.Sprint("j", i)), User: fmt.Sprint("u", i), Group: group, Seq: int64(i + 1), Created: noon, Cost: 10 * time.Second}})
	}
	m.Apply(sched.BackEnd{Name: "own", Reason: "own does not answer."})
	if got := given(m, noon); got["paid"] != 2 {
		t.Errorf("given: %v; there is money for two", got)
	}
	codes := map[string]string{}
	for i := range 6 {
		why := m.Why(job.ID(fmt.Sprint("j", i)), noon)
		codes[why.Code] = why.Sentence
	}
	if want := "The budget of today is spent. No GPU of the studio's own can run it now."; codes[sched.WhyBudget] != want {
		t.Errorf("reasons: %v", codes)
	}
	if why := m.Why("j0", noon); why.Code != sched.WhyBudget || why.Sentence[:24] != "The budget of your group" {
		t.Errorf("of the group: %v", why)
	}
	// What begun runs cost in the end is spent, and no more begins.
	m.Apply(sched.Ended{Job: "j1", Ran: 20 * time.Second, At: noon})
	if got := given(m, noon); len(got) > 0 {
		t.Errorf("given beyond the budget: %v", got)
	}
}

func TestPreferredAndCheaperGoFirst(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{}, "old", "new")
	m.Apply(sched.BackEnd{Name: "new", Ready: true, Speed: 1, Prefer: 1})
	addJobs(m, 1, time.Second)
	if d, ok := m.Next(noon); !ok || d.BackEnd != "new" {
		t.Errorf("decided %v", d)
	}
	m = sched.New(sched.Options{})
	for name, price := range map[string]float64{"dear": 2, "cheap": 1} {
		m.Apply(sched.BackEnd{Name: name, Ready: true, Speed: 1, Price: price})
	}
	addJobs(m, 1, time.Second)
	if d, ok := m.Next(noon); !ok || d.BackEnd != "cheap" {
		t.Errorf("decided %v", d)
	}
}

func TestWhoWaitsForAColdBackEndReadsIt(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{}, "gpu")
	m.Apply(sched.BackEnd{Name: "gpu", Ready: true, Speed: 1, Cold: "gpu wakes up.", Wake: 40 * time.Second})
	if idle := m.Idle(); len(idle) > 0 {
		t.Errorf("one that sleeps is offered: %v", idle)
	}
	addJobs(m, 1, time.Second)
	m.Next(noon)
	if why := m.Why("j0", noon); why.Code != sched.WhyWaking || why.Sentence != "gpu wakes up. That usually takes 40 seconds." {
		t.Errorf("why: %+v", why)
	}
}

// TestBudgetHolds: what was spent and what is expected of paid runs never exceeds a cap when one begins, so that in the
// end no more is spent than the cap and what the runs that had begun took longer than expected.
func TestBudgetHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := sched.New(sched.Options{Order: rapid.SampledFrom(orders).Draw(t, "order")})
		prices := map[string]float64{"own": 0, "paid1": 3600, "paid2": 7200}
		for _, name := range slices.Sorted(maps.Keys(prices)) {
			m.Apply(sched.BackEnd{Name: name, Ready: true, Speed: 1, Price: prices[name], Parallel: rapid.IntRange(1, 3).Draw(t, "parallel")})
		}
		caps := map[string]float64{"": float64(rapid.IntRange(0, 200).Draw(t, "cap")), "red": float64(rapid.IntRange(0, 100).Draw(t, "of red"))}
		type run struct {
			group    string
			price    float64
			expected time.Duration
		}
		spent, open, now := map[string]float64{}, map[job.ID]run{}, noon
		costs, groups := map[job.ID]time.Duration{}, map[job.ID]string{}
		tell := func() {
			m.Apply(sched.Budget{
				Wait:   time.Second,
				Studio: sched.Purse{Left: max(caps[""]-spent[""], 0)}, Groups: map[string]sched.Purse{"red": {Left: max(caps["red"]-spent["red"], 0)}},
			})
		}
		tell()
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				user := rapid.SampledFrom(people).Draw(t, "user")
				id := job.ID(fmt.Sprint("j", len(costs)))
				costs[id], groups[id] = time.Duration(rapid.IntRange(1, 60).Draw(t, "cost"))*time.Second, groupOf[user]
				var by time.Time
				if rapid.Bool().Draw(t, "dated") {
					by = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "deadline")) * time.Second)
				}
				m.Apply(sched.Added{Job: sched.Job{ID: id, User: user, Group: groupOf[user], Seq: int64(len(costs)), Created: now, Cost: costs[id], Deadline: by}})
			},
			"decide": func(t *rapid.T) {
				for d, ok := m.Next(now); ok; d, ok = m.Next(now) {
					open[d.Job] = run{groups[d.Job], prices[d.BackEnd], costs[d.Job]}
					m.Apply(sched.Posted{Job: d.Job, At: now})
					for of, most := range caps {
						sum := spent[of]
						for _, r := range open {
							if of == "" || r.group == of {
								sum += r.price * r.expected.Hours()
							}
						}
						if prices[d.BackEnd] > 0 && (of == "" || groups[d.Job] == of) && sum > most+1e-6 {
							t.Fatalf("%v is expected to cost %v, of %v for %q", d, sum, most, of)
						}
					}
				}
			},
			"end": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("nothing runs")
				}
				id := rapid.SampledFrom(slices.Sorted(maps.Keys(open))).Draw(t, "job")
				r := open[id]
				delete(open, id)
				ran := time.Duration(rapid.IntRange(0, 90).Draw(t, "ran")) * time.Second
				now = now.Add(ran)
				spent[""] += r.price * ran.Hours()
				spent[r.group] += r.price * ran.Hours() * map[bool]float64{true: 1}[r.group != ""]
				if rapid.Bool().Draw(t, "lost") {
					m.Apply(sched.Released{Job: id, Ran: ran})
				} else {
					m.Apply(sched.Ended{Job: id, Ran: ran, At: now})
				}
				if rapid.Bool().Draw(t, "told") { // until then the machine keeps the books by itself
					tell()
				}
			},
		})
	})
}
