package dispatch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// The exception types under which the studio's own reasons stand where a graph's exceptions stand.
const (
	typeBackEndLost = "ComfyuME.BackEndLost"
	typeRefused     = "ComfyuME.Refused"
	typeInternal    = "ComfyuME.InternalError"
	typeTooLong     = "ComfyuME.TooLong"
	typeDeadly      = "ComfyuME.KillsBackEnds"
	typeTooMuch     = "ComfyuME.TooMuch"
)

// executionError is the data of an execution_error message, with every field that some client insists on.
type executionError struct {
	PromptID         string              `json:"prompt_id"`
	NodeID           string              `json:"node_id"`
	NodeType         string              `json:"node_type"`
	Executed         []string            `json:"executed"`
	ExceptionMessage string              `json:"exception_message"`
	ExceptionType    string              `json:"exception_type"`
	Traceback        []string            `json:"traceback"`
	CurrentInputs    map[string][]string `json:"current_inputs"`
	CurrentOutputs   []string            `json:"current_outputs"`
	Timestamp        int64               `json:"timestamp"`
}

// failure makes the outcome of an error that is the graph's own.
func (a *attempt) failure(cause error) job.Outcome {
	if refused, ok := errors.AsType[*backend.Refused](cause); ok {
		return a.refused(refused)
	}
	sentence, remedy := fault.Public(cause)
	return a.failed("", "", typeRefused, strings.TrimSpace(sentence+" "+remedy))
}

// refused makes the outcome of a graph that the back end did not take: the first faulty node is the one in error.
func (a *attempt) refused(r *backend.Refused) job.Outcome {
	var body struct {
		Error struct {
			Message string `json:"message"`
			Details string `json:"details"`
		} `json:"error"`
		NodeErrors map[string]struct {
			ClassType string `json:"class_type"`
			Errors    []struct {
				Message string `json:"message"`
				Details string `json:"details"`
			} `json:"errors"`
		} `json:"node_errors"`
	}
	raw := r.Body
	if a.tr != nil {
		raw = a.tr.Refused(raw)
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		a.note().Warn("a refusal in another form", "err", err)
	}
	line := func(message, details string) string {
		return strings.TrimSuffix(message+": "+details, ": ")
	}
	if len(body.NodeErrors) > 0 {
		id := sortedKeys(body.NodeErrors)[0]
		node := body.NodeErrors[id]
		var lines []string
		for _, e := range node.Errors {
			lines = append(lines, line(e.Message, e.Details))
		}
		return a.failed(id, node.ClassType, typeRefused, strings.Join(lines, "\n"))
	}
	return a.failed("", "", typeRefused, cmp.Or(line(body.Error.Message, body.Error.Details), "The GPU refused the graph."))
}

// lostTooOften makes the outcome of a job that no back end could finish.
func (a *attempt) lostTooOften(cause error) job.Outcome {
	typ := typeBackEndLost
	if !ofBackEnd(cause) {
		typ = typeInternal
	}
	return a.failed("", "", typ, fmt.Sprintf("The job was tried %d times and never came to its end. %s", a.past.lost+1, a.sentence(cause)))
}

// sentence says for its owner why an attempt ended: what it means for the job, and what its driver knows of the cause.
func (a *attempt) sentence(cause error) string {
	said := a.verdict(cause)
	if f, ok := errors.AsType[*fault.Error](cause); ok && ofBackEnd(cause) && f.Public != "" {
		said += " " + f.Public
	}
	return said
}

func (a *attempt) verdict(cause error) string {
	switch {
	case errors.Is(cause, errMisfit):
		return fmt.Sprintf("%s lacks nodes of the graph.", a.backEnd)
	case errors.Is(cause, errTakenBack):
		return "The run before it takes longer than expected."
	case errors.Is(cause, errRecalled):
		return "Another GPU is free for it."
	case errors.Is(cause, backend.ErrForeign):
		return fmt.Sprintf("%s is busy with other work.", a.backEnd)
	case errors.Is(cause, errBrokenBefore):
		return fmt.Sprintf("The GPU of %s had failed under an earlier run.", a.backEnd)
	case errors.Is(cause, backend.ErrBroken):
		return fmt.Sprintf("The GPU of %s failed.", a.backEnd)
	case errors.Is(cause, backend.ErrMemory):
		return fmt.Sprintf("%s ran out of GPU memory.", a.backEnd)
	case errors.Is(cause, backend.ErrCrashed):
		return fmt.Sprintf("%s died while working at it.", a.backEnd)
	case errors.Is(cause, backend.ErrFrozen):
		return fmt.Sprintf("%s stopped answering.", a.backEnd)
	case errors.Is(cause, backend.ErrLost), errors.Is(cause, backend.ErrUnknownRun):
		return fmt.Sprintf("%s lost the run.", a.backEnd)
	case ofBackEnd(cause):
		return fmt.Sprintf("%s could not be reached.", a.backEnd)
	}
	sentence, _ := fault.Public(cause)
	return sentence
}

// failed makes the outcome of a failure that the back end did not report as one of a run.
func (a *attempt) failed(node, class, typ, message string) job.Outcome {
	now := time.Now().UnixMilli()
	return a.outcome(job.Failed, "execution_error", executionError{
		PromptID: a.job.PromptID, NodeID: node, NodeType: class, Executed: []string{},
		ExceptionMessage: message + "\n", ExceptionType: typ, Traceback: []string{},
		CurrentInputs: map[string][]string{}, CurrentOutputs: []string{}, Timestamp: now,
	}, now)
}

// interrupted makes the outcome of a job that its owner stopped before a back end had to.
func (a *attempt) interrupted() job.Outcome {
	return a.interruptedOutcome(a.job.PromptID)
}

func (d *Dispatcher) interruptedOutcome(promptID string) job.Outcome {
	now := time.Now().UnixMilli()
	return d.outcomeOf(promptID, job.Cancelled, "execution_interrupted", map[string]any{
		"prompt_id": promptID, "node_id": "", "node_type": "", "executed": []string{}, "timestamp": now,
	}, now)
}

func (a *attempt) outcome(state job.State, typ string, data any, at int64) job.Outcome {
	return a.outcomeOf(a.job.PromptID, state, typ, data, at)
}

func (d *Dispatcher) outcomeOf(promptID string, state job.State, typ string, data any, at int64) job.Outcome {
	start := map[string]any{"prompt_id": promptID, "timestamp": at}
	messages, err := json.Marshal([][2]any{{"execution_start", start}, {typ, data}})
	if err != nil { // strings and numbers always marshal
		d.log.Error("an outcome could not be written", "err", err)
		messages = json.RawMessage("[]")
	}
	out := job.Outcome{State: state, Outputs: json.RawMessage("{}"), Messages: messages, Meta: json.RawMessage("{}")}
	out.Summary, out.Error = comfy.Summarize(out.Outputs, out.Messages)
	return out
}

// giveUpStopped ends a waiting job that its owner wanted interrupted while an attempt, since lost, was running.
func (d *Dispatcher) giveUpStopped(ctx context.Context, j job.Job) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		out := d.interruptedOutcome(j.PromptID)
		err := d.show(ctx, &j, &out)
		if err == nil {
			err = d.deps.Queue.Fail(ctx, j.ID, out)
		}
		if err == nil || fault.Is(err, fault.Conflict) || fault.Is(err, fault.Missing) {
			return
		}
		d.log.Error("a stopped job could not be ended; it is tried again", "job", string(j.ID), "user", j.User, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// eachMessage walks status.messages: [["execution_start", {…}], …].
func eachMessage(messages json.RawMessage, f func(typ string, data json.RawMessage)) {
	var list []json.RawMessage
	if json.Unmarshal(messages, &list) != nil {
		return
	}
	for _, raw := range list {
		var pair []json.RawMessage
		var typ string
		if json.Unmarshal(raw, &pair) != nil || len(pair) != 2 || json.Unmarshal(pair[0], &typ) != nil {
			continue // a custom node's own message
		}
		f(typ, pair[1])
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
