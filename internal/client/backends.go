package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/fault"
)

func backEnd(name string) string { return "/backends/" + url.PathEscape(name) }

// Budget returns what was spent on GPU sources with a price, and what may be.
func (c *Client) Budget(ctx context.Context) (b api.Budget, err error) {
	return b, c.call(ctx, http.MethodGet, "/budget", nil, nil, &b)
}

// BackEnds returns the GPU sources.
func (c *Client) BackEnds(ctx context.Context) (list []api.BackEnd, err error) {
	return list, c.call(ctx, http.MethodGet, "/backends", nil, nil, &list)
}

// AddBackEnd takes in a GPU source.
func (c *Client) AddBackEnd(ctx context.Context, n api.NewBackEnd) (b api.BackEnd, err error) {
	return b, c.call(ctx, http.MethodPost, "/backends", nil, n, &b)
}

// RemoveBackEnd lets go of a GPU source that was added; with now its runs begin anew elsewhere.
func (c *Client) RemoveBackEnd(ctx context.Context, name string, now bool) error {
	return c.call(ctx, http.MethodDelete, backEnd(name), url.Values{"now": {strconv.FormatBool(now)}}, nil, nil)
}

// DrainBackEnd gives a GPU source no more work, or with on false work again.
func (c *Client) DrainBackEnd(ctx context.Context, name string, on bool) (b api.BackEnd, err error) {
	act := "/resume"
	if on {
		act = "/drain"
	}
	return b, c.call(ctx, http.MethodPost, backEnd(name)+act, nil, nil, &b)
}

// MaintainBackEnd gives a GPU source no more work: people read the text, and after a time it takes work by itself again;
// 0: when somebody says so.
func (c *Client) MaintainBackEnd(ctx context.Context, name, text string, last time.Duration) (b api.BackEnd, err error) {
	minutes := strconv.Itoa(int((last + time.Minute - 1) / time.Minute))
	return b, c.call(ctx, http.MethodPost, backEnd(name)+"/drain", url.Values{"text": {text}, "minutes": {minutes}}, nil, &b)
}

// TestBackEnd asks a GPU source now who it is and, with run, has it run something small. It takes as long as that takes.
func (c *Client) TestBackEnd(ctx context.Context, name string, run bool) (t api.BackEndTest, err error) {
	address := c.base + api.Base + "/v1" + backEnd(name) + "/test?run=" + strconv.FormatBool(run)
	res, err := c.send(ctx, c.patient(), http.MethodPost, address, "", nil)
	if err != nil {
		return t, err
	}
	defer res.Body.Close()
	return t, json.NewDecoder(res.Body).Decode(&t)
}

// patient returns a client for what takes as long as it takes.
func (c *Client) patient() *http.Client { return &http.Client{Transport: c.http.Transport} }

// work has an agent do something long and tells each of what it says.
func (c *Client) work(ctx context.Context, path string, in, out any, each report.Sink) error {
	var body bytes.Buffer
	kind := ""
	if in != nil {
		kind = "application/json"
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return fmt.Errorf("writing the request: %w", err)
		}
	}
	res, err := c.send(ctx, c.patient(), http.MethodPost, c.base+api.Base+"/v1"+path, kind, &body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	result, err := report.Read(res.Body, each)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(result, out); err != nil {
		return fault.Wrap(fault.Unavailable, err, "The agent's answer is none.")
	}
	return nil
}

// Models lists the model files beside an agent's ComfyUI. With hash all have their hashes, which may take long.
func (c *Client) Models(ctx context.Context, name string, hash bool, each report.Sink) (list []api.Model, err error) {
	if hash {
		return list, c.work(ctx, backEnd(name)+"/models/hash", nil, &list, each)
	}
	return list, c.call(ctx, http.MethodGet, backEnd(name)+"/models", nil, nil, &list)
}

// GetModel brings a model file.
func (c *Client) GetModel(ctx context.Context, name string, n api.NewModel, each report.Sink) (m api.Model, err error) {
	return m, c.work(ctx, backEnd(name)+"/models", n, &m, each)
}

// RemoveModel removes a model file.
func (c *Client) RemoveModel(ctx context.Context, name, folder, file string) (m api.Model, err error) {
	return m, c.call(ctx, http.MethodDelete, backEnd(name)+"/models", url.Values{"folder": {folder}, "file": {file}}, nil, &m)
}

// Requests lists what graphs asked for and no GPU source of their group has.
func (c *Client) Requests(ctx context.Context) (list []api.Request, err error) {
	return list, c.call(ctx, http.MethodGet, "/requests", nil, nil, &list)
}

// DropRequest forgets what was asked for.
func (c *Client) DropRequest(ctx context.Context, kind, folder, name string) error {
	return c.call(ctx, http.MethodDelete, "/requests", url.Values{"kind": {kind}, "folder": {folder}, "name": {name}}, nil, nil)
}

// NodePacks lists the custom nodes beside an agent's ComfyUI.
func (c *Client) NodePacks(ctx context.Context, name string) (list []api.NodePack, err error) {
	return list, c.call(ctx, http.MethodGet, backEnd(name)+"/nodes", nil, nil, &list)
}

// ChangeNodes installs, pins or rolls back custom nodes, by the act of that name.
func (c *Client) ChangeNodes(ctx context.Context, name, act string, n api.NodeChange, each report.Sink) (out api.NodeOutcome, err error) {
	return out, c.work(ctx, backEnd(name)+"/nodes/"+act, n, &out, each)
}
