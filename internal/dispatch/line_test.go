package dispatch_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// hurry runs so many quick jobs that the next are expected to be quick as well.
func (s *studio) hurry() {
	s.Helper()
	for i := range 8 {
		s.want(s.submit("ann", fmt.Sprintf("Text %d", i)), job.Completed)
	}
}

// queued tells how many runs the first back end has.
func (s *studio) queued() (n int) {
	s.Helper()
	synctest.Wait()
	running, pending := s.gpus[0].Queue()
	if running != "" {
		n++
	}
	return n + len(pending)
}

// ahead is where the job's run waits on the first back end, -1 where it does not.
func (s *studio) ahead(j job.Job) int {
	s.Helper()
	_, pending := s.gpus[0].Queue()
	return slices.Index(pending, s.get(j).Job.Attempt.RunID)
}

func TestOneRunAtATimeUnlessTheyAreQuick(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		jobs := []job.Job{s.submit("ann", "Wait"), s.submit("ann", "Text a"), s.submit("bob", "Text b")}
		if n := s.queued(); n != 1 {
			s.Errorf("%d runs are on the back end", n)
		}
		s.gpus[0].Release()
		for _, j := range jobs {
			s.want(j, job.Completed)
		}
		s.hurry()
		jobs = []job.Job{
			s.submit("ann", "Wait"), s.submit("ann", "Text a"), s.submit("bob", "Text b"), s.submit("bob", "Text c"),
			s.submit("bob", "Text d"), s.submit("ann", "Text e"),
		}
		if n := s.queued(); n != 5 {
			s.Errorf("%d runs are on the back end, want four ahead", n)
		}
		if a, b, c := s.ahead(jobs[2]), s.ahead(jobs[3]), s.ahead(jobs[4]); a < 0 || b < a || c != -1 && c < b {
			s.Errorf("bob's runs are on the back end at %d, %d and %d", a, b, c)
		}
		s.gpus[0].Release()
		for _, j := range jobs {
			if e := s.want(j, job.Completed); e.Job.Attempt.N != 1 {
				s.Errorf("%d attempts", e.Job.Attempt.N)
			}
		}
	})
}

// TestRunsAheadAreTakenBack: the run before them turns out to be a long one.
func TestRunsAheadAreTakenBack(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.hurry()
		long := s.submit("ann", "Wait")
		next, last := s.submit("ann", "Text a"), s.submit("bob", "Text b")
		if n := s.queued(); n != 3 {
			s.Fatalf("%d runs are on the back end, want two ahead", n)
		}
		time.Sleep(2 * time.Second)
		if n := s.queued(); n != 1 {
			s.Errorf("%d runs are on the back end after a while", n)
		}
		staged := 0
		for _, j := range []job.Job{next, last} {
			e := s.get(j)
			if e.Job.Attempt.Posted {
				s.Errorf("it is shown as running: %+v", e.Job.Attempt)
			}
			if e.Job.State == job.Running {
				staged++
			}
		}
		if staged != 1 {
			s.Errorf("%d are staged, want one", staged)
		}
		s.gpus[0].Release()
		for _, j := range []job.Job{long, next, last} {
			s.want(j, job.Completed)
		}
		time.Sleep(2 * time.Second)
		if left := s.gpus[0].History(); len(left) != 0 {
			s.Errorf("left on the back end: %v", left)
		}
		if n := s.queued(); n != 0 {
			s.Errorf("%d runs are left on the back end", n)
		}
	})
}

func TestRunAheadCanBeStopped(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.hurry()
		running, ahead := s.submit("ann", "Wait"), s.submit("bob", "Text b")
		if n := s.queued(); n != 2 {
			s.Fatalf("%d runs are on the back end, want one ahead", n)
		}
		if _, err := s.queue.Stop(s.Context(), "bob", ""); err != nil {
			s.Fatal(err)
		}
		s.want(ahead, job.Cancelled)
		s.want(running, job.Running)
		s.gpus[0].Release()
		s.want(running, job.Completed)
	})
}

func TestRunsAheadSurviveARestart(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.hurry()
		jobs := []job.Job{s.submit("ann", "Wait"), s.submit("ann", "Text a"), s.submit("bob", "Text b"), s.submit("bob", "Text c")}
		if n := s.queued(); n != len(jobs) {
			s.Fatalf("%d runs are on the back end, want %d", n, len(jobs))
		}
		s.restart()
		time.Sleep(time.Second)
		s.gpus[0].Release()
		for _, j := range jobs {
			s.want(j, job.Completed)
		}
		if n := s.gpus[0].Requests("POST /prompt"); n != 8+len(jobs) {
			s.Errorf("%d prompts for %d jobs", n, 8+len(jobs))
		}
	})
}
