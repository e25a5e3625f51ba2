package cli

import (
	"fmt"
	"io"
	"strconv"

	"github.com/ahelme/comfyume/internal/client"
)

// queueCmd is about the queue.
type queueCmd struct {
	Show queueShow `cmd:"" help:"Show the queue at a glance."`
}

type queueShow struct{}

// Run shows the queue.
func (*queueShow) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		q, err := s.Queue(c.ctx)
		if err != nil {
			return err
		}
		return c.print(q, func(w io.Writer) {
			fmt.Fprintf(w, "mode     %s\n", q.Mode)
			if q.Note != "" {
				fmt.Fprintf(w, "note     %s\n", q.Note)
			}
			fmt.Fprintf(w, "waiting  %d\nrunning  %d\n", q.Counts.Pending, q.Counts.Running)
			if len(q.Users) == 0 {
				return
			}
			fmt.Fprintln(w)
			rows := make([][]string, 0, len(q.Users))
			for _, u := range q.Users {
				rows = append(rows, []string{u.User, strconv.Itoa(u.Pending), strconv.Itoa(u.Running)})
			}
			table(w, []string{"USER", "WAITING", "RUNNING"}, rows)
		})
	})
}
