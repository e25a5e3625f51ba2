package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// userCmd is about accounts.
type userCmd struct {
	Add      userAdd      `cmd:"" help:"Make accounts."`
	List     userList     `cmd:"" help:"List accounts."`
	Remove   userRemove   `cmd:"" help:"Remove an account."`
	Link     userLink     `cmd:"" help:"Print a one-time sign-in link."`
	Password userPassword `cmd:"" help:"Set an account's password, read from the terminal or stdin."`
	Import   userImport   `cmd:"" help:"Make the accounts of a CSV roster (columns name, group, role, password)."`
}

func printUsers(c *call, list []api.User) error {
	return c.print(list, func(w io.Writer) {
		rows := make([][]string, 0, len(list))
		for _, u := range list {
			note := ""
			if u.Suspended {
				note = "suspended"
			}
			rows = append(rows, []string{u.Name, string(u.Role), dash(u.Group), u.SignsIn, ago(u.Seen), note})
		}
		table(w, []string{"NAME", "ROLE", "GROUP", "SIGNS IN WITH", "LAST SEEN", ""}, rows)
	})
}

type userAdd struct {
	Names []string `arg:"" name:"name" help:"Lower-case letters, digits, - and _."`
	Role  string   `enum:"participant,instructor,operator" default:"participant" help:"participant, instructor or operator."`
	Group string   `help:"Class or team; made where it is missing."`
}

// Run makes accounts.
func (cmd *userAdd) Run(c *call) error {
	return c.ask(true, func(s *client.Client) error {
		var made []api.User
		for _, name := range cmd.Names {
			u, err := s.AddUser(c.ctx, api.NewUser{Name: name, Group: cmd.Group, Role: identity.Role(cmd.Role)})
			if err != nil {
				return errors.Join(err, printMade(c, made))
			}
			made = append(made, u)
		}
		return printUsers(c, made)
	})
}

// printMade prints what was done before something went wrong.
func printMade(c *call, made []api.User) error {
	if len(made) == 0 {
		return nil
	}
	return printUsers(c, made)
}

type userList struct {
	Group string `help:"Of this group only."`
}

// Run lists accounts.
func (cmd *userList) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		list, err := s.Users(c.ctx, cmd.Group)
		if err != nil {
			return err
		}
		return printUsers(c, list)
	})
}

type userRemove struct {
	Name  string `arg:""`
	Files bool   `help:"Its files and history too. They don't come back. Without it they stay, for an account of the same name."`
}

// Run removes an account.
func (cmd *userRemove) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error { return s.RemoveUser(c.ctx, cmd.Name, cmd.Files) })
}

type userLink struct {
	Name  string `arg:""`
	Hours int    `help:"How long it lives unused; two weeks when left out."`
}

// Run prints a sign-in link, alone.
func (cmd *userLink) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		l, err := s.NewLink(c.ctx, cmd.Name, time.Duration(cmd.Hours)*time.Hour)
		if err != nil {
			return err
		}
		return c.print(l, func(w io.Writer) { fmt.Fprintln(w, l.URL) })
	})
}

type userPassword struct {
	Name string `arg:""`
}

// Run sets a password. It is never an argument: those are seen by everybody on the machine.
func (cmd *userPassword) Run(c *call) error {
	password, err := readPassword(c)
	if err != nil {
		return err
	}
	return c.ask(false, func(s *client.Client) error { return s.SetPassword(c.ctx, cmd.Name, password) })
}

// readPassword asks twice on a terminal, and reads one line elsewhere.
func readPassword(c *call) (string, error) {
	f, ok := c.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := bufio.NewReader(io.LimitReader(c.Stdin, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	var typed [2]string
	for i, question := range []string{"Password: ", "Again: "} {
		fmt.Fprint(c.Stderr, question)
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(c.Stderr)
		if err != nil {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		typed[i] = string(text)
	}
	if typed[0] != typed[1] {
		return "", fault.New(fault.Invalid, "The two passwords differ.").WithRemedy("Type it again.")
	}
	return typed[0], nil
}

type userImport struct {
	File string `arg:"" help:"CSV file, or - for stdin."`
}

// Run makes the accounts of a roster.
func (cmd *userImport) Run(c *call) error {
	in := c.Stdin
	if cmd.File != "-" {
		f, err := os.Open(cmd.File)
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "The roster can't be read.")
		}
		defer f.Close()
		in = f
	}
	return c.ask(true, func(s *client.Client) error {
		out, err := s.Import(c.ctx, in)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.Stderr, "Accounts made: %d. There already: %d.\n", len(out.Made), out.There)
		return printUsers(c, out.Made)
	})
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// ago says how long a time is over.
func ago(t *time.Time) string {
	if t == nil {
		return "-"
	}
	d := time.Since(*t)
	switch {
	case d < time.Minute:
		return "now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return t.Local().Format("2 Jan 2006")
	}
}
