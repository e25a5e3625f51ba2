package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/job"
)

// jobCmd is about jobs.
type jobCmd struct {
	List   jobList   `cmd:"" help:"List jobs, newest first."`
	Show   jobShow   `cmd:"" help:"Show one job."`
	Cancel jobCancel `cmd:"" help:"Take a waiting job out, or ask a running one to stop."`
}

type jobList struct {
	User   string   `help:"Of this account only."`
	State  []string `help:"pending, running, completed, failed, cancelled; may be repeated."`
	Limit  int      `default:"50" help:"At most so many."`
	Offset int      `help:"Leave out the first so many."`
}

// Run lists jobs.
func (cmd *jobList) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		out, err := s.Jobs(c.ctx, client.JobFilter{User: cmd.User, States: cmd.State, Limit: cmd.Limit, Offset: cmd.Offset})
		if err != nil {
			return err
		}
		return c.print(out, func(w io.Writer) {
			rows := make([][]string, 0, len(out.Jobs))
			for _, j := range out.Jobs {
				rows = append(rows, []string{string(j.ID), j.User, string(j.State), ago(&j.Created), took(j), dash(j.BackEnd), j.Why + j.Error})
			}
			table(w, []string{"ID", "USER", "STATE", "MADE", "TOOK", "BACK END", ""}, rows)
			if out.Total > len(out.Jobs) {
				fmt.Fprintf(w, "%d of %d\n", len(out.Jobs), out.Total)
			}
		})
	})
}

// took says how long a job ran, or runs.
func took(j api.Job) string {
	if j.Started == nil {
		return "-"
	}
	end := time.Now()
	if j.Finished != nil {
		end = *j.Finished
	}
	return end.Sub(*j.Started).Round(100 * time.Millisecond).String()
}

func printJob(c *call, j api.Job) error {
	return c.print(j, func(w io.Writer) {
		rows := [][]string{
			{"prompt id", j.PromptID},
			{"user", j.User},
			{"group", dash(j.Group)},
			{"state", string(j.State)},
			{"made", j.Created.Local().Format(time.DateTime)},
			{"took", took(j)},
			{"attempts", fmt.Sprint(j.Attempt)},
			{"back end", dash(j.BackEnd)},
		}
		if j.Staged {
			rows = append(rows, []string{"next", "its back end has it ready"})
		}
		if j.Stopping {
			rows = append(rows, []string{"stopping", "it was asked to stop"})
		}
		if j.Why != "" {
			rows = append(rows, []string{"waits", j.Why})
		}
		if j.Error != "" {
			rows = append(rows, []string{"error", j.Error})
		}
		table(w, []string{"job", string(j.ID)}, rows)
	})
}

type jobShow struct {
	ID string `arg:""`
}

// Run shows a job.
func (cmd *jobShow) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		j, err := s.Job(c.ctx, job.ID(cmd.ID))
		if err != nil {
			return err
		}
		return printJob(c, j)
	})
}

type jobCancel struct {
	ID string `arg:""`
}

// Run cancels a job.
func (cmd *jobCancel) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		j, err := s.Cancel(c.ctx, job.ID(cmd.ID))
		if err != nil {
			return err
		}
		return printJob(c, j)
	})
}
