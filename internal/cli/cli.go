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
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"

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

// errHelp ends parsing after help was printed.
var errHelp = errors.New("help was printed")

// System is what a program gets from its system.
type System struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Environ []string
}

// getenv returns a variable of the environment.
func (s System) getenv(name string) string {
	for _, pair := range s.Environ {
		if key, value, _ := strings.Cut(pair, "="); key == name {
			return value
		}
	}
	return ""
}

// root is the whole command tree.
type root struct {
	Config string   `help:"Settings file; for a studio comfyume.yaml of this folder when neither this nor --data is given." env:"COMFYUME_CONFIG" placeholder:"FILE"`
	Data   string   `help:"Data folder, of a studio or an agent; that of the settings when left out." placeholder:"DIR"`
	Server string   `help:"Address of a studio: to talk to it, or for an agent to join it." env:"COMFYUME_SERVER" placeholder:"URL"`
	Token  string   `help:"Personal token for --server; agents have a key of their own." env:"COMFYUME_TOKEN" placeholder:"TOKEN"`
	JSON   bool     `name:"json" help:"Print facts as JSON."`
	Help   helpFlag `short:"h" help:"Show help."`

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

// helpFlag prints help and ends parsing.
type helpFlag bool

// BeforeReset runs before any other flag is looked at.
func (helpFlag) BeforeReset(c *kong.Context) error {
	if err := c.PrintUsage(false); err != nil {
		return err
	}
	return errHelp
}

// call is one invocation of the program.
type call struct {
	System
	ctx  context.Context
	root *root
	tree *kong.Kong
}

// Main runs the program with its arguments and returns the exit code.
func Main(ctx context.Context, args []string, sys System) int {
	tree := &root{}
	flags := settingFlags()
	tree.Serve.Settings = kong.Plugins{flags}
	tree.Agent.Run.chosen = comfyFlags()
	tree.Agent.Run.ComfyFlags = kong.Plugins{tree.Agent.Run.chosen}
	k, err := kong.New(tree, kong.Name("comfyume"), kong.NoDefaultHelp(), kong.Writers(sys.Stdout, sys.Stderr),
		kong.Description("A shared ComfyUI studio: everybody their own editor, one queue, any GPUs."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}), kong.Exit(func(int) {}))
	if err != nil {
		complain(sys.Stderr, err)
		return exitFailed
	}
	if len(args) == 0 { // what there is, but nothing was done
		k.Stdout, args = sys.Stderr, []string{"--help"}
	}
	parsed, err := k.Parse(args)
	switch {
	case errors.Is(err, errHelp) && k.Stdout == sys.Stdout:
		return exitDone
	case errors.Is(err, errHelp):
		return exitWrong
	}
	if err != nil {
		complain(sys.Stderr, err)
		fmt.Fprintf(sys.Stderr, "Try: %s --help\n", command(err))
		return exitWrong
	}
	c := &call{System: sys, ctx: ctx, root: tree, tree: k}
	tree.Serve.chosen = chosenSettings(flags)
	switch err := parsed.Run(c); {
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

// command is as much of what was typed as is a command.
func command(err error) string {
	var wrong *kong.ParseError
	if errors.As(err, &wrong) && wrong.Context != nil {
		if at := wrong.Context.Selected(); at != nil {
			return at.FullPath()
		}
	}
	return "comfyume"
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
