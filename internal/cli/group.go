package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/client"
)

// groupCmd is about groups and the codes by which people join them.
type groupCmd struct {
	Add    groupAdd    `cmd:"" help:"Make a group."`
	List   groupList   `cmd:"" help:"List groups."`
	Remove groupRemove `cmd:"" help:"Remove a group without members."`
	Code   groupCode   `cmd:"" help:"Make a class code and print its address."`
	Codes  groupCodes  `cmd:"" help:"List class codes."`
	Revoke groupRevoke `cmd:"" help:"End a class code."`
}

func printGroups(c *call, list []api.Group) error {
	return c.print(list, func(w io.Writer) {
		rows := make([][]string, 0, len(list))
		for _, g := range list {
			rows = append(rows, []string{g.Name, dash(g.Title), strconv.Itoa(g.Members)})
		}
		table(w, []string{"NAME", "TITLE", "MEMBERS"}, rows)
	})
}

type groupAdd struct {
	Name  string `arg:""`
	Title string `help:"What people read."`
}

// Run makes a group.
func (cmd *groupAdd) Run(c *call) error {
	return c.ask(true, func(s *client.Client) error {
		g, err := s.AddGroup(c.ctx, cmd.Name, cmd.Title)
		if err != nil {
			return err
		}
		return printGroups(c, []api.Group{g})
	})
}

type groupList struct{}

// Run lists groups.
func (*groupList) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		list, err := s.Groups(c.ctx)
		if err != nil {
			return err
		}
		return printGroups(c, list)
	})
}

type groupRemove struct {
	Name string `arg:""`
}

// Run removes a group.
func (cmd *groupRemove) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error { return s.RemoveGroup(c.ctx, cmd.Name) })
}

type groupCode struct {
	Group  string `arg:""`
	Places int    `help:"How many people it lets in; 500 when left out."`
	Hours  int    `help:"How long it lives; 90 days when left out."`
}

// Run prints a class code's address, alone.
func (cmd *groupCode) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		code, err := s.NewCode(c.ctx, cmd.Group, cmd.Places, time.Duration(cmd.Hours)*time.Hour)
		if err != nil {
			return err
		}
		return c.print(code, func(w io.Writer) { fmt.Fprintln(w, code.URL) })
	})
}

type groupCodes struct {
	Group string `arg:"" optional:""`
}

// Run lists class codes.
func (cmd *groupCodes) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		list, err := s.Codes(c.ctx, cmd.Group)
		if err != nil {
			return err
		}
		return c.print(list, func(w io.Writer) {
			rows := make([][]string, 0, len(list))
			for _, one := range list {
				rows = append(rows, []string{one.Code, one.Group, fmt.Sprintf("%d of %d", one.Joined, one.Places), one.Expires.Local().Format(time.DateTime), one.URL})
			}
			table(w, []string{"CODE", "GROUP", "JOINED", "ENDS", "ADDRESS"}, rows)
		})
	})
}

type groupRevoke struct {
	Code string `arg:""`
}

// Run ends a class code.
func (cmd *groupRevoke) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error { return s.RevokeCode(c.ctx, cmd.Code) })
}
