// Package cli is the command tree of comfyume, one file a command. A command is a struct with its flags and a Run
// method; facts go to stdout, everything else to stderr.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/ahelme/comfyume/internal/cli/args"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
)

// Version is the program's version, set when it is built.
var Version = ""

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitWrong  = 2 // wrong use
	exitFound  = 3 // a problem was found, which is what was asked for
)

// errFound ends a command that found a problem and said so already.
var errFound = errors.New("a problem was found")

// System is what a program gets from its system.
type System struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Environ []string
}

// lookupEnv returns a variable of the environment, and whether there is one.
func (s System) lookupEnv(name string) (string, bool) {
	for _, pair := range s.Environ {
		if key, value, _ := strings.Cut(pair, "="); key == name {
			return value, true
		}
	}
	return "", false
}

// getenv returns a variable of the environment.
func (s System) getenv(name string) string {
	value, _ := s.lookupEnv(name)
	return value
}

// root is the whole command tree.
type root struct {
	Config string    `help:"Settings file; for a studio comfyume.yaml of this folder when neither this nor --data is given." env:"COMFYUME_CONFIG" placeholder:"FILE"`
	Data   string    `help:"Data folder, of a studio or an agent; that of the settings when left out." placeholder:"DIR"`
	Server string    `help:"Address of a studio: to talk to it, or for an agent to join it." env:"COMFYUME_SERVER" placeholder:"URL"`
	Token  string    `help:"Personal token for --server; agents have a key of their own." env:"COMFYUME_TOKEN" placeholder:"TOKEN"`
	JSON   bool      `name:"json" help:"Print facts as JSON."`
	Help   args.Help `short:"h" help:"Show help."`

	Serve    serveCmd    `cmd:"" help:"Run a studio."`
	Agent    agentCmd    `cmd:"" help:"Beside a GPU: keep a ComfyUI running and join it to a studio."`
	Sim      simCmd      `cmd:"" help:"Simulated machines to try and rehearse with."`
	Status   statusCmd   `cmd:"" help:"Show the studio at a glance."`
	User     userCmd     `cmd:"" help:"Accounts."`
	Group    groupCmd    `cmd:"" help:"Groups and class codes."`
	Tokens   tokenCmd    `cmd:"" name:"token" help:"Personal tokens."`
	Job      jobCmd      `cmd:"" help:"Jobs."`
	Queue    queueCmd    `cmd:"" help:"The queue."`
	Backend  backendCmd  `cmd:"" help:"GPU sources."`
	Frontend frontendCmd `cmd:"" help:"Versions of the official editor page."`
	Settings configCmd   `cmd:"" name:"config" help:"Settings."`
	Complete completeCmd `cmd:"" name:"completion" help:"Print a shell's completion script."`
	Version  versionCmd  `cmd:"" help:"Show the version."`
}

// call is one invocation of the program.
type call struct {
	System
	ctx  context.Context
	root *root
	tree *args.Command
}

// command is what every command can do that is not a group of others.
type command interface{ Run(c *call) error }

// commands returns the whole command tree: the struct that what was typed is read into, and how it is read.
func commands() (*root, *args.Command, error) {
	r := &root{}
	r.Serve.Settings = args.Fields{settingFlags()}
	r.Agent.Run.ComfyFlags = args.Fields{comfyFlags()}
	tree, err := args.Read(r, "comfyume", "A shared ComfyUI studio: everybody their own editor, one queue, any GPUs.")
	return r, tree, err
}

// Main runs the program with its arguments and returns the exit code.
func Main(ctx context.Context, words []string, sys System) int {
	r, tree, err := commands()
	if err != nil {
		complain(sys.Stderr, err)
		return exitFailed
	}
	help, code := sys.Stdout, exitDone
	if len(words) == 0 { // what there is, but nothing was done
		help, code, words = sys.Stderr, exitWrong, []string{"--help"}
	}
	at, err := tree.Parse(words, sys.lookupEnv)
	if errors.Is(err, args.ErrHelp) {
		if err = at.WriteHelp(help, sys.width(help)); err == nil {
			return code
		}
	}
	if err != nil {
		complain(sys.Stderr, err)
		fmt.Fprintf(sys.Stderr, "Try: %s --help\n", at.FullPath())
		return exitWrong
	}
	switch err := at.Target().(command).Run(&call{System: sys, ctx: ctx, root: r, tree: tree}); {
	case err == nil:
		return exitDone
	case errors.Is(err, errFound):
		return exitFound
	case fault.KindOf(err) == fault.Invalid && isUse(err):
		complain(sys.Stderr, err)
		return exitWrong
	default:
		complain(sys.Stderr, err)
		return exitFailed
	}
}

// width is how long a line of help may be: that of the terminal, and not so long that it is hard to read.
func (s System) width(w io.Writer) int {
	const most, usual = 110, 80
	if n, err := strconv.Atoi(s.getenv("COLUMNS")); err == nil {
		return min(n, most)
	}
	if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
			return min(n, most)
		}
	}
	return usual
}

// wrongUse is an error of what was typed.
func wrongUse(format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, format, args...).WithCode("wrong_use")
}

func isUse(err error) bool {
	f, ok := errors.AsType[*fault.Error](err)
	return ok && f.Code == "wrong_use"
}

// complain prints an error for people: what, why, and what to do.
func complain(w io.Writer, err error) {
	var problems config.Problems
	if errors.As(err, &problems) {
		fmt.Fprintln(w, "comfyume: The settings are wrong:")
		for _, p := range problems {
			fmt.Fprintln(w, "  "+p.String())
		}
		fmt.Fprintln(w, "Try: comfyume config reference")
		return
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		fmt.Fprintf(w, "comfyume: %v\n", err)
		return
	}
	fmt.Fprintf(w, "comfyume: %s\n", f.Public)
	if f.Cause != nil {
		fmt.Fprintf(w, "Why: %v\n", f.Cause)
	}
	if f.Remedy != "" {
		fmt.Fprintf(w, "Try: %s\n", f.Remedy)
	}
}

// version returns the program's version, from the build where nobody set it.
func version() string {
	if Version != "" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// print shows facts: as JSON where that is asked for, else by human.
func (c *call) print(facts any, human func(w io.Writer)) error {
	if !c.root.JSON {
		var b strings.Builder
		human(&b)
		_, err := io.WriteString(c.Stdout, b.String())
		return err
	}
	return writeJSON(c.Stdout, facts)
}

// table prints rows under headings; a table without rows prints nothing but the headings.
func table(w io.Writer, headings []string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(headings, "\t"))
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush() //nolint:errcheck // it writes to memory
}

// OS returns the system that the program runs on.
func OS() System {
	return System{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ()}
}
