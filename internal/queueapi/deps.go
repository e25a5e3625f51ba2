package queueapi

import (
	"context"
	"encoding/json"
	"time"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// Deps are the parts the interface stands on. All are needed.
type Deps struct {
	Queue  Queue
	Leases Leases
	Line   Line
	Submit Submitter
	People People
	Bus    Bus
	Studio Studio
}

// Queue is the studio's queue. Who may see what it returns is decided here.
type Queue interface {
	Counts() job.Counts
	CountsByUser() map[string]job.Counts
	Mode() string
	// Get returns anybody's job, Find the one that user knows by promptID. Missing: there is none.
	Get(ctx context.Context, id job.ID) (job.Job, error)
	Find(ctx context.Context, user, promptID string) (job.Job, error)
	// Settled returns once what these have given so far is durable; an error: it never will be.
	Settled(ctx context.Context) error
	// Entry is Find with what was asked and how it ended, for jobs in history.
	Entry(ctx context.Context, user, promptID string) (job.Entry, error)
	// Requests is what was asked with jobs of user.
	Requests(ctx context.Context, user string, ids []job.ID) (map[job.ID]job.Request, error)
	// ListAll lists everybody's jobs, or one person's, newest first, and says how many there are in all.
	ListAll(ctx context.Context, q job.ListQuery, user string) ([]job.Job, int, error)
	// Open lists user's open jobs in the order in which they will run.
	Open(ctx context.Context, user string) ([]job.Job, error)
	// Running lists everybody's claimed jobs, staged ones included.
	Running() []job.Job
	Cancel(ctx context.Context, id job.ID) (job.Job, error)
	// SetClass changes the class of a waiting job. Conflict: it does not wait any more.
	SetClass(ctx context.Context, id job.ID, c job.Class) (job.Job, error)
}

// Leases is the right to work on jobs. A report with a stale fence is a conflict and changes nothing.
type Leases interface {
	Claim(ctx context.Context, id job.ID, p job.ClaimParams) (job.Entry, map[string]string, error)
	Posted(id job.ID, fence int64) error
	Renew(ctx context.Context, fences []job.Fence, until time.Time) (lost []job.Fence, err error)
	Release(ctx context.Context, id job.ID, fence int64, reason string) error
	Finish(ctx context.Context, id job.ID, fence int64, out job.Outcome) error
	Fail(ctx context.Context, id job.ID, out job.Outcome) error
}

// Line knows where waiting jobs stand.
type Line interface {
	// Places says where waiting jobs stand and why they wait. Those of which that is not known are left out.
	Places(ctx context.Context, ids []job.ID) map[job.ID]event.Place
}

// Submitter takes graphs into the queue the one way there is.
type Submitter interface {
	// Submit takes the body of a POST /prompt into p's queue. answer is called when the job is safe. An error of kind
	// *Refusal is the graph's own.
	Submit(ctx context.Context, p identity.Person, body []byte, o Order, answer func(Accepted) error) error
}

// Order is what a submission says beside its graph.
type Order struct {
	Class *job.Class // nil: as the person's role has it
	Key   string     // Idempotency-Key; empty: none
}

// Accepted is a job that is safely in the queue.
type Accepted struct {
	Job        job.Job
	Existing   bool            // the person sent the same before, and this is that job
	NodeErrors json.RawMessage // object: output nodes that are left out; nil: none
}

// Refusal is the error of a graph that can't run. Body is as ComfyUI answers: error and node_errors.
type Refusal struct{ Body json.RawMessage }

// Error says what it is; Body has the details.
func (*Refusal) Error() string { return "The graph can't run." }

// People are the accounts.
type People interface {
	// Person returns whose account has the name. Missing: nobody's.
	Person(ctx context.Context, name string) (identity.Person, error)
	// Members lists the names of a group.
	Members(ctx context.Context, group string) ([]string, error)
}

// Bus carries what happens to jobs.
type Bus interface {
	Subscribe(user string, o event.Options) *event.Subscription
}

// Studio is the program itself.
type Studio interface {
	// Facts says how it is. It is cheap.
	Facts(ctx context.Context) Facts
}

// Facts are what health tells of the studio beside the queue.
type Facts struct {
	Ready    bool
	Version  string
	Store    string // sqlite or redis
	Redis    bool   // a Redis answers
	Since    time.Time
	BackEnds []BackEnd
}

// BackEnd is a GPU source of the settings.
type BackEnd struct {
	Name   string
	Driver string
	URL    string
	Alive  bool     // it answers and can be given work
	GPUs   []string // names of its devices
}
