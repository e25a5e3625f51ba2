package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

func TestBackEndThatDiesLosesNoJob(t *testing.T) {
	inBubble(t, 2, func(s *studio) {
		first, second := s.submit("ann", "Wait"), s.submit("bob", "Wait")
		synctest.Wait()
		dead := 0
		if s.get(first).Job.Attempt.BackEnd == "gpu2" {
			dead = 1
		}
		s.gpus[dead].net.SetDown(true)
		time.Sleep(time.Minute)
		if e := s.want(first, job.Running); e.Job.Attempt.BackEnd == fmt.Sprintf("gpu%d", dead+1) {
			s.Errorf("still on the dead back end: %+v", e.Job.Attempt)
		}
		s.gpus[1-dead].Release()
		s.gpus[1-dead].Release()
		time.Sleep(time.Minute)
		s.want(first, job.Completed)
		s.want(second, job.Completed)
	})
}

func TestJobThatIsLostAgainAndAgainFails(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Wait")
		for range 3 {
			s.want(j, job.Running)
			s.gpus[0].net.SetDown(true)
			time.Sleep(time.Minute)
			s.gpus[0].net.SetDown(false)
			time.Sleep(time.Minute)
		}
		e := s.want(j, job.Failed)
		if !strings.Contains(e.Job.Error, "tried 3 times") {
			s.Errorf("error: %q", e.Job.Error)
		}
		if m := string(e.Outcome.Messages); !strings.Contains(m, "ComfyuME.BackEndLost") || !strings.Contains(m, j.PromptID) {
			s.Errorf("messages: %s", m)
		}
		s.want(s.submit("ann", "Text a"), job.Completed)
	})
}

// TestJobThatKillsBeforeItIsTakenIsStopped: back ends that die of a prompt before they answer have not taken it, and the
// next one would be given it for ever.
func TestJobThatKillsBeforeItIsTakenIsStopped(t *testing.T) {
	for jobs, want := range map[int]string{1: "gpu1 and gpu2 died while working at it", 2: "tried 3 times"} {
		t.Run(want, func(t *testing.T) {
			inBubble(t, 2, func(s *studio) {
				for _, g := range s.gpus {
					g.Mangle("POST /prompt", func(http.ResponseWriter, *http.Request) {
						g.Restart()
						panic(http.ErrAbortHandler)
					})
				}
				var all []job.Job
				for range jobs {
					all = append(all, s.submit("ann", "Text a"))
				}
				time.Sleep(5 * time.Minute)
				for _, j := range all { // two of them excuse one another, but not for ever
					e := s.want(j, job.Failed)
					if !strings.Contains(e.Job.Error, want) {
						s.Errorf("error: %s", e.Job.Error)
					}
					if e.Job.Attempt.N < 3 {
						s.Errorf("given up after %d attempts, none of which was answered", e.Job.Attempt.N)
					}
				}
				for _, g := range s.gpus {
					g.Mangle("POST /prompt", nil)
				}
				s.want(s.submit("bob", "Text b"), job.Completed)
			})
		})
	}
}

// TestEndShowsWhatAnyAttemptBroughtHome: what came of a lost attempt is its owner's, who was told of it. However the job
// ends, its end shows it.
func TestEndShowsWhatAnyAttemptBroughtHome(t *testing.T) {
	shown := func(s *studio, e job.Entry) {
		s.Helper()
		if n := strings.Count(string(e.Outcome.Outputs), "own_1.png"); n != 1 || len(s.files.slots[e.Job.ID]) != 1 {
			s.Errorf("shown %d times: %s", n, e.Outcome.Outputs)
		}
		if !strings.Contains(string(e.Job.Summary), `"outputs_count": 1`) {
			s.Errorf("summary: %s", e.Job.Summary)
		}
	}
	for name, c := range map[string]struct {
		state job.State
		end   func(s *studio, j job.Job)
	}{
		"lost too often": {job.Failed, func(s *studio, _ job.Job) {
			for range 2 {
				s.gpus[0].net.SetDown(true)
				time.Sleep(time.Minute)
				s.gpus[0].net.SetDown(false)
				time.Sleep(time.Minute)
			}
		}},
		"its graph fails the next time": {job.Failed, func(s *studio, _ job.Job) { s.gpus[0].Release() }},
		"stopped while it waits": {job.Cancelled, func(s *studio, j job.Job) {
			s.gpus[0].net.SetDown(true)
			if _, err := s.queue.Stop(s.Context(), "ann", j.PromptID); err != nil {
				s.Fatal(err)
			}
			time.Sleep(time.Minute)
		}},
		"interrupted before it comes as far": {job.Cancelled, func(s *studio, j job.Job) {
			if _, err := s.queue.Stop(s.Context(), "ann", j.PromptID); err != nil {
				s.Fatal(err)
			}
			time.Sleep(time.Minute)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 1, func(s *studio) {
				nodes := []string{"Save a", "Wait"}
				if strings.Contains(name, "graph") || strings.Contains(name, "as far") {
					nodes = []string{"Wait", "Fail"}
				}
				j := s.submit("ann", nodes...)
				s.want(j, job.Running)
				if nodes[0] == "Wait" { // its first attempt got further
					e := s.get(j)
					ref := backend.FileRef{Filename: "x.png", Type: "output"}
					if _, err := s.files.Deliver(s.Context(), dispatch.Output{
						User: "ann", Job: j.ID, Fence: e.Job.Attempt.Fence, Found: dispatch.Found{Node: "2", Key: "images", Ref: ref},
						Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("x")), nil },
					}); err != nil {
						s.Fatal(err)
					}
				}
				s.gpus[0].net.SetDown(true)
				time.Sleep(time.Minute)
				s.gpus[0].net.SetDown(false)
				time.Sleep(time.Minute)
				c.end(s, j)
				shown(s, s.want(j, c.state))
			})
		})
	}
}

func TestFrozenBackEndIsLeft(t *testing.T) {
	inBubble(t, 2, func(s *studio) {
		j := s.submit("ann", "Wait")
		synctest.Wait()
		s.gpus[0].SetFrozen(true)
		time.Sleep(4 * time.Minute)
		if e := s.want(j, job.Running); e.Job.Attempt.BackEnd != "gpu2" {
			s.Errorf("attempt %+v", e.Job.Attempt)
		}
		s.gpus[1].Release()
		s.want(j, job.Completed)
		s.gpus[0].SetFrozen(false)
		time.Sleep(time.Minute)
		if running, _ := s.gpus[0].Queue(); running != "" {
			s.Error("the given-up run goes on")
		}
	})
}

func TestForeignWorkIsWaitedFor(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		other := s.foreign("gpu1")
		j := s.submit("ann", "Text a")
		s.want(j, job.Pending)
		if _, reason, err := s.disp.Why(s.Context(), j.ID); err != nil || !strings.Contains(reason.Sentence, "busy with other work") {
			s.Errorf("Why: %+v, %v", reason, err)
		}
		s.gpus[0].Release()
		<-other
		time.Sleep(15 * time.Second)
		s.want(j, job.Completed)
	})
}

// foreign has somebody else run a Wait on a back end; the channel is closed when it is over.
func (s *studio) foreign(name string) <-chan struct{} {
	s.Helper()
	d := s.outsider(name)
	run, err := d.Prepare(s.Context(), backend.Task{
		Prompt: []byte(`{"1":{"class_type":"Wait","inputs":{}}}`), Attempt: job.Attempt{RunID: uuid.NewString(), ClientID: "other"},
	})
	if err != nil {
		s.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := run.Start(context.Background(), func() {}, func(backend.Update) error { return nil }); err != nil {
			s.Error(err)
		}
		run.Close()
		d.Close()
	}()
	synctest.Wait()
	return done
}

func TestDeliveryIsTriedAgain(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		full := fault.New(fault.Unavailable, "The disk is full.").WithCode("disk_full")
		s.files.fail = []error{full, full, full, errors.New("a bad moment")}
		j := s.submit("ann", "Save a")
		s.want(j, job.Running)
		if got := strings.Join(s.events(), ","); strings.Contains(got, "executed") {
			s.Errorf("told before the file is there: %s", got)
		}
		time.Sleep(time.Minute)
		s.want(j, job.Completed)
		if got := strings.Join(s.events(), ","); !strings.Contains(got, "executed 1,finished") {
			s.Errorf("events: %s", got)
		}
		if len(s.files.got) != 1 || s.gpus[0].Requests("POST /prompt") != 1 {
			s.Errorf("delivered %v after %d prompts", s.files.got, s.gpus[0].Requests("POST /prompt"))
		}
	})
}

// TestTooMuchIsNotTaken: files that are larger together than what is taken of one run stay at the back end, and their owner
// is told; others of the run, and runs of others, are delivered.
func TestTooMuchIsNotTaken(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.stop()
		s.options.MaxOutput = 10
		s.start()
		j := s.submit("ann", "Save small", "Save a much larger one")
		time.Sleep(time.Minute)
		if e := s.want(j, job.Completed); e.Job.Attempt.N != 1 {
			s.Errorf("attempt %d", e.Job.Attempt.N)
		}
		if got := strings.Join(s.events(), ","); !strings.Contains(got, "An output of node 2 was not taken: the files of one run may have 0 MB.") {
			s.Errorf("events: %s", got)
		}
		s.files.fail = []error{errors.New("a bad moment")}
		j = s.submit("ann", "Save again", "Save more")
		time.Sleep(time.Minute)
		s.want(j, job.Completed)
		slices.Sort(s.files.got)
		if !slices.Equal(s.files.got, []string{"1/images/0=again", "1/images/0=small", "2/images/0=more"}) {
			s.Errorf("delivered %q", s.files.got)
		}
	})
}

func TestLostFilesAreMadeAgain(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		gone := fmt.Errorf("%w: cut", backend.ErrUnreachable)
		for range 60 {
			s.files.fail = append(s.files.fail, gone)
		}
		j := s.submit("ann", "Save a")
		time.Sleep(2 * time.Minute)
		s.files.mu.Lock()
		s.files.fail = nil
		s.files.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if e := s.want(j, job.Completed); e.Job.Attempt.N < 2 {
			s.Errorf("attempt %d", e.Job.Attempt.N)
		}
	})
}

func TestFilesOfARestartedBackEndAreMadeAgain(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.files.fail = []error{errors.New("a bad moment"), errors.New("a bad moment")}
		j := s.submit("ann", "Preview a")
		s.want(j, job.Running) // over on the back end, and still to be fetched
		s.gpus[0].Restart()
		time.Sleep(time.Minute)
		if e := s.want(j, job.Completed); e.Job.Attempt.N != 2 || strings.Contains(string(e.Outcome.Outputs), "not-delivered") {
			s.Errorf("attempt %d gave %s", e.Job.Attempt.N, e.Outcome.Outputs)
		}
		if got := strings.Join(s.events(), ","); strings.Contains(got, "notice") {
			s.Errorf("the owner was bothered: %s", got)
		}
	})
}

func TestFullDiskStopsNewRunsOnly(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.stop()
		var full atomic.Pointer[fault.Error]
		s.room = func() error {
			if f := full.Load(); f != nil {
				return f
			}
			return nil
		}
		s.start()
		running := s.submit("ann", "Wait")
		staged := s.submit("ann", "Text staged")
		s.want(staged, job.Running)
		full.Store(fault.New(fault.Unavailable, "The disk is nearly full."))
		time.Sleep(3 * time.Second)
		waits := s.submit("ann", "Text a")
		s.want(waits, job.Pending)
		if _, reason, err := s.disp.Why(s.Context(), waits.ID); err != nil || !strings.Contains(reason.Sentence, "nearly full") {
			s.Errorf("Why: %+v, %v", reason, err)
		}
		s.gpus[0].Release()
		s.want(running, job.Completed)
		s.want(staged, job.Pending)
		s.want(waits, job.Pending)
		full.Store(nil)
		time.Sleep(5 * time.Second)
		if e := s.want(staged, job.Completed); e.Job.Attempt.N != 2 {
			s.Errorf("attempt %d", e.Job.Attempt.N)
		}
		s.want(waits, job.Completed)
	})
}

// TestFullDatabaseIsNotAskedForEachJob: what one claim can't write no other can.
func TestFullDatabaseIsNotAskedForEachJob(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.stop()
		var full atomic.Bool
		var asked atomic.Int64
		s.claim = func() error {
			if !full.Load() {
				return nil
			}
			asked.Add(1)
			return fault.New(fault.Unavailable, "The disk with the studio's database is full.").WithCode("disk_full")
		}
		s.start()
		busy := s.submit("ann", "Wait") // else a job could be claimed as it is accepted
		s.want(busy, job.Running)
		full.Store(true)
		var jobs []job.Job
		for i := range 50 {
			jobs = append(jobs, s.submit("ann", fmt.Sprintf("Text %d", i)))
		}
		time.Sleep(21 * time.Second) // between two looks at the disk
		if n := asked.Load(); n < 2 || n > 40 {
			s.Errorf("%d claims in 21 s", n)
		}
		if _, reason, err := s.disp.Why(s.Context(), jobs[0].ID); err != nil || !strings.Contains(reason.Sentence, "is full") {
			s.Errorf("Why: %+v, %v", reason, err)
		}
		full.Store(false)
		s.gpus[0].Release()
		time.Sleep(time.Minute)
		for _, j := range append(jobs, busy) {
			s.want(j, job.Completed)
		}
	})
}

func TestJobGoesWhereItsNodesAre(t *testing.T) {
	inBubble(t, 2, func(s *studio) {
		s.stop()
		s.missing = func(name string, classes []string) (out []string) {
			for _, c := range classes {
				if c == "Step" && name == "gpu1" || c == "Preview" {
					out = append(out, c)
				}
			}
			return out
		}
		s.start()
		j := s.submit("ann", "Step", "Text a")
		if e := s.want(j, job.Completed); e.Job.Attempt.BackEnd != "gpu2" {
			s.Errorf("ran on %s", e.Job.Attempt.BackEnd)
		}
		nowhere := s.submit("ann", "Preview x")
		s.want(nowhere, job.Pending)
		if _, reason, err := s.disp.Why(s.Context(), nowhere.ID); err != nil || !strings.Contains(reason.Sentence, "Preview") {
			s.Errorf("Why: %+v, %v", reason, err)
		}
		s.want(s.submit("ann", "Text b"), job.Completed) // it holds up nobody
	})
}

func TestPauseStopsNewRuns(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.disp.Control(sched.Fair, []dispatch.Pause{{Scope: dispatch.PauseAll, Reason: "Back at ten."}})
		j := s.submit("ann", "Text a")
		s.want(j, job.Pending)
		s.disp.Control(sched.Fair, nil)
		s.want(j, job.Completed)
		s.disp.Control(sched.Fair, []dispatch.Pause{{Scope: dispatch.PauseAll}}) // and the back end is free, and offered
		s.want(s.submit("ann", "Text b"), job.Pending)
	})
}

func TestStagedJobMovesToAFreeBackEnd(t *testing.T) {
	inBubble(t, 2, func(s *studio) {
		a, b := s.submit("ann", "Wait"), s.submit("ann", "Wait")
		c, d := s.submit("ann", "Text c"), s.submit("ann", "Text d")
		synctest.Wait()
		s.gpus[1].Release() // one staged behind each; both go to the back end that is free now
		s.want(c, job.Completed)
		s.want(d, job.Completed)
		s.gpus[0].Release()
		s.want(a, job.Completed)
		s.want(b, job.Completed)
	})
}

func TestLeaseThatIsLostEndsTheAttempt(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Wait")
		e := s.want(j, job.Running)
		if err := s.queue.Release(s.Context(), j.ID, e.Job.Attempt.Fence, "test"); err != nil {
			s.Fatal(err)
		}
		time.Sleep(time.Minute)
		s.gpus[0].Release()
		time.Sleep(time.Minute)
		if e := s.want(j, job.Completed); e.Job.Attempt.N != 2 {
			s.Errorf("attempt %d", e.Job.Attempt.N)
		}
	})
}

func TestNobodyWatchesCostsNoFrames(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		all := s.bus.Subscribe("", event.Options{})
		defer all.Close()
		s.want(s.submit("bob", "Step", "Save x"), job.Completed)
		for _, e := range all.TryBatch(nil) {
			if f, ok := e.Body.(event.RunFrame); ok {
				s.Errorf("frame %s for nobody", f.Type)
			}
		}
		if len(s.files.got) != 1 {
			s.Error("the output was not delivered")
		}
	})
}

// TestAttemptWithoutRightLeavesNoJobStuck: a withdrawal takes the right to report before it is written down. When that
// fails, the job has no attempt and nobody has ended it.
func TestAttemptWithoutRightLeavesNoJobStuck(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.posted = fault.New(fault.Conflict, "withdrawn").WithCode("stale_fence")
		j := s.submit("ann", "Wait", "Save file")
		s.want(j, job.Running)
		time.Sleep(2 * time.Minute)
		s.gpus[0].Release()
		if e := s.want(j, job.Completed); e.Job.Attempt.N != 2 {
			s.Errorf("attempt %d", e.Job.Attempt.N)
		}
		if h := s.gpus[0].Requests("POST /prompt"); h != 2 {
			s.Errorf("%d prompts", h)
		}
	})
}

// TestLateResultIsNotTriedForEver: the job has moved on while its run came to its end.
func TestLateResultIsNotTriedForEver(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Wait", "Save file")
		e := s.want(j, job.Running)
		if err := s.queue.Release(s.Context(), j.ID, e.Job.Attempt.Fence, "test"); err != nil {
			s.Fatal(err)
		}
		s.gpus[0].Release()
		time.Sleep(time.Second)
		s.gpus[0].Release()
		if e := s.want(j, job.Completed); e.Job.Attempt.N != 2 {
			s.Errorf("attempt %d", e.Job.Attempt.N)
		}
	})
}
