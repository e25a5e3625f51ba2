package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/job"
)

func jobAt(id job.ID) string { return "/jobs/" + url.PathEscape(string(id)) }

// JobFilter chooses jobs of a list. The zero value is the newest hundred of everybody.
type JobFilter struct {
	User   string
	States []string
	Limit  int
	Offset int
}

// Jobs lists jobs, newest first.
func (c *Client) Jobs(ctx context.Context, f JobFilter) (out api.Jobs, err error) {
	q := url.Values{}
	for _, s := range f.States {
		q.Add("state", s)
	}
	for key, n := range map[string]int{"limit": f.Limit, "offset": f.Offset} {
		if n > 0 {
			q.Set(key, strconv.Itoa(n))
		}
	}
	if f.User != "" {
		q.Set("user", f.User)
	}
	return out, c.call(ctx, http.MethodGet, "/jobs", q, nil, &out)
}

// Job returns one job.
func (c *Client) Job(ctx context.Context, id job.ID) (j api.Job, err error) {
	return j, c.call(ctx, http.MethodGet, jobAt(id), nil, nil, &j)
}

// Cancel takes a waiting job out, or asks a running one to stop.
func (c *Client) Cancel(ctx context.Context, id job.ID) (j api.Job, err error) {
	return j, c.call(ctx, http.MethodPost, jobAt(id)+"/cancel", nil, nil, &j)
}

// Queue returns the queue at a glance.
func (c *Client) Queue(ctx context.Context) (q api.QueueState, err error) {
	return q, c.call(ctx, http.MethodGet, "/queue", nil, nil, &q)
}

// Record returns one job with what it asks for and what it gave.
func (c *Client) Record(ctx context.Context, id job.ID) (r api.Record, err error) {
	return r, c.call(ctx, http.MethodGet, jobAt(id)+"/record", nil, nil, &r)
}

// Hold keeps a waiting job from running, or with on false lets it go.
func (c *Client) Hold(ctx context.Context, id job.ID, on bool) (j api.Job, err error) {
	act := "/release"
	if on {
		act = "/hold"
	}
	return j, c.call(ctx, http.MethodPost, jobAt(id)+act, nil, nil, &j)
}

// ToFront puts a waiting job before its owner's others.
func (c *Client) ToFront(ctx context.Context, id job.ID) (j api.Job, err error) {
	return j, c.call(ctx, http.MethodPost, jobAt(id)+"/front", nil, nil, &j)
}

// SetPriority gives a waiting job another priority.
func (c *Client) SetPriority(ctx context.Context, id job.ID, p job.Class) (j api.Job, err error) {
	return j, c.call(ctx, http.MethodPatch, jobAt(id), nil, api.JobChange{Class: &p}, &j)
}

// SetDeadline says when a waiting job is needed, in RFC 3339; empty: nobody says.
func (c *Client) SetDeadline(ctx context.Context, id job.ID, at string) (j api.Job, err error) {
	return j, c.call(ctx, http.MethodPatch, jobAt(id), nil, api.JobChange{Deadline: &at}, &j)
}

// Retry submits once more what a job that is over asked for, and returns the new job.
func (c *Client) Retry(ctx context.Context, id job.ID) (j api.Job, err error) {
	return j, c.call(ctx, http.MethodPost, jobAt(id)+"/retry", nil, nil, &j)
}

// CancelAll ends all open jobs of one person.
func (c *Client) CancelAll(ctx context.Context, name string) (out api.Cancelled, err error) {
	return out, c.call(ctx, http.MethodDelete, user(name)+"/jobs", nil, nil, &out)
}

// Reorder puts waiting jobs of one person into this order.
func (c *Client) Reorder(ctx context.Context, name string, ids []job.ID) (list []api.Job, err error) {
	return list, c.call(ctx, http.MethodPut, user(name)+"/jobs/order", nil, api.JobOrder{Jobs: ids}, &list)
}

// SetMode changes how the queue chooses between people.
func (c *Client) SetMode(ctx context.Context, mode string) (q api.QueueState, err error) {
	return q, c.call(ctx, http.MethodPut, "/queue/mode", nil, api.QueueMode{Mode: mode}, &q)
}

// Pause lets nothing of a scope start: "all", "group:NAME" or "backend:NAME".
func (c *Client) Pause(ctx context.Context, scope, reason string) (q api.QueueState, err error) {
	return q, c.call(ctx, http.MethodPut, "/queue/pauses/"+url.PathEscape(scope), nil, api.PauseReason{Reason: reason}, &q)
}

// Resume lets go on what was paused.
func (c *Client) Resume(ctx context.Context, scope string) (q api.QueueState, err error) {
	return q, c.call(ctx, http.MethodDelete, "/queue/pauses/"+url.PathEscape(scope), nil, nil, &q)
}

// Me returns who asks.
func (c *Client) Me(ctx context.Context) (m api.Me, err error) {
	return m, c.call(ctx, http.MethodGet, "/me", nil, nil, &m)
}
