package comfyserver

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// Order is what a face other than ComfyUI's own adds to the body of POST /prompt.
type Order struct {
	Class *job.Class // nil: as the person's role has it
	Key   string     // Idempotency-Key; empty: none
}

// Accepted is a job that is safely in the queue.
type Accepted struct {
	Job        job.Job
	Existing   bool            // the person sent the same before, and this is that job
	NodeErrors json.RawMessage // object; output nodes that are left out although the graph is accepted; nil: none
}

// Refused is the error of a graph that can't run, in the form in which ComfyUI's clients read it.
type Refused struct{ Body json.RawMessage }

// Error names the first fault of the graph.
func (r *Refused) Error() string {
	var body struct {
		Error struct{ Message, Details string }
	}
	if json.Unmarshal(r.Body, &body) != nil || body.Error.Message == "" {
		return "the graph can't run"
	}
	return body.Error.Message
}

// Submit takes a graph into p's queue the one way there is: body is that of POST /prompt. Credentials are taken out and
// sealed, the graph is validated against what the back ends can run and checked against the rules, and the job is
// accepted durably. answer is called once it is; nothing is told of the run to p's sessions before it returns, so that
// whoever asked knows the job's id first. An error of kind *Refused is the graph's own.
func (s *Server) Submit(ctx context.Context, p identity.Person, body []byte, o Order, answer func(Accepted) error) error {
	sub, refusal, err := parsePrompt(body)
	switch {
	case err != nil:
		return err
	case refusal != nil:
		return &Refused{refusal}
	}
	verdict, err := s.check(ctx, p, sub)
	switch {
	case err != nil:
		return err
	case verdict.Refusal != nil:
		return &Refused{verdict.Refusal}
	}
	sub.Request.Outputs, sub.Profile = verdict.Outputs, verdict.Profile
	if err := address(sub, p, o); err != nil {
		return err
	}
	hold := s.hub.Hold(p.Name, sub.ID)
	defer hold.Release()
	j, existing, err := s.Queue.Submit(ctx, *sub)
	if err != nil {
		return err
	}
	s.log.Debug("job accepted", "user", p.Name, "job", j.ID)
	return answer(Accepted{Job: j, Existing: existing, NodeErrors: verdict.NodeErrors})
}

// deadlineKey is where in the extra data a program may say when it needs a run.
const deadlineKey = "deadline"

// address says whose the submission is, when it came, and how it is ordered.
func address(sub *job.Submission, p identity.Person, o Order) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fault.Wrap(fault.Internal, err, "A job could not be given an id.")
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	sub.ID, sub.User, sub.Group, sub.Created, sub.Key = job.ID(id.String()), p.Name, p.Group, now, o.Key
	if raw, ok := pyjson.Get(sub.Request.ExtraData, deadlineKey); ok {
		text, isText := pyjson.Text(raw)
		if !isText {
			text = string(raw)
		}
		if sub.Deadline, err = job.ParseDeadline("extra_data."+deadlineKey, text, now); err != nil {
			return err
		}
	}
	sub.Request.ExtraData = stamp(sub.Request.ExtraData, now)
	sub.Class = job.ClassNormal
	switch {
	case o.Class != nil:
		sub.Class = *o.Class
	case p.Role == identity.Instructor:
		sub.Class = job.ClassInstructor
	}
	return nil
}

// check validates what was sent.
func (s *Server) check(ctx context.Context, p identity.Person, sub *job.Submission) (Verdict, error) {
	has := func(ref file.Ref) bool {
		_, err := s.Files.Stat(ctx, p.Name, ref)
		return err == nil
	}
	return s.Checker.Check(ctx, p, sub.Request.Prompt, sub.Request.Targets, has)
}
