package verda

import (
	"context"
	"net/http"

	"github.com/ahelme/comfyume/internal/fault"
)

// Scaling says how many containers run, and when more or fewer do.
type Scaling struct {
	Min        int       `json:"min_replica_count"` // 0: it sleeps when nothing is asked of it
	Max        int       `json:"max_replica_count"`
	Down       *Delay    `json:"scale_down_policy,omitempty"`
	Up         *Delay    `json:"scale_up_policy,omitempty"`
	TTL        int       `json:"queue_message_ttl_seconds"`       // a request that waits longer is dropped
	Concurrent int       `json:"concurrent_requests_per_replica"` // requests that one container gets at the same time
	Triggers   *Triggers `json:"scaling_triggers,omitempty"`
}

// Delay is how long a reason to scale has to last.
type Delay struct {
	Seconds int `json:"delay_seconds"`
}

// Triggers are the reasons to scale.
type Triggers struct {
	Queue *QueueLoad   `json:"queue_load,omitempty"`
	CPU   *Utilization `json:"cpu_utilization,omitempty"`
	GPU   *Utilization `json:"gpu_utilization,omitempty"`
}

// QueueLoad is how many requests may wait for each container.
type QueueLoad struct {
	Threshold float64 `json:"threshold"`
}

// Utilization is how busy containers may be.
type Utilization struct {
	Enabled   bool    `json:"enabled"`
	Threshold float64 `json:"threshold,omitempty"`
}

// ScalingChange changes what is not nil.
type ScalingChange struct {
	Min        *int      `json:"min_replica_count,omitempty"`
	Max        *int      `json:"max_replica_count,omitempty"`
	Down       *Delay    `json:"scale_down_policy,omitempty"`
	Up         *Delay    `json:"scale_up_policy,omitempty"`
	TTL        *int      `json:"queue_message_ttl_seconds,omitempty"`
	Concurrent *int      `json:"concurrent_requests_per_replica,omitempty"`
	Triggers   *Triggers `json:"scaling_triggers,omitempty"`
}

// Scaling returns how a deployment scales.
func (c *Client) Scaling(ctx context.Context, name string) (Scaling, error) {
	return read[Scaling](ctx, c, deployments, name, "scaling")
}

// ChangeScaling changes how a deployment scales, and returns how it does then.
func (c *Client) ChangeScaling(ctx context.Context, name string, ch ScalingChange) (s Scaling, err error) {
	if err := ch.check(); err != nil {
		return s, err
	}
	return s, c.act(ctx, http.MethodPatch, deployments, name, ch, &s, "scaling")
}

// check refuses what can't be meant.
func (ch ScalingChange) check() error {
	for field, n := range map[string]*int{
		"min_replica_count": ch.Min, "max_replica_count": ch.Max, "queue_message_ttl_seconds": ch.TTL, "concurrent_requests_per_replica": ch.Concurrent,
	} {
		least := 1
		if field == "min_replica_count" {
			least = 0
		}
		if n != nil && *n < least {
			return fault.New(fault.Invalid, "%s can't be %d.", field, *n).WithCode("verda_scaling").WithRemedy("It is at least %d.", least)
		}
	}
	if ch.Min != nil && ch.Max != nil && *ch.Min > *ch.Max {
		return fault.New(fault.Invalid, "min_replica_count %d is above max_replica_count %d.", *ch.Min, *ch.Max).WithCode("verda_scaling").
			WithRemedy("Raise the maximum too, or lower the minimum.")
	}
	return nil
}
