package api

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

type scopePath struct {
	Scope string `path:"scope" doc:"all, group:NAME or backend:NAME"`
}

func (f *Face) queues() {
	on(f, route{http.MethodGet, "/queue", "queue", "The queue at a glance", anyone, 0},
		func(ctx context.Context, who identity.Person, _ *struct{}) (*body[QueueState], error) {
			return answer(f.queue(ctx, who))
		})
	on(f, route{http.MethodGet, "/queue/export", "export-queue", "The whole queue for a studio with another store, as lines of JSON", operators, 0},
		func(_ context.Context, _ identity.Person, _ *struct{}) (*huma.StreamResponse, error) {
			return &huma.StreamResponse{Body: f.exportQueue}, nil
		})
	on(f, route{http.MethodPut, "/queue/mode", "set-queue-mode", "Change how the queue chooses between people", operators, 0},
		func(ctx context.Context, who identity.Person, in *body[QueueMode]) (*body[QueueState], error) {
			if err := f.Queue.SetMode(ctx, in.Body.Mode); err != nil {
				return nil, err
			}
			return answer(f.queue(ctx, who))
		})
	on(f, route{http.MethodPut, "/queue/pauses/{scope}", "pause-queue", "Let nothing start: at all, of a group, on a back end", operators, 0},
		func(ctx context.Context, who identity.Person, in *struct {
			Scope string `path:"scope" doc:"all, group:NAME or backend:NAME"`
			Body  PauseReason
		},
		) (*body[QueueState], error) {
			if err := f.knownScope(ctx, in.Scope); err != nil {
				return nil, err
			}
			if err := f.Queue.Pause(ctx, in.Scope, strings.TrimSpace(in.Body.Reason), who.Name); err != nil {
				return nil, err
			}
			return answer(f.queue(ctx, who))
		})
	on(f, route{http.MethodDelete, "/queue/pauses/{scope}", "resume-queue", "Let go on what was paused", operators, 0},
		func(ctx context.Context, who identity.Person, in *scopePath) (*body[QueueState], error) {
			if !slices.ContainsFunc(f.Queue.Pauses(), func(p Pause) bool { return p.Scope == in.Scope }) {
				return nil, fault.New(fault.Missing, "Nothing is paused as %q.", in.Scope).WithRemedy("See what is with: comfyume queue show")
			}
			if err := f.Queue.Resume(ctx, in.Scope); err != nil {
				return nil, err
			}
			return answer(f.queue(ctx, who))
		})
}

// exportQueue streams the queue. What can't be finished is cut, so that nobody takes it for whole.
func (f *Face) exportQueue(c huma.Context) {
	c.SetHeader("Content-Type", "application/x-ndjson")
	c.SetHeader("Content-Disposition", `attachment; filename="queue.ndjson"`)
	if err := f.Queue.Export(c.Context(), c.BodyWriter()); err != nil {
		f.log.LogAttrs(c.Context(), slog.LevelError, "the export was cut short", slog.Any("err", err))
		panic(http.ErrAbortHandler)
	}
}

// The scopes of a pause.
const (
	ScopeAll     = "all"
	ScopeGroup   = "group:"
	ScopeBackEnd = "backend:"
)

// knownScope reports whether there is what is to be paused: a name with a slip of the pen would pause nothing.
func (f *Face) knownScope(ctx context.Context, scope string) error {
	if scope == ScopeAll {
		return nil
	}
	if name, ok := strings.CutPrefix(scope, ScopeGroup); ok {
		return f.knownGroup(ctx, name)
	}
	if name, ok := strings.CutPrefix(scope, ScopeBackEnd); ok {
		if slices.ContainsFunc(f.Fleet.BackEnds(), func(b BackEnd) bool { return b.Name == name }) {
			return nil
		}
		return fault.New(fault.Missing, "There is no back end %s.", name).WithRemedy("See which there are with: comfyume backend list")
	}
	return fault.New(fault.Invalid, "%q is nothing that can be paused.", scope).WithRemedy("Use all, group:NAME or backend:NAME.")
}

// knownGroup reports whether there is a group.
func (f *Face) knownGroup(ctx context.Context, name string) error {
	groups, err := f.People.Groups(ctx)
	if err != nil || slices.ContainsFunc(groups, func(g Group) bool { return g.Name == name }) {
		return err
	}
	return fault.New(fault.Missing, "There is no group %s.", name).WithRemedy("See which there are with: comfyume group list")
}

// queue returns the queue as the person may see it: participants their own part, instructors beside all counts the people of
// their group.
func (f *Face) queue(ctx context.Context, who identity.Person) (QueueState, error) {
	out := QueueState{Mode: f.Queue.Mode(), Pauses: f.pauses(who), Counts: f.Queue.Counts(), Users: []Load{}}
	open := f.Queue.CountsByUser()
	if own := who.Name; !isStaff(who) {
		var err error
		if out.Counts, err = f.ownCounts(ctx, own, open[own]); err != nil {
			return QueueState{}, err
		}
		out.Users = append(out.Users, f.load(own, who.Group, open[own]))
		return out, nil
	}
	people, err := f.People.Users(ctx, "")
	if err != nil {
		return QueueState{}, err
	}
	budget := f.Studio.Budget(ctx, who.Group, who.Role == identity.Operator)
	out.Budget = &budget
	groups := make(map[string]string, len(people))
	for _, u := range people {
		groups[u.Name] = u.Group
	}
	for name, c := range open {
		if name != who.Name && !leads(who, groups[name]) {
			continue
		}
		out.Users = append(out.Users, f.load(name, groups[name], c))
	}
	slices.SortFunc(out.Users, func(a, b Load) int { return cmp.Compare(a.User, b.User) })
	return out, nil
}

// ownCounts adds to a person's open jobs those that are over.
func (f *Face) ownCounts(ctx context.Context, user string, counts job.Counts) (job.Counts, error) {
	for state, count := range map[job.State]*int{
		job.Completed: &counts.Completed, job.Failed: &counts.Failed, job.Cancelled: &counts.Cancelled,
	} {
		_, total, err := f.Queue.ListAll(ctx, job.ListQuery{States: []job.State{state}, Limit: 1}, user)
		if err != nil {
			return job.Counts{}, err
		}
		*count = total
	}
	return counts, nil
}

func (f *Face) load(user, group string, c job.Counts) Load {
	person, all := f.Queue.Weights(user, group)
	return Load{User: user, Group: group, Pending: c.Pending, Running: c.Running, Weight: person, GroupWeight: all}
}

// pauses returns what is paused, to participants what keeps them waiting, without who did it.
func (f *Face) pauses(who identity.Person) []Pause {
	out := []Pause{}
	for _, p := range f.Queue.Pauses() {
		if !isStaff(who) {
			if p.Scope != ScopeAll && (who.Group == "" || p.Scope != ScopeGroup+who.Group) {
				continue
			}
			p.By = ""
		}
		out = append(out, p)
	}
	return out
}
