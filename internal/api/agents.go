package api

import (
	"context"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/identity"
)

// Agents is who may dial home.
type Agents interface {
	Agents(ctx context.Context) ([]Agent, error)
	// NewCode makes a one-time code by which an agent joins as the back end of that name; the zero life is an hour.
	NewCode(ctx context.Context, name, by string, life time.Duration) (AgentCode, error)
	// Revoke ends an agent's key, and its line at once.
	Revoke(ctx context.Context, name string) error
}

// Agent is one that has joined.
type Agent struct {
	Name     string     `json:"name" doc:"of the back end"`
	Online   bool       `json:"online"`
	Away     string     `json:"away,omitempty" doc:"why it is away"`
	Machine  string     `json:"machine" doc:"as the agent says"`
	OS       string     `json:"os"`
	Version  string     `json:"version"`
	From     string     `json:"from,omitempty" doc:"network address"`
	ClockOff float64    `json:"clock_off,omitempty" doc:"seconds by which its clock is ahead of the studio's"`
	By       string     `json:"by" doc:"who made its code"`
	Joined   time.Time  `json:"joined"`
	Seen     *time.Time `json:"seen,omitempty"`
}

// AgentCode is a one-time code for an agent.
type AgentCode struct {
	Name    string    `json:"name"`
	Code    string    `json:"code" doc:"shown once"`
	Expires time.Time `json:"expires"`
}

func (f *Face) agents() {
	on(f, route{http.MethodGet, "/agents", "list-agents", "Agents that have joined", staff, 0},
		func(ctx context.Context, _ identity.Person, _ *struct{}) (*body[[]Agent], error) {
			return answer(f.Agents.Agents(ctx))
		})
	on(f, route{http.MethodPost, "/backends/{name}/code", "new-agent-code", "Make a one-time code by which an agent joins as a back end", operators, http.StatusCreated},
		func(ctx context.Context, who identity.Person, in *struct {
			Name    string `path:"name"`
			Minutes int    `query:"minutes" minimum:"0" maximum:"10080" doc:"how long it lives; 0: an hour"`
		},
		) (*body[AgentCode], error) {
			return answer(f.Agents.NewCode(ctx, in.Name, who.Name, time.Duration(in.Minutes)*time.Minute))
		})
	on(f, route{http.MethodDelete, "/agents/{name}", "revoke-agent", "End an agent's key, and its line at once", operators, http.StatusNoContent},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name string `path:"name"`
		},
		) (*empty, error) {
			return done(f.Agents.Revoke(ctx, in.Name))
		})
}
