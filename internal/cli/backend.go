package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/fault"
)

// backendCmd is about GPU sources.
type backendCmd struct {
	List   backendList   `cmd:"" help:"List GPU sources, and what those with a price cost so far."`
	Show   backendShow   `cmd:"" help:"Show all that is known of one GPU source."`
	Add    backendAdd    `cmd:"" help:"Take in a GPU source while the studio runs; it stays over restarts."`
	Remove backendRemove `cmd:"" help:"Let go of a GPU source that was added."`
	Drain  backendDrain  `cmd:"" help:"Give a GPU source no more work; what runs there ends. It stays so over restarts."`
	Resume backendResume `cmd:"" help:"Give a GPU source work again."`
	Test   backendTest   `cmd:"" help:"Ask a GPU source now who it is and what it can run, and have it run something small."`
	Models modelsCmd     `cmd:"" help:"Model files beside an agent's ComfyUI, and what graphs asked for."`
	Nodes  nodesCmd      `cmd:"" help:"Custom nodes beside an agent's ComfyUI."`
	Verda  verdaCmd      `cmd:"" help:"The provider of serverless containers."`
	Join   backendJoin   `cmd:"" help:"Make a one-time code by which an agent joins as this GPU source."`
	Agents backendAgents `cmd:"" help:"List agents that have joined."`
	Revoke backendRevoke `cmd:"" help:"End an agent's key, and its line at once."`
}

func printBackEnds(w io.Writer, list []api.BackEnd) {
	rows := make([][]string, 0, len(list))
	for _, b := range list {
		gpu := "-"
		if len(b.Devices) > 0 {
			gpu = b.Devices[0].Name
		}
		rows = append(rows, []string{b.Name, b.State, dash(b.URL), dash(b.Version), gpu, dash(strings.Join(b.Groups, ",")), priceOf(b), b.Reason})
	}
	table(w, []string{"NAME", "STATE", "ADDRESS", "COMFYUI", "GPU", "GROUPS", "PRICE", ""}, rows)
	for _, b := range list {
		for _, note := range b.Notes {
			fmt.Fprintf(w, "%s: %s\n", b.Name, note)
		}
	}
}

// priceOf is what an hour of a back end costs.
func priceOf(b api.BackEnd) string {
	if b.Price == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f/h", b.Price)
}

type backendList struct{}

// Run lists GPU sources.
func (*backendList) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		list, err := s.BackEnds(c.ctx)
		if err != nil {
			return err
		}
		var rows [][]string
		if slices.ContainsFunc(list, func(b api.BackEnd) bool { return b.Price > 0 }) {
			budget, err := s.Budget(c.ctx)
			if err != nil {
				return err
			}
			rows = budgetRows(&budget)
		}
		return c.print(list, func(w io.Writer) {
			printBackEnds(w, list)
			writeRows(w, rows)
		})
	})
}

// writeRows writes rows without a heading behind an empty line; nothing where there are none.
func writeRows(w io.Writer, rows [][]string) {
	if len(rows) > 0 {
		fmt.Fprintln(w)
		table(w, rows[0], rows[1:])
	}
}

type backendShow struct {
	Name string `arg:""`
}

// Run shows one GPU source.
func (cmd *backendShow) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		list, err := s.BackEnds(c.ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(b api.BackEnd) bool { return b.Name == cmd.Name })
		if i < 0 {
			return fault.New(fault.Missing, "There is no back end %q.", cmd.Name).WithRemedy("See which there are with: comfyume backend list")
		}
		b := list[i]
		var budget *api.Budget
		if b.Price > 0 {
			known, err := s.Budget(c.ctx)
			if err != nil {
				return err
			}
			budget = &known
		}
		return c.print(b, func(w io.Writer) {
			table(w, []string{"back end", b.Name}, factsOf(b))
			writeRows(w, budgetRows(budget))
		})
	})
}

// factsOf are all that is known of a back end.
func factsOf(b api.BackEnd) (rows [][]string) {
	add := func(name, format string, args ...any) {
		rows = append(rows, []string{name, fmt.Sprintf(format, args...)})
	}
	some := func(name, value string) {
		if value != "" {
			add(name, "%s", value)
		}
	}
	length := func(name string, seconds float64) {
		if seconds > 0 {
			add(name, "%s", time.Duration(seconds*float64(time.Second)).Round(100*time.Millisecond))
		}
	}
	add("state", "%s", strings.TrimSpace(b.State+". "+b.Reason))
	if b.Until != nil {
		add("until", "%s", b.Until.Local().Format(time.DateTime))
	}
	some("asleep", b.Cold)
	add("driver", "%s", strings.TrimSpace(b.Driver+" "+b.URL))
	some("comfyui", b.Version)
	for _, d := range b.Devices {
		add("gpu", "%s, %.1f of %.1f GB free", d.Name, float64(d.VRAMFree)/1e9, float64(d.VRAMTotal)/1e9)
	}
	some("groups", strings.Join(b.Groups, ", "))
	add("runs", "%d at the same time, %d so far", max(b.Parallel, 1), b.Runs)
	for _, cause := range slices.Sorted(maps.Keys(b.Losses)) {
		add("lost", "%d %s", b.Losses[cause], cause)
	}
	if b.Price > 0 {
		add("price", "%.2f per hour, %.6f per second", b.Price, b.Second)
	}
	if b.Prefer != 0 {
		add("preference", "%d", b.Prefer)
	}
	length("longest run", b.MaxRun)
	length("waking takes", b.Wake)
	if b.Speed > 0 {
		add("speed", "%.2f times the usual", b.Speed)
	}
	some("loaded", strings.ReplaceAll(b.Loaded, "\n", ", "))
	for _, l := range b.Loads {
		add("loading", "%s: %.1f s", strings.ReplaceAll(l.Models, "\n", ", "), l.Seconds)
	}
	some("trouble", b.Cause)
	for _, n := range b.Notes {
		some("note", n)
	}
	return rows
}

type backendAdd struct {
	Name        string            `arg:"" help:"How it is called: lower-case letters, digits, - and _."`
	URL         string            `arg:"" optional:"" help:"Its address; an agent has none."`
	Driver      string            `help:"comfyui, agent or serverless." placeholder:"DRIVER"`
	Key         string            `help:"Where its key is: env:NAME or file:PATH, on the studio's machine." placeholder:"REFERENCE"`
	Mode        string            `help:"Of a serverless one: agent, plain or async." placeholder:"MODE"`
	MaxParallel int               `help:"Of a serverless one: jobs that run at the same time." placeholder:"N"`
	Storage     string            `help:"Where its outputs are left and large inputs found." placeholder:"ADDRESS"`
	Provider    string            `help:"Of a serverless one: whose control interface it has." placeholder:"NAME"`
	Deployment  string            `help:"How the provider calls it." placeholder:"NAME"`
	Groups      []string          `help:"Whose jobs it runs; everybody's when left out." placeholder:"GROUP"`
	Label       map[string]string `help:"Shown beside it." placeholder:"NAME=TEXT"`
	Price       float64           `help:"What an hour of it costs." placeholder:"MONEY"`
	Prefer      int               `help:"The higher one gets a job first." placeholder:"N"`
	MaxRun      time.Duration     `help:"A run that takes longer is stopped." placeholder:"TIME"`
}

// Run takes in a GPU source.
func (cmd *backendAdd) Run(c *call) error {
	return c.ask(true, func(s *client.Client) error {
		b, err := s.AddBackEnd(c.ctx, api.NewBackEnd{
			Name: cmd.Name, Driver: cmd.Driver, URL: cmd.URL, Key: cmd.Key, Mode: cmd.Mode, MaxParallel: cmd.MaxParallel,
			Storage: cmd.Storage, Provider: cmd.Provider, Deployment: cmd.Deployment, Groups: cmd.Groups, Labels: cmd.Label,
			Price: cmd.Price, Prefer: cmd.Prefer, MaxRun: int(cmd.MaxRun / time.Second),
		})
		if err != nil {
			return err
		}
		return c.print(b, func(w io.Writer) {
			fmt.Fprintf(w, "Added %s.\n", b.Name)
			fmt.Fprintf(c.Stderr, "See whether it can be used with: comfyume backend test %s\n", b.Name)
		})
	})
}

type backendRemove struct {
	Name string `arg:""`
	Now  bool   `help:"Do not wait for its runs: they begin anew elsewhere."`
}

// Run lets go of a GPU source.
func (cmd *backendRemove) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error { return s.RemoveBackEnd(c.ctx, cmd.Name, cmd.Now) })
}

type backendDrain struct {
	Name string        `arg:""`
	Text string        `help:"What people read of it meanwhile." placeholder:"TEXT"`
	For  time.Duration `help:"After so long it takes work by itself again." placeholder:"TIME"`
}

// Run takes a GPU source out.
func (cmd *backendDrain) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		b, err := s.MaintainBackEnd(c.ctx, cmd.Name, cmd.Text, cmd.For)
		if err != nil {
			return err
		}
		return c.print(b, func(w io.Writer) { printBackEnds(w, []api.BackEnd{b}) })
	})
}

type backendResume struct {
	Name string `arg:""`
}

// Run gives a GPU source work again.
func (cmd *backendResume) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		b, err := s.DrainBackEnd(c.ctx, cmd.Name, false)
		if err != nil {
			return err
		}
		return c.print(b, func(w io.Writer) { printBackEnds(w, []api.BackEnd{b}) })
	})
}

type backendTest struct {
	Name  string `arg:""`
	Small bool   `name:"run" negatable:"" default:"true" help:"Have it run something small; it may wake one that costs money."`
}

// Run tests a GPU source; one that can't be used is a problem found.
func (cmd *backendTest) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		if cmd.Small {
			p := newProgress(c.Stderr)
			p.show("testing "+cmd.Name+", with a small run", 0, 0)
			defer p.end()
		}
		t, err := s.TestBackEnd(c.ctx, cmd.Name, cmd.Small)
		if err != nil {
			return err
		}
		if err := c.print(t, func(w io.Writer) { printTest(w, t) }); err != nil {
			return err
		}
		if !t.OK {
			return errFound
		}
		return nil
	})
}

func printTest(w io.Writer, t api.BackEndTest) {
	printBackEnds(w, []api.BackEnd{t.BackEnd})
	for _, step := range t.Steps {
		word := "ok    "
		if !step.OK {
			word = "FAILED"
		}
		fmt.Fprintf(w, "%s %-11s %s\n", word, step.Name, step.Text)
		if step.Cause != "" {
			fmt.Fprintf(w, "       Why: %s\n", step.Cause)
		}
		if step.Remedy != "" {
			fmt.Fprintf(w, "       Try: %s\n", step.Remedy)
		}
	}
}
