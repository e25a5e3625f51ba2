package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/backend/dialhome"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/gateway"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// Agents that dial home. Who may is in the store, lines end at the hub of the server that leads: it gives jobs to back
// ends. A server that follows passes an agent's connection on to it.

// newAgents makes what knows who may dial home. A command without server needs no more.
func (s *Studio) newAgents() {
	s.agents = agents.New(s.stores.agents, agents.Options{
		Known: s.knowsAgent, Log: s.log,
		Ended: func(name string) {
			if s.hub != nil {
				s.hub.Cut(name, "its key was revoked")
			}
		},
	})
}

// knowsAgent says why no agent may have a name.
func (s *Studio) knowsAgent(name string) error {
	b, ok := s.gpus.named(name)
	if !ok {
		return fault.New(fault.Missing, "There is no back end “%s”.", name).WithCode("no_backend").
			WithRemedy("Add it with: comfyume backend add %s --driver agent", name)
	}
	if b.Driver != "agent" {
		return fault.New(fault.Conflict, "The back end %s has the driver %s: no agent joins under this name.", name, b.Driver).
			WithCode("no_agent_driver").WithRemedy("Set driver: agent in the settings, or choose another name.")
	}
	return nil
}

// newHub makes the studio's end of the lines.
func (s *Studio) newHub() {
	s.hub = tunnel.NewHub(tunnel.HubOptions{
		Studio: s.self.ID, Version: s.o.Version, Check: s.agents.Check, Log: s.log,
		Join: func(ctx context.Context, code, name, from string, h tunnel.Hello) (tunnel.Credentials, error) {
			a, key, err := s.agents.Join(ctx, code, name, from, aboutOf(h))
			return tunnel.Credentials{Name: a.Name, Key: key}, err
		},
		Changed: func(name string) { s.nudge(name)() },
	})
	if s.server != nil {
		s.hub.Open(false) // until this server leads
	}
	s.parts.add("agents", func(context.Context) error { return s.hub.Close() })
}

func aboutOf(h tunnel.Hello) agents.About {
	return agents.About{Machine: h.Machine, Version: h.Version, OS: h.OS}
}

// agentDriver makes the driver of a back end that dials home.
func (s *Studio) agentDriver(b config.Back) (backend.Driver, error) {
	if s.hub == nil { // a command without server
		return nil, fault.New(fault.Unavailable, "%s dials home: it can be asked only while the studio runs.", b.Name).
			WithRemedy("Start it: comfyume serve.")
	}
	log := s.log.With("backend", b.Name)
	return dialhome.New(b.Name, s.hub, dialhome.Options{
		Log: log, Comfy: comfyui.Options{Studio: s.self.ID, Log: log, Changed: s.nudge(b.Name), Folders: &s.folders, Patience: patience{s, b.Name}, Silent: s.silent(b.Name)},
		Joined: func(ctx context.Context) (bool, error) {
			all, err := s.agents.Agents(ctx)
			return slices.ContainsFunc(all, func(a agents.Agent) bool { return a.Name == b.Name }), err
		},
		Elsewhere: func() string {
			if !s.follows() {
				return ""
			}
			leader, _ := s.leader()
			return leader
		},
	})
}

// Pauses of what looks after agents.
const (
	agentsCheck = 2 * time.Second  // between looks for keys that were revoked on another server
	agentsSeen  = 30 * time.Second // between notes that an agent is connected
)

// watchAgents cuts lines whose key ended elsewhere, and notes who is connected.
func (s *Studio) watchAgents(ctx context.Context) error {
	check := time.NewTicker(agentsCheck)
	defer check.Stop()
	noted := map[string]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-check.C:
		}
		online := s.hub.Agents()
		online = slices.DeleteFunc(online, func(p tunnel.Presence) bool { return !p.Online })
		if len(online) == 0 {
			continue
		}
		all, err := s.agents.Agents(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("whether agents' keys are still good can't be told; trying again", "err", err)
			}
			continue
		}
		for _, p := range online {
			i := slices.IndexFunc(all, func(a agents.Agent) bool { return a.Name == p.Name })
			if i < 0 || all[i].Joined.After(p.Since) { // its line was opened with a key of before
				s.hub.Cut(p.Name, "its key was revoked")
				continue
			}
			if since := noted[p.Name]; p.Since.After(since) || time.Since(since) > agentsSeen {
				noted[p.Name] = time.Now()
				if err := s.agents.Seen(ctx, p.Name, aboutOf(p.Hello)); err != nil && ctx.Err() == nil {
					s.log.Warn("that an agent is connected was not noted", "agent", p.Name, "err", err)
				}
			}
		}
	}
}

// agentMounts are the addresses for agents. Their keys are not people's: the hub looks at them.
func (s *Studio) agentMounts() []gateway.Mount {
	relay := s.agentRelay()
	return []gateway.Mount{{Prefix: tunnel.Base + "/", Public: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.follows() && r.URL.Path != tunnel.Base+"/join" && r.Header.Get(headerRelayed) == "" {
			relay(w, r)
			return
		}
		r = r.WithContext(r.Context())
		if from := s.door.Client(w); from != "" {
			r.RemoteAddr = net.JoinHostPort(from, "0")
		}
		s.hub.ServeHTTP(w, r)
	})}}
}

// headerRelayed marks what another server passed on: it is not passed on again.
const headerRelayed = "X-Comfyume-Relayed"

// agentRelay passes an agent's connection on to the server that leads.
func (s *Studio) agentRelay() http.HandlerFunc {
	through := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 15 * time.Second, DisableKeepAlives: true,
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	if ca := s.certs.Authority(); len(ca) > 0 {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca) // it is ours
		through.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	if u, err := url.Parse(s.cfg.PublicURL); err == nil && u.Hostname() != "" {
		if through.TLSClientConfig == nil {
			through.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		through.TLSClientConfig.ServerName = u.Hostname()
	}
	return func(w http.ResponseWriter, r *http.Request) {
		leader, address := s.leader()
		target, err := url.Parse(address)
		refuse := func(w http.ResponseWriter, cause error) {
			s.log.Warn("an agent was not passed on to the server that leads", "leader", leader, "address", address, "err", cause)
			notLeading(w, s.self.ID, leader)
		}
		if err != nil || target.Host == "" {
			refuse(w, err)
			return
		}
		(&httputil.ReverseProxy{
			Transport: through,
			Rewrite: func(p *httputil.ProxyRequest) {
				p.SetURL(target)
				p.SetXForwarded()
				p.Out.Host = p.In.Host
				p.Out.Header.Set(headerRelayed, "1")
			},
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { refuse(w, err) },
		}).ServeHTTP(w, r)
	}
}

// notLeading tells an agent that it needs the server that leads.
func notLeading(w http.ResponseWriter, studio, leader string) {
	text := "This server does not lead the studio, and can't reach the one that does."
	if leader != "" {
		text = "This server does not lead the studio, and can't reach the one that does (" + leader + ")."
	}
	body, err := json.Marshal(map[string]string{
		"code": tunnel.CodeNotLeading, "kind": fault.Unavailable.String(), "detail": text,
		"remedy": "Let the studio's servers reach one another at the address of listen, or give agents the address of the server that leads.",
	})
	if err != nil {
		body = []byte("{}")
	}
	w.Header().Set("X-Comfyume-Studio", studio)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	w.Write(body) //nolint:errcheck // nobody may be there any more
}

// takeAgents lets agents in while this server leads.
func (s *Studio) takeAgents(lead func() error) error {
	s.hub.Open(true)
	defer s.hub.Open(false)
	return lead()
}

// reachableAt is the address at which the studio's other servers reach this one, by its settings.
func (s *Studio) reachableAt() string {
	host, port, err := net.SplitHostPort(s.cfg.Listen)
	if err != nil {
		return ""
	}
	if a := net.ParseIP(host); host == "" || a != nil && a.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return ""
		}
	}
	scheme := "http://"
	if s.cfg.TLS.Mode != "off" && s.cfg.TLS.Mode != "" {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port)
}

// leader is the name of the server that leads, and where it is reached.
func (s *Studio) leader() (name, address string) {
	if s.server == nil {
		return "", ""
	}
	name, address, _ = strings.Cut(s.server.lease.Leader(), " ")
	return name, address
}

// agentsFace is the agents as the interface wants them.
type agentsFace struct{ s *Studio }

// Agents implements api.Agents.
func (f agentsFace) Agents(ctx context.Context) ([]api.Agent, error) {
	list, err := f.s.agents.Agents(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]api.Agent, 0, len(list))
	for _, a := range list {
		v := api.Agent{
			Name: a.Name, By: a.By, Machine: a.About.Machine, Version: a.About.Version, OS: a.About.OS,
			Joined: a.Joined, Seen: api.When(a.Seen),
			Online: time.Since(a.Seen) < 2*agentsSeen, // what the server that leads noted
		}
		if f.s.hub != nil && !f.s.follows() {
			p := f.s.hub.Agent(a.Name)
			v.Online, v.Away, v.From = p.Online, p.Why, p.From
			if p.Online {
				v.Away, v.Seen = "", api.When(time.Now())
				v.ClockOff = p.Clock.Seconds()
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// NewCode implements api.Agents.
func (f agentsFace) NewCode(ctx context.Context, name, by string, life time.Duration) (api.AgentCode, error) {
	code, expires, err := f.s.agents.NewCode(ctx, name, by, life)
	return api.AgentCode{Name: name, Code: code, Expires: expires}, err
}

// Revoke implements api.Agents.
func (f agentsFace) Revoke(ctx context.Context, name string) error {
	return f.s.agents.Revoke(ctx, name)
}
