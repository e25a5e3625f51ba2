package app

import (
	"context"
	"slices"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/gateway"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// queueFace is the queue as the interface wants it, with what only the dispatcher and the settings know.
type queueFace struct {
	*queue.Service
	s *Studio
}

func pauseOf(p queue.Pause) api.Pause {
	return api.Pause{Scope: p.Scope, Reason: p.Reason, By: p.By, Since: p.Since}
}

func (q queueFace) Pauses() []api.Pause {
	list := make([]api.Pause, 0)
	for _, p := range q.Service.Pauses() {
		list = append(list, pauseOf(p))
	}
	return list
}

func (q queueFace) Pause(ctx context.Context, scope, reason, by string) error {
	return q.Service.Pause(ctx, queue.Pause{Scope: scope, Reason: reason, By: by, On: true})
}

func (q queueFace) Resume(ctx context.Context, scope string) error {
	return q.Service.Pause(ctx, queue.Pause{Scope: scope})
}

func (q queueFace) Weights(user, group string) (person, all float64) {
	return weight(q.s.cfg.Queue.Weights.Users, user), weight(q.s.cfg.Queue.Weights.Groups, group)
}

func weight(of map[string]float64, name string) float64 {
	if w, ok := of[name]; ok {
		return w
	}
	return 1
}

func (q queueFace) Places(ctx context.Context, ids []job.ID) map[job.ID]event.Place {
	return q.s.places(ctx, ids)
}

// places says where waiting jobs stand, as the dispatcher has it.
func (s *Studio) places(ctx context.Context, ids []job.ID) map[job.ID]event.Place {
	out := make(map[job.ID]event.Place, len(ids))
	for _, id := range ids {
		if place, ok := s.placeOf(ctx, id); ok {
			out[id] = place
		}
	}
	return out
}

// placeOf says where a waiting job stands; not ok: it went on meanwhile, or the studio stops.
func (s *Studio) placeOf(ctx context.Context, id job.ID) (event.Place, bool) {
	if d := s.dispatch.Load(); d != nil {
		place, why, err := d.Why(ctx, id)
		place.Code, place.Reason = why.Code, why.Sentence
		return place, err == nil
	}
	if s.server == nil {
		return event.Place{Code: "no_server", Reason: "No server runs."}, true
	}
	j, err := s.queue.Get(ctx, id)
	if err != nil {
		return event.Place{}, false
	}
	if place, ok := s.server.place(j.User, id); ok {
		return place, true
	}
	return event.Place{Code: "not_told", Reason: "It waits for the server that gives jobs to GPUs."}, true
}

// myRuns is a person's open jobs, as their own page shows them.
type myRuns struct{ s *Studio }

// Open implements gateway.Runs.
func (r myRuns) Open(ctx context.Context, user string, limit int) ([]gateway.Run, int, error) {
	open, err := r.s.queue.Open(ctx, user)
	if err != nil {
		return nil, 0, err
	}
	slices.SortStableFunc(open, func(a, b job.Job) int { return stage(a) - stage(b) })
	total := len(open)
	open = open[:min(limit, total)]
	var waiting []job.ID
	for _, j := range open {
		if j.State == job.Pending {
			waiting = append(waiting, j.ID)
		}
	}
	places := r.s.places(ctx, waiting)
	out := make([]gateway.Run, 0, len(open))
	first := true
	for _, j := range open {
		run := gateway.Run{ID: string(j.ID), State: runStates[stage(j)], Where: j.Attempt.BackEnd, Since: j.Created}
		switch run.State {
		case gateway.RunRunning:
			if !j.Started.IsZero() {
				run.Since = j.Started
			}
		case gateway.RunWaiting:
			run.First, first = first, false
			fallthrough
		case gateway.RunHeld:
			p := places[j.ID]
			run.Where, run.Line, run.Wait, run.Why = "", p.Line(), p.Wait(), p.Reason
		}
		out = append(out, run)
	}
	return out, total, nil
}

// runStates are the states by stage.
var runStates = []gateway.RunState{gateway.RunRunning, gateway.RunNext, gateway.RunWaiting, gateway.RunHeld}

func stage(j job.Job) int {
	switch {
	case j.State == job.Running && j.Attempt.Posted:
		return 0
	case j.State == job.Running:
		return 1
	case !j.Held:
		return 2
	}
	return 3
}

// Act implements gateway.Runs.
func (r myRuns) Act(ctx context.Context, user, id string, act gateway.Act) error {
	j, err := r.s.queue.Get(ctx, job.ID(id))
	if err == nil && j.User != user {
		err = fault.New(fault.Missing, "There is no such job.")
	}
	if err != nil {
		return err
	}
	switch act {
	case gateway.ActHold, gateway.ActRelease:
		_, err = r.s.queue.Hold(ctx, j.ID, act == gateway.ActHold)
	case gateway.ActFront:
		_, err = r.s.queue.ToFront(ctx, j.ID)
	case gateway.ActCancel:
		_, err = r.s.queue.Cancel(ctx, j.ID)
	}
	return err
}
