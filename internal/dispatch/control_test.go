package dispatch_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// TestStagedJobThatIsHeldWaits: it has not begun, so that it need not.
func TestStagedJobThatIsHeldWaits(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		running, staged, next := s.submit("ann", "Wait"), s.submit("ann", "Text a"), s.submit("ann", "Text b")
		s.want(staged, job.Running)
		if _, err := s.queue.Hold(s.Context(), staged.ID, true); err != nil {
			s.Fatal(err)
		}
		s.want(staged, job.Pending)
		s.want(next, job.Running)
		if _, reason, err := s.disp.Why(s.Context(), staged.ID); err != nil || reason.Code != sched.WhyHeld {
			s.Errorf("why: %+v, %v", reason, err)
		}
		s.gpus[0].Release()
		s.want(running, job.Completed)
		s.want(next, job.Completed)
		s.want(staged, job.Pending)
		if _, err := s.queue.Hold(s.Context(), staged.ID, false); err != nil {
			s.Fatal(err)
		}
		s.want(staged, job.Completed)
	})
}

// TestPauseOfABackEnd: it is given nothing, also no job that is just accepted, and what is staged for it waits.
func TestPauseOfABackEnd(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		running, staged := s.submit("ann", "Wait"), s.submit("ann", "Text a")
		s.want(staged, job.Running)
		s.disp.Control(sched.Fair, []dispatch.Pause{{Scope: "backend:gpu1", Reason: "It gets new memory."}})
		s.want(staged, job.Pending)
		s.gpus[0].Release()
		s.want(running, job.Completed)
		late := s.submit("bob", "Text b")
		s.want(late, job.Pending)
		_, reason, err := s.disp.Why(s.Context(), late.ID)
		if want := (sched.Reason{Code: sched.WhyPausedBackEnd, Sentence: "The GPUs that could run it are paused. It gets new memory."}); err != nil || reason != want {
			s.Errorf("why: %+v, %v", reason, err)
		}
		s.disp.Control(sched.Fair, nil)
		s.want(staged, job.Completed)
		s.want(late, job.Completed)
	})
}

// ledger is what a test's dispatcher tells of runs.
type ledger struct {
	mu  sync.Mutex
	ran []job.ID
}

func (l *ledger) Ran(j job.Job, _ string, _ time.Duration, _ bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ran = append(l.ran, j.ID)
}

// TestRunsAreToldOnce: each that was posted, and none that was not.
func TestRunsAreToldOnce(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		l := &ledger{}
		s.ran = l.Ran
		s.stop()
		s.start()
		first, second, never := s.submit("ann", "Wait"), s.submit("ann", "Text a"), s.submit("ann", "Text b")
		synctest.Wait()
		if _, _, err := s.queue.CancelUser(s.Context(), "ann"); err != nil {
			s.Fatal(err)
		}
		third := s.submit("ann", "Text c")
		s.gpus[0].Release()
		s.want(third, job.Completed)
		time.Sleep(time.Second)
		counts := map[job.ID]int{}
		for _, id := range l.ran {
			counts[id]++
		}
		want := map[job.ID]int{first.ID: 1, third.ID: 1}
		if diff := cmp.Diff(want, counts); diff != "" {
			s.Errorf("of %s, %s, %s and %s were told (want -, got +):\n%s", first.ID, second.ID, never.ID, third.ID, diff)
		}
	})
}
