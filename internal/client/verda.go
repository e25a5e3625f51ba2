package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/ahelme/comfyume/internal/api"
)

// Verda asks a studio about its provider of serverless containers. It is api.Verda over the interface.
type Verda struct{ c *Client }

var _ api.Verda = Verda{}

// Verda returns what asks about the provider of serverless containers.
func (c *Client) Verda() Verda { return Verda{c} }

func deployment(name, more string) string {
	return "/verda/deployments/" + url.PathEscape(name) + more
}

// Deployments returns all deployments.
func (v Verda) Deployments(ctx context.Context) (list []api.Deployment, err error) {
	return list, v.c.call(ctx, http.MethodGet, "/verda/deployments", nil, nil, &list)
}

// Deployment returns all that is known of one.
func (v Verda) Deployment(ctx context.Context, name string) (d api.DeploymentDetail, err error) {
	return d, v.c.call(ctx, http.MethodGet, deployment(name, ""), nil, nil, &d)
}

// Scale changes how a deployment scales.
func (v Verda) Scale(ctx context.Context, name string, ch api.ScaleChange) (d api.DeploymentDetail, err error) {
	return d, v.c.call(ctx, http.MethodPatch, deployment(name, "/scaling"), nil, ch, &d)
}

// Act pauses, resumes or restarts a deployment, or purges its queue.
func (v Verda) Act(ctx context.Context, name, action string) error {
	return v.c.call(ctx, http.MethodPost, deployment(name, "/"+url.PathEscape(action)), nil, nil, nil)
}

// Variables returns a deployment's environment.
func (v Verda) Variables(ctx context.Context, name string) (list []api.Variable, err error) {
	return list, v.c.call(ctx, http.MethodGet, deployment(name, "/variables"), nil, nil, &list)
}

// ChangeVariables changes a deployment's environment.
func (v Verda) ChangeVariables(ctx context.Context, name string, ch api.VariableChange) (list []api.Variable, err error) {
	return list, v.c.call(ctx, http.MethodPatch, deployment(name, "/variables"), nil, ch, &list)
}

// Replicas returns a deployment's containers.
func (v Verda) Replicas(ctx context.Context, name string) (list []api.Replica, err error) {
	return list, v.c.call(ctx, http.MethodGet, deployment(name, "/replicas"), nil, nil, &list)
}

// Available returns the kinds of GPUs.
func (v Verda) Available(ctx context.Context) (list []api.ComputeResource, err error) {
	return list, v.c.call(ctx, http.MethodGet, "/verda/resources", nil, nil, &list)
}

// Drift compares deployments, and changes them where apply says so.
func (v Verda) Drift(ctx context.Context, like string, apply bool) (d api.Drift, err error) {
	method := http.MethodGet
	if apply {
		method = http.MethodPost
	}
	return d, v.c.call(ctx, method, "/verda/drift", only("like", like), nil, &d)
}
