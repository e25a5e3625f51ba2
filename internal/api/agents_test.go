package api_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/fault"
)

// fakeAgents is a studio with one agent.
type fakeAgents struct{}

func (fakeAgents) Agents(context.Context) ([]api.Agent, error) {
	return []api.Agent{{Name: "lab-1", Online: true, Joined: made}}, nil
}

func (fakeAgents) NewCode(_ context.Context, name, by string, life time.Duration) (api.AgentCode, error) {
	if name != "lab-1" {
		return api.AgentCode{}, fault.New(fault.Missing, "The settings have no back end “%s”.", name).WithCode("no_backend")
	}
	return api.AgentCode{Name: name, Code: "ABCD-EFGH-JKLM " + by, Expires: made.Add(life)}, nil
}
func (fakeAgents) Revoke(context.Context, string) error { return nil }

func TestCodesAreMadeByWhoAsks(t *testing.T) {
	t.Parallel()
	f, _ := face(t)
	w := ask(f, "olu", "POST", v1+"/backends/lab-1/code?minutes=5", "")
	if w.Code != 201 || !strings.Contains(w.Body.String(), `"ABCD-EFGH-JKLM olu"`) || !strings.Contains(w.Body.String(), `"2026-11-24T08:05:00Z"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for path, want := range map[string]int{"/backends/none/code": 404, "/backends/lab-1/code?minutes=-1": 422, "/backends/lab-1/code?minutes=20000": 422} {
		if w := ask(f, "olu", "POST", v1+path, ""); w.Code != want {
			t.Errorf("%s gave %d, want %d: %s", path, w.Code, want, w.Body)
		}
	}
}
