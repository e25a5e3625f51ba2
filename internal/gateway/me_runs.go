package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Runs is a person's open jobs, as /me shows them. Ids are its own and opaque here; an id of somebody else is Missing.
type Runs interface {
	// Open returns the open jobs: those that run, those that wait in their order, those that are held; at most limit,
	// and how many there are in all.
	Open(ctx context.Context, user string, limit int) ([]Run, int, error)
	// Act does to one of them what an Act says. Conflict: it is not in a state for that any more.
	Act(ctx context.Context, user, id string, act Act) error
}

// Run is one open job.
type Run struct {
	ID    string
	State RunState
	Where string // the back end that runs it, or has it next
	Line  string // where it stands, such as "3rd in line"; may be empty
	Wait  string // when it begins, such as "about 2 to 4 min"; may be empty
	Why   string // why it waits, in a sentence; may be empty
	Since time.Time
	First bool // the first of the person's waiting jobs
}

// RunState is where a run is on its way.
type RunState string

// The states of a run.
const (
	RunRunning RunState = "running"
	RunNext    RunState = "next" // a back end has it ready
	RunWaiting RunState = "waiting"
	RunHeld    RunState = "held"
)

// Act is what a person can do with an own run.
type Act string

// The acts.
const (
	ActHold    Act = "hold"
	ActRelease Act = "release"
	ActFront   Act = "front"
	ActCancel  Act = "cancel"
)

// mostRuns is how many open jobs /me shows.
const mostRuns = 30

func (g *Gateway) showRuns(r *http.Request, user string, p *mePage) error {
	if g.faces.Runs == nil {
		return nil
	}
	var err error
	p.Runs, p.RunsTotal, err = g.faces.Runs.Open(r.Context(), user, mostRuns)
	return err
}

// changeRun does what a button beside a run says.
func (g *Gateway) changeRun(v *visit, r *http.Request) error {
	act := Act(r.PostForm.Get("act"))
	switch {
	case g.faces.Runs == nil:
		return errNoPage()
	case act != ActHold && act != ActRelease && act != ActFront && act != ActCancel:
		return fault.New(fault.Invalid, "A run can be held, released, put to the front, or cancelled.").WithCode("bad_form")
	}
	err := g.faces.Runs.Act(r.Context(), v.cred.Person.Name, r.PostForm.Get("id"), act)
	if fault.Is(err, fault.Conflict) {
		return g.showMeWith(v, r, mePage{Error: problemOf(err)})
	}
	if err != nil && !fault.Is(err, fault.Missing) { // it ended meanwhile, or is nobody's business here
		return err
	}
	g.redirect(v, r, g.base+"/me#runs", http.StatusSeeOther)
	return nil
}
