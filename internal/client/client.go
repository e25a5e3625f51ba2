// Package client is the Go client of the studio's REST interface: over the control socket of a data folder, over an
// address with a token, or over a handler in the same program.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/fault"
)

// patience is how long an answer may take; testing a back end that does not answer is the slowest.
const patience = time.Minute

// Client asks one studio. It is safe for concurrent use.
type Client struct {
	http  *http.Client
	base  string // address of the studio without trailing slash
	token string
}

// Over returns a client of the studio at address, which may have a path, with a personal token.
func Over(address, token string) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fault.New(fault.Invalid, "%q is not the address of a studio.", address).
			WithRemedy("Write it like https://lab.example or http://127.0.0.1:8080.")
	}
	return &Client{http: &http.Client{Timeout: patience}, base: strings.TrimRight(address, "/"), token: token}, nil
}

// Socket returns a client of the server that listens on the control socket at path.
func Socket(path string) *Client {
	var d net.Dialer
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
	}
	return &Client{http: &http.Client{Transport: transport, Timeout: patience}, base: "http://studio"}
}

// Handler returns a client of a handler in this program.
func Handler(h http.Handler) *Client {
	return &Client{http: &http.Client{Transport: inside{h}, Timeout: patience}, base: "http://studio"}
}

// Live reports whether a server answers, and not this program itself from a folder that nobody else changes.
func (c *Client) Live() bool {
	_, here := c.http.Transport.(inside)
	return !here
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call sends in as JSON and reads the answer into out; either may be nil.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	kind := ""
	switch v := in.(type) {
	case nil:
	case roster:
		body, kind = v.Reader, "text/csv"
	default:
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("writing the request: %w", err)
		}
		body, kind = bytes.NewReader(text), "application/json"
	}
	address := c.base + api.Base + "/v1" + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	res, err := c.send(ctx, c.http, method, address, kind, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fault.Wrap(fault.Unavailable, err, "The answer is not one of a studio.").
			WithRemedy("See whether the address is right.")
	}
	return nil
}

// send sends one request. An answer that is none of success is an error.
func (c *Client) send(ctx context.Context, over *http.Client, method, address, kind string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := over.Do(r)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The studio does not answer.").
			WithRemedy("See whether it runs, and whether the address is right.")
	}
	if res.StatusCode >= 300 {
		defer res.Body.Close()
		return nil, refusal(res)
	}
	return res, nil
}

// ExportQueue writes the whole queue to w. It takes as long as it takes.
func (c *Client) ExportQueue(ctx context.Context, w io.Writer) error {
	patient := &http.Client{Transport: c.http.Transport}
	res, err := c.send(ctx, patient, http.MethodGet, c.base+api.Base+"/v1/queue/export", "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, res.Body); err != nil {
		return fault.Wrap(fault.Unavailable, err, "The export did not come to its end.").
			WithRemedy("See the studio's log and the disk here, and try again.")
	}
	return nil
}

// kinds are the reverse of the interface's statuses.
var kinds = map[int]fault.Kind{
	http.StatusBadRequest:          fault.Invalid,
	http.StatusUnprocessableEntity: fault.Invalid,
	http.StatusUnauthorized:        fault.Denied,
	http.StatusForbidden:           fault.Denied,
	http.StatusNotFound:            fault.Missing,
	http.StatusConflict:            fault.Conflict,
	http.StatusTooManyRequests:     fault.Busy,
}

// refusal makes an error of an answer that is one.
func refusal(res *http.Response) error {
	kind, ok := kinds[res.StatusCode]
	if !ok {
		kind = fault.Unavailable
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var p struct {
		api.Problem
		Errors []struct {
			Message  string `json:"message"`
			Location string `json:"location"`
		} `json:"errors"`
		Door struct{ Type, Message, Details string } `json:"error"` // whom the studio's door turned away
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err == nil && p.Door.Type == "unauthorized" {
		sentence := "The studio asks for a personal token."
		if res.Request != nil && res.Request.Header.Get("Authorization") != "" {
			sentence = "The studio does not take this token: it may be mistyped, expired or revoked."
		}
		return fault.New(kind, "%s", sentence).WithCode(p.Door.Type).
			WithRemedy("Make one at the studio's address /me, and name it with --token or in COMFYUME_TOKEN.")
	}
	if err == nil && p.Door.Message != "" {
		return fault.New(kind, "%s", p.Door.Message).WithCode(p.Door.Type).WithRemedy("%s", p.Door.Details)
	}
	if err != nil || p.Detail == "" {
		cause := errors.Join(fmt.Errorf("status %s", res.Status), err)
		return fault.Wrap(kind, cause, "The studio refused with %s.", strconv.Itoa(res.StatusCode)).
			WithRemedy("See whether the address is that of a ComfyuME studio and the token is right.")
	}
	for _, e := range p.Errors {
		p.Detail += " " + strings.TrimPrefix(e.Location, "body.") + ": " + e.Message + "."
	}
	return fault.New(kind, "%s", p.Detail).WithCode(p.Code).WithRemedy("%s", p.Remedy)
}

// Answers reports whether a studio answers at all.
func (c *Client) Answers(ctx context.Context) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, c.base+api.Base+"/v1/me", nil)
	if err != nil {
		return false
	}
	res, err := c.http.Do(r)
	if err != nil {
		return false
	}
	return res.Body.Close() == nil
}
