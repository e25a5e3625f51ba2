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

// world is a naive picture of what the machine should know, and checks every decision against it.
type world struct {
	opts     sched.Options
	m, twin  *sched.Machine // the twin gets the same events and must decide the same
	now      time.Time
	seq      int64
	paused   map[sched.Paused]bool // by scope
	jobs     map[job.ID]*thing
	backEnds []*place
}

type thing struct {
	sched.Job
	on        string // back end, empty while waiting
	posted    bool
	avoid     []string
	notBefore time.Time
}

type place struct {
	sched.BackEnd
	has []string
}

func (w *world) apply(e sched.Event) {
	w.m.Apply(e)
	w.twin.Apply(e)
}

func (w *world) place(name string) *place {
	if i := slices.IndexFunc(w.backEnds, func(p *place) bool { return p.Name == name }); i >= 0 {
		return w.backEnds[i]
	}
	return nil
}

func (w *world) claimed(name string) (n int) {
	for _, j := range w.jobs {
		if j.on == name {
			n++
		}
	}
	return n
}

// lacks reports whether the back end lacks what the job needs, or is for others.
func (p *place) lacks(j *thing) bool {
	return len(p.Groups) > 0 && !slices.Contains(p.Groups, j.Group) || p.Memory > 0 && j.Memory > p.Memory || slices.ContainsFunc(j.Needs, func(n string) bool { return !slices.Contains(p.has, n) })
}

// stopped reports whether a pause keeps the job from running.
func (w *world) stopped(j *thing) bool {
	return w.paused[sched.Paused{}] || w.paused[sched.Paused{Group: j.Group}] && j.Group != ""
}

// may reports whether the job may be given to the back end now.
func (w *world) may(j *thing, p *place) bool {
	open := func(p *place) bool { return p.Ready && !w.paused[sched.Paused{BackEnd: p.Name}] }
	if w.stopped(j) || j.Held || j.on != "" || j.notBefore.After(w.now) || !open(p) || p.lacks(j) || w.claimed(p.Name) >= p.Slots {
		return false
	}
	if slices.Contains(j.avoid, p.Name) && slices.ContainsFunc(w.backEnds, func(o *place) bool {
		return open(o) && !o.lacks(j) && !slices.Contains(j.avoid, o.Name)
	}) {
		return false
	}
	on := map[string]int{}
	for _, other := range w.jobs {
		if other.User == j.User && other.on != "" {
			on[other.on]++
		}
	}
	if on[p.Name] >= p.Parallel || w.opts.MaxRunningPerUser == 0 {
		return true
	}
	running := 1
	for name, n := range on {
		running += min(n, w.place(name).Parallel)
	}
	return running <= w.opts.MaxRunningPerUser
}

// spares reports whether nothing need be staged: the first in line may be one whose models another back end has.
func (w *world) spares() bool {
	for _, j := range w.jobs {
		if j.on == "" && j.Models != "" {
			return true
		}
	}
	return false
}

// decide makes one decision and checks it.
func (w *world) decide(t *rapid.T) bool {
	d, ok := w.m.Next(w.now)
	if d2, ok2 := w.twin.Next(w.now); d2 != d || ok2 != ok {
		t.Fatalf("the same events gave %v %v and %v %v", d, ok, d2, ok2)
	}
	if !ok {
		for _, j := range w.jobs {
			for _, p := range w.backEnds {
				if p.Price == 0 && w.may(j, p) && (w.claimed(p.Name) < p.Parallel || !w.spares()) {
					t.Fatalf("%s may run on %s, and nothing was decided; why: %v", j.ID, p.Name, w.m.Why(j.ID, w.now))
				}
			}
		}
		return false
	}
	j, p := w.jobs[d.Job], w.place(d.BackEnd)
	if j == nil || p == nil {
		t.Fatalf("decision %v names what is not there", d)
	}
	if !w.may(j, p) {
		t.Fatalf("%s may not run on %s: %+v on %+v", d.Job, d.BackEnd, j, p)
	}
	for _, other := range w.jobs {
		if other.User == j.User && other.ID != j.ID && w.earlier(other, j) && w.may(other, p) {
			t.Fatalf("%s overtook %s of the same person", j.ID, other.ID)
		}
	}
	if w.claimed(p.Name) >= p.Parallel || p.Price > 0 {
		for _, q := range w.backEnds {
			if q.Price == 0 && w.claimed(q.Name) < q.Parallel && w.may(j, q) {
				t.Fatalf("%s was staged on %s while %s is free", j.ID, p.Name, q.Name)
			}
		}
	}
	j.on, j.posted = d.BackEnd, false
	return true
}

// earlier reports whether x goes before y of the same person. Where classes count between people, a job of a worse class
// may have become as good by waiting.
func (w *world) earlier(x, y *thing) bool {
	if x.Class != y.Class {
		return x.Class < y.Class && w.opts.Order != sched.Priority
	}
	if x.Number != y.Number {
		return x.Number < y.Number
	}
	return x.Seq < y.Seq
}

// pick draws one of the jobs that keep accepts.
func (w *world) pick(t *rapid.T, keep func(*thing) bool) *thing {
	var some []*thing
	for _, j := range w.jobs {
		if keep(j) {
			some = append(some, j)
		}
	}
	if len(some) == 0 {
		t.Skip("no such job")
	}
	slices.SortFunc(some, func(x, y *thing) int { return int(x.Seq - y.Seq) })
	return rapid.SampledFrom(some).Draw(t, "job")
}

var (
	classes = []string{"A", "B", "C"}
	orders  = []sched.Order{sched.FIFO, sched.RoundRobin, sched.Priority, sched.Fair}
	people  = []string{"ann", "bob", "cid", "dan"}
	groupOf = map[string]string{"ann": "red", "bob": "red", "cid": "blue"}
)

func TestMachineProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{now: noon, jobs: map[job.ID]*thing{}, paused: map[sched.Paused]bool{}, opts: sched.Options{
			Order:             rapid.SampledFrom(orders).Draw(t, "order"),
			MaxRunningPerUser: rapid.IntRange(0, 2).Draw(t, "limit"),
		}}
		w.m, w.twin = sched.New(w.opts), sched.New(w.opts)
		t.Repeat(map[string]func(*rapid.T){
			"add":      w.add,
			"back end": w.backEnd,
			"decide":   func(t *rapid.T) { w.decide(t) },
			"decide all": func(t *rapid.T) {
				for w.decide(t) {
				}
			},
			"post": func(t *rapid.T) {
				j := w.pick(t, func(j *thing) bool { return j.on != "" && !j.posted })
				j.posted = true
				w.apply(sched.Posted{Job: j.ID, At: w.now})
			},
			"end": func(t *rapid.T) {
				j := w.pick(t, func(*thing) bool { return true })
				delete(w.jobs, j.ID)
				w.apply(sched.Ended{Job: j.ID, Ran: time.Duration(rapid.IntRange(0, 100).Draw(t, "ran")) * time.Second, At: w.now})
			},
			"move":    w.move,
			"release": w.release,
			"recall":  w.recall,
			"learn": func(t *rapid.T) {
				j := w.pick(t, func(j *thing) bool { return j.on == "" })
				if rapid.Bool().Draw(t, "cost") {
					j.Cost = time.Duration(rapid.IntRange(0, 100).Draw(t, "seconds")) * time.Second
					w.apply(sched.Estimated{Job: j.ID, Cost: j.Cost})
					return
				}
				j.Needs = rapid.SliceOfNDistinct(rapid.SampledFrom(classes), 0, 3, rapid.ID[string]).Draw(t, "needs")
				j.Memory = int64(rapid.IntRange(0, 3).Draw(t, "memory"))
				w.apply(sched.Needed{Job: j.ID, Needs: j.Needs, Memory: j.Memory})
			},
			"pause": func(t *rapid.T) {
				p := rapid.SampledFrom([]sched.Paused{{}, {Group: "red"}, {BackEnd: "gpu1"}}).Draw(t, "scope")
				w.paused[p] = !w.paused[p]
				w.apply(sched.Paused{On: w.paused[p], Group: p.Group, BackEnd: p.BackEnd})
			},
			"mode": func(t *rapid.T) {
				w.opts.Order = rapid.SampledFrom(orders).Draw(t, "order")
				w.apply(sched.Mode{Order: w.opts.Order})
			},
			"share": func(t *rapid.T) {
				w.apply(rapid.SampledFrom([]sched.Share{{User: "ann", Weight: 3}, {Group: "red", Weight: 2}, {User: "ann", Weight: 1}}).Draw(t, "share"))
			},
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 1000).Draw(t, "seconds")) * time.Second)
			},
			"": w.check,
		})
	})
}

func (w *world) add(t *rapid.T) {
	w.seq++
	user := rapid.SampledFrom(people).Draw(t, "user")
	j := &thing{Job: sched.Job{
		ID:      job.ID(fmt.Sprint("j", w.seq)),
		User:    user,
		Group:   groupOf[user],
		Class:   job.Class(rapid.IntRange(0, 3).Draw(t, "class")),
		Number:  float64(rapid.IntRange(-2, 2).Draw(t, "number")),
		Seq:     w.seq,
		Created: w.now,
		Held:    rapid.IntRange(0, 9).Draw(t, "held") == 0,
		Needs:   rapid.SliceOfNDistinct(rapid.SampledFrom(classes), 0, 2, rapid.ID[string]).Draw(t, "needs"),
		Models:  rapid.SampledFrom([]string{"", "sdxl", "flux"}).Draw(t, "models"),
		Cost:    time.Duration(rapid.IntRange(0, 100).Draw(t, "cost")) * time.Second,
	}}
	w.jobs[j.ID] = j
	w.apply(sched.Added{Job: j.Job})
}

// move changes the class or number of a job, holds it or lets it go.
func (w *world) move(t *rapid.T) {
	j := w.pick(t, func(j *thing) bool { return !j.posted })
	j.Class = job.Class(rapid.IntRange(0, 3).Draw(t, "class"))
	j.Number = float64(rapid.IntRange(-2, 2).Draw(t, "number"))
	j.Held = rapid.Bool().Draw(t, "held")
	w.apply(sched.Added{Job: j.Job})
}

func (w *world) recall(t *rapid.T) {
	id, ok := w.m.Recall(w.now)
	if twin, ok2 := w.twin.Recall(w.now); ok2 != ok || twin != id {
		t.Fatalf("the same events recall %v and %v", id, twin)
	}
	if !ok {
		return
	}
	j := w.jobs[id]
	stopped := j.Held || w.stopped(j) || w.paused[sched.Paused{BackEnd: j.on}]
	if j.posted || !stopped && w.claimed(j.on) <= w.place(j.on).Parallel {
		t.Fatalf("%s is recalled from %s", id, j.on)
	}
	from := j.on
	j.on = ""
	w.apply(sched.Released{Job: id, Avoid: j.avoid, NotBefore: j.notBefore})
	if stopped {
		return
	}
	if !w.decide(t) {
		if !w.spares() {
			t.Fatalf("%s was recalled for nothing", id)
		}
		return
	}
	if j.on == from {
		t.Fatalf("%s was recalled from %s and given to it again", id, from)
	}
}

func (w *world) backEnd(t *rapid.T) {
	name := rapid.SampledFrom([]string{"gpu1", "gpu2", "gpu3"}).Draw(t, "name")
	p := w.place(name)
	if p == nil {
		p = &place{}
		w.backEnds = append(w.backEnds, p)
	}
	p.has = rapid.SliceOfNDistinct(rapid.SampledFrom(classes), 1, 3, rapid.ID[string]).Draw(t, "has")
	has := p.has
	p.BackEnd = sched.BackEnd{
		Name: name, Ready: rapid.IntRange(0, 3).Draw(t, "ready") > 0, Slots: rapid.IntRange(1, 4).Draw(t, "slots"),
		Parallel: rapid.IntRange(1, 3).Draw(t, "parallel"), Groups: rapid.SampledFrom([][]string{nil, nil, {"red"}, {"blue", "red"}}).Draw(t, "groups"),
		Price: float64(rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "price")), Prefer: rapid.IntRange(0, 1).Draw(t, "prefer"),
		Speed: float64(rapid.IntRange(0, 3).Draw(t, "speed")), Memory: int64(rapid.IntRange(0, 3).Draw(t, "memory")),
		Missing: func(needs []string) []string {
			return slices.DeleteFunc(slices.Clone(needs), func(n string) bool { return slices.Contains(has, n) })
		},
	}
	w.apply(p.BackEnd)
	p.Slots = max(p.Slots, p.Parallel)
}

func (w *world) release(t *rapid.T) {
	j := w.pick(t, func(j *thing) bool { return j.on != "" })
	avoid := []string(nil)
	if rapid.Bool().Draw(t, "avoid") {
		avoid = []string{j.on}
	}
	j.on, j.posted, j.avoid = "", false, avoid
	j.notBefore = w.now.Add(time.Duration(rapid.IntRange(-1, 2).Draw(t, "wait")) * time.Second)
	w.apply(sched.Released{Job: j.ID, Avoid: avoid, NotBefore: j.notBefore})
}

// check holds what the machine says against the picture.
func (w *world) check(t *rapid.T) {
	waiting := 0
	for _, j := range w.jobs {
		pos, ok := w.m.Place(j.ID)
		turn := j.on == "" && !j.Held && (!w.paused[sched.Paused{Group: j.Group}] || j.Group == "")
		if ok != turn {
			t.Fatalf("Place(%s) = %d, %v while it is on %q, held %v", j.ID, pos, ok, j.on, j.Held)
		}
		if ok {
			waiting++
		}
		if why := w.m.Why(j.ID, w.now); why.Sentence == "" || why.Code == sched.WhyUnknown {
			t.Fatalf("Why(%s) = %+v", j.ID, why)
		}
	}
	if n := w.m.Waiting(); n != waiting {
		t.Fatalf("Waiting = %d, want %d", n, waiting)
	}
	positions := map[int]job.ID{}
	for _, user := range people {
		for _, p := range w.m.Places(user) {
			if p.Position == 0 {
				continue
			}
			if one, _ := w.m.Place(p.Job); one != p.Position {
				t.Fatalf("Place(%s) = %d, Places says %d", p.Job, one, p.Position)
			}
			if p.Position < 1 || p.Position > waiting {
				t.Fatalf("%s has place %d of %d", p.Job, p.Position, waiting)
			}
			positions[p.Position] = p.Job
		}
	}
	if w.opts.Order == sched.Fair || w.opts.Order == sched.Priority { // TestPlacesAreTrue says when they are exact
		return
	}
	for i := range waiting {
		if _, ok := positions[i+1]; !ok {
			t.Fatalf("nobody has place %d of %d", i+1, waiting)
		}
	}
}

// TestPlacesAreTrue holds the places against the order in which one back end really gets the jobs.
func TestPlacesAreTrue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		order := rapid.SampledFrom(orders).Draw(t, "order")
		m := machine(sched.Options{Order: order, AgeAfter: time.Minute}, "gpu")
		now, seq := noon, int64(0)
		cost := time.Duration(rapid.IntRange(1, 3).Draw(t, "cost")) * time.Second
		some := func() {
			for range rapid.IntRange(0, 12).Draw(t, "jobs") {
				seq++
				j := sched.Job{
					ID: job.ID(fmt.Sprint("j", seq)), User: rapid.SampledFrom(people).Draw(t, "user"), Class: job.Class(rapid.IntRange(0, 3).Draw(t, "class")),
					Number: float64(rapid.IntRange(-2, 2).Draw(t, "number")), Seq: seq, Created: now, Cost: cost,
				}
				if order == sched.Priority { // as they were accepted
					j.Number = float64(seq)
				}
				m.Apply(sched.Added{Job: j})
				if rapid.Bool().Draw(t, "later") {
					now = now.Add(20 * time.Second)
				}
			}
		}
		some()
		for range rapid.IntRange(0, 6).Draw(t, "served") {
			if d, ok := m.Next(now); ok {
				m.Apply(sched.Posted{Job: d.Job})
				m.Apply(sched.Ended{Job: d.Job, Ran: cost})
			}
		}
		some()
		m.Recall(now) // so that it knows the time
		var want []job.ID
		places := map[int]job.ID{}
		for _, user := range people {
			for _, p := range m.Places(user) {
				places[p.Position] = p.Job
			}
		}
		for i := range m.Waiting() {
			want = append(want, places[i+1])
		}
		var got []job.ID
		for d, ok := m.Next(now); ok; d, ok = m.Next(now) {
			got = append(got, d.Job)
			m.Apply(sched.Posted{Job: d.Job})
			m.Apply(sched.Ended{Job: d.Job, Ran: cost})
		}
		if !slices.Equal(got, want) {
			t.Fatalf("places say %v, they ran as %v", want, got)
		}
	})
}

// TestNobodyStarves: in round_robin a person's next job is chosen before anybody else gets two more.
func TestNobodyStarves(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := machine(sched.Options{Order: sched.RoundRobin}, "gpu")
		seq := int64(0)
		more := func(user string) {
			seq++
			m.Apply(sched.Added{Job: sched.Job{ID: job.ID(fmt.Sprint(user, "-", seq)), User: user, Seq: seq}})
		}
		users := []string{"ann", "bob", "cid", "dan"}[:rapid.IntRange(2, 4).Draw(t, "users")]
		for _, u := range users {
			more(u)
		}
		since := map[string]map[string]int{} // decisions for the inner one since the outer one was served
		for range 40 {
			for _, u := range users {
				for range rapid.IntRange(1, 3).Draw(t, "burst") { // everybody always has something to do
					more(u)
				}
			}
			d, ok := m.Next(noon)
			if !ok {
				t.Fatal("nothing was decided")
			}
			m.Apply(sched.Ended{Job: d.Job})
			served := string(d.Job[:3])
			for _, u := range users {
				if since[u] == nil {
					since[u] = map[string]int{}
				}
				since[u][served]++
				if u != served && since[u][served] > 1 {
					t.Fatalf("%s was served twice while %s waited", served, u)
				}
			}
			clear(since[served])
		}
	})
}
