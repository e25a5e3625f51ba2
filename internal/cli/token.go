package cli

import (
	"fmt"
	"io"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/client"
)

// tokenCmd is about personal tokens.
type tokenCmd struct {
	New    tokenNew    `cmd:"" help:"Make a personal token and print it. It is shown once."`
	List   tokenList   `cmd:"" help:"List an account's tokens."`
	Revoke tokenRevoke `cmd:"" help:"End a token at once."`
}

type tokenNew struct {
	User  string `arg:""`
	Label string `help:"What it is for." placeholder:"L"`
	Scope string `enum:"all,comfy,worker" default:"all" help:"all: whatever the person may do; comfy: their ComfyUI server only; worker: take anybody's jobs to run them and nothing else (operators)."`
	Hours int    `help:"How long it lives; until it is revoked when left out."`
}

// Run prints a token, alone.
func (cmd *tokenNew) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		t, err := s.NewToken(c.ctx, cmd.User, api.NewToken{Label: cmd.Label, Scope: cmd.Scope, Hours: cmd.Hours})
		if err != nil {
			return err
		}
		return c.print(t, func(w io.Writer) { fmt.Fprintln(w, t.Secret) })
	})
}

type tokenList struct {
	User string `arg:""`
}

// Run lists tokens.
func (cmd *tokenList) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		list, err := s.Tokens(c.ctx, cmd.User)
		if err != nil {
			return err
		}
		return c.print(list, func(w io.Writer) {
			rows := make([][]string, 0, len(list))
			for _, t := range list {
				rows = append(rows, []string{t.ID, dash(t.Label), t.Scope, ago(&t.Created), ago(t.Used)})
			}
			table(w, []string{"ID", "LABEL", "SCOPE", "MADE", "LAST USED"}, rows)
		})
	})
}

type tokenRevoke struct {
	User string `arg:""`
	ID   string `arg:""`
}

// Run ends a token.
func (cmd *tokenRevoke) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error { return s.RevokeToken(c.ctx, cmd.User, cmd.ID) })
}
