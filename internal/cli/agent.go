package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/agent"
	"github.com/ahelme/comfyume/internal/agent/flags"
	"github.com/ahelme/comfyume/internal/agent/program"
	"github.com/ahelme/comfyume/internal/cli/args"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/telemetry"
)

// agentCmd is about the program beside a ComfyUI.
type agentCmd struct {
	Run  agentRun  `cmd:"" default:"withargs" help:"Run an agent beside a ComfyUI."`
	Join agentJoin `cmd:"" help:"Join a studio with a one-time code (comfyume backend join NAME prints one)."`
}

// agentJoin joins a studio.
type agentJoin struct {
	Code string `arg:"" help:"The one-time code."`
	Name string `help:"Fail unless the code is for the back end of this name." placeholder:"NAME"`
	CA   string `name:"ca" help:"Certificate of the studio's own authority (tls mode self), from its sign-in page." placeholder:"FILE"`
}

// Run joins, and prints the name that the agent has.
func (cmd *agentJoin) Run(c *call) error {
	s, err := c.agentSettings()
	if err != nil {
		return err
	}
	over(&s.Name, cmd.Name)
	over(&s.CA, cmd.CA)
	name, err := program.Join(c.ctx, program.Options{Settings: s, Version: version()}, cmd.Code)
	if err != nil {
		return err
	}
	return c.print(map[string]string{"name": name}, func(w io.Writer) { fmt.Fprintln(w, name) })
}

// agentRun runs an agent.
type agentRun struct {
	Comfyui    string        `name:"comfyui" help:"Address of a ComfyUI that runs." placeholder:"URL"`
	ComfyuiDir string        `name:"comfyui-dir" help:"Folder of a ComfyUI to start and to keep running." placeholder:"DIR"`
	Python     string        `help:"Python that runs it; a venv in its folder, the portable Windows folder's, or python3 when left out." placeholder:"FILE"`
	ComfyuiArg []string      `name:"comfyui-arg" help:"Another argument for ComfyUI, as it is: --comfyui-arg=--new-flag. May be repeated." sep:"none" placeholder:"TEXT"`
	Listen     string        `help:"Answer one request a job at this address, for serverless containers." placeholder:"ADDR"`
	Key        string        `help:"What callers of --listen have to send: env:NAME or file:PATH." placeholder:"REF"`
	Storage    string        `help:"Leave outputs and find inputs there, for studios that share it: file:///mnt/outputs or s3://bucket/prefix?endpoint=HOST." placeholder:"ADDRESS"`
	AllowNodes bool          `help:"Let operators of the studio install custom nodes, which are programs, on this machine."`
	ModelKey   []string      `help:"Key for downloads of models: HOST=env:NAME or HOST=file:PATH. May be repeated." sep:"none" placeholder:"HOST=REF"`
	Check      bool          `help:"Say what would be started and what is wrong with it, and end."`
	StopAfter  time.Duration `help:"How long a run may go on when the agent is asked to end (2m)." placeholder:"DURATION"`
	LogLevel   string        `help:"debug, info, warn or error." default:"info" placeholder:"LEVEL"`
	LogFormat  string        `help:"text or json; text on a terminal and json elsewhere when left out." placeholder:"FORMAT"`
	ComfyFlags args.Fields   `embed:""` // ComfyUI's own flags
}

// comfyFlag is one of ComfyUI's flags as it was typed.
type comfyFlag struct {
	given  bool
	values []string
}

// Decode reads the flag's values as ComfyUI does: none where it may stand bare, several where it takes several.
func (f *comfyFlag) Decode(words *args.Words, tag reflect.StructTag) error {
	flag, _ := flags.Lookup(tag.Get("comfyui"))
	f.given = true
	if text, ok := words.Attached(); ok { // --flag=value
		f.values = append(f.values, text)
		return nil
	}
	if flag.Kind == flags.Switch {
		return nil
	}
	for n := 0; n == 0 || flag.Many; n++ {
		text, ok := words.Next()
		if !ok {
			if n == 0 && !flag.Bare {
				return fmt.Errorf("needs a value: %s", flag.Value())
			}
			return nil
		}
		f.values = append(f.values, text)
	}
	return nil
}

// comfySwitch is a flag of ComfyUI that has no value.
type comfySwitch struct{ comfyFlag }

// Decode reads --flag, or --flag=true and --flag=false.
func (f *comfySwitch) Decode(words *args.Words, tag reflect.StructTag) error {
	return f.comfyFlag.Decode(words, tag)
}

// IsBool has help show it without a value.
func (*comfySwitch) IsBool() bool { return true }

// comfyFlags returns a pointer to a struct with one flag for each of ComfyUI's.
func comfyFlags() any {
	var all []reflect.StructField
	for i, f := range flags.All() {
		if f.Refused != "" {
			continue
		}
		kind, placeholder := reflect.TypeFor[comfyFlag](), f.Value()
		if f.Kind == flags.Switch {
			kind, placeholder = reflect.TypeFor[comfySwitch](), ""
		}
		all = append(all, reflect.StructField{
			Name: "F" + strconv.Itoa(i), Type: kind,
			Tag: reflect.StructTag(fmt.Sprintf(`name:%q help:%q placeholder:%q group:%q comfyui:%q`,
				"comfyui-"+f.Name, f.Doc+".", placeholder, f.Section, f.Name)),
		})
	}
	return reflect.New(reflect.StructOf(all)).Interface()
}

// choose puts what was typed over what the file says.
func choose(set *flags.Set, typed any) error {
	v := reflect.ValueOf(typed).Elem()
	for i := range v.NumField() {
		var f comfyFlag
		switch typed := v.Field(i).Interface().(type) {
		case comfyFlag:
			f = typed
		case comfySwitch:
			f = typed.comfyFlag
		}
		if !f.given {
			continue
		}
		name := v.Type().Field(i).Tag.Get("comfyui")
		if err := set.Put(name, f.values...); err != nil {
			return wrongUse("--comfyui-%s: %v.", name, err)
		}
	}
	return nil
}

// agentFolder is the agent's own folder where none is named.
func (c *call) agentFolder() (string, error) {
	if dir := c.getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "comfyume", "agent"), nil
	}
	home := c.getenv("HOME")
	if home == "" {
		home = c.getenv("USERPROFILE")
	}
	if home == "" {
		return "", fault.New(fault.Invalid, "There is no home folder for the agent's own folder.").WithRemedy("Name one with --data DIR.")
	}
	return filepath.Join(home, ".local", "share", "comfyume", "agent"), nil
}

// agentSettings reads the agent's file, if one is named, and the flags that every command of agents has.
func (c *call) agentSettings() (s agent.Settings, err error) {
	if c.root.Config != "" {
		if s, err = agent.ReadSettings(c.root.Config); err != nil {
			return s, err
		}
	}
	over(&s.Server, c.root.Server)
	over(&s.Data, c.root.Data)
	if s.Data == "" {
		if s.Data, err = c.agentFolder(); err != nil {
			return s, err
		}
	}
	s.Data, err = filepath.Abs(s.Data)
	return s, err
}

// over puts a flag that was given over the file's value.
func over(to *string, flag string) {
	if flag != "" {
		*to = flag
	}
}

// settings returns what file and flags say.
func (cmd *agentRun) settings(c *call) (agent.Settings, error) {
	s, err := c.agentSettings()
	if err != nil {
		return s, err
	}
	over(&s.URL, cmd.Comfyui)
	over(&s.Dir, cmd.ComfyuiDir)
	over(&s.Python, cmd.Python)
	over(&s.Listen, cmd.Listen)
	over(&s.Storage, cmd.Storage)
	if cmd.StopAfter > 0 {
		s.StopAfter = cmd.StopAfter
	}
	if cmd.Key != "" {
		if s.Key, err = config.ParseSecret(cmd.Key); err != nil {
			return s, wrongUse("--key: %v.", err)
		}
	}
	s.AllowNodes = s.AllowNodes || cmd.AllowNodes
	for _, pair := range cmd.ModelKey {
		host, ref, _ := strings.Cut(pair, "=")
		key, err := config.ParseSecret(ref)
		if err != nil || host == "" || !key.IsSet() {
			return s, wrongUse("--model-key is HOST=env:NAME or HOST=file:PATH.")
		}
		if s.ModelKeys == nil {
			s.ModelKeys = map[string]config.Secret{}
		}
		s.ModelKeys[host] = key
	}
	if err := choose(&s.Flags, cmd.ComfyFlags[0]); err != nil {
		return s, err
	}
	s.Flags.Extra = append(s.Flags.Extra, cmd.ComfyuiArg...)
	here, err := os.Getwd()
	if err != nil {
		return s, fmt.Errorf("finding this folder: %w", err)
	}
	s.Flags.Resolve(here)
	return s, nil
}

// Run runs the agent until a signal comes. A second one ends it at once.
func (cmd *agentRun) Run(c *call) error {
	s, err := cmd.settings(c)
	if err != nil {
		return err
	}
	log, _, err := telemetry.Logger(c.Stderr, logFormat(cmd.LogFormat, c.Stderr), cmd.LogLevel)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(c.ctx)
	defer stop()
	o := program.Options{
		Settings: s, Version: version(), Environ: c.Environ, Log: log,
		Announce: func(text string) { fmt.Fprintln(c.Stdout, text) },
	}
	if cmd.Check {
		return cmd.check(c, ctx, o)
	}
	err = program.Service(ctx, func(ctx context.Context) error { return program.Run(ctx, o) })
	return asUse(err)
}

// asUse tells errors of what was typed from those that the studio gave.
func asUse(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Invalid && !strings.HasPrefix(f.Code, "agent_") {
		return f.WithCode("wrong_use")
	}
	return err
}

// check prints what would be started, and what is wrong with it.
func (*agentRun) check(c *call, ctx context.Context, o program.Options) error {
	plan, err := program.Check(ctx, o)
	if err != nil {
		return asUse(err)
	}
	wrong := false
	err = c.print(plan, func(w io.Writer) {
		if plan.Command != "" {
			fmt.Fprintln(w, plan.Command)
		}
		for _, f := range plan.Found {
			mark := "note"
			if f.Fatal {
				mark = "wrong"
			}
			fmt.Fprintf(w, "%s: %s\n", mark, f)
		}
	})
	for _, f := range plan.Found {
		wrong = wrong || f.Fatal
	}
	if err == nil && wrong {
		return errFound
	}
	return err
}
