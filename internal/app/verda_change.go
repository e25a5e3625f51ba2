package app

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/verda"
	"github.com/ahelme/comfyume/internal/verda/drift"
)

// Scale implements api.Verda.
func (f *verdaFace) Scale(ctx context.Context, name string, ch api.ScaleChange) (api.DeploymentDetail, error) {
	c, err := f.ask()
	if err != nil {
		return api.DeploymentDetail{}, err
	}
	change := verda.ScalingChange{Min: ch.Min, Max: ch.Max, Concurrent: ch.Concurrent, TTL: ch.TTL}
	if ch.Up != nil {
		change.Up = &verda.Delay{Seconds: *ch.Up}
	}
	if ch.Down != nil {
		change.Down = &verda.Delay{Seconds: *ch.Down}
	}
	if change == (verda.ScalingChange{}) {
		return api.DeploymentDetail{}, fault.New(fault.Invalid, "Nothing is said that should change.").WithCode("verda_scaling").
			WithRemedy("Name at least one of min, max, concurrent_requests_per_replica, queue_message_ttl_seconds, scale_up_delay_seconds and scale_down_delay_seconds.")
	}
	if _, err := c.ChangeScaling(ctx, f.resolve(name), change); err != nil {
		return api.DeploymentDetail{}, err
	}
	return f.Deployment(ctx, name)
}

// Act implements api.Verda.
func (f *verdaFace) Act(ctx context.Context, name, action string) error {
	c, err := f.ask()
	if err != nil {
		return err
	}
	acts := map[string]func(context.Context, string) error{"pause": c.Pause, "resume": c.Resume, "restart": c.Restart, "purge": c.Purge}
	act, ok := acts[action]
	if !ok {
		return fault.New(fault.Invalid, "There is no action %q.", action).WithCode("verda_action").
			WithRemedy("It is one of %s.", strings.Join(slices.Sorted(maps.Keys(acts)), ", "))
	}
	return act(ctx, f.resolve(name))
}

// Variables implements api.Verda.
func (f *verdaFace) Variables(ctx context.Context, name string) ([]api.Variable, error) {
	c, err := f.ask()
	if err != nil {
		return nil, err
	}
	list, err := c.Environment(ctx, f.resolve(name))
	out := []api.Variable{}
	for _, e := range list {
		out = append(out, variablesOf(e.Container, e.Env)...)
	}
	return out, err
}

// ChangeVariables implements api.Verda. A value that is likely to be a secret is refused: it would stand there in clear
// for everybody who may look at the deployment.
func (f *verdaFace) ChangeVariables(ctx context.Context, name string, ch api.VariableChange) ([]api.Variable, error) {
	c, err := f.ask()
	if err != nil {
		return nil, err
	}
	var vars []verda.Variable
	for _, n := range slices.Sorted(maps.Keys(ch.Set)) {
		v := verda.Variable{Type: verda.Plain, Name: n, Value: ch.Set[n]}
		if v.InClear() {
			return nil, fault.New(fault.Invalid, "The value of %s looks like a secret, and would stand at the provider in clear.", n).WithCode("verda_in_clear").
				WithRemedy("Make a secret of it at Verda, and name that: comfyume backend verda env %s --secret %s=SECRET", name, n)
		}
		vars = append(vars, v)
	}
	for _, n := range slices.Sorted(maps.Keys(ch.Secrets)) {
		vars = append(vars, verda.Variable{Type: verda.Reference, Name: n, Value: ch.Secrets[n]})
	}
	name = f.resolve(name)
	have, err := c.Environment(ctx, name)
	if err != nil {
		return nil, err
	}
	at, err := container(name, ch.Container, have)
	if err != nil {
		return nil, err
	}
	there := func(n string) bool {
		return slices.ContainsFunc(have[at].Env, func(v verda.Variable) bool { return v.Name == n })
	}
	for _, n := range ch.Remove {
		if !there(n) {
			return nil, fault.New(fault.Missing, "The deployment %s has no variable %s.", name, n).WithCode("verda_variable").
				WithRemedy("comfyume backend verda env %s shows what it has.", name)
		}
	}
	fresh, changed := split(vars, there)
	if len(fresh) > 0 {
		err = c.AddVariables(ctx, name, have[at].Container, fresh)
	}
	if err == nil && len(changed) > 0 {
		err = c.ChangeVariables(ctx, name, have[at].Container, changed)
	}
	if err == nil && len(ch.Remove) > 0 {
		err = c.RemoveVariables(ctx, name, have[at].Container, ch.Remove)
	}
	if err != nil {
		return nil, err
	}
	return f.Variables(ctx, name)
}

// split parts variables into those that are new and those that are there.
func split(vars []verda.Variable, there func(string) bool) (fresh, changed []verda.Variable) {
	for _, v := range vars {
		if there(v.Name) {
			changed = append(changed, v)
		} else {
			fresh = append(fresh, v)
		}
	}
	return fresh, changed
}

// container returns which of the containers of a deployment is meant.
func container(deployment, name string, list []verda.Environment) (int, error) {
	var names []string
	for i, e := range list {
		if e.Container == name || name == "" {
			return i, nil
		}
		names = append(names, e.Container)
	}
	return 0, fault.New(fault.Missing, "The deployment %s has no container %q.", deployment, name).WithCode("verda_container").
		WithRemedy("It has %s.", strings.Join(names, ", "))
}

// Drift implements api.Verda.
func (f *verdaFace) Drift(ctx context.Context, like string, apply bool) (api.Drift, error) {
	c, err := f.ask()
	if err != nil {
		return api.Drift{}, err
	}
	expected := f.expected(time.Now())
	if len(expected) == 0 {
		return api.Drift{}, fault.New(fault.Invalid, "No back end of the settings names a deployment at Verda.").WithCode("verda_deployment").
			WithRemedy("Write provider: {name: verda, deployment: NAME} at the back ends that are there.")
	}
	if like != "" {
		like = f.resolve(like)
	}
	report, err := drift.Look(ctx, c, expected, like)
	if err != nil {
		return api.Drift{}, err
	}
	made := 0
	if apply {
		if made, err = report.Apply(ctx, c); err != nil {
			return api.Drift{}, halfDone(err, report.Changes[:made])
		}
	}
	return driftOf(report, made)
}

// halfDone is the error of a change of several deployments that was not made at all of them.
func halfDone(err error, made []drift.Change) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || len(made) == 0 {
		return err
	}
	more := *f
	more.Public += " Done before that:"
	for _, c := range made {
		more.Public += " " + c.Request() + "."
	}
	return &more
}

// expected is what the settings ask of deployments at a time.
func (f *verdaFace) expected(now time.Time) (list []drift.Expected) {
	for _, b := range f.uses() {
		least, _ := config.WarmAt(b.Warm, now)
		list = append(list, drift.Expected{
			BackEnd: b.Name, Deployment: b.Provider.Deployment, Mode: b.Mode, Parallel: b.MaxParallel, Folder: folderOf(b.Storage),
			Least: least, Price: b.PricePerHour,
		})
	}
	return list
}

func driftOf(r drift.Report, made int) (api.Drift, error) {
	out := api.Drift{Deployments: append([]string{}, r.Deployments...), Findings: []api.DriftFinding{}, Changes: []api.DriftChange{}}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, api.DriftFinding{
			Deployment: f.Deployment, BackEnd: f.BackEnd, What: f.What, Have: f.Have, Want: f.Want, Why: f.Why,
			Says: f.Says(), Remedy: f.Remedy, Applies: f.Applies,
		})
	}
	for i, c := range r.Changes {
		body, err := c.Shown()
		if err != nil {
			return out, err
		}
		out.Changes = append(out.Changes, api.DriftChange{
			Deployment: c.Deployment, Request: c.Request(), Body: body, Restarts: c.Restarts, Done: i < made,
		})
	}
	return out, nil
}
