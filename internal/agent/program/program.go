// Package program runs an agent from its settings: it starts or finds the ComfyUI, and joins it to a studio.
package program

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/agent"
	"github.com/ahelme/comfyume/internal/agent/flags"
	"github.com/ahelme/comfyume/internal/agent/modelstore"
	"github.com/ahelme/comfyume/internal/agent/nodepacks"
	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/backend/apart"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/handover"
	"github.com/ahelme/comfyume/internal/oneshot"
	"github.com/ahelme/comfyume/internal/resident"
)

// Options say how an agent runs.
type Options struct {
	agent.Settings
	Version string
	Environ []string // as os.Environ gives it
	Log     *slog.Logger
	// Announce tells once where the agent is, in one-request mode its address.
	Announce func(text string)
}

// comfy is the ComfyUI beside, with what runs while the agent does.
type comfy struct {
	agent.ComfyUI
	run    func(ctx context.Context)
	output *agent.Log
	own    *agent.Own // nil: somebody else started it

	patience *patience // with the ComfyUI; nil: somebody else started it
}

// Run runs an agent until ctx ends, and a little longer: a run that has begun may end.
func Run(ctx context.Context, o Options) error {
	if err := o.complete(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Data, 0o700); err != nil {
		return fault.Wrap(fault.Invalid, err, "The agent's folder %s can't be made.", o.Data).WithRemedy("Name another one with --data DIR.")
	}
	c, err := o.comfyui()
	if err != nil {
		return err
	}
	defer c.output.Close() //nolint:errcheck // every line was written at once
	if err := o.explain(ctx, c); err != nil {
		return err
	}
	a := agent.New(c.ComfyUI, agent.Options{
		Version: o.Version, Name: o.Name, Output: c.output, Folders: o.folders(c), StopAfter: o.StopAfter, Log: o.Log,
	})
	defer a.Close()
	way, err := o.way(a, c)
	if err != nil {
		return err
	}
	// The ComfyUI outlives ctx: a run that has begun ends first.
	living, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer end()
	running.Go(func() { c.run(living) })
	running.Go(func() { resident.Keep(living) })
	notify(o.Environ, "READY=1")
	defer context.AfterFunc(ctx, func() { notify(o.Environ, "STOPPING=1") })()
	return way(ctx)
}

// complete checks what goes with what, and fills in what was left out.
func (o *Options) complete() error {
	switch {
	case o.URL != "" && o.Dir != "":
		return fault.New(fault.Invalid, "There are two ComfyUIs: the one at %s and the one in %s.", o.URL, o.Dir).
			WithRemedy("Keep --comfyui URL for one that runs, or --comfyui-dir DIR for one that the agent starts.")
	case o.URL == "" && o.Dir == "":
		return fault.New(fault.Invalid, "There is no ComfyUI for the agent.").
			WithRemedy("Name one that runs with --comfyui URL, or the folder of one to start with --comfyui-dir DIR.")
	case o.URL != "" && (len(o.Flags.Args()) > 0 || o.Python != ""):
		return fault.New(fault.Invalid, "Settings for a ComfyUI to start do nothing for the one at %s.", o.URL).
			WithRemedy("Give them to the ComfyUI where it is started, or let the agent start it: --comfyui-dir DIR.")
	case o.Storage != "" && o.Listen == "":
		return fault.New(fault.Invalid, "An agent that dials home brings outputs over its line, and leaves none in storage.").
			WithRemedy("Leave storage out, or answer one request a job with --listen ADDR.")
	case o.Server != "" && o.Listen != "":
		return fault.New(fault.Invalid, "The agent either dials home to %s or listens at %s.", o.Server, o.Listen).
			WithRemedy("Keep one of --server URL and --listen ADDR. One machine may run two agents.")
	}
	if o.Dir == "" {
		return nil
	}
	var err error
	o.Dir, err = agent.ComfyUIDir(o.Dir)
	return err
}

// comfyui makes the ComfyUI beside, without starting it.
func (o *Options) comfyui() (comfy, error) {
	if o.URL != "" {
		n, err := agent.NewNeighbour(o.URL, o.Version, o.Log)
		if err != nil {
			return comfy{}, err
		}
		empty, err := agent.OpenLog("")
		return comfy{ComfyUI: n, run: n.Run, output: empty}, err
	}
	path := filepath.Join(o.Data, "comfyui.log")
	output, err := agent.OpenLog(path)
	if err != nil {
		return comfy{}, fault.Wrap(fault.Invalid, err, "ComfyUI's log %s can't be written.", path).WithRemedy("Name another folder with --data DIR.")
	}
	own := agent.Own{
		Dir: o.Dir, Python: o.Python, Flags: o.Flags, Env: o.env(), Output: output, Log: o.Log, Version: o.Version,
	}
	p := newPatience(filepath.Join(o.Data, "patience.json"), o.Log)
	own.Bound = p.now
	s := agent.NewSupervisor(own)
	return comfy{ComfyUI: s, run: s.Run, output: output, own: &own, patience: p}, nil
}

// env is what ComfyUI gets of the environment: nothing of the agent's own, and none of its keys.
func (o *Options) env() []string {
	secret := map[string]bool{"NOTIFY_SOCKET": true}
	for _, s := range append(slices.Collect(maps.Values(o.ModelKeys)), o.Key) {
		if name, ok := strings.CutPrefix(s.Reference(), "env:"); ok {
			secret[name] = true
		}
	}
	env := slices.DeleteFunc(slices.Clone(o.Environ), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return strings.HasPrefix(name, "COMFYUME_") || secret[name]
	})
	return append(env, "PYTHONUNBUFFERED=1") // its last words before a crash are worth having
}

// explain says what is wrong with the settings before ComfyUI is started. What would keep it from starting is an error.
func (o *Options) explain(ctx context.Context, c comfy) error {
	if c.own == nil {
		return nil
	}
	var wrong []string
	for _, f := range agent.Check(ctx, c.own) {
		if f.Fatal {
			wrong = append(wrong, spell(f))
			continue
		}
		o.Log.Warn("settings", "note", spell(f))
	}
	switch len(wrong) {
	case 0:
		return nil
	case 1:
		return fault.New(fault.Invalid, "ComfyUI can't be started so: %s", wrong[0])
	default:
		return fault.New(fault.Invalid, "ComfyUI can't be started so:\n  %s", strings.Join(wrong, "\n  "))
	}
}

// spell writes a finding with the flag's name as the agent has it.
func spell(f flags.Finding) string {
	return flagName.ReplaceAllStringFunc(f.String(), func(typed string) string {
		if _, ok := flags.Lookup(strings.TrimPrefix(typed, "--")); ok {
			return "--comfyui-" + strings.TrimPrefix(typed, "--")
		}
		return typed
	})
}

var flagName = regexp.MustCompile(`--[a-z0-9_-]+`)

// Plan is what an agent would start.
type Plan struct {
	Dir     string          `json:"dir,omitempty"`
	Command string          `json:"command,omitempty"`
	Found   []flags.Finding `json:"found"`
}

// Check says what an agent with these settings would start, and what is wrong with it.
func Check(ctx context.Context, o Options) (Plan, error) {
	plan := Plan{Found: []flags.Finding{}}
	if err := o.complete(); err != nil || o.Dir == "" {
		return plan, err
	}
	own := agent.Own{Dir: o.Dir, Python: o.Python, Flags: o.Flags, Env: o.env()}
	for _, f := range agent.Check(ctx, &own) {
		f.Text, f.Flag = spell(flags.Finding{Flag: f.Flag, Text: f.Text}), ""
		f.Remedy = spell(flags.Finding{Text: f.Remedy})
		plan.Found = append(plan.Found, f)
	}
	plan.Dir = o.Dir
	if python, err := agent.FindPython(o.Dir, o.Python); err == nil { // else it is among what was found
		plan.Command = python.Path + " " + strings.Join(agent.NewSupervisor(own).Command(python), " ")
	}
	return plan, nil
}

// folders are those whose disks are worth watching.
func (o *Options) folders(c comfy) []agent.Disk {
	all := []agent.Disk{{Folder: o.Data, For: "agent"}}
	if c.own == nil {
		return all
	}
	base := o.Dir
	if b := o.Flags.Get("base-directory"); b != "" {
		base = b
	}
	for _, d := range []struct{ flag, name string }{{"output-directory", "output"}, {"input-directory", "input"}, {"temp-directory", "temp"}} {
		folder := o.Flags.Get(d.flag)
		if folder == "" {
			folder = filepath.Join(base, d.name)
		}
		all = append(all, agent.Disk{Folder: folder, For: d.name})
	}
	return append(all, agent.Disk{Folder: filepath.Join(base, "models"), For: "models"})
}

// agentControl is the control interface.
type agentControl = http.Handler

// way returns how the agent works.
func (o *Options) way(a *agent.Agent, c comfy) (func(ctx context.Context) error, error) {
	control := a.Control(o.beside(c))
	if o.Listen != "" {
		return o.requests(a, c, control)
	}
	m, err := joined(o.Data)
	if err != nil {
		return nil, err
	}
	if o.Server != "" && strings.TrimRight(o.Server, "/") != m.Server {
		return nil, fault.New(fault.Invalid, "This agent has joined the studio at %s, not %s.", m.Server, o.Server).
			WithRemedy("Leave out --server, or join the other one: comfyume agent join CODE --server %s.", o.Server)
	}
	a.SetName(m.Name)
	o.Announce(fmt.Sprintf("The agent %s dials home to %s", m.Name, m.Server))
	return o.home(a, c, m, control)
}

// requests answers one request a job.
func (o *Options) requests(a *agent.Agent, c comfy, control agentControl) (func(ctx context.Context) error, error) {
	key := ""
	if o.Key.IsSet() {
		var err error
		if key, err = o.Key.Reveal(); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "The agent's key can't be read.").WithRemedy("See --key.")
		}
	}
	options := comfyui.Options{
		Studio: "agent", Log: o.Log,
		Dial:  func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx) },
		Death: func(_ context.Context, since time.Time) error { return c.Status().ComfyUI.Death(since) },
	}
	if c.patience != nil {
		options.Patience = c.patience
	}
	driver, err := comfyui.New(agent.OverDial(c), options)
	if err != nil {
		return nil, err
	}
	if c.patience != nil {
		c.patience.driver.Store(driver)
	}
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Unavailable, err, "The agent can't listen at %s.", o.Listen).
			WithRemedy("Choose another address with --listen HOST:PORT."), driver.Close())
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); key == "" && (!ok || !tcp.IP.IsLoopback()) {
		err := fault.New(fault.Invalid, "At %s everybody could run jobs: there is no key.", o.Listen).
			WithRemedy("Name one with --key env:NAME, and give the same to the studio's back end; or listen at 127.0.0.1.")
		return nil, errors.Join(err, l.Close(), driver.Close())
	}
	inputs := filepath.Join(o.Data, "inputs")
	if err := os.MkdirAll(inputs, 0o700); err != nil {
		err = fault.Wrap(fault.Unavailable, err, "The agent can't keep inputs at %s.", inputs).WithRemedy("Choose another folder with --data.")
		return nil, errors.Join(err, l.Close(), driver.Close())
	}
	place, err := o.place()
	if err != nil {
		return nil, errors.Join(err, l.Close(), driver.Close())
	}
	// Containers of an endpoint often share a disk for outputs, where each would number its files on its own.
	jobs := oneshot.Handler(apart.Around(driver), oneshot.HandlerOptions{Version: o.Version, Dir: inputs, Place: place, Log: o.Log})
	o.Announce(fmt.Sprintf("The agent is at http://%s", l.Addr()))
	return func(ctx context.Context) error {
		return errors.Join(a.Serve(ctx, l, a.Handler(key, jobs, control)), jobs.Close(), driver.Close())
	}, nil
}

// place is where outputs are left and inputs found; nil: they go over the wire.
func (o *Options) place() (handover.Place, error) {
	if o.Storage == "" {
		return nil, nil
	}
	return handover.Open(o.Storage, handover.Options{Log: o.Log})
}

// beside is what operators of the studio may do on this machine beside looking.
func (o *Options) beside(c comfy) map[string]http.Handler {
	more := map[string]http.Handler{
		"/models": o.notHere("The ComfyUI of this agent is on another machine: its models are not the agent's to change.", "Start an agent there."),
		"/nodes": o.notHere("Somebody else starts the ComfyUI of this agent: its custom nodes are not the agent's to change.",
			"Let the agent start it: comfyume agent --comfyui-dir DIR."),
	}
	if c.local() {
		more["/models"] = modelstore.New(modelstore.Options{
			Folders: func() (map[string][]string, error) {
				if folders := c.Status().Models; folders != nil {
					return folders, nil
				}
				return nil, fault.New(fault.Unavailable, "ComfyUI has not told yet where its models are.").WithRemedy("Try again when it is ready.")
			},
			Key:    o.modelKey,
			Hashes: filepath.Join(o.Data, "hashes.json"),
			Log:    o.Log,
		}).Handler()
	}
	if c.own != nil {
		more["/patience"] = c.patience
		python := ""
		if p, err := agent.FindPython(o.Dir, o.Python); err == nil { // else it is named before the start
			python = p.Path
		}
		base := o.Dir
		if b := o.Flags.Get("base-directory"); b != "" {
			base = b
		}
		more["/nodes"] = nodepacks.New(nodepacks.Options{
			Allow: o.AllowNodes, Dir: filepath.Join(base, "custom_nodes"), State: filepath.Join(base, ".comfyume"),
			Python: python, Restart: c.Restart, Log: o.Log,
		}).Handler()
	}
	return more
}

// notHere answers with why an agent has no part of its control interface.
func (o *Options) notHere(why, remedy string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		report.Answer(w, o.Log, nil, fault.New(fault.Unavailable, "%s", why).WithRemedy("%s", remedy).WithCode("not_here"))
	})
}

// modelKey returns the key for downloads from a host.
func (o *Options) modelKey(host string) (string, error) {
	if key, ok := o.ModelKeys[host]; ok {
		return key.Reveal()
	}
	return "", nil
}

// local reports whether the ComfyUI's folders are this machine's.
func (c comfy) local() bool {
	u, err := url.Parse(c.Address())
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return c.own != nil || u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}
