package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/job"
)

// jobCmd is about jobs.
type jobCmd struct {
	List     jobList     `cmd:"" help:"List jobs, newest first."`
	Show     jobShow     `cmd:"" help:"Show one job, its place, and why it waits."`
	Cancel   jobCancel   `cmd:"" help:"Take a waiting job out, or ask a running one to stop; or all jobs of one person."`
	Hold     jobHold     `cmd:"" help:"Keep a waiting job from running."`
	Release  jobRelease  `cmd:"" help:"Let a held job wait for its turn again."`
	Front    jobFront    `cmd:"" help:"Put a waiting job before its owner's others."`
	Priority jobPriority `cmd:"" help:"Give a waiting job another priority."`
	Deadline jobDeadline `cmd:"" help:"Say when a waiting job is needed; it moves nobody, and lets GPUs that cost money help."`
	Retry    jobRetry    `cmd:"" help:"Submit once more what a job that is over asked for."`
	Export   jobExport   `cmd:"" help:"Write a job's graph and results as JSON."`
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
				rows = append(rows, []string{string(j.ID), j.User, stateOf(j), ago(&j.Created), took(j), dash(j.BackEnd), standing(j) + j.Error})
			}
			table(w, []string{"ID", "USER", "STATE", "MADE", "TOOK", "BACK END", ""}, rows)
			if out.Total > len(out.Jobs) {
				fmt.Fprintf(w, "%d of %d\n", len(out.Jobs), out.Total)
			}
		})
	})
}

// stateOf names a job's state as people see it.
func stateOf(j api.Job) string {
	if j.Held && j.State == job.Pending {
		return "held"
	}
	return string(j.State)
}

// standing says where a waiting job stands, when it begins, and why it waits; empty for others.
func standing(j api.Job) string {
	p := j.Place()
	var parts []string
	for _, part := range []string{p.Line(), p.Wait(), strings.TrimSuffix(p.Reason, ".")} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, " · ")
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

// priorities are the names of the classes, in their order.
var priorities = []string{"instructor", "high", "normal", "low"}

func priorityOf(c job.Class) string {
	if int(c) < len(priorities) {
		return priorities[c]
	}
	return fmt.Sprint(c)
}

func writeJob(w io.Writer, j api.Job) {
	rows := [][]string{
		{"prompt id", j.PromptID},
		{"user", j.User},
		{"group", dash(j.Group)},
		{"state", stateOf(j)},
		{"priority", priorityOf(j.Class)},
		{"made", j.Created.Local().Format(time.DateTime)},
		{"took", took(j)},
		{"attempts", fmt.Sprint(j.Attempt)},
		{"back end", dash(j.BackEnd)},
	}
	optional := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	if j.Staged {
		optional("next", "its back end has it ready")
	}
	if j.Stopping {
		optional("stopping", "it was asked to stop")
	}
	p := j.Place()
	optional("place", p.Line())
	optional("begins", p.Wait())
	optional("waits", p.Reason)
	if j.Deadline != nil {
		by := j.Deadline.Local().Format(time.DateTime)
		if j.Late {
			by += " (missed)"
		}
		optional("needed by", by)
	}
	optional("error", j.Error)
	table(w, []string{"job", string(j.ID)}, rows)
	writeAttempts(w, j.Attempts)
}

// writeAttempts tells what came of a job's attempts, where that is more than one line about the job says.
func writeAttempts(w io.Writer, attempts []api.Attempt) {
	if len(attempts) < 2 && (len(attempts) == 0 || attempts[0].N < 2) {
		return
	}
	var rows [][]string
	for _, a := range attempts {
		began, took := "-", "-"
		if a.Began != nil {
			began = a.Began.Local().Format(time.DateTime)
			if a.Ended != nil {
				took = a.Ended.Sub(*a.Began).Round(100 * time.Millisecond).String()
			}
		}
		rows = append(rows, []string{fmt.Sprint(a.N), a.BackEnd, began, took, dash(string(a.Cause)), dash(a.Reason)})
	}
	fmt.Fprintln(w)
	table(w, []string{"ATTEMPT", "BACK END", "BEGAN", "TOOK", "CAUSE", "REASON"}, rows)
}

func printJob(c *call, j api.Job) error {
	return c.print(j, func(w io.Writer) { writeJob(w, j) })
}

// oneJob asks something about one job and prints the job as it is then.
func (c *call) oneJob(ask func(s *client.Client) (api.Job, error)) error {
	return c.ask(false, func(s *client.Client) error {
		j, err := ask(s)
		if err != nil {
			return err
		}
		return printJob(c, j)
	})
}

type jobShow struct {
	ID    job.ID `arg:""`
	Watch bool   `short:"w" help:"Show it anew whenever it changes, until it is over."`
}

// Run shows a job.
func (cmd *jobShow) Run(c *call) error {
	if !cmd.Watch {
		return c.oneJob(func(s *client.Client) (api.Job, error) { return s.Job(c.ctx, cmd.ID) })
	}
	return c.watch(func(s *client.Client) (view, error) {
		j, err := s.Job(c.ctx, cmd.ID)
		parts := []string{stateOf(j)}
		if j.State == job.Running {
			parts = append(parts, "on "+j.BackEnd)
		}
		if text := standing(j) + j.Error; text != "" {
			parts = append(parts, text)
		}
		return view{facts: j, line: strings.Join(parts, " · "), human: func(w io.Writer) { writeJob(w, j) }, over: j.State.Final()}, err
	})
}

type jobCancel struct {
	ID   job.ID `arg:"" optional:"" help:"The job; or --user NAME for all jobs of one person."`
	User string `help:"All open jobs of this account." placeholder:"NAME"`
}

// Run cancels a job, or all of one person.
func (cmd *jobCancel) Run(c *call) error {
	if (cmd.ID == "") == (cmd.User == "") {
		return wrongUse("Which jobs?").WithRemedy("Name one by its id, or all of one person with --user NAME.")
	}
	if cmd.User == "" {
		return c.oneJob(func(s *client.Client) (api.Job, error) { return s.Cancel(c.ctx, cmd.ID) })
	}
	return c.ask(false, func(s *client.Client) error {
		out, err := s.CancelAll(c.ctx, cmd.User)
		if err != nil {
			return err
		}
		return c.print(out, func(w io.Writer) {
			fmt.Fprintf(w, "taken out  %d\nstopping   %d\n", len(out.Removed), len(out.Stopping))
		})
	})
}

type jobHold struct {
	ID job.ID `arg:""`
}

// Run holds a job.
func (cmd *jobHold) Run(c *call) error {
	return c.oneJob(func(s *client.Client) (api.Job, error) { return s.Hold(c.ctx, cmd.ID, true) })
}

type jobRelease struct {
	ID job.ID `arg:""`
}

// Run releases a job.
func (cmd *jobRelease) Run(c *call) error {
	return c.oneJob(func(s *client.Client) (api.Job, error) { return s.Hold(c.ctx, cmd.ID, false) })
}

type jobFront struct {
	ID job.ID `arg:""`
}

// Run moves a job to the front.
func (cmd *jobFront) Run(c *call) error {
	return c.oneJob(func(s *client.Client) (api.Job, error) { return s.ToFront(c.ctx, cmd.ID) })
}

type jobPriority struct {
	ID    job.ID `arg:""`
	Class string `arg:"" name:"priority" enum:"instructor,high,normal,low,0,1,2,3" help:"instructor, high, normal or low; or 0 to 3."`
}

// Run gives a job another priority.
func (cmd *jobPriority) Run(c *call) error {
	class := job.Class(0)
	for i, name := range priorities {
		if cmd.Class == name || cmd.Class == fmt.Sprint(i) {
			class = job.Class(i)
		}
	}
	return c.oneJob(func(s *client.Client) (api.Job, error) { return s.SetPriority(c.ctx, cmd.ID, class) })
}

type jobDeadline struct {
	ID   job.ID `arg:""`
	Time string `arg:"" help:"16:30 (the next time that it is), 2026-11-27T16:30:00+01:00, or none."`
}

// Run says when a job is needed.
func (cmd *jobDeadline) Run(c *call) error {
	at := cmd.Time
	if at == "none" {
		at = ""
	} else if clock, err := time.ParseInLocation("15:04", at, time.Local); err == nil {
		now := time.Now()
		next := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), 0, 0, time.Local)
		if !next.After(now) {
			next = time.Date(now.Year(), now.Month(), now.Day()+1, clock.Hour(), clock.Minute(), 0, 0, time.Local)
		}
		at = next.Format(time.RFC3339)
	}
	return c.oneJob(func(s *client.Client) (api.Job, error) { return s.SetDeadline(c.ctx, cmd.ID, at) })
}

type jobRetry struct {
	ID job.ID `arg:""`
}

// Run submits a job once more and shows the new one.
func (cmd *jobRetry) Run(c *call) error {
	return c.oneJob(func(s *client.Client) (api.Job, error) { return s.Retry(c.ctx, cmd.ID) })
}

type jobExport struct {
	ID   job.ID `arg:""`
	File string `arg:"" optional:"" default:"-" help:"Where to; stdout when left out."`
}

// Run writes a job's graph and results. It is JSON in any case.
func (cmd *jobExport) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		r, err := s.Record(c.ctx, cmd.ID)
		if err != nil {
			return err
		}
		return c.toFile(cmd.File, func(w io.Writer) error { return writeJSON(w, r) })
	})
}
