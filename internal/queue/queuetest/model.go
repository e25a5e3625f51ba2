package queuetest

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// stepsWanted names the variable that says how many random steps Model goes at least. Without it they are those of one
// rapid.Check.
const stepsWanted = "COMFYUME_PROPERTY_STEPS"

// What the queue of the model lets a person have.
const (
	modelPending = 6
	modelKept    = 5
)

// Model holds the queue against a naive picture of it, over any interleaving of owners, operators, workers that may
// have lost their right, and restarts: no job is lost, none finishes twice, fences only grow, counts and history are
// true.
func Model(t *testing.T, shelf Shelf) {
	t.Parallel()
	goal, steps := 0, 0
	if text := os.Getenv(stepsWanted); text != "" {
		var err error
		if goal, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", stepsWanted, err)
		}
	}
	for run := 0; run == 0 || steps < goal; run++ {
		if !t.Run(fmt.Sprint("run ", run), func(t *testing.T) { rapid.Check(t, func(rt *rapid.T) { steps += walk(t, rt, shelf) }) }) {
			return
		}
	}
	t.Logf("%d steps", steps)
}

// walk goes some steps with a queue and a picture of their own, and returns how many.
func walk(t *testing.T, rt *rapid.T, shelf Shelf) (steps int) {
	m := &model{jobs: map[job.ID]*subject{}, mode: queue.Fair, pauses: map[string]queue.Pause{}}
	m.bench = start(t, shelf(t), queue.Options{MaxPendingPerUser: modelPending, KeepPerUser: modelKept, Place: m.placed})
	m.t = rt
	defer func() {
		m.t = t
		m.shut()
		m.shut = func() {}
	}()
	rt.Repeat(map[string]func(*rapid.T){
		"submit":         m.submitOne,
		"place":          m.placeOne,
		"repeat":         m.repeat,
		"claim":          m.claimOne,
		"post":           m.post,
		"renew":          m.renew,
		"finish":         m.finishOne,
		"release":        m.release,
		"expire":         m.expire,
		"fail":           m.failOne,
		"remove":         m.remove,
		"clear":          m.clear,
		"stop":           m.stopOne,
		"class":          m.classOne,
		"hold":           m.holdOne,
		"deadline":       m.dateOne,
		"front":          m.frontOne,
		"reorder":        m.reorder,
		"cancel user":    m.cancelUser,
		"retry":          m.retryOne,
		"prune":          m.prune,
		"control":        m.control,
		"delete history": m.deleteHistory,
		"crash":          func(*rapid.T) { m.restart() },
		"":               func(t *rapid.T) { steps++; m.check(t) },
	})
	return steps
}

// model is the picture. Worker's tickets are never thrown away: late reports of dead attempts are the point.
type model struct {
	*bench
	jobs    map[job.ID]*subject
	past    []*subject // those that were pruned
	tickets []job.Fence
	fence   int64      // last one given
	ended   int        // counts ends
	since   job.Counts // ends since the start
	place   bool       // the next submission finds a back end
	mode    string
	pauses  map[string]queue.Pause
	late    int64 // results that are kept out since the start
}

// placed is the queue's Place.
func (m *model) placed(job.Job) (p job.ClaimParams, ok bool) {
	if !m.place {
		return p, false
	}
	return Params(), true
}

type subject struct {
	sub      job.Submission
	id       job.ID
	seq      int64
	class    job.Class
	number   float64
	held     bool
	deadline time.Time
	state    job.State
	fence    int64
	attempts int
	posted   bool
	kept     bool // posted is on disk
	stop     bool
	hidden   bool
	gone     bool // pruned
	lease    time.Time
	end      int
	told     int // how often it was announced as over
}

func (s *subject) waits() bool {
	return s.state == job.Pending || s.state == job.Running && !s.posted
}

// movable says why the job's place can't be changed; empty: it can.
func (s *subject) movable() (fault.Kind, string) {
	switch {
	case s.gone:
		return fault.Missing, "no_such_job"
	case !s.waits():
		return fault.Conflict, "not_pending"
	}
	return 0, ""
}

var (
	people    = []string{"ann", "bob"}
	promptIDs = []string{"p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"}
	keys      = []string{"", "", "", "k1", "k2", "k3"}
)

// pick draws a job that keep accepts, and skips the step where there is none.
func (m *model) pick(t *rapid.T, keep func(*subject) bool) *subject {
	some := m.some(keep)
	if len(some) == 0 {
		t.Skip("no such job")
	}
	return rapid.SampledFrom(some).Draw(t, "job")
}

// subject returns a job by its id, also one that is gone.
func (m *model) subject(id job.ID) *subject {
	if s := m.jobs[id]; s != nil {
		return s
	}
	return m.past[slices.IndexFunc(m.past, func(s *subject) bool { return s.id == id })]
}

// some returns the jobs that keep accepts in order of acceptance.
func (m *model) some(keep func(*subject) bool) (some []*subject) {
	for _, s := range m.jobs {
		if keep(s) {
			some = append(some, s)
		}
	}
	for _, s := range m.past[max(0, len(m.past)-3):] { // of those that are gone the last ones are enough
		if keep(s) {
			some = append(some, s)
		}
	}
	slices.SortFunc(some, func(x, y *subject) int { return cmp.Compare(x.seq, y.seq) })
	return some
}

// visible returns the person's job with the prompt id that is open or in history.
func (m *model) visible(user, promptID string) *subject {
	for _, s := range m.jobs {
		if s.sub.User == user && s.sub.PromptID == promptID && !s.hidden && !s.gone {
			return s
		}
	}
	return nil
}

func (m *model) claimOne(t *rapid.T) {
	s := m.pick(t, func(*subject) bool { return true })
	e, _, err := m.Claim(m.t.Context(), s.id, Params())
	if s.state != job.Pending {
		refused(t, "claim", err, fault.Conflict, "not_pending")
		return
	}
	if s.held {
		refused(t, "claim", err, fault.Conflict, "held")
		return
	}
	m.must(err)
	if diff := differs(s.sub.Request, e.Request); diff != "" {
		t.Fatalf("request: %s", diff)
	}
	m.claimed(t, s, e.Job)
}

// claimed takes in that a job was claimed.
func (m *model) claimed(t *rapid.T, s *subject, j job.Job) {
	s.attempts++
	if a := j.Attempt; j.State != job.Running || a.Fence <= m.fence || a.N != s.attempts {
		t.Fatalf("%s: attempt %d has fence %d after %d", j.State, a.N, a.Fence, m.fence)
	}
	m.fence = j.Attempt.Fence
	s.state, s.fence, s.posted, s.kept, s.lease = job.Running, m.fence, false, false, j.Attempt.LeaseUntil
	m.tickets = append(m.tickets, job.Fence{Job: s.id, N: m.fence})
}

// ticket draws any attempt that was ever made, and says whether it may still report.
func (m *model) ticket(t *rapid.T) (f job.Fence, s *subject, holds bool) {
	if len(m.tickets) == 0 {
		t.Skip("no attempts")
	}
	// Late ones are the most interesting, and must not be drowned by the dead.
	f = m.tickets[len(m.tickets)-1-rapid.IntRange(0, min(5, len(m.tickets)-1)).Draw(t, "ticket")]
	s = m.subject(f.Job)
	return f, s, s.state == job.Running && s.fence == f.N
}

func (m *model) post(t *rapid.T) {
	f, s, holds := m.ticket(t)
	err := m.Posted(f.Job, f.N)
	if !holds {
		refused(t, "post", err, fault.Conflict, "stale_fence")
		return
	}
	m.must(err)
	s.posted = true
}

func (m *model) renew(t *rapid.T) {
	until := time.Now().Add(time.Duration(rapid.IntRange(-60, 120).Draw(t, "lease")) * time.Second).Truncate(time.Millisecond)
	lost, err := m.Renew(m.t.Context(), m.tickets, until)
	m.must(err)
	for _, f := range m.tickets {
		s := m.subject(f.Job)
		holds := s.state == job.Running && s.fence == f.N
		if slices.Contains(lost, f) == holds {
			t.Fatalf("renewal of %v, held %v, lost %v", f, holds, lost)
		}
		if holds {
			s.lease, s.kept = until, s.posted
		}
	}
}

func (m *model) finishOne(t *rapid.T) {
	f, s, holds := m.ticket(t)
	state := rapid.SampledFrom([]job.State{job.Completed, job.Failed, job.Cancelled}).Draw(t, "state")
	err := m.Finish(m.t.Context(), f.Job, f.N, Outcome(state))
	if !holds {
		m.late++
		refused(t, "finish", err, fault.Conflict, "stale_fence")
		return
	}
	m.must(err)
	m.over(s, state)
}

func (m *model) over(s *subject, state job.State) {
	m.ended++
	m.since.Add(state, 1)
	s.state, s.end = state, m.ended
}

func (m *model) release(t *rapid.T) {
	f, s, holds := m.ticket(t)
	err := m.Release(m.t.Context(), f.Job, f.N, "test")
	if !holds {
		refused(t, "release", err, fault.Conflict, "stale_fence")
		return
	}
	m.must(err)
	s.state, s.posted = job.Pending, false
}

// expire does what a dispatcher does with attempts whose lease is over.
func (m *model) expire(t *rapid.T) {
	at := time.Now().Add(90 * time.Second)
	want := m.some(func(s *subject) bool { return s.state == job.Running && !s.lease.After(at) })
	got := m.Expired(at)
	if len(got) != len(want) {
		t.Fatalf("%d leases expired, want %d", len(got), len(want))
	}
	for i, j := range got {
		if j.ID != want[i].id {
			t.Fatalf("%s expired, want %s", j.ID, want[i].id)
		}
		m.must(m.Release(m.t.Context(), j.ID, j.Attempt.Fence, "its lease ended"))
		want[i].state, want[i].posted = job.Pending, false
	}
}

func (m *model) failOne(t *rapid.T) {
	s := m.pick(t, func(*subject) bool { return true })
	err := m.Fail(m.t.Context(), s.id, Outcome(job.Failed))
	if s.state != job.Pending {
		refused(t, "fail", err, fault.Conflict, "not_pending")
		return
	}
	m.must(err)
	m.over(s, job.Failed)
}

func (m *model) remove(t *rapid.T) {
	s := m.pick(t, func(*subject) bool { return true })
	user := rapid.SampledFrom(people).Draw(t, "user")
	gone, err := m.RemovePending(m.t.Context(), user, []string{s.sub.PromptID})
	m.must(err)
	m.withdrawn(t, gone, func(s2 *subject) bool { return s2.sub.User == user && s2.sub.PromptID == s.sub.PromptID })
}

func (m *model) clear(t *rapid.T) {
	user := rapid.SampledFrom(people).Draw(t, "user")
	gone, err := m.ClearPending(m.t.Context(), user)
	m.must(err)
	m.withdrawn(t, gone, func(s *subject) bool { return s.sub.User == user })
}

// withdrawn takes in that jobs were taken out, in the order in which they were.
func (m *model) withdrawn(t *rapid.T, gone []job.Job, meant func(*subject) bool) {
	want := m.some(func(s *subject) bool { return !s.state.Final() && s.waits() && meant(s) })
	if len(gone) != len(want) {
		t.Fatalf("%d jobs were taken out, want %d", len(gone), len(want))
	}
	for _, j := range gone {
		s := m.jobs[j.ID]
		if !slices.Contains(want, s) {
			t.Fatalf("%s was taken out", j.ID)
		}
		m.over(s, job.Cancelled)
		s.hidden = true
	}
}

func (m *model) stopOne(t *rapid.T) {
	user := rapid.SampledFrom(people).Draw(t, "user")
	jobs, err := m.Stop(m.t.Context(), user, "")
	m.must(err)
	want := m.some(func(s *subject) bool { return s.sub.User == user && s.state == job.Running && s.posted })
	if len(jobs) != len(want) {
		t.Fatalf("%d jobs are to stop, want %d", len(jobs), len(want))
	}
	for _, s := range want {
		s.stop = true
	}
}

func (m *model) deleteHistory(t *rapid.T) {
	s := m.pick(t, func(*subject) bool { return true })
	m.must(m.DeleteHistory(m.t.Context(), s.sub.User, []string{s.sub.PromptID}))
	if v := m.visible(s.sub.User, s.sub.PromptID); v != nil && v.state.Final() {
		v.hidden = true
	}
}

// restart also checks that what only memory knew is forgotten, and nothing else.
func (m *model) restart() {
	m.listen()
	m.bench.restart()
	m.since, m.late = job.Counts{}, 0
	for _, s := range m.jobs {
		if s.state == job.Running {
			s.posted = s.kept
		}
	}
}

// listen counts the ends that were announced.
func (m *model) listen() {
	for _, c := range m.heard() {
		if c.Change != job.Finished && c.Change != job.Removed {
			continue
		}
		s := m.jobs[c.Job.ID]
		if s.told++; s.told > 1 {
			m.t.Fatalf("%s ended twice", c.Job.ID)
		}
		if c.Job.State != s.state || (c.Change == job.Removed) != s.hidden && s.end == m.ended {
			m.t.Fatalf("%s was announced as %s %s", c.Job.ID, c.Change, c.Job.State)
		}
	}
}

// check holds everything that can be read against the picture.
func (m *model) check(t *rapid.T) {
	m.listen()
	counts := m.since
	byUser := map[string]job.Counts{}
	for _, user := range people {
		open := m.some(func(s *subject) bool { return s.sub.User == user && !s.state.Final() })
		for _, s := range open {
			counts.Add(s.state, 1)
			own := byUser[user]
			own.Add(s.state, 1)
			byUser[user] = own
		}
		if n := m.Remaining(user); n != len(open) {
			t.Fatalf("Remaining(%s) = %d, want %d", user, n, len(open))
		}
		m.checkOpen(t, user, open)
		m.checkEntries(t, user)
		m.checkHistory(t, user)
		m.checkList(t, user)
	}
	if c := m.Counts(); c != counts {
		t.Fatalf("Counts = %+v, want %+v", c, counts)
	}
	if diff := differs(byUser, m.CountsByUser()); diff != "" {
		t.Fatalf("counts by user: want -, got +\n%s", diff)
	}
	if r := m.Rejected(); r.Late+r.Doubled+r.Cancelled != m.late {
		t.Fatalf("%+v results were kept out, want %d", r, m.late)
	}
	m.checkControl(t)
	for _, s := range m.some(func(s *subject) bool { return s.state.Final() }) {
		j, err := m.Get(m.t.Context(), s.id)
		if s.gone {
			refused(t, "a job that went", err, fault.Missing, "no_such_job")
			continue
		}
		if err != nil || j.State != s.state || j.Hidden != s.hidden {
			t.Fatalf("%s is %s hidden %v %v, want %s hidden %v", s.id, j.State, j.Hidden, err, s.state, s.hidden)
		}
	}
}
