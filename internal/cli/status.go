package cli

import (
	"fmt"
	"io"

	"github.com/ahelme/comfyume/internal/client"
)

// statusCmd shows the studio at a glance.
type statusCmd struct{}

// Run shows the studio. One that is not ready is a problem found.
func (*statusCmd) Run(c *call) error {
	return c.ask(false, func(s *client.Client) error {
		st, err := s.Status(c.ctx)
		if err != nil {
			return err
		}
		err = c.print(st, func(w io.Writer) {
			state := "ready"
			switch {
			case !st.Running:
				state = "no server runs"
			case !st.Ready:
				state = "not ready"
			}
			fmt.Fprintf(w, "studio   %s (%s), %s\n", st.Name, st.ID, state)
			fmt.Fprintf(w, "address  %s\nversion  %s\n", st.URL, st.Version)
			if st.Running {
				fmt.Fprintf(w, "since    %s\neditor   %s\n", ago(st.Since), dash(st.Frontend))
			}
			fmt.Fprintf(w, "queue    %d waiting, %d running\n", st.Queue.Pending, st.Queue.Running)
			for _, r := range st.Reasons {
				fmt.Fprintf(w, "note     %s\n", r)
			}
			if len(st.BackEnds) > 0 {
				fmt.Fprintln(w)
				printBackEnds(w, st.BackEnds)
			}
		})
		if err == nil && !st.Ready {
			err = errFound
		}
		return err
	})
}

// versionCmd shows the version.
type versionCmd struct{}

// Run shows the version.
func (*versionCmd) Run(c *call) error {
	return c.print(map[string]string{"version": version()}, func(w io.Writer) { fmt.Fprintln(w, version()) })
}
