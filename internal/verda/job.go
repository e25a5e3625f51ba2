package verda

import (
	"context"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Job is a deployment whose containers each take one request to its end and then stop: for batches.
type Job struct {
	Name       string      `json:"name"`
	Containers []Container `json:"containers"`
	Endpoint   string      `json:"endpoint_base_url"`
	Created    time.Time   `json:"created_at"`
	Compute    *Compute    `json:"compute,omitempty"`
	Registry   *Registry   `json:"container_registry_settings,omitempty"`
	Scaling    *JobScaling `json:"scaling,omitempty"` // not in every answer; see Client.JobScaling
}

// JobScaling says how many containers of a job deployment run, and for how long.
type JobScaling struct {
	Max      int `json:"max_replica_count"`
	TTL      int `json:"queue_message_ttl_seconds,omitempty"` // a request that waits longer is dropped
	Deadline int `json:"deadline_seconds,omitempty"`          // one that is worked on for longer is stopped
}

// NewJob is what a job deployment is made of.
type NewJob struct {
	Name       string      `json:"name"`
	Registry   *Registry   `json:"container_registry_settings,omitempty"`
	Containers []Container `json:"containers"`
	Compute    Compute     `json:"compute"`
	Scaling    JobScaling  `json:"scaling"`
}

// JobChange changes what is not nil.
type JobChange struct {
	Registry   *Registry   `json:"container_registry_settings,omitempty"`
	Containers []Container `json:"containers,omitempty"`
	Compute    *Compute    `json:"compute,omitempty"`
	Scaling    *JobScaling `json:"scaling,omitempty"`
}

// Jobs returns the job deployments, in short: name, time and GPUs.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	return get[[]Job](ctx, c, request{path: jobs.path, kind: jobs})
}

// Job returns one job deployment.
func (c *Client) Job(ctx context.Context, name string) (Job, error) {
	return read[Job](ctx, c, jobs, name)
}

// CreateJob makes a job deployment. It needs a deadline: a container that hangs would cost for ever.
func (c *Client) CreateJob(ctx context.Context, n NewJob) (j Job, err error) {
	if _, err := segment(jobs.what, n.Name); err != nil {
		return j, err
	}
	if n.Scaling.Deadline < 1 {
		return j, fault.New(fault.Invalid, "The job deployment %s has no deadline_seconds.", n.Name).WithCode("verda_deadline").
			WithRemedy("Say after how many seconds a request is stopped.")
	}
	if err := fixed(n.Containers); err != nil {
		return j, err
	}
	return j, c.call(ctx, request{method: http.MethodPost, path: jobs.path, kind: jobs, name: n.Name, in: n, out: &j, hidden: values(n.Containers)})
}

// ChangeJob changes a job deployment.
func (c *Client) ChangeJob(ctx context.Context, name string, ch JobChange) (j Job, err error) {
	if err := fixed(ch.Containers); err != nil {
		return j, err
	}
	r, err := at(jobs, name)
	if err != nil {
		return j, err
	}
	r.method, r.in, r.out, r.hidden = http.MethodPatch, ch, &j, values(ch.Containers)
	return j, c.call(ctx, r)
}

// DeleteJob deletes a job deployment, and waits for its containers to end up to wait; 0: not at all.
func (c *Client) DeleteJob(ctx context.Context, name string, wait time.Duration) error {
	return c.remove(ctx, jobs, name, wait)
}

// JobStatus returns how a job deployment is.
func (c *Client) JobStatus(ctx context.Context, name string) (string, error) {
	s, err := read[status](ctx, c, jobs, name, "status")
	return s.Status, err
}

// JobScaling returns how a job deployment scales.
func (c *Client) JobScaling(ctx context.Context, name string) (JobScaling, error) {
	return read[JobScaling](ctx, c, jobs, name, "scaling")
}

// PauseJob stops a job deployment from taking requests.
func (c *Client) PauseJob(ctx context.Context, name string) error {
	return c.act(ctx, http.MethodPost, jobs, name, nil, nil, "pause")
}

// ResumeJob ends a pause.
func (c *Client) ResumeJob(ctx context.Context, name string) error {
	return c.act(ctx, http.MethodPost, jobs, name, nil, nil, "resume")
}

// PurgeJob drops the requests that wait.
func (c *Client) PurgeJob(ctx context.Context, name string) error {
	return c.act(ctx, http.MethodPost, jobs, name, nil, nil, "purge-queue")
}
