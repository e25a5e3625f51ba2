package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

type jobPath struct {
	ID string `path:"id"`
}

func (f *Face) jobs() {
	on(f, route{http.MethodGet, "/jobs", "list-jobs", "Jobs, newest first: one's own, for staff everybody's", anyone, 0},
		func(ctx context.Context, who identity.Person, in *struct {
			User   string   `query:"user"`
			State  []string `query:"state" doc:"pending, running, completed, failed, cancelled; may be several"`
			Limit  int      `query:"limit" default:"100" minimum:"1" maximum:"1000"`
			Offset int      `query:"offset" minimum:"0"`
		},
		) (*body[Jobs], error) {
			return answer(f.listJobs(ctx, who, in.User, in.State, in.Limit, in.Offset))
		})
	on(f, route{http.MethodGet, "/jobs/{id}", "get-job", "One job", anyone, 0},
		func(ctx context.Context, who identity.Person, in *jobPath) (*body[Job], error) {
			j, err := f.job(ctx, who, in.ID)
			if err != nil {
				return nil, err
			}
			return answer(f.shape(ctx, j), nil)
		})
	on(f, route{http.MethodPost, "/jobs/{id}/cancel", "cancel-job", "Take a waiting job out, or ask a running one to stop", anyone, 0},
		func(ctx context.Context, who identity.Person, in *jobPath) (*body[Job], error) {
			j, err := f.job(ctx, who, in.ID)
			if err != nil {
				return nil, err
			}
			if j.State.Final() {
				return nil, fault.New(fault.Conflict, "Job %s is over already: %s.", j.ID, j.State).WithCode("job_is_over")
			}
			if j, err = f.Queue.Cancel(ctx, j.ID); err != nil {
				return nil, err
			}
			return answer(f.shape(ctx, j), nil)
		})
	on(f, route{http.MethodGet, "/queue", "queue", "The queue at a glance", anyone, 0},
		func(ctx context.Context, who identity.Person, _ *struct{}) (*body[QueueState], error) {
			return answer(f.queue(ctx, who))
		})
}

// job returns a job that the person may see. Others' jobs are missing, not forbidden: their ids tell nothing.
func (f *Face) job(ctx context.Context, who identity.Person, id string) (job.Job, error) {
	j, err := f.Queue.Get(ctx, job.ID(id))
	if err == nil && scope(who) != "" && j.User != who.Name {
		err = fault.New(fault.Missing, "There is no job %s.", id)
	}
	return j, err
}

func (f *Face) listJobs(ctx context.Context, who identity.Person, user string, states []string, limit, offset int) (Jobs, error) {
	if own := scope(who); own != "" {
		if user != "" && user != own {
			return Jobs{}, fault.New(fault.Denied, "Jobs of others are for instructors and operators.")
		}
		user = own
	}
	q := job.ListQuery{Limit: limit, Offset: offset}
	for _, s := range states {
		state := job.State(s)
		if !slices.Contains([]job.State{job.Pending, job.Running, job.Completed, job.Failed, job.Cancelled}, state) {
			return Jobs{}, fault.New(fault.Invalid, "%q is not a state of a job.", s).
				WithRemedy("Use pending, running, completed, failed or cancelled.")
		}
		q.States = append(q.States, state)
	}
	list, total, err := f.Queue.ListAll(ctx, q, user)
	if err != nil {
		return Jobs{}, err
	}
	out := Jobs{Jobs: make([]Job, 0, len(list)), Total: total}
	for _, j := range list {
		out.Jobs = append(out.Jobs, f.shape(ctx, j))
	}
	return out, nil
}

// shape returns a job as the interface shows it: a staged job waits.
func (f *Face) shape(ctx context.Context, j job.Job) Job {
	out := Job{
		ID: j.ID, User: j.User, Group: j.Group, PromptID: j.PromptID, State: j.State, Class: j.Class,
		Created: j.Created, Started: When(j.Started), Finished: When(j.Finished),
		Attempt: j.Attempt.N, BackEnd: j.Attempt.BackEnd, Stopping: j.Stop && !j.State.Final(), Error: j.Error,
	}
	if j.State == job.Running && !j.Attempt.Posted {
		out.State, out.Staged = job.Pending, true
	}
	if out.State == job.Pending {
		out.Why = f.Queue.Why(ctx, j.ID)
	}
	return out
}

// queue returns the queue as the person may see it: participants their own part.
func (f *Face) queue(ctx context.Context, who identity.Person) (QueueState, error) {
	out := QueueState{
		Mode: f.Queue.Mode(), Order: f.Queue.Order(), Note: f.Queue.Note(),
		Counts: f.Queue.Counts(), Users: []Load{},
	}
	if own := scope(who); own != "" {
		out.Counts = f.Queue.CountsByUser()[own]
		for state, count := range map[job.State]*int{
			job.Completed: &out.Counts.Completed, job.Failed: &out.Counts.Failed, job.Cancelled: &out.Counts.Cancelled,
		} {
			_, total, err := f.Queue.ListAll(ctx, job.ListQuery{States: []job.State{state}, Limit: 1}, own)
			if err != nil {
				return QueueState{}, err
			}
			*count = total
		}
	}
	for name, c := range f.Queue.CountsByUser() {
		if own := scope(who); own == "" || own == name {
			out.Users = append(out.Users, Load{User: name, Pending: c.Pending, Running: c.Running})
		}
	}
	slices.SortFunc(out.Users, func(a, b Load) int { return cmp.Compare(a.User, b.User) })
	return out, nil
}

func (f *Face) studio() {
	on(f, route{http.MethodGet, "/status", "status", "The studio at a glance", staff, 0},
		func(ctx context.Context, _ identity.Person, _ *struct{}) (*body[Status], error) {
			return answer(f.Studio.Status(ctx), nil)
		})
	on(f, route{http.MethodGet, "/backends", "list-backends", "GPU sources", staff, 0},
		func(context.Context, identity.Person, *struct{}) (*body[[]BackEnd], error) {
			return answer(f.Fleet.BackEnds(), nil)
		})
	on(f, route{http.MethodPost, "/backends/{name}/test", "test-backend", "Ask a GPU source now who it is and what it can run", operators, 0},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name string `path:"name"`
		},
		) (*body[BackEnd], error) {
			return answer(f.Fleet.Test(ctx, in.Name))
		})
}
