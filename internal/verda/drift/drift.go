// Package drift compares the deployments that a studio uses with what its settings ask of them and with each other,
// names each difference, and makes the change that takes it away.
//
// What is right is decided by the settings where they say it, else by a deployment that is named as the model, else by
// more than half of the deployments. What one has and others lack is named also where nobody decides.
package drift

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/verda"
)

// Expected is what the settings ask of the deployment of one back end.
type Expected struct {
	BackEnd    string
	Deployment string
	Mode       string  // agent, async or plain
	Parallel   int     // runs at the same time
	Folder     string  // where it has to leave outputs: a folder that has to be mounted; empty: none
	Least      int     // containers that the plan keeps awake now
	Price      float64 // of one container, per hour; 0: unknown
}

// Finding is one difference.
type Finding struct {
	Deployment string `json:"deployment"`
	BackEnd    string `json:"back_end"`
	What       string `json:"what"`           // --output-directory, mount /mnt/sfs, variable HF_HOME, image tag, scaling max_replica_count …
	Have       string `json:"have,omitempty"` // empty: it lacks it
	Want       string `json:"want,omitempty"` // empty: nobody decides
	Why        string `json:"why"`            // who decides
	Remedy     string `json:"remedy,omitempty"`
	Applies    bool   `json:"applies"` // the change takes it away
}

// Says returns the finding as a sentence.
func (f Finding) Says() string {
	switch {
	case f.Have == "" && f.Want != "":
		return fmt.Sprintf("%s lacks %s %s (%s).", f.Deployment, f.What, f.Want, f.Why)
	case f.Have == "":
		return fmt.Sprintf("%s lacks %s (%s).", f.Deployment, f.What, f.Why)
	case f.Want == "":
		return fmt.Sprintf("%s has %s %s (%s).", f.Deployment, f.What, f.Have, f.Why)
	default:
		return fmt.Sprintf("%s has %s %s instead of %s (%s).", f.Deployment, f.What, f.Have, f.Want, f.Why)
	}
}

// Change is one request that takes differences of a deployment away.
type Change struct {
	Deployment string
	Restarts   bool                 // its containers are replaced
	scaling    *verda.ScalingChange // nil: the containers are changed
	containers []verda.Container
}

// Request is what the change is sent by.
func (c Change) Request() string {
	path := "/container-deployments/" + url.PathEscape(c.Deployment)
	if c.scaling != nil {
		path += "/scaling"
	}
	return http.MethodPatch + " " + path
}

// Shown returns the body of the request. What may be a secret is *** there.
func (c Change) Shown() (json.RawMessage, error) {
	if c.scaling != nil {
		return json.Marshal(c.scaling)
	}
	shown := verda.DeploymentChange{Containers: copyOf(c.containers)}
	for i := range shown.Containers {
		one := &shown.Containers[i]
		for j, v := range one.Env {
			if v.InClear() {
				one.Env[j].Value = "***"
			}
		}
		if e := one.Entrypoint; e != nil {
			all := verda.ShownArgs(slices.Concat(e.Entrypoint, e.Cmd))
			e.Entrypoint, e.Cmd = all[:len(e.Entrypoint)], all[len(e.Entrypoint):]
		}
	}
	return json.Marshal(shown)
}

// Report is what a comparison found.
type Report struct {
	Deployments []string // that were compared
	Findings    []Finding
	Changes     []Change
}

// Source is where deployments are read.
type Source interface {
	Deployments(ctx context.Context, project string) ([]verda.Deployment, error)
	Scaling(ctx context.Context, name string) (verda.Scaling, error)
}

// Target is where changes are made.
type Target interface {
	ChangeDeployment(ctx context.Context, name string, ch verda.DeploymentChange) (verda.Deployment, error)
	ChangeScaling(ctx context.Context, name string, ch verda.ScalingChange) (verda.Scaling, error)
}

// Look reads the deployments that are expected and compares them. like names the one that is the model; empty: none is.
func Look(ctx context.Context, from Source, expected []Expected, like string) (Report, error) {
	all, err := from.Deployments(ctx, "")
	if err != nil {
		return Report{}, err
	}
	there := map[string]verda.Deployment{}
	names := make([]string, 0, len(all))
	for _, d := range all {
		there[d.Name] = d
		names = append(names, d.Name)
	}
	if _, ok := there[like]; !ok && like != "" {
		return Report{}, fault.New(fault.Missing, "There is no deployment %s at Verda to be the model.", like).WithCode("verda_missing").
			WithRemedy("There are %s.", strings.Join(names, ", "))
	}
	for _, e := range expected {
		if d, ok := there[e.Deployment]; ok && d.Scaling == nil {
			s, err := from.Scaling(ctx, e.Deployment)
			if err != nil {
				return Report{}, err
			}
			d.Scaling = &s
			there[e.Deployment] = d
		}
	}
	return Compare(expected, there, like), nil
}

// Apply makes the changes of a report, one after the other. It returns how many were made; the first that fails ends it.
func (r Report) Apply(ctx context.Context, to Target) (made int, err error) {
	for _, c := range r.Changes {
		if c.scaling != nil {
			_, err = to.ChangeScaling(ctx, c.Deployment, *c.scaling)
		} else {
			_, err = to.ChangeDeployment(ctx, c.Deployment, verda.DeploymentChange{Containers: c.containers})
		}
		if err != nil {
			return made, err
		}
		made++
	}
	return made, nil
}

// Compare compares deployments, by their names, with what is expected and with each other. It changes nothing.
func Compare(expected []Expected, there map[string]verda.Deployment, like string) Report {
	var r Report
	var subjects []*subject
	seen := map[string]bool{}
	for _, e := range expected {
		d, ok := there[e.Deployment]
		switch {
		case !ok:
			r.Findings = append(r.Findings, absent(e, slices.Sorted(maps.Keys(there))))
		case !seen[e.Deployment]: // two back ends may use one
			seen[e.Deployment] = true
			subjects = append(subjects, newSubject(e, d))
		}
	}
	var model *subject
	if d, ok := there[like]; ok {
		model = newSubject(Expected{Deployment: like}, d)
	}
	for _, s := range subjects {
		s.settings(subjects)
	}
	compare(subjects, model)
	for _, s := range subjects {
		r.Deployments = append(r.Deployments, s.have.Name)
		slices.SortStableFunc(s.findings, func(a, b Finding) int { return cmp.Compare(rank(a), rank(b)) })
		r.Findings = append(r.Findings, s.findings...)
		r.Changes = append(r.Changes, s.changes()...)
	}
	return r
}

// rank puts what the settings decide first, and what nobody decides last.
func rank(f Finding) int {
	switch {
	case strings.HasPrefix(f.Why, "settings"):
		return 0
	case f.Want != "":
		return 1
	default:
		return 2
	}
}

func absent(e Expected, names []string) Finding {
	f := Finding{
		Deployment: e.Deployment, BackEnd: e.BackEnd, What: "everything: there is no such deployment",
		Why: "settings: back end " + e.BackEnd, Remedy: "Verda has no deployments for this credential; see whether it belongs to the right project.",
	}
	if len(names) > 0 {
		f.Remedy = "Correct provider.deployment; there are " + strings.Join(names, ", ") + "."
	}
	return f
}

// subject is a deployment under comparison.
type subject struct {
	Expected
	have, want verda.Deployment // as it is, and as it should be
	decided    map[string]bool  // facets that the settings decide
	findings   []Finding
}

func newSubject(e Expected, d verda.Deployment) *subject {
	s := &subject{Expected: e, have: d, want: d, decided: map[string]bool{}}
	s.want.Containers = copyOf(d.Containers)
	if d.Scaling != nil {
		scaling := *d.Scaling
		s.want.Scaling = &scaling
	}
	return s
}

// find notes a difference. apply changes s.want so that it is gone, and reports whether it could.
func (s *subject) find(f Finding, apply func(*verda.Deployment) bool) {
	f.Deployment, f.BackEnd = s.have.Name, s.BackEnd
	if apply != nil {
		f.Applies = apply(&s.want)
	}
	if f.Applies {
		f.Remedy = ""
	} else if f.Remedy == "" {
		f.Remedy = "Change it at Verda or in your OpenTofu files."
	}
	s.findings = append(s.findings, f)
}

// changes are what has to be sent so that s.have becomes s.want: first what replaces no container.
func (s *subject) changes() (list []Change) {
	if a, b := s.have.Scaling, s.want.Scaling; a != nil && text(a) != text(b) {
		change := &verda.ScalingChange{}
		for _, n := range []struct {
			a, b int
			to   **int
		}{{a.Min, b.Min, &change.Min}, {a.Max, b.Max, &change.Max}, {a.TTL, b.TTL, &change.TTL}, {a.Concurrent, b.Concurrent, &change.Concurrent}} {
			if n.a != n.b {
				*n.to = &n.b
			}
		}
		if text(a.Up) != text(b.Up) {
			change.Up = b.Up
		}
		if text(a.Down) != text(b.Down) {
			change.Down = b.Down
		}
		if text(a.Triggers) != text(b.Triggers) {
			change.Triggers = b.Triggers
		}
		list = append(list, Change{Deployment: s.have.Name, scaling: change})
	}
	if text(s.have.Containers) != text(s.want.Containers) {
		list = append(list, Change{Deployment: s.have.Name, Restarts: true, containers: s.want.Containers})
	}
	return list
}

// copyOf copies containers to the ground.
func copyOf(list []verda.Container) []verda.Container {
	var out []verda.Container
	if err := json.Unmarshal([]byte(text(list)), &out); err != nil {
		panic(err) // it was just written
	}
	return out
}

// text is a value as JSON, for comparing.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data
	}
	return string(b)
}
