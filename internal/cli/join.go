package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/client"
)

type backendJoin struct {
	Name string        `arg:"" help:"The back end's name, as the settings have it (driver: agent)."`
	Life time.Duration `help:"How long the code is good, such as 15m." default:"1h"`
}

// Run makes a one-time code and prints it alone.
func (cmd *backendJoin) Run(c *call) error {
	return c.ask(true, func(s *client.Client) error {
		code, err := s.NewAgentCode(c.ctx, cmd.Name, cmd.Life)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.Stderr, "Good once, until %s. On the GPU's machine: comfyume agent join CODE --server URL\n", code.Expires.Local().Format("2 January 15:04"))
		return c.print(code, func(w io.Writer) { fmt.Fprintln(w, code.Code) })
	})
}

type backendRevoke struct {
	Name string `arg:""`
}

// Run ends an agent's key.
func (cmd *backendRevoke) Run(c *call) error {
	return c.ask(true, func(s *client.Client) error { return s.RevokeAgent(c.ctx, cmd.Name) })
}

type backendAgents struct{}

// Run lists the agents that have joined.
func (*backendAgents) Run(c *call) error {
	return c.ask(true, func(s *client.Client) error {
		list, err := s.Agents(c.ctx)
		if err != nil {
			return err
		}
		return c.print(list, func(w io.Writer) {
			rows := make([][]string, 0, len(list))
			for _, a := range list {
				rows = append(rows, []string{a.Name, onlineWord(a), dash(a.Machine), dash(a.OS), dash(a.Version), seenWord(a), a.Away})
			}
			table(w, []string{"NAME", "LINE", "MACHINE", "SYSTEM", "VERSION", "SEEN", ""}, rows)
		})
	})
}

func onlineWord(a api.Agent) string {
	if a.Online {
		return "up"
	}
	return "away"
}

func seenWord(a api.Agent) string {
	if a.Seen == nil {
		return "never"
	}
	return a.Seen.Local().Format("2006-01-02 15:04")
}
