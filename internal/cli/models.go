package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/client"
)

// modelsCmd is about model files beside an agent's ComfyUI.
type modelsCmd struct {
	List     modelsList     `cmd:"" help:"List model files with their sizes."`
	Get      modelsGet      `cmd:"" help:"Bring a model file; one that was cut goes on where it stopped."`
	Remove   modelsRemove   `cmd:"" help:"Remove a model file."`
	Requests modelsRequests `cmd:"" help:"List models and nodes that graphs asked for and no GPU source of their group has."`
}

// bytesWord is a size for people.
func bytesWord(n int64) string {
	switch {
	case n >= 10_000_000_000:
		return strconv.FormatInt(n/1_000_000_000, 10) + " GB"
	case n >= 10_000_000:
		return strconv.FormatInt(n/1_000_000, 10) + " MB"
	default:
		return strconv.FormatInt(n/1000, 10) + " kB"
	}
}

// follow shows what an agent tells of its work.
func (p *progress) follow(what string) report.Sink {
	return func(e report.Event) {
		if e.Text != "" {
			what = e.Text
		}
		p.show(what+": "+e.State, e.At, e.Total)
	}
}

type modelsList struct {
	Name string `arg:"" help:"The GPU source."`
	Hash bool   `help:"With sha256 of each; it takes a while for files that were not read before."`
}

// Run lists model files.
func (cmd *modelsList) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		p := newProgress(c.Stderr)
		defer p.end()
		list, err := s.Models(c.ctx, cmd.Name, cmd.Hash, p.follow(cmd.Name))
		if err != nil {
			return err
		}
		return c.print(list, func(w io.Writer) {
			rows := make([][]string, 0, len(list))
			for _, m := range list {
				sum := dash(m.SHA256)
				if m.Partial {
					sum = "(not whole yet)"
				}
				rows = append(rows, []string{m.Folder, m.Name, bytesWord(m.Size), sum})
			}
			table(w, []string{"FOLDER", "NAME", "SIZE", "SHA256"}, rows)
		})
	})
}

type modelsGet struct {
	Name   string `arg:"" help:"The GPU source."`
	Folder string `arg:"" help:"As ComfyUI calls it, such as checkpoints."`
	URL    string `arg:""`
	As     string `name:"name" help:"How the file is called; as in the address when left out." placeholder:"FILE"`
	SHA256 string `name:"sha256" help:"What its sha256 has to be." placeholder:"HASH"`
}

// Run brings a model file.
func (cmd *modelsGet) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		p := newProgress(c.Stderr)
		m, err := s.GetModel(c.ctx, cmd.Name, api.NewModel{Folder: cmd.Folder, Name: cmd.As, URL: cmd.URL, SHA256: cmd.SHA256}, p.follow(cmd.Name))
		p.end()
		if err != nil {
			return err
		}
		return c.print(m, func(w io.Writer) { fmt.Fprintf(w, "%s/%s %s %s\n", m.Folder, m.Name, bytesWord(m.Size), m.SHA256) })
	})
}

type modelsRemove struct {
	Name   string `arg:"" help:"The GPU source."`
	Folder string `arg:"" help:"As ComfyUI calls it, such as checkpoints."`
	File   string `arg:""`
}

// Run removes a model file.
func (cmd *modelsRemove) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		m, err := s.RemoveModel(c.ctx, cmd.Name, cmd.Folder, cmd.File)
		if err != nil {
			return err
		}
		return c.print(m, func(w io.Writer) { fmt.Fprintf(w, "Removed %s/%s, %s.\n", m.Folder, m.Name, bytesWord(m.Size)) })
	})
}

type modelsRequests struct {
	Drop string `help:"Forget this one, by its name as listed." placeholder:"NAME"`
}

// Run lists what graphs asked for.
func (cmd *modelsRequests) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		list, err := s.Requests(c.ctx)
		if err != nil {
			return err
		}
		if cmd.Drop != "" {
			found := false
			for _, r := range list {
				if r.Name == cmd.Drop {
					found = true
					if err := s.DropRequest(c.ctx, r.Kind, r.Folder, r.Name); err != nil {
						return err
					}
				}
			}
			if !found {
				return wrongUse("Nobody asked for %q.", cmd.Drop)
			}
			return nil
		}
		return c.print(list, func(w io.Writer) {
			rows := make([][]string, 0, len(list))
			for _, r := range list {
				var who []string
				for _, g := range r.Groups {
					group := g.Group
					if group == "" {
						group = "(no group)"
					}
					who = append(who, fmt.Sprintf("%s %d", group, g.Count))
				}
				rows = append(rows, []string{r.Kind, dash(r.Folder), r.Name, strconv.Itoa(r.Count), strings.Join(who, ", "), r.Last.Local().Format("2006-01-02 15:04")})
			}
			table(w, []string{"KIND", "FOLDER", "NAME", "ASKED", "BY", "LAST"}, rows)
		})
	})
}

// nodesCmd is about custom nodes beside an agent's ComfyUI.
type nodesCmd struct {
	List     nodesList     `cmd:"" help:"List custom nodes with their commits."`
	Install  nodesInstall  `cmd:"" help:"Install custom nodes at a commit. They are programs that run with all rights of ComfyUI's account."`
	Pin      nodesPin      `cmd:"" help:"Put custom nodes at another commit."`
	Rollback nodesRollback `cmd:"" help:"Put back what custom nodes were before."`
}

type nodesList struct {
	Name string `arg:"" help:"The GPU source."`
}

// Run lists custom nodes.
func (cmd *nodesList) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		list, err := s.NodePacks(c.ctx, cmd.Name)
		if err != nil {
			return err
		}
		return c.print(list, func(w io.Writer) {
			rows := make([][]string, 0, len(list))
			for _, p := range list {
				var notes []string
				for note, is := range map[string]bool{"switched off": p.Disabled, "changed by hand": p.Changed} {
					if is {
						notes = append(notes, note)
					}
				}
				back := "-"
				if len(p.Before) > 0 {
					if back = p.Before[0].Commit; p.Before[0].Empty {
						back = "(none)"
					}
				}
				rows = append(rows, []string{p.Name, dash(short(p.Commit)), dash(p.From), dash(short(back)), strings.Join(notes, ", ")})
			}
			table(w, []string{"PACK", "COMMIT", "FROM", "BEFORE", ""}, rows)
		})
	})
}

func short(commit string) string { return commit[:min(len(commit), 12)] }

type nodesInstall struct {
	Name         string `arg:"" help:"The GPU source."`
	URL          string `arg:"" help:"A git repository, or a .zip or .tar.gz of one."`
	Commit       string `help:"Of the repository: 40 hexadecimal digits." placeholder:"COMMIT"`
	SHA256       string `name:"sha256" help:"Of the archive." placeholder:"HASH"`
	As           string `name:"name" help:"Folder in custom_nodes; from the address when left out." placeholder:"NAME"`
	Requirements bool   `help:"Install what its requirements.txt asks for, with ComfyUI's Python."`
	Restart      bool   `help:"Start ComfyUI anew afterwards, which ends what it runs."`
}

// Run installs custom nodes.
func (cmd *nodesInstall) Run(c *call) error {
	return c.nodes(cmd.Name, "install", api.NodeChange{
		Name: cmd.As, URL: cmd.URL, Commit: cmd.Commit, SHA256: cmd.SHA256, Requirements: cmd.Requirements, Restart: cmd.Restart,
	})
}

type nodesPin struct {
	Name         string `arg:"" help:"The GPU source."`
	Pack         string `arg:""`
	Commit       string `arg:"" help:"40 hexadecimal digits."`
	Requirements bool   `help:"Install what its requirements.txt asks for, with ComfyUI's Python."`
	Restart      bool   `help:"Start ComfyUI anew afterwards, which ends what it runs."`
}

// Run puts custom nodes at another commit.
func (cmd *nodesPin) Run(c *call) error {
	return c.nodes(cmd.Name, "pin", api.NodeChange{Name: cmd.Pack, Commit: cmd.Commit, Requirements: cmd.Requirements, Restart: cmd.Restart})
}

type nodesRollback struct {
	Name    string `arg:"" help:"The GPU source."`
	Pack    string `arg:""`
	Restart bool   `help:"Start ComfyUI anew afterwards, which ends what it runs."`
}

// Run puts back what custom nodes were before.
func (cmd *nodesRollback) Run(c *call) error {
	return c.nodes(cmd.Name, "rollback", api.NodeChange{Name: cmd.Pack, Restart: cmd.Restart})
}

// nodes has an agent change custom nodes and shows what came of it.
func (c *call) nodes(name, act string, n api.NodeChange) error {
	return c.ask(false, func(s *client.Client) error {
		p := newProgress(c.Stderr)
		out, err := s.ChangeNodes(c.ctx, name, act, n, p.follow(name))
		p.end()
		if err != nil {
			return err
		}
		return c.print(out, func(w io.Writer) {
			if out.Gone {
				fmt.Fprintf(w, "%s is gone, as before.\n", out.Pack.Name)
			} else {
				fmt.Fprintf(w, "%s is at %s.\n", out.Pack.Name, out.Pack.Commit)
			}
			if len(out.Requirements) > 0 {
				fmt.Fprintln(w, "Its requirements: "+strings.Join(out.Requirements, ", "))
			}
			for _, p := range out.Packages {
				fmt.Fprintln(w, "Python package: "+p)
			}
			if out.Missing {
				fmt.Fprintln(w, "They were not installed. Install them with --requirements, or by hand.")
			}
			if !out.Restarted {
				fmt.Fprintln(w, "ComfyUI loads custom nodes at its start: start it anew, or use --restart.")
			}
		})
	})
}
