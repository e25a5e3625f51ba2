package sched_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// machine returns a machine with ready back ends of two slots each that lack nothing.
func machine(o sched.Options, backEnds ...string) *sched.Machine {
	m := sched.New(o)
	for _, name := range backEnds {
		m.Apply(sched.BackEnd{Name: name, Ready: true})
	}
	return m
}

// add adds waiting jobs named like "ann1" in this order, the letters being the person.
func add(m *sched.Machine, ids ...string) {
	for i, id := range ids {
		m.Apply(sched.Added{Job: waiting(id, int64(i+1))})
	}
}

func waiting(id string, seq int64) sched.Job {
	return sched.Job{ID: job.ID(id), User: strings.TrimRight(id, "0123456789"), Class: job.ClassNormal, Number: float64(seq), Seq: seq}
}

// drain lets decisions happen one after another on machines that finish at once, and returns the order of the jobs.
func drain(m *sched.Machine, now time.Time) (order []job.ID) {
	for {
		d, ok := m.Next(now)
		if !ok {
			return order
		}
		order = append(order, d.Job)
		m.Apply(sched.Posted{Job: d.Job})
		m.Apply(sched.Ended{Job: d.Job})
	}
}

// next returns all decisions that can be made now, as "job@back end".
func next(m *sched.Machine) (all []string) {
	for {
		d, ok := m.Next(noon)
		if !ok {
			return all
		}
		all = append(all, string(d.Job)+"@"+d.BackEnd)
	}
}

func equal[T any](t *testing.T, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

func TestOrderBetweenPeople(t *testing.T) {
	t.Parallel()
	for order, want := range map[sched.Order][]job.ID{
		sched.FIFO:       {"ann1", "ann2", "ann3", "bob1", "cid1", "bob2"},
		sched.RoundRobin: {"ann1", "bob1", "cid1", "ann2", "bob2", "ann3"},
	} {
		t.Run(string(order), func(t *testing.T) {
			t.Parallel()
			m := machine(sched.Options{Order: order}, "gpu")
			add(m, "ann1", "ann2", "ann3", "bob1", "cid1", "bob2")
			equal(t, drain(m, noon), want)
		})
	}
}

// TestNotStagedToLoadWhatAnotherHas: a job is not bound to a back end that would load its models for it while another one
// has them. Whichever is free first takes it, even cold.
func TestNotStagedToLoadWhatAnotherHas(t *testing.T) {
	t.Parallel()
	for first, want := range map[job.ID]string{"ann1": "cid3@x", "bob2": "cid3@y"} {
		for affinity, early := range map[time.Duration][]string{0: nil, -1: {"cid3@y"}} {
			m := machine(sched.Options{Affinity: affinity})
			for name, models := range map[string]string{"x": "mx", "y": "my"} {
				m.Apply(sched.BackEnd{Name: name, Ready: true, Models: models})
			}
			give := func(id, models string, seq int64) []string {
				j := waiting(id, seq)
				j.Models = models
				m.Apply(sched.Added{Job: j})
				d := next(m)
				for _, one := range d {
					id, _, _ := strings.Cut(one, "@")
					m.Apply(sched.Posted{Job: job.ID(id), At: noon})
				}
				return d
			}
			equal(t, give("ann1", "mx", 1), []string{"ann1@x"})
			equal(t, give("bob2", "my", 2), []string{"bob2@y"})
			m.Apply(sched.BackEnd{Name: "x", Ready: true, Slots: 1}) // it stages nothing
			equal(t, give("cid3", "mx", 3), early)
			if early == nil {
				m.Apply(sched.Ended{Job: first, Ran: time.Second, At: noon})
				equal(t, next(m), []string{want})
			}
		}
	}
	m := machine(sched.Options{}, "x", "y") // where nobody has the models, they are loaded as soon as can be
	for i, models := range []string{"mx", "my", "mz"} {
		j := waiting(fmt.Sprint("ann", i), int64(i))
		j.Models = models
		m.Apply(sched.Added{Job: j})
	}
	equal(t, next(m), []string{"ann0@x", "ann1@y", "ann2@x"})
}

// TestNobodyIsPutBehindWhoHasABackEndToThemselves: ann's jobs run where others' can't. Who comes back stands where those
// stand who wait beside them, not where ann does.
func TestNobodyIsPutBehindWhoHasABackEndToThemselves(t *testing.T) {
	t.Parallel()
	m := sched.New(sched.Options{})
	for name, has := range map[string]string{"small1": "s", "small2": "s", "small3": "s", "large": "l"} {
		m.Apply(sched.BackEnd{Name: name, Ready: true, Slots: 1, Missing: func(needs []string) []string {
			return slices.DeleteFunc(slices.Clone(needs), func(n string) bool { return n == has })
		}})
	}
	now, seq := noon, int64(0)
	give := func(user, need string, jobs int) {
		for range jobs {
			seq++
			j := waiting(fmt.Sprint(user, seq), seq)
			j.Needs, j.Cost = []string{need}, 100*time.Second
			m.Apply(sched.Added{Job: j})
		}
	}
	served := map[string]int{}
	step := func(took time.Duration) { // each back end that is free runs one job
		var ran []job.ID
		for d, ok := m.Next(now); ok; d, ok = m.Next(now) {
			m.Apply(sched.Posted{Job: d.Job, At: now})
			served[strings.TrimRight(string(d.Job), "0123456789")]++
			ran = append(ran, d.Job)
		}
		now = now.Add(took)
		for _, id := range ran {
			m.Apply(sched.Ended{Job: id, Ran: took, At: now})
		}
	}
	give("bob", "l", 1)
	step(time.Second)
	give("ann", "s", 90)
	for range 10 { // bob comes back each time, dan waits all the time
		give("bob", "l", 1)
		step(100 * time.Second)
	}
	give("dan", "l", 30)
	clear(served)
	for range 10 {
		if len(m.Places("bob")) == 0 {
			give("bob", "l", 1)
		}
		step(100 * time.Second)
	}
	if served["bob"] < 4 || served["dan"] < 4 || served["ann"] != 30 {
		t.Errorf("one back end was shared like this: %v", served)
	}
}

// TestIDs: whatever jobs are called, they are called so in decisions.
func TestIDs(t *testing.T) {
	t.Parallel()
	ids := []job.ID{
		"019b76da-4f0e-7c3a-9d10-0123456789ab", "019B76DA-4F0E-7C3A-9D10-0123456789AB", "019b76da-4f0e-7c3a-1d10-0123456789ab",
		"019b76da-4f0e-7c3a-9d10-0123456789ac", "a", "", "fifteen letters", "sixteen letters.", "sixteen letters!", "1234567\x80", "1234567\xff9",
		job.ID(strings.Repeat("long ", 100)),
	}
	m := machine(sched.Options{}, "gpu")
	for i, id := range ids {
		m.Apply(sched.Added{Job: sched.Job{ID: id, User: "ann", Seq: int64(i + 1)}})
	}
	equal(t, m.Waiting(), len(ids))
	equal(t, m.Places("ann")[11].Job, ids[11])
	equal(t, drain(m, noon), ids)
}

func TestOrderWithinAPerson(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{}, "gpu")
	add(m, "ann1", "ann2", "ann3", "ann4")
	front := waiting("ann5", 5)
	front.Number = -5
	m.Apply(sched.Added{Job: front})
	urgent := waiting("ann4", 4)
	urgent.Class = job.ClassInstructor
	m.Apply(sched.Added{Job: urgent}) // moved
	equal(t, drain(m, noon), []job.ID{"ann4", "ann5", "ann1", "ann2", "ann3"})
}

func TestFreeBackEndsGoBeforeStaging(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{}, "gpu1", "gpu2")
	add(m, "ann1", "bob1", "cid1", "dan1", "eve1")
	equal(t, next(m), []string{"ann1@gpu1", "bob1@gpu2", "cid1@gpu1", "dan1@gpu2"})
	m.Apply(sched.Ended{Job: "bob1"})
	equal(t, next(m), []string{"eve1@gpu2"})
}

func TestSameBackEndForSamePerson(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{}, "gpu1", "gpu2")
	add(m, "ann1", "bob1")
	equal(t, next(m), []string{"ann1@gpu1", "bob1@gpu2"})
	m.Apply(sched.Ended{Job: "ann1"})
	m.Apply(sched.Ended{Job: "bob1"})
	m.Apply(sched.Added{Job: waiting("bob2", 3)})
	equal(t, next(m), []string{"bob2@gpu2"})
}

func TestMissingNodesHoldUpNobody(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{}, "gpu1")
	lacks := func(needs []string) []string {
		return slices.DeleteFunc(slices.Clone(needs), func(n string) bool { return n == "KSampler" })
	}
	m.Apply(sched.BackEnd{Name: "gpu1", Ready: true, Missing: lacks})
	odd := waiting("ann1", 1)
	odd.Needs = []string{"KSampler", "Odd", "Rare"}
	m.Apply(sched.Added{Job: odd})
	m.Apply(sched.Added{Job: waiting("ann2", 2)})
	equal(t, next(m), []string{"ann2@gpu1"})
	equal(t, m.Why("ann1", noon), sched.Reason{Code: sched.WhyMissing, Sentence: "No GPU has all that the graph needs: Odd, Rare."})
	m.Apply(sched.BackEnd{Name: "gpu2", Ready: true})
	equal(t, next(m), []string{"ann1@gpu2"})
}

func TestLimitOfRunningJobs(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{MaxRunningPerUser: 1}, "gpu1", "gpu2")
	add(m, "ann1", "ann2", "ann3")
	equal(t, next(m), []string{"ann1@gpu1", "ann2@gpu1"}) // staged behind the own job, never beside it
	equal(t, m.Why("ann3", noon).Code, sched.WhyLimit)
	m.Apply(sched.Ended{Job: "ann1"})
	equal(t, next(m), []string{"ann3@gpu1"})
}

func TestReleased(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{}, "gpu1")
	add(m, "ann1", "bob1", "ann2")
	equal(t, next(m), []string{"ann1@gpu1", "bob1@gpu1"})
	later := noon.Add(time.Second)
	m.Apply(sched.Ended{Job: "bob1"})
	m.Apply(sched.Released{Job: "ann1", Avoid: []string{"gpu1"}, NotBefore: later, Reason: "The GPU gpu1 was lost."})
	equal(t, next(m), []string{"ann2@gpu1"})
	equal(t, m.Why("ann1", noon), sched.Reason{Code: sched.WhyRetry, Sentence: "The GPU gpu1 was lost. It is tried again in a moment."})
	if at, ok := m.NextTime(noon); !ok || !at.Equal(later) {
		t.Errorf("NextTime = %v, %v", at, ok)
	}
	m.Apply(sched.Ended{Job: "ann2"})
	m.Apply(sched.BackEnd{Name: "gpu2", Ready: true, Slots: 1})
	if d, ok := m.Next(later); !ok || d != (sched.Decision{Job: "ann1", User: "ann", BackEnd: "gpu2"}) {
		t.Errorf("Next = %v, %v", d, ok)
	}
	m.Apply(sched.BackEnd{Name: "gpu2", Reason: "gpu2 does not answer."})
	m.Apply(sched.Released{Job: "ann1", Avoid: []string{"gpu1", "gpu2"}})
	equal(t, next(m), []string{"ann1@gpu1"}) // better the one that failed than none
}

func TestReleaseGivesTheTurnBack(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{}, "gpu")
	add(m, "ann1", "ann2", "bob1")
	if d, _ := m.Next(noon); d.Job != "ann1" {
		t.Fatalf("first is %v", d)
	}
	m.Apply(sched.Released{Job: "ann1"})
	equal(t, drain(m, noon), []job.ID{"ann1", "bob1", "ann2"})
}

func TestRecall(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{}, "gpu1")
	add(m, "ann1", "bob1")
	equal(t, next(m), []string{"ann1@gpu1", "bob1@gpu1"})
	m.Apply(sched.Posted{Job: "ann1"})
	if id, ok := m.Recall(noon); ok {
		t.Errorf("%s is recalled although no back end is free", id)
	}
	m.Apply(sched.BackEnd{Name: "gpu2", Ready: true})
	id, ok := m.Recall(noon)
	if !ok || id != "bob1" {
		t.Fatalf("Recall = %v, %v", id, ok)
	}
	m.Apply(sched.Released{Job: id})
	equal(t, next(m), []string{"bob1@gpu2"})
	if id, ok := m.Recall(noon); ok {
		t.Errorf("%s is recalled twice", id)
	}
}

func TestResumed(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{})
	m.Apply(sched.Resumed{Job: waiting("ann1", 1), BackEnd: "gpu1", Posted: true})
	add(m, "bob1")
	equal(t, next(m), nil)
	equal(t, m.Why("bob1", noon).Code, sched.WhyNoBackEnd)
	m.Apply(sched.BackEnd{Name: "gpu1", Ready: true})
	equal(t, next(m), []string{"bob1@gpu1"})
	equal(t, m.Why("ann1", noon), sched.Reason{Code: sched.WhyRunning, Sentence: "It runs on gpu1."})
	m.Apply(sched.BackEndGone{Name: "gpu1"})
	m.Apply(sched.Ended{Job: "ann1"})
	m.Apply(sched.Released{Job: "bob1"})
	equal(t, m.Why("bob1", noon).Sentence, "No GPU is connected to the studio.")
}

func TestWhy(t *testing.T) {
	t.Parallel()
	m := machine(sched.Options{})
	add(m, "ann1", "bob1", "ann2", "cid1")
	why := func(id job.ID) string { return m.Why(id, noon).Sentence }
	equal(t, why("ann1"), "No GPU is connected to the studio.")
	m.Apply(sched.BackEnd{Name: "gpu", Reason: "gpu does not answer."})
	equal(t, why("ann1"), "No GPU answers at the moment. gpu does not answer.")
	m.Apply(sched.BackEnd{Name: "gpu", Ready: true})
	equal(t, why("ann1"), "It is the first in line.")
	equal(t, why("bob1"), "One job goes before it.")
	equal(t, why("ann2"), "3 jobs go before it.")
	m.Apply(sched.Paused{On: true, Reason: "The disk is full."})
	equal(t, why("ann1"), "The queue is paused. The disk is full.")
	equal(t, next(m), nil)
	m.Apply(sched.Paused{})
	equal(t, next(m), []string{"ann1@gpu", "bob1@gpu"})
	equal(t, why("ann1"), "gpu is getting ready for it.")
	equal(t, why("bob1"), "It is the next one on gpu.")
	equal(t, m.Why("zoe1", noon).Code, sched.WhyUnknown)
	equal(t, m.Waiting(), 2)
}
