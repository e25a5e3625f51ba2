// Package event carries what happens in the studio to those who show it: a typed bus with one topic per person
// and two lanes. The state lane is never lost silently: a subscriber that does not keep up gets Lagged in place
// of what it missed and reads the truth anew. In the preview lane the latest of its kind wins.
//
// Publishing never blocks and never waits for a subscriber.
package event

import (
	"encoding/json"

	"github.com/ahelme/comfyume/internal/job"
)

// Event is something a person's sessions, or the dispatcher, may want to know. Body is one of the types below.
type Event struct {
	User string // whose it is; empty: everybody's (Notice, FleetChanged)
	Body Body
}

// Body marks the types that travel on the bus.
type Body interface{ body() }

// JobChanged is published for every change of a job's state. State lane.
type JobChanged struct{ job.Changed }

// RunFrame is one JSON frame of a run, already in the person's ids and names: executing, executed, progress,
// progress_state, execution_start, execution_cached, or a custom node's own type. The end frames
// (execution_success, execution_error of the whole run, execution_interrupted, executing null) are not sent
// this way: they follow from JobChanged Finished. State lane, except progress and progress_state.
type RunFrame struct {
	Job      job.ID
	Attempt  int
	PromptID string
	ClientID string // the session it is for
	Type     string
	Node     string          // node the frame is about; empty when none
	Data     json.RawMessage // the frame's data object
}

// RunBinary is one binary frame of a run. Previews travel in the preview lane, Result frames (SaveImageWebsocket)
// and unknown events in the state lane.
type RunBinary struct {
	Job      job.ID
	Attempt  int
	PromptID string
	ClientID string
	Node     string // executing node; empty when unknown
	Result   bool   // never drop or coalesce
	Frame    []byte // whole frame with its event word; event 4 carries the person's prompt id
}

// LogLines are lines of the person's own run.
type LogLines struct {
	Job   job.ID
	Lines []string
}

// Notice is a sentence for a person (User set) or for everybody.
type Notice struct {
	Severity string // info, warn, error
	Text     string
}

// FleetChanged says that back ends, or what they can run, changed.
type FleetChanged struct{}

// Queued tells a person where their jobs stand: sent when places change, coalesced.
type Queued struct {
	Places map[job.ID]Place
}

// Place is where a pending job stands and why it waits.
type Place struct {
	Position int    `json:"position"` // 1 is next
	Code     string `json:"code"`     // of the reason, for programs
	Reason   string `json:"reason"`   // one sentence
	// From and To are the seconds after which it begins, in three of five cases. Both zero: nobody can tell.
	From float64 `json:"wait_from,omitempty"`
	To   float64 `json:"wait_to,omitempty"`
}

// SignedOut says that something a person carries ended before its time, or that the person changed: whoever believes it
// from memory has to look it up again. State lane.
type SignedOut struct {
	ID string // of the session or token; empty: any of the person's
}

// Lagged stands in a subscriber's stream for state events that it was too slow to take: whatever it believes may
// be old, it has to read the state anew. It never travels to others.
type Lagged struct {
	Dropped int // how many state events it replaces
}

func (JobChanged) body()   {}
func (RunFrame) body()     {}
func (RunBinary) body()    {}
func (LogLines) body()     {}
func (Notice) body()       {}
func (FleetChanged) body() {}
func (Queued) body()       {}
func (SignedOut) body()    {}
func (Lagged) body()       {}
