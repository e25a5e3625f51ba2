package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/sim/fleet"
	"github.com/ahelme/comfyume/internal/telemetry"
)

// simFleet runs a simulated serverless endpoint.
type simFleet struct {
	Listen  string `help:"Address of the endpoint (127.0.0.1:8288)." default:"127.0.0.1:8288" placeholder:"ADDR"`
	Control string `help:"Address for counters and for trouble to order; asks for no key, so keep it on loopback." placeholder:"ADDR"`

	Replicas    int           `help:"Most replicas at the same time (4)." default:"4" placeholder:"N" group:"Scaling"`
	Warm        int           `help:"Replicas that are kept without work." default:"0" placeholder:"N" group:"Scaling"`
	PerReplica  int           `help:"Requests that a replica gets at the same time (1)." default:"1" placeholder:"N" group:"Scaling"`
	ColdStart   time.Duration `help:"From the order of a replica to its start, such as 20s." default:"0s" group:"Scaling"`
	IdleAfter   time.Duration `help:"A replica without a request for so long is put to sleep, whatever it works at; 0: never." default:"0s" group:"Scaling"`
	QueueFor    time.Duration `help:"How long a request waits for a replica (1m)." default:"1m" group:"Scaling"`
	FreeSockets bool          `help:"Web sockets neither take a replica's place nor keep it awake." group:"Scaling"`
	Deployment  string        `help:"Name of the deployment: the first part of paths, and where status and result of asynchronous requests are." placeholder:"NAME" group:"Scaling"`
	Key         string        `help:"Bearer token that is asked for; env:NAME." placeholder:"REF" group:"Scaling"`

	Agent    bool          `help:"An agent stands before each ComfyUI, and takes one request a job." group:"Replicas"`
	AgentArg []string      `help:"A flag for each agent, such as --agent-arg=--log-format=json; may be repeated." sep:"none" placeholder:"FLAG" group:"Replicas"`
	Sim      []string      `help:"A flag of sim comfyui for each replica, such as --sim=--step-time=100ms; may be repeated." sep:"none" placeholder:"FLAG" group:"Replicas"`
	Shared   string        `help:"Folder on a disk that all replicas share: its outputs and inputs are theirs." placeholder:"DIR" group:"Replicas"`
	Visible  time.Duration `name:"visible-after" help:"How long what a replica writes is not to be seen in the shared folder, as through the attribute cache of a network disk." default:"0s" group:"Replicas"`

	Latency   time.Duration `help:"Added to every request." default:"0s" group:"Trouble"`
	Bandwidth string        `help:"Bytes a second of each connection, such as 1MB; all there is when left out." placeholder:"SIZE" group:"Trouble"`
	SpotEvery time.Duration `help:"A replica is killed so often, as spot machines are; 0: never." default:"0s" group:"Trouble"`
}

// Help tells what flags can't.
func (*simFleet) Help() string {
	return "Everything here is simulated: replicas are processes of sim comfyui behind a balancer without affinity. " +
		"With --control, GET /counters tells what happened, and POST /faults, /lose, /capacity, /cut and /deafen make trouble."
}

// Run serves until a signal comes.
func (cmd *simFleet) Run(c *call) error {
	o, cleanUp, err := cmd.options(c)
	if err != nil {
		return err
	}
	defer cleanUp()
	if o.Log, _, err = telemetry.Logger(c.Stderr, logFormat("", c.Stderr), "info"); err != nil {
		return err
	}
	var listeners []net.Listener
	for flag, addr := range map[string]string{"--listen": cmd.Listen, "--control": cmd.Control} {
		if addr == "" {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			closeAll(listeners)
			return fault.Wrap(fault.Unavailable, err, "The address %s can't be opened.", addr).WithRemedy("Choose another one with %s HOST:PORT.", flag)
		}
		if listeners = append(listeners, l); flag == "--listen" && len(listeners) == 2 {
			listeners[0], listeners[1] = listeners[1], listeners[0]
		}
	}
	f, err := fleet.New(o)
	if err != nil {
		closeAll(listeners)
		if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind == fault.Invalid {
			return e.WithCode("wrong_use") // it comes of the flags
		}
		return err
	}
	ctx, stop := signal.NotifyContext(c.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	all, ctx := errgroup.WithContext(ctx)
	at := "http://" + listeners[0].Addr().String()
	if cmd.Deployment != "" {
		at += "/" + cmd.Deployment
	}
	if _, err := fmt.Fprintf(c.Stdout, "A simulated serverless endpoint of %d replicas is at %s\n", cmd.Replicas, at); err != nil {
		return errors.Join(err, f.Close())
	}
	all.Go(func() error { return f.Serve(ctx, listeners[0]) })
	if len(listeners) > 1 {
		if _, err := fmt.Fprintf(c.Stdout, "Its control is at http://%s\n", listeners[1].Addr()); err != nil {
			return errors.Join(err, f.Close())
		}
		all.Go(func() error { return serveControl(ctx, listeners[1], f) })
	}
	if cmd.SpotEvery > 0 {
		all.Go(func() error { return cmd.takeBack(ctx, f) })
	}
	return all.Wait()
}

func serveControl(ctx context.Context, l net.Listener, f *fleet.Fleet) error {
	server := &http.Server{Handler: f.Control(), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })() //nolint:errcheck // nobody is owed an answer
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// takeBack kills a replica now and then.
func (cmd *simFleet) takeBack(ctx context.Context, f *fleet.Fleet) error {
	tick := time.NewTicker(cmd.SpotEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.Lose(1)
		case <-ctx.Done():
			return nil
		}
	}
}

// options translates the flags. What it made for them is removed by cleanUp.
func (cmd *simFleet) options(c *call) (o fleet.Options, cleanUp func(), err error) {
	for flag, d := range map[string]time.Duration{
		"--cold-start": cmd.ColdStart, "--idle-after": cmd.IdleAfter, "--queue-for": cmd.QueueFor, "--latency": cmd.Latency,
		"--spot-every": cmd.SpotEvery, "--visible-after": cmd.Visible,
	} {
		if d < 0 {
			return o, nil, wrongUse("%s can't be less than 0.", flag)
		}
	}
	for flag, n := range map[string]int{"--replicas": cmd.Replicas, "--per-replica": cmd.PerReplica} {
		if n < 1 {
			return o, nil, wrongUse("%s has to be at least 1.", flag)
		}
	}
	if cmd.Visible > 0 && cmd.Shared == "" {
		return o, nil, wrongUse("--visible-after is about the folder of --shared, which is missing.")
	}
	if len(cmd.AgentArg) > 0 && !cmd.Agent {
		return o, nil, wrongUse("--agent-arg needs --agent.")
	}
	o = fleet.Options{
		Replicas: cmd.Replicas, Warm: cmd.Warm, PerReplica: cmd.PerReplica, ColdStart: cmd.ColdStart, IdleAfter: cmd.IdleAfter,
		QueueFor: cmd.QueueFor, FreeSockets: cmd.FreeSockets, Deployment: cmd.Deployment, Latency: cmd.Latency,
	}
	if cmd.Bandwidth != "" {
		size, err := config.ParseSize(cmd.Bandwidth)
		if err != nil || size == 0 {
			return o, nil, wrongUse("--bandwidth is a size a second such as 1MB, not %q.", cmd.Bandwidth)
		}
		o.BytesPerSecond = int64(size)
	}
	key, err := config.ParseSecret(cmd.Key)
	if err == nil {
		o.Key, err = key.Reveal()
	}
	if err != nil {
		return o, nil, wrongUse("--key: %v.", err)
	}
	self, err := os.Executable()
	if err != nil {
		return o, nil, fault.Wrap(fault.Unavailable, err, "This program can't find itself, to start replicas.")
	}
	dir, err := os.MkdirTemp("", "comfyume-fleet-")
	if err != nil {
		return o, nil, fault.Wrap(fault.Unavailable, err, "No temporary folder can be made for the simulated replicas.")
	}
	o.Dir, o.RunLog = dir, filepath.Join(dir, "runs.log")
	if cmd.Visible > 0 {
		o.Staging, o.Shared, o.VisibleAfter = filepath.Join(dir, "staging"), filepath.Join(cmd.Shared, "outputs"), cmd.Visible
	}
	chain := []fleet.Program{{Path: self, Logs: c.Stderr, Args: func(id int, dir, _ string) []string {
		return cmd.replica(o, id, dir)
	}}}
	if cmd.Agent {
		agent := fleet.Program{Path: self, Logs: c.Stderr, Args: func(_ int, _, before string) []string {
			return append([]string{"agent", "--listen", "127.0.0.1:0", "--comfyui", before}, cmd.AgentArg...)
		}}
		chain = append(chain, agent)
	}
	o.Launch = fleet.Programs(chain...)
	return o, func() { os.RemoveAll(dir) }, nil //nolint:errcheck // a leftover in the temporary folder harms nobody
}

// replica are the flags of one ComfyUI.
func (cmd *simFleet) replica(o fleet.Options, id int, dir string) []string {
	args := []string{"sim", "comfyui", "--listen", "127.0.0.1:0", "--base-directory", dir, "--run-log", o.RunLog}
	switch {
	case o.Staging != "":
		args = append(args, "--output-directory", filepath.Join(o.Staging, strconv.Itoa(id)))
	case cmd.Shared != "":
		args = append(args, "--output-directory", filepath.Join(cmd.Shared, "outputs"))
	}
	if cmd.Shared != "" {
		args = append(args, "--input-directory", filepath.Join(cmd.Shared, "inputs"))
	}
	return append(args, cmd.Sim...)
}
