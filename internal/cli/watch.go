package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"golang.org/x/term"

	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/fault"
)

// view is what a live view shows at one moment.
type view struct {
	facts any               // as JSON
	human func(w io.Writer) // on a terminal
	line  string            // elsewhere, when it differs from the one before
	over  bool              // nothing will change any more
}

// lookEvery is how often a live view looks again.
const lookEvery = time.Second

// watch shows something until it is over or a signal comes: drawn anew on a terminal; else a line for every change, with
// --json an object. A server that is away for a while is waited for.
func (c *call) watch(look func(s *client.Client) (view, error)) error {
	ctx, stop := signal.NotifyContext(c.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	c.ctx = ctx
	return c.ask(false, func(s *client.Client) error {
		if !s.Live() {
			return fault.New(fault.Unavailable, "No server runs, so nothing changes.").
				WithRemedy("Start one with: comfyume serve. Or leave out --watch.")
		}
		screen := c.screen()
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for away := false; ; {
			v, err := look(s)
			switch {
			case ctx.Err() != nil:
				return nil
			case fault.Is(err, fault.Unavailable) && screen.shown != "":
				if !away {
					complain(c.Stderr, err)
				}
				away = true
			case err != nil:
				return err
			default:
				away = false
				if err := screen.show(v); err != nil || v.over {
					return err
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
}

// screen is where a live view is shown.
type screen struct {
	w        io.Writer
	terminal *os.File // nil: none
	json     bool
	shown    string
}

func (c *call) screen() *screen {
	s := &screen{w: c.Stdout, json: c.root.JSON}
	if f, ok := c.Stdout.(*os.File); ok && !s.json && isatty.IsTerminal(f.Fd()) {
		s.terminal = f
	}
	return s
}

// show shows v if it differs from what was shown.
func (s *screen) show(v view) error {
	switch {
	case s.json:
		text, err := json.Marshal(v.facts)
		if err != nil {
			return err
		}
		return s.put(string(text), string(text)+"\n")
	case s.terminal == nil:
		return s.put(v.line, time.Now().Format(time.TimeOnly)+"  "+v.line+"\n")
	}
	var b strings.Builder
	v.human(&b)
	columns, rows, err := term.GetSize(int(s.terminal.Fd()))
	if err != nil {
		columns, rows = 80, 24
	}
	text := cut(b.String(), columns, rows-1)
	frame := "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
	if s.shown == "" {
		frame = "\x1b[2J" + frame
	}
	return s.put(text, frame)
}

func (s *screen) put(text, written string) error {
	if text == s.shown {
		return nil
	}
	s.shown = text
	_, err := io.WriteString(s.w, written)
	return err
}

// cut keeps what a terminal has room for.
func cut(text string, columns, rows int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if rows > 1 && len(lines) > rows {
		lines = append(lines[:rows-1], fmt.Sprintf("… %d more", len(lines)-rows+1))
	}
	for i, line := range lines {
		if r := []rune(line); columns > 1 && len(r) > columns {
			lines[i] = string(r[:columns-1]) + "…"
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// toFile calls write with a file, made for this account alone, or with stdout for "-". What fails leaves no half file.
func (c *call) toFile(name string, write func(w io.Writer) error) error {
	if name == "-" {
		return write(c.Stdout)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fault.Wrap(fault.Conflict, err, "There is a file %s already.", name).WithRemedy("Choose another name, or remove it.")
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "The file %s can't be written.", name)
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// writeJSON writes facts as people read JSON.
func writeJSON(w io.Writer, facts any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(facts)
}
