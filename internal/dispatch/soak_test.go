package dispatch_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

// TestNothingIsLostUnderRandomTrouble submits, stops and removes jobs while servers die, freeze, lose their sockets
// and answers, and our own process restarts. In the end every job is final, once, and every completed one has all
// of its outputs.
func TestNothingIsLostUnderRandomTrouble(t *testing.T) {
	seeds := uint64(8)
	if testing.Short() { // the race detector makes each ten times as long
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, 3, func(s *studio) { soak(s, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func soak(s *studio, r *rand.Rand) {
	var jobs []job.Job
	finished := map[job.ID]int{}
	down, frozen := map[*gpu]bool{}, map[*gpu]bool{}
	untidy := map[*gpu]bool{} // it was silent when our process ended
	count := func() {
		for _, e := range s.all.TryBatch(nil) {
			if c, ok := e.Body.(event.JobChanged); ok && c.Change == job.Finished {
				finished[c.Job.ID]++
			}
		}
	}
	for range 80 {
		g := s.gpus[r.IntN(len(s.gpus))]
		switch r.IntN(14) {
		case 0:
			g.CutSockets()
		case 1:
			g.Restart()
		case 2:
			down[g] = r.IntN(2) == 0
			g.net.SetDown(down[g])
		case 3:
			frozen[g] = r.IntN(2) == 0
			g.SetFrozen(frozen[g])
		case 4:
			g.LoseAnswer("POST /prompt")
		case 5:
			g.DropQueue()
		case 6:
			count()
			for _, g := range s.gpus {
				untidy[g] = untidy[g] || down[g] || frozen[g] // what is to be forgotten there is known to nobody any more
			}
			s.restart()
		case 7:
			if _, err := s.queue.Stop(s.Context(), "ann", ""); err != nil {
				s.Fatal(err)
			}
		case 8:
			if len(jobs) > 0 {
				if _, err := s.queue.RemovePending(s.Context(), "ann", []string{jobs[r.IntN(len(jobs))].PromptID}); err != nil {
					s.Fatal(err)
				}
			}
		default:
			nodes := []string{"Text a", "Save b", "Step", "Preview c"}
			if r.IntN(3) == 0 {
				nodes = append(nodes, "Wait", "Save d")
			}
			jobs = append(jobs, s.submit("ann", nodes...))
		}
		time.Sleep(time.Duration(r.Int64N(int64(20 * time.Second))))
		if r.IntN(3) == 0 {
			g.Release()
		}
	}
	for _, g := range s.gpus { // peace
		g.SetFrozen(false)
		g.net.SetDown(false)
		for range 2 * len(jobs) {
			g.Release()
		}
	}
	time.Sleep(30 * time.Minute)
	synctest.Wait()
	count()
	if open, err := s.queue.Open(s.Context(), "ann"); err != nil || len(open) > 0 {
		for _, j := range open {
			_, reason, _ := s.disp.Why(s.Context(), j.ID)
			s.Errorf("still open: %s %s stop=%t %+v: %s", j.ID, j.State, j.Stop, j.Attempt, reason.Sentence)
		}
		s.Fatal("jobs are stuck: ", err)
	}
	states := map[job.State]int{}
	for _, j := range jobs {
		if n := finished[j.ID]; n > 1 {
			s.Errorf("job %s was finished %d times", j.ID, n)
		}
		e, err := s.queue.Entry(s.Context(), "ann", j.PromptID)
		if err != nil {
			continue // removed before it began
		}
		states[e.Job.State]++
		if e.Job.State == job.Completed && len(images("2", pick(e.Outcome.Outputs, "2"))) != 1 {
			s.Errorf("job %s is completed without its outputs: %s", j.ID, e.Outcome.Outputs)
		}
	}
	if states[job.Completed] == 0 {
		s.Errorf("nothing was completed: %v", states)
	}
	s.Logf("%d jobs: %v", len(jobs), states)
	for i, g := range s.gpus {
		if running, pending := g.Queue(); running != "" || len(pending) > 0 {
			s.Errorf("gpu%d still has %s %v", i+1, running, pending)
		}
		if h := g.History(); len(h) > 0 && !untidy[g] {
			s.Errorf("gpu%d still has a history: %v", i+1, h)
		}
	}
}
