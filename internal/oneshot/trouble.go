package oneshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
)

// Trouble says why a run came to no result.
type Trouble struct {
	Class   string          `json:"class"`             // one of classes, inputs, refused, stopped or internal
	Text    string          `json:"text"`              // for people
	Remedy  string          `json:"remedy,omitempty"`  // what to do next
	Cause   string          `json:"cause,omitempty"`   // for the operator's log
	Refused json.RawMessage `json:"refused,omitempty"` // refused: the body of the refusal
}

// Classes beside those of package backend.
const (
	classInputs   = "inputs" // an input was not sent along, and is not there: nothing ran
	classRefused  = "refused"
	classStopped  = "stopped" // the agent was stopped
	classInternal = "internal"
)

// classes are the error classes of a driver as they travel, the narrower ones first. To a studio that does not know the
// word of one it is lost.
var classes = []struct {
	word string
	err  error
}{
	{"unreachable", backend.ErrUnreachable},
	{"not_comfyui", backend.ErrNotComfyUI},
	{"too_old", backend.ErrTooOld},
	{"unknown_run", backend.ErrUnknownRun},
	{"crashed", backend.ErrCrashed},
	{"lost", backend.ErrLost},
	{"frozen", backend.ErrFrozen},
	{"foreign", backend.ErrForeign},
	{"memory", backend.ErrMemory},
	{"broken", backend.ErrBroken},
}

// ErrInputs means that an input was not sent along and that the container does not have it. Nothing was run.
var ErrInputs = errors.New("the container lacks an input")

// errNotSent stands for the bytes of an input that did not come along.
var errNotSent = errors.New("the input was not sent along")

// errStopped is the cause of what ends with the agent.
var errStopped = errors.New("the agent stops")

// troubleOf says what an error of the agent's driver means to the caller.
func troubleOf(ctx context.Context, err error) Trouble {
	t := Trouble{Class: classInternal, Text: "The agent could not run the job.", Cause: clipCause(err.Error())}
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Public != "" {
		t.Text, t.Remedy = e.Public, e.Remedy
	}
	if refused, ok := errors.AsType[*backend.Refused](err); ok {
		t.Class, t.Refused = classRefused, refused.Body
		if !json.Valid(t.Refused) || len(t.Refused) > maxFrame/2 {
			t.Refused = json.RawMessage(`{"error":{"type":"prompt_refused","message":"The graph was refused.","details":"","extra_info":{}},"node_errors":{}}`)
		}
		return t
	}
	switch {
	case errors.Is(err, errNotSent):
		t.Class, t.Text = classInputs, "An input of the job was not sent along, and is not there."
		return t
	case ctx.Err() != nil:
		t.Class, t.Text = classStopped, "The agent was stopped during the run."
		return t
	}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			t.Class = c.word
			if t.Remedy == "" && t.Text == "The agent could not run the job." {
				t.Text = c.err.Error()
			}
			return t
		}
	}
	return t
}

// Err returns the trouble as an error of package backend.
func (t Trouble) Err() error {
	switch t.Class {
	case classInputs:
		return ErrInputs
	case classRefused:
		return &backend.Refused{Body: t.Refused}
	}
	class := backend.ErrLost // whatever it was, the run is gone
	for _, c := range classes {
		if c.word == t.Class {
			class = c.err
		}
	}
	return fmt.Errorf("%w: %w", class, fault.Wrap(fault.Unavailable, errors.New(clipCause(t.Cause)), "%s", clipCause(t.Text)).
		WithRemedy("%s", clipCause(t.Remedy)))
}

// clipCause bounds what goes into logs.
func clipCause(s string) string {
	if len(s) > 1000 {
		return s[:1000] + "…"
	}
	return s
}
