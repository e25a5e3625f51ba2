package usage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/usage"
)

// studio is a ledger with a queue that does as it is told. In its bubble the clock begins at midnight UTC.
type studio struct {
	t     testing.TB
	store *memory
	opts  usage.Options
	*usage.Ledger
	jobs []*job.Job // in order of acceptance
}

func newStudio(t testing.TB, o usage.Options) *studio {
	if o.Zone == nil {
		o.Zone = time.UTC
	}
	s := &studio{t: t, store: newMemory(), opts: o}
	s.Ledger = open(t, s.store, o)
	return s
}

// submit sends one job. It returns what it was refused with.
func (s *studio) submit(user, group string) (*job.Job, *fault.Error) {
	s.t.Helper()
	id := job.ID(fmt.Sprint("job", len(s.jobs)))
	profile := job.Profile{Like: "a", Models: "m", Work: 1}
	err := s.Admit(context.Background(), job.Submission{ID: id, User: user, Group: group, Profile: profile})
	if err != nil {
		f, ok := errors.AsType[*fault.Error](err)
		if !ok {
			s.t.Fatalf("refused with %v", err)
		}
		return nil, f
	}
	j := &job.Job{ID: id, User: user, Group: group, State: job.Pending, Created: time.Now().UTC(), Profile: profile}
	s.jobs = append(s.jobs, j)
	s.tell(job.Submitted, j)
	return j, nil
}

func (s *studio) tell(what job.Change, j *job.Job) {
	now := *j
	s.JobChanged(job.Changed{Change: what, Job: &now})
}

// run lets a job run for some time.
func (s *studio) run(j *job.Job, length time.Duration) {
	j.State, j.Started = job.Running, time.Now().UTC()
	time.Sleep(length)
	j.State, j.Finished = job.Completed, time.Now().UTC()
	s.tell(job.Finished, j)
}

// restart is what comes after the program was killed: nothing is told, nothing is saved.
func (s *studio) restart() {
	s.t.Helper()
	s.Ledger = open(s.t, s.store, s.opts)
	err := s.Recount(context.Background(), func(_ context.Context, since time.Time, fn func(job.Job) error) error {
		for _, j := range s.jobs {
			if j.State.Final() && j.Finished.Before(since) {
				continue
			}
			if err := fn(*j); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func refusal(f *fault.Error) string {
	if f == nil {
		return "accepted"
	}
	return fmt.Sprintf("%s %s: %s %s", f.Kind, f.Code, f.Public, f.RetryAfter)
}

func TestJobsPerHourAndDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, usage.Options{Quotas: usage.Quotas{
			Everyone: usage.Quota{JobsPerHour: 2, JobsPerDay: 5},
			Users:    map[string]usage.Quota{"op": {}},
		}})
		var got []string
		send := func(user string) {
			_, f := s.submit(user, "")
			got = append(got, refusal(f))
		}
		time.Sleep(59*time.Minute + 30*time.Second)
		send("ann")
		send("ann")
		send("ann")
		send("ben") // another's is another's
		for range 10 {
			_, f := s.submit("op", "")
			if f != nil {
				t.Errorf("op: %v", f)
			}
		}
		time.Sleep(30*time.Second - time.Nanosecond)
		send("ann")
		time.Sleep(time.Nanosecond)
		send("ann")
		send("ann")
		send("ann")
		time.Sleep(time.Hour)
		send("ann")
		send("ann")
		time.Sleep(22 * time.Hour) // the next day began
		send("ann")
		want := []string{
			"accepted", "accepted",
			"busy quota_jobs_hour: You have sent 2 of 2 jobs of this hour; more at 01:00. 30s",
			"accepted",
			"busy quota_jobs_hour: You have sent 2 of 2 jobs of this hour; more at 01:00. 1s",
			"accepted", "accepted",
			"busy quota_jobs_hour: You have sent 2 of 2 jobs of this hour; more at 02:00. 1h0m0s",
			"accepted",
			"busy quota_jobs_day: You have sent 5 of 5 jobs of today; more tomorrow at 00:00. 22h0m0s",
			"accepted",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestGPUTimePerHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, usage.Options{Quotas: usage.Quotas{
			Everyone:   usage.Quota{GPUPerHour: 60 * time.Minute},
			EveryGroup: usage.Quota{GPUPerDay: 6 * time.Hour},
		}})
		send := func(want string) *job.Job {
			t.Helper()
			j, f := s.submit("ann", "class-a")
			if got := refusal(f); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			return j
		}
		time.Sleep(30 * time.Minute)
		s.run(send("accepted"), 20*time.Minute)
		send("accepted") // nothing is known of it, so that it does not count yet
		s.run(send("accepted"), 40*time.Minute)
		// It is 01:30. 10 minutes of the second run were in the first hour.
		person, group := s.Used("ann", "class-a")
		if diff := cmp.Diff([]time.Duration{30 * time.Minute, time.Hour, time.Hour}, []time.Duration{person.Hour.GPU, person.Day.GPU, group.Day.GPU}); diff != "" {
			t.Error(diff)
		}
		for range 4 {
			s.Ran(job.Job{User: "ben", Profile: job.Profile{Like: "a", Models: "m", Work: 1}}, "gpu1", 20*time.Minute, true)
		}
		next := send("accepted")
		send("busy quota_gpu_hour: You have used 30 of 60 GPU minutes of this hour, and open jobs need the 30 that are left; more at 02:00. 30m0s")
		s.run(next, 30*time.Minute)
		// It is 02:00: a new hour.
		s.run(send("accepted"), 59*time.Minute)
		send("busy quota_gpu_hour: You have used 59 of 60 GPU minutes of this hour, and this job needs more than the 1 that is left; more at 03:00. 1m0s")
		// A job that is longer than the whole quota may run in an hour in which nothing else did.
		for range 16 {
			s.Ran(job.Job{User: "ben", Profile: job.Profile{Like: "a", Models: "m", Work: 1}}, "gpu1", 3*time.Hour, true)
		}
		time.Sleep(time.Minute)
		s.run(send("accepted"), 59*time.Minute+time.Minute/2)
		j, _ := s.submit("ann", "")
		if j != nil {
			t.Error("it was accepted with half a minute left")
		}
		// The group has used what it may: whoever is in it has to wait.
		_, f := s.submit("cid", "class-a")
		want := "busy quota_group_gpu_day: Your group has used 3.4 of 6 GPU hours of today, and this job needs more than the 2.5 that are left; more tomorrow at 00:00. 20h0m30s"
		if got := refusal(f); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestUsedUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, usage.Options{Quotas: usage.Quotas{Everyone: usage.Quota{GPUPerHour: time.Hour}}})
		a, _ := s.submit("ann", "")
		b, _ := s.submit("ann", "")
		time.Sleep(13 * time.Hour)
		a.Started, b.Started = time.Now(), time.Now() // on two GPUs
		time.Sleep(30 * time.Minute)
		for _, j := range []*job.Job{a, b} {
			j.State, j.Finished = job.Failed, time.Now()
			s.tell(job.Finished, j)
		}
		_, f := s.submit("ann", "")
		want := "busy quota_gpu_hour: You have used 60 of 60 GPU minutes of this hour; more at 14:00. 30m0s"
		if got := refusal(f); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// TestJobsThatNeverRanCountForNothing takes jobs out while they wait.
func TestJobsThatNeverRanCountForNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, usage.Options{Quotas: usage.Quotas{Everyone: usage.Quota{JobsPerHour: 2, GPUPerDay: time.Hour}}})
		a, _ := s.submit("ann", "")
		b, _ := s.submit("ann", "")
		a.State, a.Finished, a.Hidden = job.Cancelled, time.Now(), true
		s.tell(job.Removed, a)
		if used, _ := s.Used("ann", ""); used.Hour.Jobs != 1 {
			t.Errorf("counts %d jobs, one is left", used.Hour.Jobs)
		}
		s.restart()
		if used, _ := s.Used("ann", ""); used.Hour.Jobs != 1 {
			t.Errorf("after a restart it counts %d jobs", used.Hour.Jobs)
		}
		s.run(b, time.Minute)
		if _, f := s.submit("ann", ""); f != nil {
			t.Error(f)
		}
		if _, f := s.submit("ann", ""); f == nil {
			t.Error("a third job was accepted")
		}
	})
}

// TestManyAtOnce lets submissions come before any of them is accepted.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, newMemory(), usage.Options{Quotas: usage.Quotas{EveryGroup: usage.Quota{JobsPerDay: 10}}})
		admit := func(i int) error {
			return l.Admit(t.Context(), job.Submission{ID: job.ID(fmt.Sprint(i)), User: fmt.Sprint("user", i%3), Group: "class-a"})
		}
		passed := 0
		for i := range 50 {
			if admit(i) == nil {
				passed++
			}
		}
		if passed != 10 {
			t.Errorf("%d were admitted, 10 may be", passed)
		}
		time.Sleep(11 * time.Second) // nobody said that they were accepted
		if err := admit(100); err != nil {
			t.Errorf("what came to nothing still counts: %v", err)
		}
	})
}

// TestManyLongOnesAtOnce is TestManyAtOnce for GPU time: what is on its way counts by its estimate.
func TestManyLongOnesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, newMemory(), usage.Options{Quotas: usage.Quotas{Everyone: usage.Quota{GPUPerHour: time.Hour}}})
		for range 4 {
			l.Ran(asked("ben", "film", "m", 1), "gpu1", 9*time.Minute, true)
		}
		passed := 0
		for i := range 20 {
			sub := job.Submission{ID: job.ID(fmt.Sprint(i)), User: "ann", Profile: asked("", "film", "m", 1).Profile}
			if l.Admit(t.Context(), sub) == nil {
				passed++
			}
		}
		if passed != 6 { // 54 minutes
			t.Errorf("%d were admitted", passed)
		}
		time.Sleep(11 * time.Second)
		if used, _ := l.Used("ann", ""); used.Hour.Due != 0 || used.Hour.Jobs != 0 {
			t.Errorf("what came to nothing still counts: %+v", used.Hour)
		}
	})
}

// TestCountsAreWholeAfterAKill compares what is counted after a restart at any time with what was counted before.
func TestCountsAreWholeAfterAKill(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var failure string
		synctest.Test(t, func(t *testing.T) {
			s := newStudio(t, usage.Options{Quotas: usage.Quotas{Everyone: usage.Quota{JobsPerDay: 1 << 30, GPUPerDay: 1 << 60}}})
			users := []string{"ann", "ben"}
			state := func() (all []usage.Usage) {
				for _, u := range users {
					p, g := s.Used(u, "class-a")
					all = append(all, p, g)
				}
				return all
			}
			for range rapid.IntRange(1, 40).Draw(rt, "steps") {
				user := rapid.SampledFrom(users).Draw(rt, "user")
				switch rapid.SampledFrom([]string{"submit", "run", "remove", "wait", "save", "kill"}).Draw(rt, "step") {
				case "submit":
					s.submit(user, "class-a")
				case "run":
					if i := slices.IndexFunc(s.jobs, func(j *job.Job) bool { return j.State == job.Pending }); i >= 0 {
						s.run(s.jobs[i], time.Duration(rapid.IntRange(1, 8*3600_000).Draw(rt, "ms"))*time.Millisecond)
					}
				case "remove":
					if i := slices.IndexFunc(s.jobs, func(j *job.Job) bool { return j.State == job.Pending }); i >= 0 {
						s.jobs[i].State, s.jobs[i].Finished = job.Cancelled, time.Now()
						s.tell(job.Removed, s.jobs[i])
					}
				case "wait":
					time.Sleep(time.Duration(rapid.IntRange(1, 10*3600).Draw(rt, "s")) * time.Second)
				case "save":
					if err := s.Save(t.Context()); err != nil {
						t.Fatal(err)
					}
				case "kill":
					before := state()
					s.restart()
					if diff := cmp.Diff(before, state()); diff != "" {
						failure = diff
						return
					}
				}
			}
			if err := s.Save(t.Context()); err != nil {
				t.Fatal(err)
			}
			// What is saved of each hour is what the jobs tell.
			want := map[int64]int{}
			for _, j := range s.jobs {
				if !j.State.Final() || !j.Started.IsZero() {
					want[j.Created.Truncate(time.Hour).Unix()]++
				}
			}
			for _, h := range s.store.hours {
				want[h.Start.Unix()] -= h.Jobs
			}
			for start, n := range want {
				if n != 0 && time.Since(time.Unix(start, 0)) < 24*time.Hour {
					failure = fmt.Sprintf("%d jobs too few are saved in the hour of %v", n, time.Unix(start, 0).UTC())
				}
			}
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

// TestClockSetBack counts on in an hour that was over.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, usage.Options{Quotas: usage.Quotas{Everyone: usage.Quota{JobsPerHour: 3}}})
		// The clock of the bubble can't be set back: jobs of the hour to come stand for those of before it was.
		ahead := time.Now().Add(time.Hour).UTC()
		for i := range 3 {
			s.tell(job.Submitted, &job.Job{ID: job.ID(fmt.Sprint("ahead", i)), User: "ann", State: job.Pending, Created: ahead})
		}
		for range 3 {
			if _, f := s.submit("ann", ""); f != nil {
				t.Fatal(f)
			}
		}
		if _, f := s.submit("ann", ""); f == nil {
			t.Error("a fourth job in this hour was accepted")
		}
		// A run that ended before it began took no time.
		j := &job.Job{ID: "x", User: "ann", State: job.Completed, Created: ahead, Started: ahead, Finished: ahead.Add(-time.Hour)}
		s.tell(job.Finished, j)
		time.Sleep(time.Hour)
		if _, f := s.submit("ann", ""); f == nil {
			t.Error("the hour that comes again has no room, and a job was accepted")
		}
		if used, _ := s.Used("ann", ""); used.Day.GPU != 0 || used.Day.Jobs != 6 {
			t.Errorf("used %+v", used.Day)
		}
		if _, f := s.submit("ann", ""); f == nil || f.RetryAfter > time.Hour {
			t.Errorf("got %v", f)
		}
	})
}

// TestHoursOfOtherPlaces holds that hours and days are those of the place.
func TestHoursOfOtherPlaces(t *testing.T) {
	t.Parallel()
	india := time.FixedZone("IST", 5*3600+1800)
	synctest.Test(t, func(t *testing.T) { // it is 05:30 there
		s := newStudio(t, usage.Options{Zone: india, Quotas: usage.Quotas{Everyone: usage.Quota{JobsPerHour: 1}}})
		s.submit("ann", "")
		_, f := s.submit("ann", "")
		if got := refusal(f); got != "busy quota_jobs_hour: You have sent 1 of 1 jobs of this hour; more at 06:00. 30m0s" {
			t.Error(got)
		}
		time.Sleep(30 * time.Minute)
		if _, f := s.submit("ann", ""); f != nil {
			t.Error(f)
		}
		used, _ := s.Used("ann", "")
		if got := time.Until(used.Day.Ends); got != 18*time.Hour {
			t.Errorf("the day ends in %v", got)
		}
	})
}

// TestOthersLearnNothing compares what ben is told in a studio with ann and in one without her.
func TestOthersLearnNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := usage.Options{Quotas: usage.Quotas{Everyone: usage.Quota{JobsPerHour: 3, GPUPerDay: time.Hour}}}
		with, without := newStudio(t, o), newStudio(t, o)
		for range 3 {
			j, _ := with.submit("ann", "class-a")
			with.run(j, time.Minute)
		}
		for _, s := range []*studio{with, without} {
			j, _ := s.submit("ben", "class-b")
			s.run(j, time.Second)
		}
		a, ag := with.Used("ben", "class-b")
		b, bg := without.Used("ben", "class-b")
		a.Hour.GPU, a.Day.GPU, ag.Hour.GPU, ag.Day.GPU = b.Hour.GPU, b.Day.GPU, bg.Hour.GPU, bg.Day.GPU // each second of its own
		if diff := cmp.Diff([]usage.Usage{b, bg}, []usage.Usage{a, ag}); diff != "" {
			t.Error(diff)
		}
	})
}

func TestHoursAndDays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, usage.Options{})
		began := time.Now()
		for range 30 {
			j, _ := s.submit("ann", "class-a")
			s.run(j, 90*time.Minute)
		}
		days, err := s.Days(t.Context(), began)
		if err != nil {
			t.Fatal(err)
		}
		want := []usage.Hour{
			{Start: began, User: "ann", Group: "class-a", Jobs: 16, GPU: 24 * time.Hour},
			{Start: began.Add(24 * time.Hour), User: "ann", Group: "class-a", Jobs: 14, GPU: 21 * time.Hour},
		}
		if diff := cmp.Diff(want, days); diff != "" {
			t.Error(diff)
		}
		hours, err := s.Hours(t.Context(), began)
		if err != nil || len(hours) != 45 {
			t.Errorf("%d hours, %v", len(hours), err)
		}
	})
}
