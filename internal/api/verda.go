package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/identity"
)

// Verda is the control interface of a provider of serverless containers, for operators. Names are those of deployments,
// or of the back ends that use them. No secret is in anything that it returns.
type Verda interface {
	Deployments(ctx context.Context) ([]Deployment, error)
	Deployment(ctx context.Context, name string) (DeploymentDetail, error)
	Scale(ctx context.Context, name string, ch ScaleChange) (DeploymentDetail, error)
	// Act pauses, resumes or restarts a deployment, or purges its queue: pause, resume, restart, purge.
	Act(ctx context.Context, name, action string) error
	Variables(ctx context.Context, name string) ([]Variable, error)
	ChangeVariables(ctx context.Context, name string, ch VariableChange) ([]Variable, error)
	Replicas(ctx context.Context, name string) ([]Replica, error)
	Available(ctx context.Context) ([]ComputeResource, error)
	// Drift compares the studio's deployments with its settings and each other; like names the one that is right, and
	// apply makes the changes.
	Drift(ctx context.Context, like string, apply bool) (Drift, error)
}

// Deployment is a set of equal containers at a provider.
type Deployment struct {
	Name      string  `json:"name"`
	BackEnd   string  `json:"back_end,omitempty" doc:"that uses it"`
	Status    string  `json:"status" doc:"initializing, healthy, degraded, unhealthy, paused, quota_reached, image_pulling or version_updating"`
	GPU       string  `json:"gpu"`
	GPUs      int     `json:"gpus" doc:"of a container"`
	Spot      bool    `json:"spot"`
	Image     string  `json:"image"`
	Endpoint  string  `json:"endpoint"`
	Replicas  int     `json:"replicas" doc:"containers that run or start"`
	Min       int     `json:"min" doc:"containers that are always awake"`
	Max       int     `json:"max"`
	PerHour   float64 `json:"price_per_hour,omitempty" doc:"of a container, by the settings"`
	AwakeCost float64 `json:"awake_per_hour,omitempty" doc:"what the minimum costs in an hour"`
	Trouble   string  `json:"trouble,omitempty" doc:"why something of this is not known"`
}

// DeploymentDetail is all that is known of a deployment.
type DeploymentDetail struct {
	Deployment
	Concurrent int        `json:"concurrent_requests_per_replica"`
	TTL        int        `json:"queue_message_ttl_seconds"`
	Up         int        `json:"scale_up_delay_seconds"`
	Down       int        `json:"scale_down_delay_seconds"`
	Command    []string   `json:"command" nullable:"false" doc:"what may be a secret is ***"`
	Mounts     []string   `json:"mounts" nullable:"false"`
	Running    []Replica  `json:"running" nullable:"false"`
	Variables  []Variable `json:"variables" nullable:"false"`
	Raised     string     `json:"raised,omitempty" doc:"what the studio's plan keeps awake now, as a sentence"`
}

// Replica is a container that runs or starts.
type Replica struct {
	ID      string    `json:"id"`
	Status  string    `json:"status"`
	Started time.Time `json:"started"`
}

// Variable is a variable of a container's environment.
type Variable struct {
	Container string `json:"container,omitempty"`
	Name      string `json:"name"`
	Value     string `json:"value,omitempty" doc:"*** where it may be a secret"`
	Secret    string `json:"secret,omitempty" doc:"name of the secret that it refers to"`
	InClear   bool   `json:"in_clear,omitempty" doc:"a secret that stands in clear"`
}

// ComputeResource is a kind of GPU.
type ComputeResource struct {
	GPU       string `json:"gpu"`
	GPUs      int    `json:"gpus"`
	Available bool   `json:"available" doc:"containers with it are to be had right now"`
}

// ScaleChange changes what is not null.
type ScaleChange struct {
	Min        *int `json:"min,omitempty" minimum:"0"`
	Max        *int `json:"max,omitempty" minimum:"1"`
	Concurrent *int `json:"concurrent_requests_per_replica,omitempty" minimum:"1"`
	TTL        *int `json:"queue_message_ttl_seconds,omitempty" minimum:"1"`
	Up         *int `json:"scale_up_delay_seconds,omitempty" minimum:"0"`
	Down       *int `json:"scale_down_delay_seconds,omitempty" minimum:"0"`
}

// VariableChange changes variables of one container.
type VariableChange struct {
	Container string            `json:"container,omitempty" doc:"the first one where nothing is said"`
	Set       map[string]string `json:"set,omitempty" doc:"NAME: VALUE; nothing that is a secret"`
	Secrets   map[string]string `json:"secrets,omitempty" doc:"NAME: NAME OF A SECRET at the provider"`
	Remove    []string          `json:"remove,omitempty"`
}

// Drift is how deployments differ from what the settings ask for and from each other.
type Drift struct {
	Deployments []string       `json:"deployments" nullable:"false" doc:"that were compared"`
	Findings    []DriftFinding `json:"findings" nullable:"false"`
	Changes     []DriftChange  `json:"changes" nullable:"false"`
}

// DriftFinding is one difference.
type DriftFinding struct {
	Deployment string `json:"deployment"`
	BackEnd    string `json:"back_end"`
	What       string `json:"what"`
	Have       string `json:"have,omitempty" doc:"empty: it lacks it"`
	Want       string `json:"want,omitempty" doc:"empty: nobody decides"`
	Why        string `json:"why" doc:"who decides"`
	Says       string `json:"says" doc:"all of it as a sentence"`
	Remedy     string `json:"remedy,omitempty"`
	Applies    bool   `json:"applies" doc:"a change takes it away"`
}

// DriftChange takes differences of a deployment away.
type DriftChange struct {
	Deployment string          `json:"deployment"`
	Request    string          `json:"request" doc:"method and path at the provider"`
	Body       json.RawMessage `json:"body" doc:"what may be a secret is ***, and is sent as it is"`
	Restarts   bool            `json:"restarts" doc:"containers are replaced"`
	Done       bool            `json:"done"`
}

// named is a request about one deployment.
type named struct {
	Name string `path:"name" doc:"of the deployment, or of the back end that uses it"`
}

// verda registers what operators ask of the provider of serverless containers.
func (f *Face) verda() {
	const base = "/verda/deployments"
	on(f, route{http.MethodGet, base, "list-deployments", "Deployments at Verda", operators, 0},
		func(ctx context.Context, _ identity.Person, _ *struct{}) (*body[[]Deployment], error) {
			return answer(f.Verda.Deployments(ctx))
		})
	on(f, route{http.MethodGet, base + "/{name}", "get-deployment", "A deployment with scaling, replicas and environment", operators, 0},
		func(ctx context.Context, _ identity.Person, in *named) (*body[DeploymentDetail], error) {
			return answer(f.Verda.Deployment(ctx, in.Name))
		})
	on(f, route{http.MethodPatch, base + "/{name}/scaling", "scale-deployment", "Change how a deployment scales", operators, 0},
		func(ctx context.Context, who identity.Person, in *struct {
			Name string `path:"name"`
			Body ScaleChange
		},
		) (*body[DeploymentDetail], error) {
			f.log.InfoContext(ctx, "verda", "do", "scale", "deployment", in.Name, "by", who.Name)
			return answer(f.Verda.Scale(ctx, in.Name, in.Body))
		})
	on(f, route{http.MethodPost, base + "/{name}/{action}", "act-on-deployment", "Pause, resume or restart a deployment, or purge its queue", operators, http.StatusNoContent},
		func(ctx context.Context, who identity.Person, in *struct {
			Name   string `path:"name"`
			Action string `path:"action" enum:"pause,resume,restart,purge"`
		},
		) (*empty, error) {
			f.log.InfoContext(ctx, "verda", "do", in.Action, "deployment", in.Name, "by", who.Name)
			return done(f.Verda.Act(ctx, in.Name, in.Action))
		})
	on(f, route{http.MethodGet, base + "/{name}/replicas", "list-replicas", "Containers that run or start", operators, 0},
		func(ctx context.Context, _ identity.Person, in *named) (*body[[]Replica], error) {
			return answer(f.Verda.Replicas(ctx, in.Name))
		})
	on(f, route{http.MethodGet, base + "/{name}/variables", "list-variables", "Environment of a deployment, without secrets", operators, 0},
		func(ctx context.Context, _ identity.Person, in *named) (*body[[]Variable], error) {
			return answer(f.Verda.Variables(ctx, in.Name))
		})
	on(f, route{http.MethodPatch, base + "/{name}/variables", "change-variables", "Change the environment of a deployment", operators, 0},
		func(ctx context.Context, who identity.Person, in *struct {
			Name string `path:"name"`
			Body VariableChange
		},
		) (*body[[]Variable], error) {
			f.log.InfoContext(ctx, "verda", "do", "variables", "deployment", in.Name, "by", who.Name)
			return answer(f.Verda.ChangeVariables(ctx, in.Name, in.Body))
		})
	on(f, route{http.MethodGet, "/verda/resources", "list-resources", "Kinds of GPUs, and whether they are to be had right now", operators, 0},
		func(ctx context.Context, _ identity.Person, _ *struct{}) (*body[[]ComputeResource], error) {
			return answer(f.Verda.Available(ctx))
		})
	f.drift()
}

func (f *Face) drift() {
	type like struct {
		Like string `query:"like" doc:"the deployment that is right"`
	}
	on(f, route{http.MethodGet, "/verda/drift", "get-drift", "How deployments differ from the settings and from each other", operators, 0},
		func(ctx context.Context, _ identity.Person, in *like) (*body[Drift], error) {
			return answer(f.Verda.Drift(ctx, in.Like, false))
		})
	on(f, route{http.MethodPost, "/verda/drift", "apply-drift", "Take the differences away where a change can", operators, 0},
		func(ctx context.Context, who identity.Person, in *like) (*body[Drift], error) {
			f.log.InfoContext(ctx, "verda", "do", "drift", "by", who.Name)
			return answer(f.Verda.Drift(ctx, in.Like, true))
		})
}
