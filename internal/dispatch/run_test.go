package dispatch_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

func TestJobRunsAndIsTold(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Step", "Text hello", "Save picture")
		e := s.want(j, job.Completed)
		want := []string{
			"submitted", "posted", "execution_start", "execution_cached", "executing 1", "progress 1", "binary 1",
			"executing 2", "executed 2", "progress_state", "executing 3", "executed 3", "finished",
		}
		if diff := cmp.Diff(want, s.events()); diff != "" {
			s.Errorf("events (-want +got):\n%s", diff)
		}
		if got := string(e.Outcome.Outputs); !strings.Contains(got, "hello") || !strings.Contains(got, "own_1.png") {
			s.Errorf("outputs: %s", got)
		}
		if got := string(e.Outcome.Messages); !strings.Contains(got, j.PromptID) || strings.Contains(got, e.Job.Attempt.RunID) {
			s.Errorf("messages: %s", got)
		}
		if diff := cmp.Diff([]string{"3/images/0=picture"}, s.files.got); diff != "" {
			s.Errorf("delivered (-want +got):\n%s", diff)
		}
		time.Sleep(2 * time.Second)
		if h := s.gpus[0].History(); len(h) != 0 {
			s.Errorf("left on the back end: %v", h)
		}
	})
}

func TestOwnersLogTellsOfTheRuns(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		good, bad := s.submit("ann", "Text a"), s.submit("ann", "Fail")
		s.submit("bob", "Text b")
		synctest.Wait()
		var lines []string
		for _, e := range s.all.TryBatch(nil) {
			if l, ok := e.Body.(event.LogLines); ok {
				lines = append(lines, l.Lines...)
			}
		}
		got := strings.Join(lines, "\n")
		for _, want := range []string{good.PromptID + " is on gpu1", good.PromptID + " is completed", bad.PromptID + " failed: "} {
			if !strings.Contains(got, want) {
				s.Errorf("no line %q in:\n%s", want, got)
			}
		}
		if len(lines) != 4 {
			s.Errorf("%d lines:\n%s", len(lines), got)
		}
	})
}

func TestMissedDeadlineIsTold(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		for i, by := range []time.Duration{-time.Hour, time.Hour, 0} {
			sub := job.Submission{User: "ann", ClientID: "sid", Request: job.Request{
				Prompt: json.RawMessage(fmt.Sprintf(`{"1": {"class_type": "Text", "inputs": {"text": "%d"}}}`, i)), ExtraData: json.RawMessage(`{}`), Outputs: []string{"1"},
			}}
			if by != 0 {
				sub.Deadline = time.Now().Add(by)
			}
			j, _, err := s.queue.Submit(s.Context(), sub)
			if err != nil {
				s.Fatal(err)
			}
			s.want(j, job.Completed)
			var told []string
			for _, e := range s.all.TryBatch(nil) {
				if n, ok := e.Body.(event.Notice); ok {
					told = append(told, n.Text)
				}
			}
			if want := by < 0; want != (len(told) == 1 && strings.Contains(told[0], j.PromptID+" was done 1h0m0s after it was needed.")) || !want && len(told) > 0 {
				s.Errorf("needed in %v: told %q", by, told)
			}
		}
	})
}

func TestNextJobIsReadyWhenTheOneBeforeEnds(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		first := s.submit("ann", "Wait")
		second := s.submit("ann", "Text b")
		third := s.submit("ann", "Text c")
		synctest.Wait()
		if e := s.get(second); e.Job.State != job.Running || e.Job.Attempt.Posted {
			s.Errorf("the second job is not staged: %+v", e.Job)
		}
		s.want(third, job.Pending)
		if n := s.gpus[0].Requests("POST /prompt"); n != 1 {
			s.Errorf("%d prompts were posted", n)
		}
		s.gpus[0].Release()
		s.want(first, job.Completed)
		s.want(second, job.Completed)
		s.want(third, job.Completed)
	})
}

func TestStagedJobCanBeWithdrawn(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		first := s.submit("ann", "Wait")
		second := s.submit("ann", "Text b")
		synctest.Wait()
		gone, err := s.queue.RemovePending(s.Context(), "ann", []string{second.PromptID})
		if err != nil || len(gone) != 1 {
			s.Fatal(gone, err)
		}
		s.gpus[0].Release()
		s.want(first, job.Completed)
		if n := s.gpus[0].Requests("POST /prompt"); n != 1 {
			s.Errorf("%d prompts were posted", n)
		}
		s.want(s.submit("ann", "Text c"), job.Completed) // its place in line is free
	})
}

func TestRunningJobIsInterrupted(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		j := s.submit("ann", "Text a", "Wait")
		other := s.submit("bob", "Text b")
		synctest.Wait()
		if _, err := s.queue.Stop(s.Context(), "ann", ""); err != nil {
			s.Fatal(err)
		}
		e := s.want(j, job.Cancelled)
		if !strings.Contains(string(e.Outcome.Messages), "execution_interrupted") || !strings.Contains(string(e.Outcome.Outputs), `"a"`) {
			s.Errorf("outcome: %s %s", e.Outcome.Messages, e.Outcome.Outputs)
		}
		s.want(other, job.Completed)
	})
}

func TestGraphFailureIsTheOwners(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		e := s.want(s.submit("ann", "Text a", "Fail"), job.Failed)
		if !strings.Contains(e.Job.Error, "it failed") || e.Job.Attempt.N != 1 {
			s.Errorf("error %q after attempt %d", e.Job.Error, e.Job.Attempt.N)
		}
		refused := s.want(s.submit("ann", "Load none.png"), job.Failed)
		if m := string(refused.Outcome.Messages); !strings.Contains(m, `"node_id":"1"`) || !strings.Contains(m, "none.png") {
			s.Errorf("a refused graph: %s", m)
		}
		gone := s.want(s.submit("ann", "Text deleted input"), job.Failed)
		if !strings.Contains(gone.Job.Error, "The input file is gone.") {
			s.Errorf("a missing input: %q", gone.Job.Error)
		}
	})
}

func TestReportsAreBounded(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		e := s.want(s.submit("ann", "Text "+strings.Repeat("a", 33_000_000)), job.Failed)
		if !strings.Contains(e.Job.Error, "MB of text") || e.Job.Attempt.N != 1 || len(e.Outcome.Outputs)+len(e.Outcome.Messages) > 10_000 {
			s.Errorf("error %q after attempt %d, %d bytes of outputs", e.Job.Error, e.Job.Attempt.N, len(e.Outcome.Outputs))
		}
		s.want(s.submit("ann", "Text b"), job.Completed)
	})
}

func TestOutputsArriveBeforeTheyAreTold(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.files.hold = make(chan struct{})
		j := s.submit("ann", "Save a", "Text b")
		got := strings.Join(s.events(), ",")
		if strings.Contains(got, "executed") || strings.Contains(got, "finished") || !strings.Contains(got, "executing 2") {
			s.Errorf("before the file is there: %s", got)
		}
		next := s.submit("ann", "Text c") // the back end goes on meanwhile
		if e := s.get(next); e.Job.State != job.Completed {
			s.Errorf("the next job is %s while files are brought home", e.Job.State)
		}
		s.events()
		close(s.files.hold)
		if diff := cmp.Diff([]string{"executed 1", "executed 2", "finished"}, s.events()); diff != "" {
			s.Errorf("after it (-want +got):\n%s", diff)
		}
		s.want(j, job.Completed)
	})
}

func TestCachedOutputsAreResolved(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.gpus[0].Caching(true)
		first := s.want(s.submit("ann", "Save a"), job.Completed)
		again := s.want(s.submit("ann", "Save a"), job.Completed)
		if diff := cmp.Diff(string(first.Outcome.Outputs), string(again.Outcome.Outputs)); diff != "" {
			s.Errorf("the second run shows other pictures:\n%s", diff)
		}
		if len(s.files.got) != 1 || s.files.resolved != 1 {
			s.Errorf("%d delivered, %d resolved", len(s.files.got), s.files.resolved)
		}
	})
}

// TestOthersCachedOutputsAreNotFetched: a node without its owner's mark may be served from the run of somebody else, whose
// workflow is in the file.
func TestOthersCachedOutputsAreNotFetched(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.gpus[0].Caching(true)
		s.want(s.submit("bob", "Preview a"), job.Completed)
		e := s.want(s.submit("ann", "Preview a", "Save b"), job.Completed)
		if diff := cmp.Diff([]string{"1/images/0=a", "2/images/0=b"}, s.files.got); diff != "" {
			s.Errorf("delivered (-want +got):\n%s", diff)
		}
		if got := string(e.Outcome.Outputs); strings.Contains(got, "own_1") || !strings.Contains(got, "own_2") {
			s.Errorf("outputs: %s", got)
		}
		if got := strings.Join(s.events(), ","); strings.Count(got, "notice An output of node 1 was not made anew") != 1 {
			s.Errorf("the owner was not told once: %s", got)
		}
		s.want(s.submit("bob", "Preview a"), job.Completed) // whose it is has it again
		if len(s.files.got) != 2 || s.files.resolved != 1 {
			s.Errorf("%d delivered, %d resolved", len(s.files.got), s.files.resolved)
		}
	})
}

// TestUnannouncedCachedOutputsAreNotFetched: nodes that other nodes brought in are in no list of cached ones.
func TestUnannouncedCachedOutputsAreNotFetched(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.gpus[0].Caching(true)
		s.gpus[0].HideCached(true)
		s.want(s.submit("bob", "Preview a"), job.Completed)
		s.want(s.submit("ann", "Preview a"), job.Completed)
		if diff := cmp.Diff([]string{"1/images/0=a"}, s.files.got); diff != "" {
			s.Errorf("delivered (-want +got):\n%s", diff)
		}
	})
}

func TestFileThatIsGoneIsNoReasonToFail(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.gpus[0].LoseFiles(true)
		j := s.submit("ann", "Save a", "Text b")
		s.want(j, job.Completed)
		if got := strings.Join(s.events(), ","); !strings.Contains(got, "notice An output of node 1") {
			s.Errorf("the owner was not told: %s", got)
		}
	})
}

// TestWhoAsksIsToldABand: also while nobody watches, when nobody looks ahead unasked.
func TestWhoAsksIsToldABand(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.submit("bob", "Wait")
		s.submit("bob", "Text staged")
		j := s.submit("bob", "Text b")
		time.Sleep(time.Second)
		place, reason, err := s.disp.Why(s.Context(), j.ID)
		if err != nil || place.Position != 1 || reason.Sentence == "" || place.To == 0 || place.From > place.To {
			s.Errorf("Why: %+v %+v, %v", place, reason, err)
		}
		s.gpus[0].Release()
		s.want(j, job.Completed)
	})
}

func TestPlacesAreToldWhenTheyChange(t *testing.T) {
	inBubble(t, 1, func(s *studio) {
		s.submit("ann", "Wait")
		s.submit("ann", "Text staged")
		waiting := []job.Job{s.submit("ann", "Text b"), s.submit("bob", "Text c"), s.submit("ann", "Text d")}
		time.Sleep(time.Second)
		if e := s.get(waiting[1]); e.Job.State != job.Running || e.Job.Attempt.Posted {
			s.Errorf("who comes with a first job is not staged before the second one of another: %+v", e.Job)
		}
		places := s.places()
		if len(places) != 3 || places[waiting[0].ID].Position == 0 || places[waiting[2].ID].Position == 0 {
			s.Fatalf("places: %+v", places)
		}
		if _, reason, err := s.disp.Why(s.Context(), waiting[1].ID); err != nil || reason.Sentence == "" {
			s.Errorf("Why: %+v, %v", reason, err)
		}
		time.Sleep(time.Second)
		s.places()
		time.Sleep(2 * time.Second)
		if p := s.places(); p != nil {
			s.Errorf("told again although nothing changed: %+v", p)
		}
		time.Sleep(time.Minute)
		for id, p := range s.places() { // what runs takes longer than expected, and so the bands move
			if p.Position != places[id].Position || p.Code != places[id].Code || p.To < p.From || p.To == 0 {
				s.Errorf("told again: %+v, it was %+v", p, places[id])
			}
		}
		s.gpus[0].Release()
		for _, j := range waiting {
			s.want(j, job.Completed)
		}
	})
}
