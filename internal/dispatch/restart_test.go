package dispatch_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// restart stands for a new server process on the same data folder.
func (s *studio) restart() {
	s.Helper()
	s.stop()
	s.start()
}

// TestScheduleRemembersItsDays: what runs taught it is there after a restart.
func TestScheduleRemembersItsDays(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		for range 3 {
			s.want(s.submit("ann", "Text a"), job.Completed)
		}
		s.stop()
		first := s.taught
		if fresh := sched.New(sched.Options{}).Memory(); len(first) == 0 || bytes.Equal(first, fresh) {
			s.Fatalf("it learnt %s", first)
		}
		s.start()
		s.stop()
		if !bytes.Equal(s.taught, first) {
			s.Errorf("after a start it knows %s, not %s", s.taught, first)
		}
		s.start()
	})
}

func TestRunIsTakenUpAfterARestart(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Wait", "Text later", "Save file")
		staged := s.submit("ann", "Text staged")
		waiting := s.submit("bob", "Text waiting")
		s.want(j, job.Running)
		s.restart()
		if e := s.want(j, job.Running); e.Job.Attempt.N != 1 || !e.Job.Attempt.Posted {
			s.Errorf("the run was not taken up: %+v", e.Job.Attempt)
		}
		s.gpus[0].Release()
		e := s.want(j, job.Completed)
		time.Sleep(time.Second) // the run counts as somebody else's until the back end is looked at again
		synctest.Wait()
		if e.Job.Attempt.N != 1 || s.gpus[0].Requests("POST /prompt") != 3 {
			s.Errorf("attempt %d, %d prompts", e.Job.Attempt.N, s.gpus[0].Requests("POST /prompt"))
		}
		s.want(staged, job.Completed)
		s.want(waiting, job.Completed)
		if got := strings.Join(s.events(), ","); strings.Count(got, "executed 2") != 1 || strings.Count(got, "executed 3") != 1 {
			s.Errorf("events: %s", got)
		}
	})
}

func TestRunThatEndedMeanwhileIsFinished(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Wait", "Text a", "Save file")
		s.want(j, job.Running)
		s.stop()
		s.gpus[0].Release()
		synctest.Wait()
		s.start()
		e := s.want(j, job.Completed)
		if e.Job.Attempt.N != 1 || len(s.files.got) != 1 {
			s.Errorf("attempt %d, delivered %v", e.Job.Attempt.N, s.files.got)
		}
		// Frames that nobody took are given from the result.
		if got := strings.Join(s.events(), ","); !strings.Contains(got, "executed 2,executed 3,finished") {
			s.Errorf("events: %s", got)
		}
	})
}

func TestRunIsTakenUpOnceItsBackEndAnswers(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Wait")
		s.want(j, job.Running)
		s.stop()
		s.gpus[0].net.SetDown(true)
		s.start()
		time.Sleep(20 * time.Second)
		s.want(j, job.Running)
		s.gpus[0].net.SetDown(false)
		time.Sleep(10 * time.Second)
		s.gpus[0].Release()
		if e := s.want(j, job.Completed); e.Job.Attempt.N != 1 {
			s.Errorf("attempt %d", e.Job.Attempt.N)
		}
	})
}

func TestLeaseEndsWhenTheBackEndStaysAway(t *testing.T) {
	inBubble(t, 2, func(s *studio) {
		j := s.submit("ann", "Wait")
		if e := s.want(j, job.Running); e.Job.Attempt.BackEnd != "gpu1" {
			s.Fatalf("runs on %s", e.Job.Attempt.BackEnd)
		}
		s.stop()
		s.gpus[0].net.SetDown(true)
		s.start()
		time.Sleep(2 * time.Minute)
		if e := s.want(j, job.Running); e.Job.Attempt.BackEnd != "gpu2" || e.Job.Attempt.N != 2 {
			s.Fatalf("attempt %+v", e.Job.Attempt)
		}
		s.gpus[1].Release()
		s.want(j, job.Completed)
		s.gpus[0].net.SetDown(false) // the dead attempt is taken off
		time.Sleep(time.Minute)
		if running, _ := s.gpus[0].Queue(); running != "" {
			s.Error("the given-up run goes on")
		}
	})
}

func TestStopDuringTheRestartHolds(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Wait")
		time.Sleep(30 * time.Second) // a renewal writes down that it runs
		s.want(j, job.Running)
		s.stop()
		s.gpus[0].Restart() // the back end forgets the run
		s.gpus[0].net.SetDown(true)
		s.start()
		if asked, err := s.queue.Stop(s.Context(), "ann", j.PromptID); err != nil || len(asked) != 1 {
			s.Fatal(asked, err)
		}
		s.gpus[0].net.SetDown(false)
		time.Sleep(time.Minute)
		s.want(j, job.Cancelled)
	})
}

// TestStopBeforeTheRestartHolds: the interrupt was acknowledged, and the process died before the back end heard of it.
func TestStopBeforeTheRestartHolds(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Wait", "Save file")
		s.want(j, job.Running)
		s.gpus[0].net.SetDown(true)
		if _, err := s.queue.Stop(s.Context(), "ann", j.PromptID); err != nil {
			s.Fatal(err)
		}
		s.stop()
		s.gpus[0].net.SetDown(false)
		s.start()
		time.Sleep(time.Minute)
		s.want(j, job.Cancelled)
		if running, _ := s.gpus[0].Queue(); running != "" {
			s.Error("the stopped run goes on")
		}
	})
}

// TestJobRemovedWhileItIsTakenUpLeavesNoRun: after a restart a posted job may look as if it waited until its back end
// answers, and its owner may take it out of the queue.
func TestJobRemovedWhileItIsTakenUpLeavesNoRun(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Wait", "Save file")
		s.want(j, job.Running)
		s.stop()
		s.gpus[0].net.SetDown(true)
		s.start()
		gone, err := s.queue.RemovePending(s.Context(), "ann", []string{j.PromptID})
		if err != nil || len(gone) != 1 {
			s.Fatalf("removed %v: %v", gone, err)
		}
		synctest.Wait()
		s.gpus[0].net.SetDown(false)
		time.Sleep(time.Minute)
		if running, _ := s.gpus[0].Queue(); running != "" {
			s.Error("the removed run goes on")
		}
		next := s.submit("ann", "Text next")
		s.want(next, job.Completed)
	})
}

// TestRunThatCantBeTakenUpLeavesNoRun: its job gets another attempt, and the back end must not run both.
func TestRunThatCantBeTakenUpLeavesNoRun(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Wait", "Save file")
		first := s.want(j, job.Running).Job.Attempt.RunID
		s.stop()
		s.load = errors.New("a damaged page")
		s.start()
		time.Sleep(time.Minute)
		e := s.want(j, job.Running)
		if running, _ := s.gpus[0].Queue(); e.Job.Attempt.N != 2 || running == first || running != e.Job.Attempt.RunID {
			s.Fatalf("attempt %d, %s runs, the first was %s", e.Job.Attempt.N, running, first)
		}
		s.gpus[0].Release()
		s.want(j, job.Completed)
	})
}

// TestKilledProcessLeavesNoTraces: it had finished the job, and had not come to ask the back end to forget it.
func TestKilledProcessLeavesNoTraces(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.want(s.submit("ann", "Text a", "Save file"), job.Completed)
		s.gpus[0].net.SetDown(true) // no last words
		s.stop()
		if len(s.gpus[0].History()) != 1 {
			s.Fatalf("history: %v", s.gpus[0].History())
		}
		s.gpus[0].net.SetDown(false)
		s.start()
		waits := s.submit("ann", "Wait")
		time.Sleep(time.Minute)
		if h := s.gpus[0].History(); len(h) != 0 {
			s.Errorf("the back end still knows %v", h)
		}
		s.want(waits, job.Running) // and nothing else was touched
		s.gpus[0].Release()
		s.want(waits, job.Completed)
	})
}

// TestDeathsAreKnownAfterARestart: a back end that died under another job before accuses nobody.
func TestDeathsAreKnownAfterARestart(t *testing.T) {
	for _, other := range []bool{false, true} {
		t.Run(fmt.Sprintf("under another job too: %t", other), func(t *testing.T) {
			inBubble(t, 1, func(s *studio) {
				if other {
					j := s.submit("bob", "Wait")
					s.die()
					s.gpus[0].Release()
					s.want(j, job.Completed)
				}
				j := s.submit("ann", "Wait")
				s.die()
				s.restart()
				time.Sleep(time.Minute)
				s.die()
				if !other {
					if e := s.want(j, job.Failed); !strings.Contains(e.Job.Error, "gpu1 died while working at it, twice") {
						s.Errorf("error: %s", e.Job.Error)
					}
					return
				}
				s.gpus[0].Release()
				s.want(j, job.Completed)
			})
		})
	}
}

// TestDeathsBeforeAStartMayExcuse: where the last jobs do not reach far enough back to tell who died before our start, two
// deaths are not enough, and three are.
func TestDeathsBeforeAStartMayExcuse(t *testing.T) {
	for deaths, state := range map[int]job.State{2: job.Completed, 3: job.Failed} {
		t.Run(fmt.Sprint(deaths), func(t *testing.T) {
			inBubble(t, 1, func(s *studio) {
				for range 1000 {
					s.submit("bob", "Text a")
				}
				time.Sleep(time.Minute)
				j := s.submit("ann", "Wait")
				s.restart()
				for range deaths {
					s.die()
				}
				if state == job.Completed {
					s.gpus[0].Release()
				}
				s.want(j, state)
			})
		})
	}
}

// die has the only back end die at what runs there.
func (s *studio) die() {
	s.Helper()
	synctest.Wait()
	if running, _ := s.gpus[0].Queue(); running == "" {
		s.Error("nothing runs that could be killed")
	}
	s.gpus[0].Restart()
	time.Sleep(time.Minute)
}
