package cli

import (
	"fmt"
	"io"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/client"
)

// backendCmd is about GPU sources.
type backendCmd struct {
	Verda  verdaCmd      `cmd:"" help:"The provider of serverless containers."`
	Join   backendJoin   `cmd:"" help:"Make a one-time code by which an agent joins as this GPU source."`
	Agents backendAgents `cmd:"" help:"List agents that have joined."`
	Revoke backendRevoke `cmd:"" help:"End an agent's key, and its line at once."`
	List   backendList   `cmd:"" help:"List GPU sources."`
	Test   backendTest   `cmd:"" help:"Ask a GPU source now who it is and what it can run."`
}

func printBackEnds(w io.Writer, list []api.BackEnd) {
	rows := make([][]string, 0, len(list))
	for _, b := range list {
		gpu := "-"
		if len(b.Devices) > 0 {
			gpu = b.Devices[0].Name
		}
		rows = append(rows, []string{b.Name, b.State, b.URL, dash(b.Version), gpu, b.Reason})
	}
	table(w, []string{"NAME", "STATE", "ADDRESS", "COMFYUI", "GPU", ""}, rows)
}

type backendList struct{}

// Run lists GPU sources.
func (*backendList) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		list, err := s.BackEnds(c.ctx)
		if err != nil {
			return err
		}
		return c.print(list, func(w io.Writer) { printBackEnds(w, list) })
	})
}

type backendTest struct {
	Name string `arg:""`
}

// Run tests a GPU source; one that can't be used is a problem found.
func (cmd *backendTest) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		b, err := s.TestBackEnd(c.ctx, cmd.Name)
		if err != nil {
			return err
		}
		if err := c.print(b, func(w io.Writer) {
			printBackEnds(w, []api.BackEnd{b})
			if b.Cause != "" {
				fmt.Fprintln(w, "Why: "+b.Cause)
			}
			if b.State == "unreachable" {
				fmt.Fprintln(w, "Try: See whether ComfyUI runs there. On another machine it needs --listen to be reached.")
			}
		}); err != nil {
			return err
		}
		if b.State != "ready" && b.State != "busy" {
			return errFound
		}
		return nil
	})
}
