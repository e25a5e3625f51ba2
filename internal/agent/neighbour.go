package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Neighbour is a ComfyUI that somebody else started: it is watched and left alone.
type Neighbour struct {
	address string
	host    string
	secure  *tls.Config // for https addresses
	version string
	log     *slog.Logger
	http    *http.Client
	pulse   pulse
	frozen  time.Duration
	dial    func(ctx context.Context, network, address string) (net.Conn, error)

	mu     sync.Mutex
	status Status
}

var _ ComfyUI = (*Neighbour)(nil)

// NewNeighbour returns the ComfyUI at address, such as http://127.0.0.1:8188. It is looked at while Run runs.
func NewNeighbour(address, version string, log *slog.Logger) (*Neighbour, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Path != "" && u.Path != "/" || u.User != nil {
		shown := "what is given"
		if err == nil && u.User == nil { // else a password would be told
			shown = strconv.Quote(address)
		}
		return nil, fault.New(fault.Invalid, "--comfyui: %s is not the address of a ComfyUI.", shown).
			WithRemedy("Write it like http://127.0.0.1:8188, without a path, a name or a password.")
	}
	n := &Neighbour{
		address: u.Scheme + "://" + u.Host, host: u.Host, version: version, log: log, frozen: 12 * time.Second,
		dial: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}
	if log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if u.Port() == "" {
		n.host = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	if u.Scheme == "https" {
		n.secure = &tls.Config{ServerName: u.Hostname()}
	}
	n.http = client(func(ctx context.Context, _, _ string) (net.Conn, error) { return n.plain(ctx) })
	n.status.Version = version
	n.status.ComfyUI = State{State: Starting, Since: time.Now(), Address: n.address}
	return n, nil
}

// plain opens a connection below TLS.
func (n *Neighbour) plain(ctx context.Context) (net.Conn, error) { return n.dial(ctx, "tcp", n.host) }

// Address is where the ComfyUI is.
func (n *Neighbour) Address() string { return n.address }

// Dir is empty: its folder is not known.
func (n *Neighbour) Dir() string { return "" }

// Status tells how the ComfyUI is.
func (n *Neighbour) Status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := n.status
	st.Clock = time.Now()
	return st
}

// Restart is refused: whoever started the ComfyUI restarts it.
func (n *Neighbour) Restart(context.Context, string) error {
	return fault.New(fault.Conflict, "The agent did not start the ComfyUI at %s, so it can't restart it.", n.address).
		WithCode("not_ours").WithRemedy("Restart it where it was started, or let the agent start it: --comfyui-dir DIR in place of --comfyui URL.")
}

// Dial opens a connection to it.
func (n *Neighbour) Dial(ctx context.Context) (net.Conn, error) {
	c, err := n.plain(ctx)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The ComfyUI at %s does not take connections.", n.address).WithCode("comfyui_" + Crashed)
	}
	if n.secure != nil {
		secured := tls.Client(c, n.secure)
		if err := secured.HandshakeContext(ctx); err != nil {
			c.Close() //nolint:errcheck // it failed already
			return nil, fault.Wrap(fault.Unavailable, err, "The certificate of the ComfyUI at %s is not accepted.", n.address)
		}
		c = secured
	}
	return &watched{Conn: c, pulse: &n.pulse}, nil
}

// Carried counts the bytes that went to and fro on connections of Dial.
func (n *Neighbour) Carried() int64 { return n.pulse.carried.Load() }

// Run looks at the ComfyUI until ctx ends.
func (n *Neighbour) Run(ctx context.Context) {
	answers := make(chan answer, 1)
	var asking sync.WaitGroup
	defer asking.Wait()
	n.pulse.beat()
	busy, asked := false, time.Time{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		now := time.Now()
		ready := n.Status().ComfyUI.State == Ready
		pause := askSilent
		switch {
		case !ready:
			pause = time.Second
		case now.Sub(n.pulse.last()) < askSilent:
			pause = askAlways
		}
		if !busy && now.Sub(asked) >= pause {
			busy, asked = true, now
			asking.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, askTimeout)
				defer cancel()
				a := question(ctx, n.http, n.address, &n.pulse, true)
				if a.facts != nil && n.Status().Models == nil {
					a.facts.folders = modelFolders(ctx, n.http, n.address)
				}
				answers <- a // there is room for one, and one is asked for
			})
		}
		select {
		case <-ctx.Done():
			return
		case a := <-answers:
			busy = false
			n.took(a)
		case <-tick.C:
			if silent := time.Since(n.pulse.last()); busy && silent > n.frozen {
				n.blame(Frozen, Cause{Code: CodeFrozen, Text: fmt.Sprintf("The ComfyUI at %s takes connections and did not answer for %s.", n.address, silent.Round(time.Second)), Remedy: "Restart it."})
			}
		}
	}
}

func (n *Neighbour) took(a answer) {
	switch {
	case a.err == nil:
		n.mu.Lock()
		defer n.mu.Unlock()
		a.note(&n.status)
		n.change(Ready)
	case errors.Is(a.err, errNotComfyUI):
		n.blame(Crashed, Cause{Code: CodeNotComfyUI, Text: fmt.Sprintf("What answers at %s is no ComfyUI.", n.address), Remedy: "Name the address of a ComfyUI with --comfyui."})
	case errors.Is(a.err, context.DeadlineExceeded): // the tick has said so
	case errors.Is(a.err, context.Canceled):
	default:
		n.blame(Crashed, Cause{Code: CodeUnreachable, Text: fmt.Sprintf("The ComfyUI at %s does not answer.", n.address), Remedy: "See whether it runs. " + clip(a.err.Error())})
	}
}

func (n *Neighbour) blame(state string, c Cause) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.status.ComfyUI.State == state && n.status.ComfyUI.LastCause != nil && n.status.ComfyUI.LastCause.Code == c.Code {
		return
	}
	now := time.Now()
	n.status.ComfyUI.LastCause, n.status.ComfyUI.CauseAt = &c, &now
	n.log.Warn("ComfyUI is in trouble", "code", c.Code, "cause", c.Text, "remedy", c.Remedy)
	n.change(state)
}

// change is called under mu.
func (n *Neighbour) change(state string) {
	if n.status.ComfyUI.State == state {
		return
	}
	n.status.ComfyUI.State, n.status.ComfyUI.Since = state, time.Now()
	n.log.Info("ComfyUI is "+state, "address", n.address)
}
