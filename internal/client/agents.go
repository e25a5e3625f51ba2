package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ahelme/comfyume/internal/api"
)

// Agents returns the agents that have joined.
func (c *Client) Agents(ctx context.Context) (list []api.Agent, err error) {
	return list, c.call(ctx, http.MethodGet, "/agents", nil, nil, &list)
}

// NewAgentCode makes a one-time code by which an agent joins as a back end; the zero life is the studio's default.
func (c *Client) NewAgentCode(ctx context.Context, name string, life time.Duration) (code api.AgentCode, err error) {
	minutes := url.Values{"minutes": {strconv.Itoa(int((life + time.Minute - 1) / time.Minute))}}
	return code, c.call(ctx, http.MethodPost, "/backends/"+url.PathEscape(name)+"/code", minutes, nil, &code)
}

// RevokeAgent ends an agent's key.
func (c *Client) RevokeAgent(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/agents/"+url.PathEscape(name), nil, nil, nil)
}
