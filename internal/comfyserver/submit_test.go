package comfyserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// noting is a queue that keeps what was submitted.
type noting struct {
	comfyserver.Queue
	subs *[]job.Submission
}

func (n noting) Submit(ctx context.Context, s job.Submission) (job.Job, bool, error) {
	*n.subs = append(*n.subs, s)
	return n.Queue.Submit(ctx, s)
}

// TestSubmitForAnotherFace: a graph that comes by another face goes the way of POST /prompt: what pays for API nodes is
// taken out wherever people put it, the rest is kept byte for byte, and its place is the face's to say.
func TestSubmitForAnotherFace(t *testing.T) {
	t.Parallel()
	var subs []job.Submission
	s := newStudio(t, comfyserver.Options{}, func(d *comfyserver.Deps) { d.Queue = noting{d.Queue, &subs} })
	low, told := job.ClassLow, 0
	submit := func(p identity.Person, metadata string, o comfyserver.Order) {
		t.Helper()
		body := `{"prompt": {"3": {"class_type": "SaveImage", "inputs": {}}}, "extra_data": {"metadata": ` + metadata + `}}`
		err := s.server.Submit(t.Context(), p, []byte(body), o, func(a comfyserver.Accepted) error {
			told++
			if a.Job.PromptID != string(a.Job.ID) || a.Job.User != p.Name {
				t.Errorf("accepted as %+v", a.Job)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ann, ivy := identity.Person{Name: "ann", Group: "class-a", Role: identity.Participant}, identity.Person{Name: "ivy", Role: identity.Instructor}
	submit(ann, `{"a":  1.50, "api_key_comfy_org": "secret", "client_id": "hers"}`, comfyserver.Order{Class: &low, Key: "k"})
	submit(ann, `{ "a":  1.50 }`, comfyserver.Order{})
	submit(ivy, `"no object"`, comfyserver.Order{})
	want := []job.Submission{
		{User: "ann", Group: "class-a", Class: job.ClassLow, Key: "k", Credentials: map[string]string{"api_key_comfy_org": "secret"}},
		{User: "ann", Group: "class-a", Class: job.ClassNormal},
		{User: "ivy", Class: job.ClassInstructor},
	}
	metadata := []string{`{"a": 1.50, "client_id": "hers"}`, `{ "a":  1.50 }`, `"no object"`}
	for i, sub := range subs {
		var extra struct{ Metadata json.RawMessage }
		if err := json.Unmarshal(sub.Request.ExtraData, &extra); err != nil || string(extra.Metadata) != metadata[i] {
			t.Errorf("kept as %s: %v", sub.Request.ExtraData, err)
		}
		got := job.Submission{User: sub.User, Group: sub.Group, Class: sub.Class, Key: sub.Key, Credentials: sub.Credentials}
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Error(diff)
		}
	}
	if told != 3 || len(subs) != 3 {
		t.Errorf("told %d times, submitted %d times", told, len(subs))
	}
}

// TestDeadlineOfASubmission: it is read from the extra data, and a bad one is refused with its name.
func TestDeadlineOfASubmission(t *testing.T) {
	t.Parallel()
	var subs []job.Submission
	s := newStudio(t, comfyserver.Options{}, func(d *comfyserver.Deps) { d.Queue = noting{d.Queue, &subs} })
	for deadline, says := range map[string]string{
		`"2126-11-27T16:30:00+01:00"`: "",
		`""`:                          "",
		`"tomorrow"`:                  `extra_data.deadline: "tomorrow" is not a time`,
		`17`:                          `extra_data.deadline: "17" is not a time`,
		`"2020-11-27T16:30:00Z"`:      "extra_data.deadline: 2020-11-27T16:30:00Z is over already",
	} {
		subs = nil
		body := `{"prompt": {"3": {"class_type": "SaveImage", "inputs": {}}}, "extra_data": {"deadline": ` + deadline + `}}`
		err := s.server.Submit(t.Context(), identity.Person{Name: "ann"}, []byte(body), comfyserver.Order{}, func(comfyserver.Accepted) error { return nil })
		if sentence, remedy := fault.Public(err); says != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(sentence, says) || remedy == "" || len(subs) > 0) {
			t.Errorf("%s: %v", deadline, err)
		} else if says == "" && (err != nil || len(subs) != 1) {
			t.Errorf("%s: %v", deadline, err)
		}
		if len(subs) == 1 && subs[0].Deadline.IsZero() != (deadline == `""`) {
			t.Errorf("%s: needed by %v", deadline, subs[0].Deadline)
		}
	}
}

// TestSubmitRefused: a graph that can't run is an error with ComfyUI's own words, and nobody is told of a job.
func TestSubmitRefused(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	s.checker = func(json.RawMessage, func(file.Ref) bool) (comfyserver.Verdict, error) {
		return comfyserver.Verdict{Refusal: json.RawMessage(`{"error": {"message": "No outputs"}, "node_errors": {}}`)}, nil
	}
	for body, says := range map[string]string{
		`{}`: "No prompt provided", `{"prompt": {"3": {}}}`: "No outputs",
	} {
		err := s.server.Submit(t.Context(), identity.Person{Name: "ann"}, []byte(body), comfyserver.Order{}, func(comfyserver.Accepted) error {
			t.Errorf("%s is accepted", body)
			return nil
		})
		refused, ok := errors.AsType[*comfyserver.Refused](err)
		if !ok || refused.Error() != says || !json.Valid(refused.Body) {
			t.Errorf("%s: %v", body, err)
		}
	}
	if n := s.queue.Remaining("ann"); n != 0 {
		t.Errorf("%d jobs", n)
	}
}
