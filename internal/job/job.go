// Package job holds the vocabulary of runs: a job, its states, the attempts to run it and how it ended.
package job

import (
	"encoding/json"
	"time"
)

// ID names a job: a UUIDv7 in canonical lower-case text, made by the studio.
type ID string

// State is where a job is on its way.
type State string

// The states. Pending and Running are open, the others final.
const (
	Pending   State = "pending"
	Running   State = "running"
	Completed State = "completed"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Final reports whether a job in state s is over.
func (s State) Final() bool { return s == Completed || s == Failed || s == Cancelled }

// CanBecome reports whether a job may go from s to next: pending to running or cancelled, running back to
// pending (the attempt was lost) or to any final state. A final state is for ever.
func (s State) CanBecome(next State) bool {
	switch s {
	case Pending:
		return next == Running || next == Cancelled || next == Failed
	case Running:
		return next == Pending || next.Final()
	default:
		return false
	}
}

// Class is a job's priority: lower goes first.
type Class uint8

// The classes in the words of the queue.
const (
	ClassInstructor Class = 0
	ClassHigh       Class = 1
	ClassNormal     Class = 2
	ClassLow        Class = 3
)

// Request is what a person submitted. Its raw JSON is theirs, byte for byte, and never changes.
type Request struct {
	Prompt    json.RawMessage `json:"prompt"`               // the graph in API form
	ExtraData json.RawMessage `json:"extra_data,omitempty"` // an object, without credentials; with client_id and create_time (ms)
	Targets   []string        `json:"targets,omitempty"`    // partial_execution_targets; nil means all
	Outputs   []string        `json:"outputs"`              // ids of the output nodes that validation let through
}

// Job is one run of a graph. Times are UTC with millisecond precision; the zero time means "not yet".
type Job struct {
	ID         ID
	User       string
	Group      string
	PromptID   string  // unique per person among jobs that are open or in history
	ClientID   string  // the session that submitted; empty when none
	Number     float64 // place word of the ComfyUI protocol, per person; lower runs first among one person's jobs of one class
	Seq        int64   // order of acceptance, unique in the store
	Class      Class
	State      State
	WorkflowID string // extra_data.extra_pnginfo.workflow.id when it is a string
	Digest     [32]byte
	Profile    Profile
	Held       bool      // its owner, or an operator, keeps it from running
	Deadline   time.Time // when its owner needs it; zero: they did not say
	Created    time.Time
	Started    time.Time // first time a back end began it
	Finished   time.Time
	Attempt    Attempt // the current or last one; zero before the first claim
	Stop       bool    // somebody asked to interrupt it
	Hidden     bool    // not in history: removed by its owner, or cancelled before it ran
	Error      string  // for Failed: one line for lists and logs

	// Summary is what lists of finished jobs show, made once at the end (Outcome.Summary); nil while open.
	Summary json.RawMessage
}

// Profile is what the schedule knows of a graph without reading it again. The zero value: nothing.
type Profile struct {
	Like   string  // the same for graphs whose time grows with Work alike; at most 32 bytes
	Work   float64 // how much there is to do in units that mean the same within Like, such as pixels times steps
	Models string  // the model files that it loads, in sorted order, joined by \n
}

// Late reports whether a job is over, or goes on, after its owner needed it.
func (j Job) Late(now time.Time) bool {
	if !j.Finished.IsZero() {
		now = j.Finished
	}
	return !j.Deadline.IsZero() && now.After(j.Deadline)
}

// Duration returns how long a finished job ran; zero for all others.
func (j Job) Duration() time.Duration {
	if j.Started.IsZero() || j.Finished.IsZero() {
		return 0
	}
	return j.Finished.Sub(j.Started)
}

// Attempt is one try of a job on a back end. Its fence is the right to report: the store takes a report only
// with the newest fence of the job.
type Attempt struct {
	N          int    // 1, 2, …
	Fence      int64  // grows over the whole store, never reused
	BackEnd    string // name of the back end
	RunID      string // prompt id on the back end, a fresh UUID
	ClientID   string // client id on the back end, under which it is expected to run
	LeaseUntil time.Time
	Posted     bool // the back end was given the prompt; before that the attempt is staged and the person sees "pending"
}

// Outcome is how a job ended, in the person's own names and ids.
type Outcome struct {
	State       State           // Completed, Failed or Cancelled
	Outputs     json.RawMessage // object by node id, as in a history entry
	Messages    json.RawMessage // the list of status.messages: [["execution_start",{…}],…], the last one is the end
	Meta        json.RawMessage // object by node id, as in a history entry
	Error       string          // one line, empty when Completed
	ExecSeconds float64         // from execution_start to the end, on the back end's clock

	// Summary is the part of an element of /api/jobs that follows from the outcome: execution_start_time,
	// execution_end_time, outputs_count, previewable_outputs_count, preview_output, execution_error.
	Summary json.RawMessage

	// Try is what is to be kept of the attempt, where more than the job itself tells; nil: nothing.
	Try *Try
}

// Submission asks for a job.
type Submission struct {
	ID          ID // made by the caller, so that frames can be held for it before it exists
	User        string
	Group       string
	PromptID    string // empty: the job id
	ClientID    string
	Number      *float64 // given by the client; nil: the person's own counter
	Front       bool     // before the person's other jobs; ignored when Number is set
	Class       Class
	Held        bool      // it is accepted and waits until it is let go
	Deadline    time.Time // when its owner needs it; zero: they did not say
	Key         string    // Idempotency-Key: a second submission of the person with it is the first one; empty: none
	WorkflowID  string
	Profile     Profile
	Request     Request
	Credentials map[string]string // of paid nodes: kept sealed until the job ends
	Created     time.Time
}

// Entry is a job with what was asked and how it ended.
type Entry struct {
	Job     Job
	Request Request
	Outcome *Outcome // nil while open
}

// HistoryQuery chooses history entries the way GET /history does. Negative: not given.
type HistoryQuery struct {
	MaxItems int
	Offset   int
}

// ListQuery chooses jobs the way GET /api/jobs does.
type ListQuery struct {
	States     []State // nil: all
	WorkflowID string  // empty: all
	ByDuration bool    // sort by execution time instead of creation
	Ascending  bool
	Limit      int // 0: all
	Offset     int
	Uncounted  bool // how many there are in all is not wanted: at least as many as are given
}

// Change is what happened to a job.
type Change string

// The changes. Each is announced after the commit that made it true, per job in the order in which they happened.
const (
	Submitted      Change = "submitted"
	Claimed        Change = "claimed"         // an attempt was staged; the person still sees "pending"
	Posted         Change = "posted"          // a back end was given it: the person now sees it running
	Released       Change = "released"        // an attempt was lost; pending again
	Finished       Change = "finished"        // Outcome is set; history and outputs are readable
	Removed        Change = "removed"         // taken out while pending
	StopRequested  Change = "stop_requested"  // its owner wants a running job interrupted
	HistoryChanged Change = "history_changed" // entries were deleted; only Job.User is set
	Moved          Change = "moved"           // its class, number or deadline changed, or it is held or let go
)

// Changed says that a job changed.
type Changed struct {
	Change  Change
	Job     *Job     // as it is now; all who hear of it share it, and nobody changes it
	Outcome *Outcome // only with Finished
}

// ClaimParams is what a claim writes down before a byte goes to a back end.
type ClaimParams struct {
	BackEnd    string
	RunID      string // prompt id on the back end, a fresh UUID
	ClientID   string // client id on the back end, under which it is expected to run
	LeaseUntil time.Time
}

// Fence names one attempt of a job: the right to report about it.
type Fence struct {
	Job ID
	N   int64 // Attempt.Fence
}
