package queueapi

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

// Job is one run of a graph. What is not known is null.
type Job struct {
	ID                job.ID          `json:"id"`
	JobID             job.ID          `json:"job_id"` // the same, as some programs call it
	PromptID          string          `json:"prompt_id"`
	UserID            string          `json:"user_id"`
	Status            job.State       `json:"status"`
	Priority          job.Class       `json:"priority"`
	CreatedAt         time.Time       `json:"created_at"`
	Deadline          *time.Time      `json:"deadline,omitempty"` // when its owner needs it
	StartedAt         *time.Time      `json:"started_at"`
	CompletedAt       *time.Time      `json:"completed_at"`
	WorkerID          *string         `json:"worker_id"`
	Result            json.RawMessage `json:"result"` // of one job that is asked for; lists leave it out
	Error             *string         `json:"error"`
	PositionInQueue   *int            `json:"position_in_queue"`   // 1 is next
	EstimatedWaitTime *int            `json:"estimated_wait_time"` // seconds, the middle of the band
	WaitFrom          *int            `json:"wait_from,omitempty"`
	WaitTo            *int            `json:"wait_to,omitempty"`
	Reason            string          `json:"reason,omitempty"`      // why it waits, in a sentence
	ReasonCode        string          `json:"reason_code,omitempty"` // the same for programs
	Metadata          json.RawMessage `json:"metadata"`
	NodeErrors        json.RawMessage `json:"node_errors,omitempty"` // when it is submitted: outputs that are left out
}

// visible is the state as people see it: a staged job waits.
func visible(j job.Job) job.State {
	if j.State == job.Running && !j.Attempt.Posted {
		return job.Pending
	}
	return j.State
}

// shapes returns jobs as the interface shows them, without results and metadata.
func (f *Face) shapes(ctx context.Context, jobs ...job.Job) []Job {
	var waiting []job.ID
	for _, j := range jobs {
		if visible(j) == job.Pending {
			waiting = append(waiting, j.ID)
		}
	}
	var places map[job.ID]event.Place
	if len(waiting) > 0 {
		places = f.Line.Places(ctx, waiting)
	}
	out := make([]Job, len(jobs))
	for i, j := range jobs {
		out[i] = shape(j)
		if p, ok := places[j.ID]; ok {
			out[i].place(p)
		}
	}
	return out
}

func (f *Face) shape(ctx context.Context, j job.Job) Job { return f.shapes(ctx, j)[0] }

// shape is shapes without places.
func shape(j job.Job) Job {
	out := Job{
		ID: j.ID, JobID: j.ID, PromptID: j.PromptID, UserID: j.User, Status: visible(j), Priority: j.Class,
		CreatedAt: j.Created, CompletedAt: when(j.Finished), Deadline: when(j.Deadline), Metadata: json.RawMessage("{}"),
	}
	if j.Error != "" {
		out.Error = &j.Error
	}
	if out.Status != job.Pending {
		out.StartedAt = when(j.Started)
		if name := strings.TrimPrefix(j.Attempt.BackEnd, workerMark); name != "" {
			out.WorkerID = &name
		}
	}
	return out
}

// codeStaged is the reason of a job that a back end has next.
const codeStaged = "staged"

// place adds where the job stands.
func (o *Job) place(p event.Place) {
	if p.Code == codeStaged { // it has left the line, and nobody goes before it
		p.Position = 1
	}
	if p.Position > 0 {
		o.PositionInQueue = &p.Position
	}
	if p.To > 0 {
		from, to, middle := seconds(p.From), seconds(p.To), seconds((p.From+p.To)/2)
		o.WaitFrom, o.WaitTo, o.EstimatedWaitTime = &from, &to, &middle
	}
	o.Reason, o.ReasonCode = p.Reason, p.Code
}

func seconds(s float64) int { return int(math.Round(min(s, math.MaxInt32))) }

// when returns t as null for the zero time.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// metadataOf returns what was kept with a job.
func metadataOf(req job.Request) json.RawMessage {
	raw, ok := pyjson.Get(req.ExtraData, "metadata")
	if !ok {
		return json.RawMessage("{}")
	}
	return pyjson.Clean(raw) // what Python writes is not always JSON
}

// resultKey is under which output a worker's result is kept: it is whatever the worker sent, and no file of the
// person's, so that editors don't look for one.
const resultKey = "worker_result"

// resultOf returns what came of a job: what its worker sent, else the outputs as history has them.
func resultOf(e job.Entry) (json.RawMessage, error) {
	out := e.Outcome
	if out == nil || out.State != job.Completed {
		return nil, nil
	}
	if strings.HasPrefix(e.Job.Attempt.BackEnd, workerMark) {
		list, ok := pyjson.Get(out.Outputs, outputNode(e.Request), resultKey)
		if elements, err := pyjson.Elements(list); ok && err == nil && len(elements) == 1 {
			return pyjson.Clean(elements[0]), nil
		}
	}
	return json.Marshal(struct {
		PromptID string          `json:"prompt_id"`
		Status   job.State       `json:"status"`
		Outputs  json.RawMessage `json:"outputs"`
		Seconds  float64         `json:"execution_time"`
	}{e.Job.PromptID, out.State, pyjson.Clean(out.Outputs), out.ExecSeconds})
}

// errorOf returns why a job failed, all of it; lists have its first line.
func errorOf(e job.Entry) string {
	if e.Outcome == nil || e.Outcome.State != job.Failed {
		return ""
	}
	messages, err := pyjson.Elements(e.Outcome.Messages)
	if err != nil || len(messages) == 0 {
		return ""
	}
	last, err := pyjson.Elements(messages[len(messages)-1])
	if err != nil || len(last) < 2 {
		return ""
	}
	raw, _ := pyjson.Get(last[1], "exception_message")
	text, _ := pyjson.Text(raw)
	return strings.TrimSpace(text)
}

// outputNode is the node that a worker's result is kept under.
func outputNode(req job.Request) string {
	if len(req.Outputs) > 0 {
		return req.Outputs[0]
	}
	return "worker"
}
