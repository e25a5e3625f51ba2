package api_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/api"
)

func (f *fake) Deployments(context.Context) ([]api.Deployment, error) {
	return []api.Deployment{{Name: "h200", Status: "healthy"}}, nil
}

func (f *fake) Deployment(_ context.Context, name string) (api.DeploymentDetail, error) {
	if name != "h200" {
		return api.DeploymentDetail{}, missing("deployment " + name)
	}
	return api.DeploymentDetail{Deployment: api.Deployment{Name: name}}, nil
}

func (f *fake) Scale(ctx context.Context, name string, ch api.ScaleChange) (api.DeploymentDetail, error) {
	text, err := json.Marshal(ch)
	if err != nil {
		return api.DeploymentDetail{}, err
	}
	if err := f.note("scale", name, string(text)); err != nil {
		return api.DeploymentDetail{}, err
	}
	return f.Deployment(ctx, name)
}

func (f *fake) Act(_ context.Context, name, action string) error { return f.note(action, name) }

func (f *fake) Variables(context.Context, string) ([]api.Variable, error) {
	return []api.Variable{}, nil
}

func (f *fake) ChangeVariables(_ context.Context, name string, ch api.VariableChange) ([]api.Variable, error) {
	return []api.Variable{}, f.note("variables", name, ch.Set["A"], ch.Secrets["B"], strings.Join(ch.Remove, "+"))
}

func (f *fake) Replicas(context.Context, string) ([]api.Replica, error) { return []api.Replica{}, nil }

func (f *fake) Available(context.Context) ([]api.ComputeResource, error) {
	return []api.ComputeResource{}, nil
}

func (f *fake) Drift(_ context.Context, like string, apply bool) (api.Drift, error) {
	out := api.Drift{Deployments: []string{like}, Findings: []api.DriftFinding{}, Changes: []api.DriftChange{{Body: json.RawMessage(`{}`), Done: apply}}}
	if apply {
		return out, f.note("drift", like)
	}
	return out, nil
}

// verdaCalls are for operators only: nobody else sees deployments, or spends money by them. See TestWhoMayDoWhat.
var verdaCalls = map[string]struct {
	path, body string
	ok         int
}{
	"GET /verda/deployments":                    {"/verda/deployments", "", 200},
	"GET /verda/deployments/{name}":             {"/verda/deployments/h200", "", 200},
	"PATCH /verda/deployments/{name}/scaling":   {"/verda/deployments/h200/scaling", `{"min": 1}`, 200},
	"POST /verda/deployments/{name}/{action}":   {"/verda/deployments/h200/restart", "", 204},
	"GET /verda/deployments/{name}/replicas":    {"/verda/deployments/h200/replicas", "", 200},
	"GET /verda/deployments/{name}/variables":   {"/verda/deployments/h200/variables", "", 200},
	"PATCH /verda/deployments/{name}/variables": {"/verda/deployments/h200/variables", `{"set": {"A": "1"}}`, 200},
	"GET /verda/resources":                      {"/verda/resources", "", 200},
	"GET /verda/drift":                          {"/verda/drift", "", 200},
	"POST /verda/drift":                         {"/verda/drift?like=h200", "", 200},
}

func TestVerdaRequests(t *testing.T) {
	t.Parallel()
	f, fake := face(t)
	for _, c := range []struct {
		method, path, body string
		want               int
		done               string
	}{
		{"PATCH", "/verda/deployments/a%2Fb/scaling", `{"min": 1, "scale_down_delay_seconds": 60}`, 404, `scale a/b {"min":1,"scale_down_delay_seconds":60}`},
		{"PATCH", "/verda/deployments/h200/scaling", `{"min": -1}`, 422, ""},
		{"PATCH", "/verda/deployments/h200/scaling", `{"mim": 1}`, 422, ""},
		{"POST", "/verda/deployments/h200/delete", "", 422, ""},
		{"POST", "/verda/deployments/h200/purge", "", 204, "purge h200"},
		{"PATCH", "/verda/deployments/h200/variables", `{"set": {"A": "1"}, "secrets": {"B": "key"}, "remove": ["C", "D"]}`, 200, "variables h200 1 key C+D"},
		{"POST", "/verda/drift?like=h200", "", 200, "drift h200"},
	} {
		fake.done = nil
		if w := ask(f, "olu", c.method, v1+c.path, c.body); w.Code != c.want {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, w.Code, c.want, w.Body)
		}
		if got := strings.Join(fake.done, "; "); got != c.done {
			t.Errorf("%s %s: %q, want %q", c.method, c.path, got, c.done)
		}
	}
}
