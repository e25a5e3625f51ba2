package dispatch_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

func gpuStub(name string, change ...func(*stub)) *stub {
	s := &stub{Status: backend.Status{Name: name, Ready: true}, lasts: time.Second}
	for _, fn := range change {
		fn(s)
	}
	return s
}

func TestRunsOfOneBackEndAtTheSameTime(t *testing.T) {
	gpu := gpuStub("cloud", func(s *stub) { s.Parallel = 5 })
	onFarm(t, dispatch.Deps{}, []*stub{gpu}, func(s *farm) {
		began := time.Now()
		var ids []job.ID
		for range 12 {
			ids = append(ids, s.add())
		}
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		for i, id := range ids {
			if over := s.ended(id).State == job.Completed; over != (i < 10) {
				s.Errorf("job %d is over: %v", i, over)
			}
		}
		time.Sleep(time.Second)
		for _, id := range ids {
			if s.ended(id).State != job.Completed {
				s.Errorf("%s did not end in %v", id, time.Since(began))
			}
		}
		if gpu.most() != 5 {
			s.Errorf("%d runs at the same time", gpu.most())
		}
	})
}

func TestJobsOfOtherGroupsSayWhyTheyWait(t *testing.T) {
	onFarm(t, dispatch.Deps{}, []*stub{gpuStub("red", func(s *stub) { s.Groups = []string{"red"} })}, func(s *farm) {
		blue := s.add(func(j *job.Submission) { j.Group = "blue" })
		red := s.add(func(j *job.Submission) { j.Group = "red" })
		time.Sleep(2 * time.Second)
		if s.ended(red).State != job.Completed || s.ended(blue).State != "" {
			s.Errorf("red ended as %q, blue as %q", s.ended(red).State, s.ended(blue).State)
		}
		if why := s.why(blue); why.Code != sched.WhyGroup {
			s.Errorf("blue waits since %+v", why)
		}
		s.set(func() { s.stubs[0].Groups = nil })
		time.Sleep(2 * time.Second)
		if s.ended(blue).State != job.Completed {
			s.Errorf("blue ended as %q", s.ended(blue).State)
		}
	})
}

// starved ends runs the way ComfyUI does when torch finds no memory.
func starved(exception, message string) func(backend.Task) (backend.Result, error) {
	return func(backend.Task) (backend.Result, error) {
		messages := fmt.Sprintf(`[["execution_start",{}],["execution_error",{"node_id":"1","node_type":"KSampler","exception_type":%q,"exception_message":%q,"traceback":[]}]]`, exception, message)
		return backend.Result{State: job.Failed, Outputs: json.RawMessage(`{}`), Messages: json.RawMessage(messages), Meta: json.RawMessage(`{}`)}, nil
	}
}

func TestOutOfMemoryGoesToABiggerGPU(t *testing.T) {
	small := gpuStub("a-small", func(s *stub) {
		s.Memory, s.ends = 8, starved("torch.OutOfMemoryError", "Allocation on device 0")
	})
	big := gpuStub("b-big", func(s *stub) { s.Memory = 24 })
	onFarm(t, dispatch.Deps{}, []*stub{small, big}, func(s *farm) {
		like := func(work float64) func(j *job.Submission) {
			return func(j *job.Submission) { j.Profile = job.Profile{Like: "wan", Work: work, Models: "m"} }
		}
		first := s.add(like(10))
		time.Sleep(5 * time.Second)
		if out := s.ended(first); out.State != job.Completed {
			s.Errorf("ended as %q: %s", out.State, out.Error)
		}
		s.wantCauses(first, "a-small memory", "b-big done")
		if n, _, _ := s.told("a-small"); n > 0 {
			s.Errorf("%d reports against the small one", n)
		}
		// What is known is not tried again, and what is smaller is.
		next, less := s.add(like(10)), s.add(like(5))
		time.Sleep(5 * time.Second)
		s.wantCauses(next)
		s.wantCauses(less, "a-small memory", "b-big done")
		// Without the bigger one the answer is its owner's.
		s.set(func() { s.stubs = s.stubs[:1] })
		last := s.add(like(20))
		time.Sleep(5 * time.Second)
		if out := s.ended(last); out.State != job.Failed || !strings.Contains(string(out.Messages), "OutOfMemoryError") {
			s.Errorf("ended as %q: %s", out.State, out.Messages)
		}
		s.wantCauses(last, "a-small memory")
	})
}

func TestGraphsOwnErrorIsTheAnswer(t *testing.T) {
	bad := gpuStub("a", func(s *stub) {
		s.Memory, s.ends = 8, starved("builtins.ValueError", "out of memory is only a word here")
	})
	onFarm(t, dispatch.Deps{}, []*stub{bad, gpuStub("b", func(s *stub) { s.Memory = 24 })}, func(s *farm) {
		id := s.add()
		time.Sleep(5 * time.Second)
		if out := s.ended(id); out.State != job.Failed {
			s.Errorf("ended as %q", out.State)
		}
		s.wantCauses(id)
	})
}

func failing(err error) func(*stub) {
	return func(s *stub) {
		s.ends = func(backend.Task) (backend.Result, error) { return backend.Result{}, err }
	}
}

func TestJobThatKillsBackEndsIsStopped(t *testing.T) {
	onFarm(t, dispatch.Deps{}, []*stub{gpuStub("a", failing(backend.ErrCrashed)), gpuStub("b", failing(backend.ErrCrashed)), gpuStub("c", failing(backend.ErrCrashed))}, func(s *farm) {
		id := s.add()
		time.Sleep(time.Minute)
		out := s.ended(id)
		if out.State != job.Failed || !strings.Contains(out.Error, "a and b died while working at it") {
			s.Errorf("ended as %q: %s", out.State, out.Error)
		}
		s.wantCauses(id, "a crashed", "b crashed")
		if _, forgave, _ := s.told("a"); len(forgave) != 2 {
			s.Errorf("forgiven: %v", forgave)
		}
	})
}

// dying is a back end that dies once under every job, with some deaths at the same time as others'.
func dying(name string) *stub {
	seen := map[job.ID]bool{}
	return gpuStub(name, func(s *stub) {
		s.ends = func(t backend.Task) (backend.Result, error) {
			if seen[t.Job] {
				return wellDone, nil
			}
			seen[t.Job] = true
			return backend.Result{}, backend.ErrCrashed
		}
	})
}

// TestBackEndsThatDieUnderEverythingAccuseNobody: two deaths are no proof where other jobs met them as well.
func TestBackEndsThatDieUnderEverythingAccuseNobody(t *testing.T) {
	alike := func(s *job.Submission) { s.Profile = job.Profile{Like: "template"} }
	for name, c := range map[string]struct {
		change  func(*job.Submission)
		earlier bool // a like graph came to its end
		want    job.State
	}{
		"other graphs":                    {func(s *job.Submission) { s.Profile = job.Profile{Like: string(s.ID)} }, false, job.Completed},
		"nothing is known of them":        {func(*job.Submission) {}, false, job.Completed},
		"like graphs, one of which lived": {alike, true, job.Completed},
		"like graphs that all kill":       {alike, false, job.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			onFarm(t, dispatch.Deps{}, []*stub{dying("a"), dying("b")}, func(s *farm) {
				if c.earlier {
					ends := s.stubs[0].ends
					s.set(func() { s.stubs[0].ends = nil })
					if out := s.ended(s.add(c.change)); out.State != "" {
						s.Errorf("it is over before it ran: %s", out.State)
					}
					time.Sleep(2 * time.Second)
					s.set(func() { s.stubs[0].ends = ends })
				}
				ids := []job.ID{s.add(c.change), s.add(c.change)}
				time.Sleep(time.Minute)
				for _, id := range ids {
					if out := s.ended(id); out.State != c.want {
						s.Errorf("%s ended as %q: %s", id, out.State, out.Error)
					}
				}
			})
		})
	}
}

// TestDeathsCountAgainInTime: what a back end died of long ago is no excuse for today's job.
func TestDeathsCountAgainInTime(t *testing.T) {
	onFarm(t, dispatch.Deps{}, []*stub{dying("a"), dying("b"), dying("c")}, func(s *farm) {
		s.add() // a and b
		s.add()
		time.Sleep(time.Hour)
		id := s.add()
		time.Sleep(time.Minute)
		if out := s.ended(id); out.State != job.Failed || !strings.Contains(out.Error, "died while working at it") {
			s.Errorf("ended as %q: %s", out.State, out.Error)
		}
	})
}

// TestDeadlyJobIsNotGivenToOneBackEndAgainAndAgain: where all were tried it goes to another one than the last; where the
// others are not there, three deaths of one are enough.
func TestDeadlyJobIsNotGivenToOneBackEndAgainAndAgain(t *testing.T) {
	for name, c := range map[string]struct {
		away bool
		want []string
		said string
	}{
		"all were tried":      {false, []string{"a unreachable", "b crashed", "a crashed"}, "a and b died while working at it."},
		"the others are away": {true, []string{"b crashed", "b crashed", "b crashed"}, "b died while working at it, 3 times."},
	} {
		t.Run(name, func(t *testing.T) {
			first := true
			a, b := gpuStub("a", func(s *stub) { s.Ready = !c.away }), gpuStub("b", failing(backend.ErrCrashed))
			a.ends = func(backend.Task) (backend.Result, error) {
				if first {
					first = false
					return backend.Result{}, backend.ErrUnreachable
				}
				return backend.Result{}, backend.ErrCrashed
			}
			onFarm(t, dispatch.Deps{}, []*stub{a, b}, func(s *farm) {
				id := s.add()
				time.Sleep(time.Minute)
				if out := s.ended(id); out.State != job.Failed || !strings.Contains(out.Error, c.said) {
					s.Errorf("ended as %q: %s", out.State, out.Error)
				}
				s.wantCauses(id, c.want...)
			})
		})
	}
}

func TestLostRunsGoElsewhereAndOnlySoOften(t *testing.T) {
	onFarm(t, dispatch.Deps{}, []*stub{gpuStub("a", failing(backend.ErrLost)), gpuStub("b", failing(backend.ErrFrozen)), gpuStub("c", failing(backend.ErrLost)), gpuStub("d")}, func(s *farm) {
		id := s.add()
		time.Sleep(time.Minute)
		if out := s.ended(id); out.State != job.Failed || !strings.Contains(out.Error, "tried 3 times") {
			s.Errorf("ended as %q: %s", out.State, out.Error)
		}
		s.wantCauses(id, "a lost", "b frozen", "c lost")
		for _, name := range []string{"a", "b", "c"} {
			if n, _, _ := s.told(name); n != 1 {
				s.Errorf("%d reports of %s", n, name)
			}
		}
	})
}

func TestRunThatTakesTooLongIsStopped(t *testing.T) {
	onFarm(t, dispatch.Deps{}, []*stub{gpuStub("a", func(s *stub) { s.MaxRun, s.lasts = time.Minute, time.Hour })}, func(s *farm) {
		id := s.add()
		time.Sleep(59 * time.Second)
		if out := s.ended(id); out.State != "" {
			s.Errorf("ended as %q before its time", out.State)
		}
		time.Sleep(2 * time.Second)
		if out := s.ended(id); out.State != job.Failed || !strings.Contains(out.Error, "longer than 1m0s") {
			s.Errorf("ended as %q: %s", out.State, out.Error)
		}
		s.wantCauses(id, "a too_long")
	})
}

func TestPaidRunsAreCountedAndBounded(t *testing.T) {
	left := 10.0
	var s *farm
	deps := dispatch.Deps{
		Estimate: func(job.Job) time.Duration { return time.Minute },
		Budget: func(now time.Time) (sched.Budget, time.Time) {
			s.at.Lock()
			defer s.at.Unlock()
			return sched.Budget{Studio: sched.Purse{Left: left - s.cost["cloud"], Of: "The budget of today is spent."}}, now.Add(time.Hour)
		},
	}
	own := gpuStub("own", func(s *stub) { s.lasts = time.Minute })
	cloud := gpuStub("cloud", func(s *stub) { s.lasts, s.wakes, s.Parallel, s.Price = 30*time.Second, 30*time.Second, 8, 60*4 }) // 4 a minute
	cloud.Cold = "cloud wakes up."
	onFarm(t, deps, []*stub{own, cloud}, func(f *farm) {
		s = f
		var ids []job.ID
		for range 6 {
			ids = append(ids, s.add())
		}
		poor, waking := 0, 0
		for _, id := range ids {
			switch s.why(id).Code {
			case sched.WhyBudget:
				poor++
			case sched.WhyWaking:
				waking++
			}
		}
		if waking != 2 || poor == 0 {
			s.Errorf("%d wait for the cloud to wake, %d for money", waking, poor)
		}
		time.Sleep(10 * time.Minute)
		for _, id := range ids {
			if out := s.ended(id); out.State != job.Completed {
				s.Errorf("%s ended as %q", id, out.State)
			}
		}
		s.at.Lock()
		cost := s.cost["cloud"]
		s.at.Unlock()
		if math.Abs(cost-8) > 0.01 || cloud.most() != 2 {
			s.Errorf("%v was spent with %d at the same time, want two runs of 4", cost, cloud.most())
		}
		if _, _, woke := s.told("cloud"); woke != 30*time.Second {
			s.Errorf("waking took %v", woke)
		}
		if used := s.used(); len(used) != 1 {
			s.Errorf("money went to %v", used)
		}
	})
}

func TestOneJobAtATimeOnTrial(t *testing.T) {
	gpu := gpuStub("cloud", func(s *stub) { s.Parallel, s.Trial = 4, true })
	onFarm(t, dispatch.Deps{}, []*stub{gpu}, func(s *farm) {
		for range 6 {
			s.add()
		}
		if gpu.most() != 1 {
			s.Errorf("%d runs at the same time on trial", gpu.most())
		}
		s.set(func() { gpu.Trial = false })
		if gpu.most() != 4 {
			s.Errorf("%d runs at the same time after it", gpu.most())
		}
		time.Sleep(10 * time.Second)
		if n := s.over(); n != 6 {
			s.Errorf("%d jobs ended", n)
		}
		if l, err := s.disp.Learnt(s.Context()); err != nil || len(l) != 1 || l[0].BackEnd != "cloud" {
			s.Errorf("learnt %v, %v", l, err)
		}
	})
}

// TestFullDiskIsNotTheGraphs has a back end fail for want of room: the job goes elsewhere, and its owner hears why.
func TestFullDiskIsNotTheGraphs(t *testing.T) {
	full := gpuStub("a")
	full.ends = starved("OSError", "[Errno 28] No space left on device")
	onFarm(t, dispatch.Deps{}, []*stub{full, gpuStub("b")}, func(s *farm) {
		id := s.add()
		time.Sleep(time.Minute)
		if out := s.ended(id); out.State != job.Completed {
			s.Errorf("ended as %q: %s", out.State, out.Error)
		}
		s.wantCauses(id, "a lost", "b done")
	})
}

// fragile is a back end whose GPU fails at some jobs, and at all from then on, until it is started anew.
type fragile struct {
	*stub
	epoch  atomic.Int64
	broken atomic.Bool
	fatal  func(job.ID) bool
}

func fragileStub(name string, fatal func(job.ID) bool) *fragile {
	f := &fragile{stub: gpuStub(name), fatal: fatal}
	f.started = func() string { return fmt.Sprint("start ", f.epoch.Load()) }
	f.ends = func(t backend.Task) (backend.Result, error) {
		if f.broken.Load() || f.fatal(t.Job) {
			f.broken.Store(true)
			return starved("torch.AcceleratorError", "CUDA error: device-side assert triggered")(t)
		}
		return wellDone, nil
	}
	return f
}

func (f *fragile) restart() {
	f.epoch.Add(1)
	f.broken.Store(false)
}

// TestBrokenGPU: a GPU that failed fails at all later runs until its ComfyUI is started anew. They are tried elsewhere,
// and so is the one under which it failed; that it failed under that one twice is its answer.
func TestBrokenGPU(t *testing.T) {
	fatal := func(id job.ID) bool { return id == "job-001" }
	a, b := fragileStub("a", fatal), fragileStub("b", fatal)
	onFarm(t, dispatch.Deps{}, []*stub{a.stub, b.stub}, func(s *farm) {
		bad, neighbour := s.add(), s.add()
		for range 4 { // more for both, behind one that fails and before anybody noticed
			s.add()
		}
		for range 20 {
			time.Sleep(10 * time.Second)
			a.restart()
			b.restart()
		}
		out := s.ended(bad)
		if out.State != job.Failed || !strings.Contains(string(out.Messages), "device-side assert") {
			s.Errorf("the one that breaks GPUs ended as %q: %s", out.State, out.Messages)
		}
		s.wantCauses(bad, "a broken", "b broken")
		for id := range s.n {
			other := job.ID(fmt.Sprintf("job-%03d", id+1))
			if out := s.ended(other); other != bad && out.State != job.Completed {
				s.Errorf("%s ended as %q: %s", other, out.State, out.Error)
			}
		}
		if out := s.ended(neighbour); out.State != job.Completed {
			s.Errorf("its neighbour ended as %q", out.State)
		}
		for _, name := range []string{"a", "b"} {
			if n, _, _ := s.told(name); n == 0 {
				s.Errorf("nobody was told of %s", name)
			}
		}
	})
}

// TestWorkOfPaidBackEndsIsTold: from a run's turn to its end, and what is taken aside for it.
func TestWorkOfPaidBackEndsIsTold(t *testing.T) {
	var mu sync.Mutex
	var told []string
	asked := 0
	deps := dispatch.Deps{
		Estimate: func(job.Job) time.Duration { return time.Minute },
		Budget: func(now time.Time) (sched.Budget, time.Time) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			return sched.Budget{Studio: sched.Free()}, now.Add(24 * time.Hour)
		},
		Working: func(backEnd string, runs int) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprint(backEnd, runs))
		},
	}
	cloud := gpuStub("cloud", func(s *stub) { s.lasts, s.Parallel, s.Price = time.Minute, 2, 60 })
	onFarm(t, deps, []*stub{cloud}, func(s *farm) {
		s.add()
		s.add()
		s.add()
		synctest.Wait()
		a, err := s.disp.Aside(s.Context())
		if err != nil || math.Abs(a.All-2) > 0.01 || math.Abs(a.Groups[""]-2) > 0.01 {
			s.Errorf("%+v is taken aside, %v; want two runs of 1", a, err)
		}
		mu.Lock()
		before := asked
		mu.Unlock()
		s.disp.Billed()
		synctest.Wait()
		mu.Lock()
		if asked != before+1 {
			s.Errorf("what is left was asked for %d times after money was spent", asked-before)
		}
		mu.Unlock()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if a, err := s.disp.Aside(s.Context()); err != nil || a.All != 0 {
			s.Errorf("%+v is still taken aside, %v", a, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(told) < 3 || told[0] != "cloud1" && told[0] != "cloud2" || told[len(told)-1] != "cloud0" || !slices.Contains(told, "cloud2") || slices.Contains(told, "cloud3") {
			s.Errorf("told %q", told)
		}
	})
}
