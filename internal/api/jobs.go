package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

type jobPath struct {
	ID string `path:"id"`
}

func (f *Face) jobs() {
	on(f, route{http.MethodGet, "/jobs", "list-jobs", "Jobs, newest first: one's own, for instructors their group's, for operators everybody's", anyone, 0},
		func(ctx context.Context, who identity.Person, in *struct {
			User   string   `query:"user"`
			State  []string `query:"state" doc:"pending, running, completed, failed, cancelled; may be several"`
			Limit  int      `query:"limit" default:"100" minimum:"1" maximum:"1000"`
			Offset int      `query:"offset" minimum:"0"`
		},
		) (*body[Jobs], error) {
			return answer(f.listJobs(ctx, who, in.User, in.State, in.Limit, in.Offset))
		})
	on(f, route{http.MethodGet, "/jobs/{id}", "get-job", "One job, with its place and why it waits", anyone, 0},
		func(ctx context.Context, who identity.Person, in *jobPath) (*body[Job], error) {
			j, err := f.job(ctx, who, in.ID)
			if err != nil {
				return nil, err
			}
			return answer(f.whole(ctx, j))
		})
	on(f, route{http.MethodGet, "/jobs/{id}/record", "get-record", "One job with what it asks for and what it gave", anyone, 0},
		func(ctx context.Context, who identity.Person, in *jobPath) (*body[Record], error) {
			j, err := f.job(ctx, who, in.ID)
			if err != nil {
				return nil, err
			}
			return answer(f.record(ctx, j))
		})
	f.jobActs()
	f.personsJobs()
}

// jobActs are what is done to one job.
func (f *Face) jobActs() {
	act := func(path, id, does string, status int, do func(ctx context.Context, j job.Job) (job.Job, error)) {
		on(f, route{http.MethodPost, "/jobs/{id}/" + path, id, does, anyone, status},
			func(ctx context.Context, who identity.Person, in *jobPath) (*body[Job], error) {
				j, err := f.job(ctx, who, in.ID)
				if err == nil {
					j, err = do(ctx, j)
				}
				if err != nil {
					return nil, err
				}
				return answer(f.shape(ctx, j), nil)
			})
	}
	act("cancel", "cancel-job", "Take a waiting job out, or ask a running one to stop", 0,
		func(ctx context.Context, j job.Job) (job.Job, error) {
			if j.State.Final() {
				return j, fault.New(fault.Conflict, "Job %s is over already: %s.", j.ID, j.State).WithCode("job_is_over")
			}
			return f.Queue.Cancel(ctx, j.ID)
		})
	act("hold", "hold-job", "Keep a waiting job from running until it is released", 0,
		func(ctx context.Context, j job.Job) (job.Job, error) { return f.Queue.Hold(ctx, j.ID, true) })
	act("release", "release-job", "Let a held job wait for its turn again", 0,
		func(ctx context.Context, j job.Job) (job.Job, error) { return f.Queue.Hold(ctx, j.ID, false) })
	act("front", "move-job-to-front", "Put a waiting job before its owner's others", 0,
		func(ctx context.Context, j job.Job) (job.Job, error) { return f.Queue.ToFront(ctx, j.ID) })
	act("retry", "retry-job", "Submit once more what a job that is over asked for", http.StatusCreated,
		func(ctx context.Context, j job.Job) (job.Job, error) {
			if !j.State.Final() {
				return j, fault.New(fault.Conflict, "Job %s is not over yet: %s.", j.ID, j.State).WithCode("job_is_open")
			}
			return f.Queue.Retry(ctx, j.ID)
		})
	on(f, route{http.MethodPatch, "/jobs/{id}", "change-job", "Change a waiting job's priority or deadline", anyone, 0},
		func(ctx context.Context, who identity.Person, in *struct {
			ID   string `path:"id"`
			Body JobChange
		},
		) (*body[Job], error) {
			j, err := f.job(ctx, who, in.ID)
			if err == nil && in.Body.Class != nil {
				j, err = f.classify(ctx, who, j, *in.Body.Class)
			}
			if err == nil && in.Body.Deadline != nil {
				var at time.Time
				if at, err = job.ParseDeadline("deadline", *in.Body.Deadline, time.Now()); err == nil {
					j, err = f.Queue.SetDeadline(ctx, j.ID, at)
				}
			}
			if err != nil {
				return nil, err
			}
			return answer(f.shape(ctx, j), nil)
		})
}

// personsJobs are what is done to several jobs of one person in one act.
func (f *Face) personsJobs() {
	on(f, route{http.MethodDelete, "/users/{name}/jobs", "cancel-users-jobs", "End all open jobs of one person", anyone, 0},
		func(ctx context.Context, who identity.Person, in *userPath) (*body[Cancelled], error) {
			if err := f.forPerson(ctx, who, in.Name); err != nil {
				return nil, err
			}
			removed, stopped, err := f.Queue.CancelUser(ctx, in.Name)
			return answer(Cancelled{Removed: ids(removed), Stopping: ids(stopped)}, err)
		})
	on(f, route{http.MethodPut, "/users/{name}/jobs/order", "order-users-jobs", "Put waiting jobs of one person into another order", anyone, 0},
		func(ctx context.Context, who identity.Person, in *struct {
			Name string `path:"name"`
			Body JobOrder
		},
		) (*body[[]Job], error) {
			if err := f.forPerson(ctx, who, in.Name); err != nil {
				return nil, err
			}
			list, err := f.Queue.Reorder(ctx, in.Name, in.Body.Jobs)
			return answer(f.shapes(ctx, list), err)
		})
}

func ids(list []job.Job) []job.ID {
	out := make([]job.ID, 0, len(list))
	for _, j := range list {
		out = append(out, j.ID)
	}
	return out
}

// job returns a job that the person may see. Others' jobs are missing, not forbidden: their ids tell nothing.
func (f *Face) job(ctx context.Context, who identity.Person, id string) (job.Job, error) {
	j, err := f.Queue.Get(ctx, job.ID(id))
	if fault.Is(err, fault.Missing) || err == nil && !sees(who, j) {
		err = fault.New(fault.Missing, "There is no job %s.", id).
			WithRemedy("GET /studio/api/v1/jobs, or comfyume job list, shows those that you may see.").WithCode("no_such_job")
	}
	return j, err
}

func foreign() error {
	return fault.New(fault.Denied, "An instructor acts for the people of their own group.").WithRemedy("Ask an operator.")
}

// forPerson reports whether somebody may act for all jobs of a person. To participants nobody else has an account.
func (f *Face) forPerson(ctx context.Context, who identity.Person, name string) error {
	if who.Name == name || !isStaff(who) {
		return self(who, name)
	}
	u, err := f.People.User(ctx, name)
	if err == nil && !leads(who, u.Group) {
		err = foreign()
	}
	return err
}

// classify gives a job another priority. A participant's own step back needs nobody's leave; a step forward is staff's.
func (f *Face) classify(ctx context.Context, who identity.Person, j job.Job, c job.Class) (job.Job, error) {
	if !isStaff(who) && c < j.Class {
		return j, fault.New(fault.Denied, "You can lower the priority of your job, and not raise it.").
			WithRemedy("Ask an instructor.").WithCode("only_lower")
	}
	return f.Queue.SetClass(ctx, j.ID, c)
}

func (f *Face) listJobs(ctx context.Context, who identity.Person, user string, states []string, limit, offset int) (Jobs, error) {
	q := job.ListQuery{Limit: limit, Offset: offset}
	for _, s := range states {
		state := job.State(s)
		if !slices.Contains([]job.State{job.Pending, job.Running, job.Completed, job.Failed, job.Cancelled}, state) {
			return Jobs{}, fault.New(fault.Invalid, "%q is not a state of a job.", s).
				WithRemedy("Use pending, running, completed, failed or cancelled.")
		}
		q.States = append(q.States, state)
	}
	names, err := f.whose(ctx, who, user)
	if err != nil {
		return Jobs{}, err
	}
	list, total, err := f.newest(ctx, who, names, q)
	if err != nil {
		return Jobs{}, err
	}
	return Jobs{Jobs: f.shapes(ctx, list), Total: total}, nil
}

// whose returns the people whose jobs somebody may list who asks for those of user, or of all (""). One empty name:
// everybody's.
func (f *Face) whose(ctx context.Context, who identity.Person, user string) ([]string, error) {
	switch {
	case who.Role == identity.Operator:
		return []string{user}, nil
	case user != "" && user != who.Name && who.Role == identity.Participant:
		return nil, fault.New(fault.Denied, "Jobs of others are for instructors and operators.")
	case user != "":
		return []string{user}, f.forPerson(ctx, who, user)
	}
	names := []string{who.Name}
	if !leads(who, who.Group) {
		return names, nil
	}
	members, err := f.People.Users(ctx, who.Group)
	for _, u := range members {
		if u.Name != who.Name && u.Group == who.Group {
			names = append(names, u.Name)
		}
	}
	return names, err
}

// newest returns the part that q asks for of the jobs of these people that may be shown, and how many there are in all.
func (f *Face) newest(ctx context.Context, who identity.Person, names []string, q job.ListQuery) ([]job.Job, int, error) {
	if who.Role == identity.Operator || len(names) == 1 && names[0] == who.Name {
		return f.Queue.ListAll(ctx, q, names[0])
	}
	var all []job.Job
	total := 0
	page, most := q, q.Offset+q.Limit
	page.Limit = most
	for _, name := range names {
		found := 0
		for page.Offset = 0; found < most; page.Offset += page.Limit {
			list, n, err := f.Queue.ListAll(ctx, page, name)
			if err != nil {
				return nil, 0, err
			}
			if page.Offset == 0 {
				total += n
			}
			for _, j := range list {
				if sees(who, j) { // not what somebody did before they joined the group
					all = append(all, j)
					found++
				} else {
					total--
				}
			}
			if len(list) < page.Limit {
				break
			}
		}
	}
	slices.SortFunc(all, func(x, y job.Job) int { return cmp.Compare(y.Seq, x.Seq) })
	all = slices.CompactFunc(all, func(x, y job.Job) bool { return x.ID == y.ID }) // pages move while they are read
	all = all[min(q.Offset, len(all)):]
	return all[:min(q.Limit, len(all))], total, nil
}

// whole returns a job with its attempts.
func (f *Face) whole(ctx context.Context, j job.Job) (Job, error) {
	out := f.shape(ctx, j)
	tries, err := f.Queue.Tries(ctx, j.ID)
	if err != nil {
		return Job{}, err
	}
	last := 0
	for _, t := range tries {
		last = max(last, t.N)
		out.Attempts = append(out.Attempts, Attempt{
			N: t.N, BackEnd: t.BackEnd, Began: When(t.Began), Ended: When(t.Ended), Posted: t.Posted, Cause: t.Cause, Reason: t.Reason,
		})
	}
	if a := j.Attempt; a.N > last && (a.Posted || j.State.Final()) { // the last one, of which the job itself tells
		one := Attempt{N: a.N, BackEnd: a.BackEnd, Posted: true, Ended: When(j.Finished)}
		if len(tries) == 0 {
			one.Began = When(j.Started)
		}
		switch j.State {
		case job.Completed:
			one.Cause = job.CauseDone
		case job.Failed:
			one.Cause, one.Reason = job.CauseGraph, j.Error
		case job.Cancelled:
			one.Cause = job.CauseStopped
		}
		out.Attempts = append(out.Attempts, one)
	}
	return out, nil
}

// shape returns a job as the interface shows it.
func (f *Face) shape(ctx context.Context, j job.Job) Job { return f.shapes(ctx, []job.Job{j})[0] }

// shapes returns jobs as the interface shows them: a staged job waits.
func (f *Face) shapes(ctx context.Context, list []job.Job) []Job {
	out := make([]Job, 0, len(list))
	var waiting []job.ID
	for _, j := range list {
		one := Job{
			ID: j.ID, User: j.User, Group: j.Group, PromptID: j.PromptID, State: j.State, Class: j.Class, Held: j.Held,
			Created: j.Created, Started: When(j.Started), Finished: When(j.Finished),
			Attempt: j.Attempt.N, BackEnd: j.Attempt.BackEnd, Stopping: j.Stop && !j.State.Final(), Error: j.Error,
			Deadline: When(j.Deadline), Late: j.Late(time.Now()),
		}
		if j.State == job.Running && !j.Attempt.Posted {
			one.State, one.Staged = job.Pending, true
		}
		if one.State == job.Pending {
			waiting = append(waiting, j.ID)
			if !one.Staged {
				one.BackEnd = "" // of an attempt that is over
			}
		}
		out = append(out, one)
	}
	if len(waiting) == 0 {
		return out
	}
	places := f.Queue.Places(ctx, waiting)
	for i := range out {
		if p, ok := places[out[i].ID]; ok {
			out[i].setPlace(p)
		}
	}
	return out
}

func (j *Job) setPlace(p event.Place) {
	j.Position, j.Code, j.Why = p.Position, p.Code, p.Reason
	if p.To > 0 {
		j.Wait = &Band{From: p.From, To: p.To}
	}
}
