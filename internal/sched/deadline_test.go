package sched_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// dated adds j0, j1, … of as many people, of half a minute each; deadlines says by when some are needed.
func dated(m *sched.Machine, n int, deadlines map[int]time.Duration) {
	for i := range n {
		j := sched.Job{ID: job.ID(fmt.Sprint("j", i)), User: fmt.Sprint("u", i), Seq: int64(i + 1), Created: noon, Cost: 30 * time.Second}
		if d, ok := deadlines[i]; ok {
			j.Deadline = noon.Add(d)
		}
		m.Apply(sched.Added{Job: j})
	}
}

func TestDeadlineMakesAPaidBackEndWorthIt(t *testing.T) {
	t.Parallel()
	by := noon.Add(100 * time.Second).Local().Format("15:04")
	for _, c := range []struct {
		name      string
		deadlines map[int]time.Duration
		left      float64 // money; a second costs one
		paid      int
		why       string // of j3, after that
	}{
		{"none", nil, 1000, 0, "One job goes before it."},
		{"in time on our own", map[int]time.Duration{3: 10 * time.Minute}, 1000, 0, "when it is needed."},
		{"late on our own", map[int]time.Duration{3: 100 * time.Second}, 1000, 1, "when it is needed."},
		{"late, and nothing is left", map[int]time.Duration{3: 100 * time.Second}, 10, 0, "The studio's own GPUs will probably not have it done by " + by + ", and there is no money for others."},
		{"can't be met", map[int]time.Duration{3: 20 * time.Second}, 1000, 0, "It will probably not be done by "},
		{"is over", map[int]time.Duration{3: -time.Second}, 1000, 0, "It was needed by "},
		{"its own turn", map[int]time.Duration{0: 31 * time.Second, 1: 31 * time.Second}, 1000, 1, "It is the first in line."},
	} {
		m := machine(sched.Options{}, "own")
		m.Apply(sched.BackEnd{Name: "paid", Ready: true, Speed: 1, Price: 3600})
		m.Apply(sched.Budget{Studio: sched.Purse{Left: c.left, Of: "The budget of today is spent."}})
		dated(m, 4, c.deadlines)
		all := next(m)
		if n := len(slices.DeleteFunc(slices.Clone(all), func(d string) bool { return !strings.HasSuffix(d, "@paid") })); n != c.paid || all[0] != "j0@own" || !strings.HasPrefix(all[1], "j1@") {
			t.Errorf("%s: decided %v, want %d for the paid one, and nobody before their turn", c.name, all, c.paid)
		}
		if why := m.Why("j3", noon); !strings.Contains(why.Sentence, c.why) {
			t.Errorf("%s: j3 waits since %q, want %q", c.name, why.Sentence, c.why)
		}
	}
}

func TestDeadlineIsTaken(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{}, "own")
	m.Apply(sched.BackEnd{Name: "paid", Ready: true, Speed: 1, Price: 3600})
	dated(m, 4, nil)
	if got := next(m); !slices.Equal(got, []string{"j0@own", "j1@own"}) {
		t.Fatalf("decided %v", got)
	}
	j := sched.Job{ID: "j3", User: "u3", Seq: 4, Created: noon, Cost: 30 * time.Second, Deadline: noon.Add(80 * time.Second)}
	m.Apply(sched.Added{Job: j}) // it is dated later
	if got := next(m); !slices.Equal(got, []string{"j2@paid"}) {
		t.Errorf("decided %v, want the first in line to go to the paid one", got)
	}
	m.Apply(sched.Ended{Job: "j2", Ran: time.Second})
	j.Deadline = time.Time{}
	m.Apply(sched.Added{Job: j}) // and nobody needs it any more
	if got := next(m); len(got) > 0 {
		t.Errorf("decided %v", got)
	}
}

// TestDeadlineSpendsNobodyElsesBudget: a run is paid for by the group whose job it is.
func TestDeadlineSpendsNobodyElsesBudget(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		m := sched.New(sched.Options{Order: sched.FIFO})
		m.Apply(sched.BackEnd{Name: "own", Ready: true, Speed: 1})
		m.Apply(sched.BackEnd{Name: "paid", Ready: true, Speed: 1, Price: 3600})
		budget := sched.Budget{Studio: sched.Free(), Groups: map[string]sched.Purse{}}
		if own {
			budget.Groups["red"] = sched.Free()
		}
		m.Apply(budget)
		for i, group := range []string{"red", "red", "red", "blue"} {
			j := sched.Job{ID: job.ID(fmt.Sprint("j", i)), User: group, Group: group, Number: float64(i), Seq: int64(i + 1), Cost: 30 * time.Second}
			if group == "blue" {
				j.Deadline = noon.Add(100 * time.Second)
			}
			m.Apply(sched.Added{Job: j})
		}
		if paid := slices.Contains(next(m), "j1@paid"); paid == own {
			t.Errorf("with a budget of red's own %v, red's job went to the paid one: %v", own, paid)
		}
	}
}

// TestStagedJobIsRescued: behind a run that takes longer than expected a job would be late.
func TestStagedJobIsRescued(t *testing.T) {
	t.Parallel()
	for _, deadline := range []time.Duration{0, 10 * time.Minute, 150 * time.Second} {
		m := machine(sched.Options{}, "own")
		m.Apply(sched.BackEnd{Name: "paid", Ready: true, Speed: 1, Price: 3600})
		dated(m, 1, nil)
		j := sched.Job{ID: "late", User: "ann", Seq: 9, Cost: 30 * time.Second}
		if deadline > 0 {
			j.Deadline = noon.Add(deadline)
		}
		m.Apply(sched.Added{Job: j})
		if got := next(m); !slices.Equal(got, []string{"j0@own", "late@own"}) {
			t.Fatalf("decided %v", got)
		}
		m.Apply(sched.Posted{Job: "j0", At: noon})
		now := noon.Add(100 * time.Second) // as long again as it is late: till 170 s
		id, ok := m.Recall(now)
		if want := deadline == 150*time.Second; ok != want {
			t.Errorf("needed in %v: recalled %q", deadline, id)
			continue
		} else if !want {
			continue
		}
		m.Apply(sched.Released{Job: id})
		if d, ok := m.Next(now); !ok || d.BackEnd != "paid" || d.Job != "late" {
			t.Errorf("decided %v", d)
		}
		if id, ok := m.Recall(now); ok {
			t.Errorf("%s was recalled again", id)
		}
	}
}

// TestDeadlinesMoveNobody: with deadlines jobs are chosen in the same order as without, whatever they are and whatever is
// paid for.
func TestDeadlinesMoveNobody(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		order := rapid.SampledFrom(orders).Draw(t, "order")
		paid := rapid.Bool().Draw(t, "paid")
		play := func(with bool) (all []job.ID) {
			m := sched.New(sched.Options{Order: order, Affinity: -1})
			m.Apply(sched.BackEnd{Name: "own", Ready: true, Speed: 1, Slots: 1})
			if paid {
				m.Apply(sched.BackEnd{Name: "paid", Ready: true, Speed: 1, Slots: 1, Price: 1})
			}
			for i := range 12 {
				user := people[i%len(people)]
				j := sched.Job{ID: job.ID(fmt.Sprint("j", i)), User: user, Group: groupOf[user], Number: float64(i), Seq: int64(i + 1), Created: noon, Cost: time.Minute}
				if with && i%2 == 0 {
					j.Deadline = noon.Add(time.Duration(rapid.IntRange(0, 12).Draw(t, "deadline")) * time.Minute)
				}
				m.Apply(sched.Added{Job: j})
			}
			for now := noon; len(all) < 12; now = now.Add(time.Minute) {
				var open []job.ID
				for d, ok := m.Next(now); ok; d, ok = m.Next(now) {
					open = append(open, d.Job)
					m.Apply(sched.Posted{Job: d.Job, At: now})
				}
				for _, id := range open {
					m.Apply(sched.Ended{Job: id, Ran: time.Minute, At: now.Add(time.Minute)})
				}
				all = append(all, open...)
			}
			return all
		}
		if with, without := play(true), play(false); !slices.Equal(with, without) {
			t.Fatalf("with deadlines %v\nwithout %v", with, without)
		}
	})
}
