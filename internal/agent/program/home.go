package program

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ahelme/comfyume/internal/agent"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// membership is what an agent keeps of the studio it joined. Its file is the agent's own alone: it has the key in it.
type membership struct {
	Server string `json:"server"`
	Name   string `json:"name"`
	Key    string `json:"key"`
	Studio string `json:"studio,omitempty"`
	CA     string `json:"ca,omitempty"` // PEM of the studio's own authority
}

func membershipFile(data string) string { return filepath.Join(data, "agent.json") }

// save writes the file whole or not at all.
func (m membership) save(data string) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(data, ".agent-*") // 0600 from the start
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), membershipFile(data))
	}
	if err != nil {
		os.Remove(f.Name()) //nolint:errcheck // what matters failed already
	}
	return err
}

// joined reads what the agent keeps.
func joined(data string) (membership, error) {
	var m membership
	text, err := os.ReadFile(membershipFile(data))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m, fault.New(fault.Missing, "This agent has not joined a studio: there is no %s.", membershipFile(data)).
			WithRemedy("Ask an operator for a code (comfyume backend join NAME), then: comfyume agent join CODE --server URL.")
	case err == nil:
		err = json.Unmarshal(text, &m)
	}
	if err == nil && (m.Key == "" || m.Server == "") {
		err = errors.New("server or key is missing in it")
	}
	if err != nil {
		return m, fault.Wrap(fault.Invalid, err, "%s can't be read.", membershipFile(data)).WithRemedy("Join again: comfyume agent join CODE --server URL.")
	}
	return m, nil
}

// Join trades a one-time code for a key of the agent's own and keeps it. It returns the name the agent has.
func Join(ctx context.Context, o Options, code string) (name string, err error) {
	if o.Server == "" {
		return "", fault.New(fault.Invalid, "There is no studio to join.").WithRemedy("Name it with --server URL.")
	}
	m := membership{Server: strings.TrimRight(o.Server, "/")}
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return "", fault.Wrap(fault.Invalid, err, "The authority's file %s can't be read.", o.CA).WithRemedy("See --ca.")
		}
		m.CA = string(pem)
	}
	secure, err := m.trust()
	if err != nil {
		return "", err
	}
	// What can't be kept must not cost the code.
	if err := (membership{Server: m.Server}).probe(o.Data); err != nil {
		return "", fault.Wrap(fault.Invalid, err, "The agent's folder %s can't be written to.", o.Data).WithRemedy("Name another one with --data DIR, here and for comfyume agent.")
	}
	c, err := tunnel.Join(ctx, m.Server, code, o.Name, hello(o.Version), secure, nil)
	if err != nil {
		return "", err
	}
	m.Name, m.Key, m.Studio = c.Name, c.Key, c.Studio
	if err := m.save(o.Data); err != nil {
		return "", fault.Wrap(fault.Internal, err, "The key can't be kept in %s, and the code is used up.", o.Data).
			WithRemedy("Make room, ask for another code and join again.")
	}
	return m.Name, nil
}

// probe tries to write into the folder.
func (membership) probe(data string) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(data, ".agent-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// trust is whom the agent believes that it talks to its studio.
func (m membership) trust() (*tls.Config, error) {
	if m.CA == "" {
		return nil, nil //nolint:nilnil // the system's authorities
	}
	return tunnel.WithCA([]byte(m.CA))
}

func hello(version string) tunnel.Hello {
	machine, err := os.Hostname()
	if err != nil {
		machine = "unknown"
	}
	return tunnel.ThisMachine(version, machine)
}

// home dials home until ctx ends, and then stays until the ComfyUI is idle.
func (o *Options) home(a *agent.Agent, c comfy, m membership, control agentControl) (func(ctx context.Context) error, error) {
	secure, err := m.trust()
	if err != nil {
		return nil, err
	}
	line := &tunnel.Home{
		Server: m.Server, Key: m.Key, Hello: hello(o.Version), ComfyUI: c.Dial, Control: control, Log: o.Log, TLS: secure,
	}
	return func(ctx context.Context) error {
		// The line outlives ctx: what runs is told to its end.
		open, cut := context.WithCancel(context.WithoutCancel(ctx))
		defer cut()
		ended := make(chan error, 1)
		go func() { ended <- line.Run(open) }()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
		}
		draining, stop := context.WithCancel(open)
		defer stop()
		over := make(chan struct{})
		go func() {
			defer close(over)
			a.Drain(draining)
		}()
		select {
		case err := <-ended:
			stop()
			<-over
			return err
		case <-over:
		}
		cut()
		return <-ended
	}, nil
}
