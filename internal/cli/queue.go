package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/fault"
)

// queueCmd is about the queue.
type queueCmd struct {
	Show   queueShow   `cmd:"" help:"Show the queue at a glance."`
	Mode   queueMode   `cmd:"" help:"Show or change how the queue chooses between people."`
	Pause  queuePause  `cmd:"" help:"Let nothing start: at all, of a group, or on a back end. What runs goes on."`
	Resume queueResume `cmd:"" help:"Let go on what was paused."`
	Export queueExport `cmd:"" help:"Write the whole queue, for a studio with another store."`
	Import queueImport `cmd:"" help:"Fill the empty queue of a studio that does not run with what was exported."`
}

func writeQueue(w io.Writer, q api.QueueState) {
	rows := [][]string{}
	for _, p := range q.Pauses {
		by := ago(&p.Since)
		if p.By != "" {
			by = p.By + ", " + by
		}
		rows = append(rows, []string{"paused", strings.TrimSpace(p.Scope + " (" + by + ") " + p.Reason)})
	}
	rows = append(rows, []string{"waiting", strconv.Itoa(q.Counts.Pending)}, []string{"running", strconv.Itoa(q.Counts.Running)})
	table(w, []string{"mode", q.Mode}, append(rows, budgetRows(q.Budget)...))
	if len(q.Users) == 0 {
		return
	}
	fmt.Fprintln(w)
	rows = rows[:0]
	for _, u := range q.Users {
		rows = append(rows, []string{
			u.User, dash(u.Group), strconv.Itoa(u.Pending), strconv.Itoa(u.Running), number(u.Weight), number(u.GroupWeight),
		})
	}
	table(w, []string{"USER", "GROUP", "WAITING", "RUNNING", "WEIGHT", "OF GROUP"}, rows)
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', 6, 64) }

func printQueue(c *call, q api.QueueState) error {
	return c.print(q, func(w io.Writer) { writeQueue(w, q) })
}

// theQueue asks something about the queue and prints the queue as it is then.
func (c *call) theQueue(ask func(s *client.Client) (api.QueueState, error)) error {
	return c.ask(false, func(s *client.Client) error {
		q, err := ask(s)
		if err != nil {
			return err
		}
		return printQueue(c, q)
	})
}

type queueShow struct {
	Watch bool `short:"w" help:"Show it anew whenever it changes."`
}

// Run shows the queue.
func (cmd *queueShow) Run(c *call) error {
	if !cmd.Watch {
		return c.theQueue(func(s *client.Client) (api.QueueState, error) { return s.Queue(c.ctx) })
	}
	return c.watch(func(s *client.Client) (view, error) {
		q, err := s.Queue(c.ctx)
		line := fmt.Sprintf("%s · %d waiting · %d running", q.Mode, q.Counts.Pending, q.Counts.Running)
		for _, p := range q.Pauses {
			line += " · paused: " + p.Scope
		}
		return view{facts: q, line: line, human: func(w io.Writer) {
			fmt.Fprintln(w, time.Now().Format(time.TimeOnly))
			writeQueue(w, q)
		}}, err
	})
}

type queueMode struct {
	Mode string `arg:"" optional:"" default:"" enum:"fifo,round_robin,priority,fair," help:"fifo, round_robin, priority or fair; left out: show it."`
}

// Run shows or changes the mode.
func (cmd *queueMode) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		ask := s.Queue
		if cmd.Mode != "" {
			ask = func(ctx context.Context) (api.QueueState, error) { return s.SetMode(ctx, cmd.Mode) }
		}
		q, err := ask(c.ctx)
		if err != nil {
			return err
		}
		return c.print(q, func(w io.Writer) { fmt.Fprintln(w, q.Mode) })
	})
}

// part says which part of the queue is meant.
type part struct {
	Group   string `help:"Only what the people of this group submit." xor:"part" placeholder:"NAME"`
	Backend string `help:"Only this back end." xor:"part" placeholder:"NAME"`
}

func (p part) scope() string {
	switch {
	case p.Group != "":
		return api.ScopeGroup + p.Group
	case p.Backend != "":
		return api.ScopeBackEnd + p.Backend
	}
	return api.ScopeAll
}

type queuePause struct {
	part   `embed:""`
	Reason string `help:"A sentence for who waits."`
}

// Run pauses the queue.
func (cmd *queuePause) Run(c *call) error {
	return c.theQueue(func(s *client.Client) (api.QueueState, error) { return s.Pause(c.ctx, cmd.scope(), cmd.Reason) })
}

type queueResume struct {
	part `embed:""`
}

// Run lets the queue go on.
func (cmd *queueResume) Run(c *call) error {
	return c.theQueue(func(s *client.Client) (api.QueueState, error) { return s.Resume(c.ctx, cmd.scope()) })
}

type queueExport struct {
	File string `arg:"" help:"Where to; - is stdout."`
}

// Run writes the queue: lines of JSON in any case. Credentials are left out.
func (cmd *queueExport) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		p := newProgress(c.Stderr)
		p.show("Writing the queue", 0, 0)
		defer p.end()
		return c.toFile(cmd.File, func(w io.Writer) error { return s.ExportQueue(c.ctx, w) })
	})
}

type queueImport struct {
	File string `arg:"" help:"What queue export wrote; - is stdin."`
}

// Run fills a queue.
func (cmd *queueImport) Run(c *call) error {
	if c.root.Server != "" {
		return wrongUse("A queue is filled where it is.").WithRemedy("Leave out --server, and name the studio with --config or --data.")
	}
	in := c.Stdin
	if cmd.File != "-" {
		f, err := os.Open(cmd.File)
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "The export can't be read.")
		}
		defer f.Close()
		in = f
	}
	o, err := c.folder()
	if err != nil {
		return err
	}
	jobs, err := app.ImportQueue(c.ctx, o, in)
	if err != nil {
		return err
	}
	imported := struct {
		Jobs int `json:"jobs"`
	}{jobs}
	return c.print(imported, func(w io.Writer) { fmt.Fprintf(w, "jobs taken over  %d\n", jobs) })
}
