// Package dialhome drives the ComfyUI beside an agent that dials home: it is the driver of a plain ComfyUI, over streams
// of the agent's line. So a run behind an agent is followed, found again and fenced as any other.
//
// A line that is lost in mid-run is waited for: requests that need it go on as soon as it is back, and the run is looked
// up, not posted again. After LostAfter the run is given up, and another back end may take it.
package dialhome

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// Lines is what a driver needs of the studio's end of the lines.
type Lines interface {
	Dial(ctx context.Context, agent string, kind tunnel.Kind) (net.Conn, error)
	Wait(ctx context.Context, agent string) error
	Agent(name string) tunnel.Presence
}

// Options of a driver. The zero value of each field is good.
type Options struct {
	// Joined says whether an agent has joined under the name. Nil: nothing is known.
	Joined func(ctx context.Context) (bool, error)
	// Elsewhere says which other server has the agents' lines; empty: this one. Nil: this one.
	Elsewhere func() string
	// Comfy are the options of the driver of the ComfyUI itself. Dial is set here.
	Comfy comfyui.Options
	// Log gets the lines of the agent's log too, at most LogLines a minute.
	Log *slog.Logger
	// LogLines bounds how many lines of the agent's log are taken in a minute; 0: 300.
	LogLines int
}

// lostAfter is how long a line may be away in mid-run before the run is given up.
const lostAfter = 30 * time.Second

// waitFor is how long one request waits for a line: less than it may take in all, so that it ends with the reason.
const waitFor = 8 * time.Second

// Driver is a backend.Driver for the ComfyUI beside one agent. It is safe for concurrent use.
type Driver struct {
	*comfyui.Driver
	name  string
	lines Lines
	o     Options
	ask   *http.Client // the agent's own control interface

	patience patience

	mu     sync.Mutex
	closed bool
	stop   context.CancelFunc
	tail   sync.WaitGroup
}

var _ backend.Driver = (*Driver)(nil)

// New returns a driver for the agent of that name.
func New(name string, lines Lines, o Options) (*Driver, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.LogLines <= 0 {
		o.LogLines = 300
	}
	if o.Comfy.LostAfter <= 0 {
		o.Comfy.LostAfter = lostAfter
	}
	d := &Driver{name: name, lines: lines, o: o}
	o.Comfy.Dial, o.Comfy.DialLarge = d.dial(tunnel.ComfyUI), d.dial(tunnel.Large)
	o.Comfy.Death = d.death
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	if o.Comfy.Patience != nil {
		o.Comfy.Enters = func(bound time.Duration) { d.enters(ctx, bound) }
	}
	var err error
	if d.Driver, err = comfyui.New("http://comfyui.agent", o.Comfy); err != nil {
		stop()
		return nil, err
	}
	d.ask = &http.Client{Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return lines.Dial(ctx, name, tunnel.Control) },
		IdleConnTimeout: 5 * time.Second, MaxIdleConns: 1, ResponseHeaderTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}}
	d.tail.Go(func() { d.followLog(ctx) })
	return d, nil
}

// Close ends what the driver does. Runs go on at the agent.
func (d *Driver) Close() error {
	d.mu.Lock()
	again := d.closed
	d.closed = true
	d.mu.Unlock()
	if again {
		return nil
	}
	d.stop()
	err := d.Driver.Close()
	d.tail.Wait()
	d.ask.CloseIdleConnections()
	return err
}

// dial opens streams of a kind. A line that was lost a moment ago is waited for.
func (d *Driver) dial(kind tunnel.Kind) func(ctx context.Context, _, _ string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := d.lines.Dial(ctx, d.name, kind)
		if codeOf(err) != tunnel.CodeOffline {
			return conn, err
		}
		p := d.lines.Agent(d.name)
		if !p.Online && time.Since(p.Since) > d.o.Comfy.LostAfter { // never, or long ago
			return nil, err
		}
		waiting, cancel := context.WithTimeout(ctx, waitFor)
		defer cancel()
		if d.lines.Wait(waiting, d.name) != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, err
		}
		return d.lines.Dial(ctx, d.name, kind)
	}
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Code
	}
	return ""
}

// Probe asks the ComfyUI who it is. When there is none to ask, the error says which it is: no agent has joined, it is
// away since when, or its ComfyUI starts, crashed or froze.
func (d *Driver) Probe(ctx context.Context) (backend.Snapshot, error) {
	if p := d.lines.Agent(d.name); !p.Online { // it may be back within a moment
		soon, cancel := context.WithTimeout(ctx, max(time.Second-time.Since(p.Since), 0))
		defer cancel()
		if d.lines.Wait(soon, d.name) != nil {
			return backend.Snapshot{}, d.away(ctx, p)
		}
	}
	snap, err := d.Driver.Probe(ctx)
	if err == nil || !errors.Is(err, backend.ErrUnreachable) || ctx.Err() != nil {
		return snap, err
	}
	if p := d.lines.Agent(d.name); !p.Online {
		return snap, d.away(ctx, p)
	}
	if why := d.state(ctx); why != nil {
		return snap, fmt.Errorf("%w: %w", backend.ErrUnreachable, why)
	}
	return snap, err
}

// away says why there is no line.
func (d *Driver) away(ctx context.Context, p tunnel.Presence) error {
	if !p.Since.IsZero() {
		return fmt.Errorf("%w: %w", backend.ErrUnreachable, fault.New(fault.Unavailable, "The agent %s on %s is away since %s: %s.",
			d.name, p.Hello.Machine, p.Since.Format(time.DateTime), p.Why).WithCode(tunnel.CodeOffline).
			WithRemedy("It comes back by itself; if not, look at that machine and its network."))
	}
	if d.o.Elsewhere != nil {
		if other := d.o.Elsewhere(); other != "" {
			return fmt.Errorf("%w: %w", backend.ErrUnreachable, fault.New(fault.Unavailable,
				"The agent %s is the business of the server that leads, %s.", d.name, other).WithCode(tunnel.CodeNotLeading).
				WithRemedy("Ask that one how it is."))
		}
	}
	joined := true
	if d.o.Joined != nil {
		var err error
		if joined, err = d.o.Joined(ctx); err != nil {
			return fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
		}
	}
	why := fault.New(fault.Unavailable, "The agent %s has not dialled home since the studio started.", d.name).WithCode(tunnel.CodeOffline).
		WithRemedy("Start it on its machine: comfyume agent.")
	if !joined {
		why = fault.New(fault.Unavailable, "No agent has joined as %s yet.", d.name).WithCode(tunnel.CodeNotJoined).
			WithRemedy("Make a code with comfyume backend join %s, and type on the GPU's machine: comfyume agent join CODE --server URL.", d.name)
	}
	return fmt.Errorf("%w: %w", backend.ErrUnreachable, why)
}

// status is what is read of the agent's report on itself.
type status struct {
	ComfyUI struct {
		State  string    `json:"state"`
		Since  time.Time `json:"since"`
		Owned  bool      `json:"owned"`
		Reason *struct {
			Code   string `json:"code"`
			Text   string `json:"text"`
			Remedy string `json:"remedy"`
		} `json:"last_cause"`
		At time.Time `json:"cause_at"`
	} `json:"comfyui"`
	Clock time.Time `json:"clock"`
}

// maxStatus bounds the report.
const maxStatus = 1 << 20

// state asks the agent what is the matter with its ComfyUI; nil: nothing, or it can't say.
func (d *Driver) state(ctx context.Context) error {
	s, ok := d.report(ctx)
	if !ok {
		return nil // the ComfyUI's own trouble is told
	}
	return s.trouble(d.name)
}

// death asks an agent that started its ComfyUI why that ended since a time.
func (d *Driver) death(ctx context.Context, since time.Time) error {
	if !d.lines.Agent(d.name).Online {
		return nil
	}
	asked := time.Now()
	s, ok := d.report(ctx)
	if !ok || !s.ComfyUI.Owned || s.Clock.IsZero() {
		return nil
	}
	e := backend.Ended{At: s.ComfyUI.At.Add(asked.Sub(s.Clock))}
	if r := s.ComfyUI.Reason; r != nil {
		e.Code, e.Text, e.Remedy = r.Code, short(r.Text), short(r.Remedy)
	}
	return e.Since(since)
}

// report is what the agent says of itself, if it does.
func (d *Driver) report(ctx context.Context) (s status, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/status", nil)
	if err != nil {
		return status{}, false
	}
	resp, err := d.ask.Do(req)
	if err != nil {
		return status{}, false
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	ok = resp.StatusCode == http.StatusOK && json.NewDecoder(io.LimitReader(resp.Body, maxStatus)).Decode(&s) == nil
	return s, ok
}

// short bounds a sentence of an agent's.
func short(text string) string { return text[:min(len(text), 500)] }

// trouble is the state in a sentence; nil: it is well.
func (s status) trouble(name string) error {
	words := map[string]string{
		"starting": "is starting", "restarting": "is being restarted", "crashed": "crashed", "frozen": "does not answer any more", "stopped": "is stopped",
	}
	word, known := words[s.ComfyUI.State]
	if !known {
		return nil
	}
	e := fault.New(fault.Unavailable, "The ComfyUI of %s %s (since %s).", name, word, s.ComfyUI.Since.Format(time.DateTime)).
		WithCode("comfyui_" + s.ComfyUI.State)
	if r := s.ComfyUI.Reason; r != nil && r.Text != "" && s.ComfyUI.State != "restarting" {
		e.Public += " " + short(r.Text)
		e.Remedy = short(r.Remedy)
	}
	return e
}
