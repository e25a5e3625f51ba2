package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/sim"
	"github.com/ahelme/comfyume/internal/telemetry"
)

// simCmd is about simulated machines.
type simCmd struct {
	Comfyui  simComfyUI  `cmd:"" name:"comfyui" help:"Run a simulated ComfyUI server."`
	Fleet    simFleet    `cmd:"" help:"Run a simulated serverless endpoint: replicas behind a balancer without affinity."`
	Schedule simSchedule `cmd:"" help:"Rehearse classes in virtual time, in every mode, and compare."`
}

// simComfyUI runs simulated ComfyUI servers.
type simComfyUI struct {
	Listen []string `help:"Address to listen on (127.0.0.1:8188); may be repeated for several servers in one program." default:"127.0.0.1:8188" placeholder:"ADDR"`

	BaseDirectory   string `help:"Folder for the folders below; a temporary one when left out." placeholder:"DIR" group:"Folders"`
	OutputDirectory string `help:"Where results go." placeholder:"DIR" group:"Folders"`
	InputDirectory  string `help:"Where uploads go." placeholder:"DIR" group:"Folders"`
	TempDirectory   string `help:"Where previews go." placeholder:"DIR" group:"Folders"`
	UserDirectory   string `help:"Where settings and workflows go." placeholder:"DIR" group:"Folders"`
	ModelDirectory  string `help:"Folder of folders of models, of which only names are read." placeholder:"DIR" group:"Folders"`
	FrontEndRoot    string `help:"A built editor to serve at /." placeholder:"DIR" group:"Folders"`

	Identity string `help:"The version of ComfyUI it stands for (0.3.64)." default:"0.3.64" placeholder:"VERSION" group:"Nodes"`
	Probes   bool   `name:"probe-nodes" help:"Have the probe nodes of our tests." group:"Nodes"`

	LoadTime    time.Duration `help:"How long a model takes to load the first time, such as 8s." default:"0s" group:"Speed"`
	StepTime    time.Duration `help:"How long a step of a sampler takes, such as 250ms." default:"0s" group:"Speed"`
	Latency     time.Duration `help:"Added to every request and frame." default:"0s" group:"Speed"`
	Bandwidth   string        `help:"Bytes a second that each request receives, such as 1MB; all there is when left out." placeholder:"SIZE" group:"Speed"`
	VideoMemory string        `help:"What the device has (24GiB); models and pictures have to fit." default:"24GiB" placeholder:"SIZE" group:"Speed"`
	NoPreviews  bool          `help:"Samplers send no previews." group:"Speed"`
	EagerFrames bool          `help:"Let frames of a run overtake the answer of its POST, as on a busy server." group:"Speed"`

	FailRate     float64       `help:"Chance from 0 to 1 that a run fails." placeholder:"CHANCE" group:"Trouble"`
	OOMRate      float64       `name:"oom-rate" help:"Chance that a run ends out of memory." placeholder:"CHANCE" group:"Trouble"`
	CrashRate    float64       `help:"Chance that the server dies in a run." placeholder:"CHANCE" group:"Trouble"`
	FreezeRate   float64       `help:"Chance that the server stops answering in a run." placeholder:"CHANCE" group:"Trouble"`
	FailNodes    []string      `help:"Classes that always fail." placeholder:"CLASS" group:"Trouble"`
	NoTriggers   bool          `help:"Don't make trouble when a graph asks for it (sim:fail, sim:oom, sim:gpu, sim:crash, sim:crash-mute, sim:crash-post, sim:freeze, sim:slow=DURATION)." group:"Trouble"`
	RestartAfter time.Duration `help:"How long the server is gone after a crash." default:"2s" group:"Trouble"`
	FreezeFor    time.Duration `help:"How long a freeze lasts; 0: for ever." default:"0s" group:"Trouble"`
	CrashExits   bool          `help:"A crash ends the program." group:"Trouble"`
	RunLog       string        `help:"File to which a line with its prompt id is added for each run that begins." placeholder:"FILE" group:"Trouble"`
	Seed         uint64        `help:"Any number but 0 makes chances repeatable." placeholder:"NUMBER" group:"Trouble"`
}

// versionForm is how ComfyUI writes its version.
var versionForm = regexp.MustCompile(`^v?\d+\.\d+\.\d+$`)

// options translates the flags.
func (cmd *simComfyUI) options() (sim.Options, error) {
	o := sim.Options{
		Version: cmd.Identity, Base: cmd.BaseDirectory, Output: cmd.OutputDirectory, Input: cmd.InputDirectory,
		Temp: cmd.TempDirectory, User: cmd.UserDirectory, ModelFolder: cmd.ModelDirectory, FrontEndRoot: cmd.FrontEndRoot,
		Probes: cmd.Probes, LoadTime: cmd.LoadTime, StepTime: cmd.StepTime, NoPreviews: cmd.NoPreviews,
		FailRate: cmd.FailRate, OOMRate: cmd.OOMRate, CrashRate: cmd.CrashRate, FreezeRate: cmd.FreezeRate,
		NoTriggers: cmd.NoTriggers, FailNodes: cmd.FailNodes, RestartAfter: cmd.RestartAfter, FreezeFor: cmd.FreezeFor,
		Latency: cmd.Latency, EagerFrames: cmd.EagerFrames, Seed: cmd.Seed,
	}
	for flag, p := range map[string]struct {
		text string
		into *int64
	}{"--bandwidth": {cmd.Bandwidth, &o.BytesPerSecond}, "--video-memory": {cmd.VideoMemory, &o.VideoMemory}} {
		if p.text == "" {
			continue
		}
		size, err := config.ParseSize(p.text)
		if err != nil {
			return o, wrongUse("%s: %v.", flag, err)
		}
		if size == 0 {
			return o, wrongUse("%s has to be more than 0.", flag)
		}
		*p.into = int64(size)
	}
	for flag, rate := range map[string]float64{
		"--fail-rate": cmd.FailRate, "--oom-rate": cmd.OOMRate, "--crash-rate": cmd.CrashRate, "--freeze-rate": cmd.FreezeRate,
	} {
		if !(rate >= 0 && rate <= 1) { // also not for NaN
			return o, wrongUse("%s is a chance from 0 to 1.", flag)
		}
	}
	for flag, d := range map[string]time.Duration{
		"--load-time": cmd.LoadTime, "--step-time": cmd.StepTime, "--latency": cmd.Latency,
		"--restart-after": cmd.RestartAfter, "--freeze-for": cmd.FreezeFor,
	} {
		if d < 0 {
			return o, wrongUse("%s can't be less than 0.", flag)
		}
	}
	if !versionForm.MatchString(cmd.Identity) {
		return o, wrongUse("--identity is a version such as 0.3.64, not %q.", cmd.Identity)
	}
	if cmd.CrashExits {
		o.OnCrash = func() { os.Exit(exitFailed) }
	}
	return o, nil
}

// Run serves until a signal comes, or one of the servers ends.
func (cmd *simComfyUI) Run(c *call) error {
	o, err := cmd.options()
	if err != nil {
		return err
	}
	if o.Log, _, err = telemetry.Logger(c.Stderr, logFormat("", c.Stderr), "info"); err != nil {
		return err
	}
	if cmd.RunLog != "" {
		f, err := os.OpenFile(cmd.RunLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return wrongUse("--run-log: the file can't be written: %v.", err)
		}
		defer f.Close() //nolint:errcheck // each line was written
		o.OnRun = func(id string) {
			if _, err := fmt.Fprintln(f, id); err != nil {
				o.Log.Error("a run could not be written down", "req", id, "err", err)
			}
		}
	}
	listeners, err := cmd.listen()
	if err != nil {
		return err
	}
	servers := make([]*sim.ComfyUI, len(listeners))
	for i := range servers {
		if servers[i], err = sim.NewComfyUI(o); err != nil {
			closeAll(listeners)
			if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Invalid {
				return f.WithCode("wrong_use") // it comes of the flags
			}
			return err
		}
	}
	ctx, stop := signal.NotifyContext(c.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	all, ctx := errgroup.WithContext(ctx)
	for i, s := range servers {
		l := listeners[i]
		if _, err := fmt.Fprintf(c.Stdout, "A simulated ComfyUI %s is at http://%s\n", cmd.Identity, l.Addr()); err != nil {
			return err
		}
		all.Go(func() error { return s.Run(ctx, l) })
	}
	return all.Wait()
}

// listen opens all of the addresses, or none.
func (cmd *simComfyUI) listen() (open []net.Listener, err error) {
	if folders := cmd.BaseDirectory + cmd.OutputDirectory + cmd.InputDirectory + cmd.TempDirectory + cmd.UserDirectory; len(cmd.Listen) > 1 && folders != "" {
		return nil, wrongUse("Several servers can't share a folder: leave out the folders, or --listen on one address.")
	}
	for _, addr := range cmd.Listen {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			closeAll(open)
			return nil, fault.Wrap(fault.Unavailable, err, "The address %s can't be opened.", addr).
				WithRemedy("Choose another one with --listen HOST:PORT.")
		}
		open = append(open, l)
	}
	return open, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close() //nolint:errcheck // nobody was let in yet
	}
}
