package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"strconv"
	"syscall"
	"text/tabwriter"

	"github.com/mattn/go-isatty"

	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/cli/args"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/resident"
	"github.com/ahelme/comfyume/internal/telemetry"
)

// serveCmd runs a studio.
type serveCmd struct {
	Backend   []string    `help:"Address of a ComfyUI server, in place of the settings' back ends. May be repeated." placeholder:"URL"`
	Demo      bool        `help:"Make an operator, an instructor and three participants where they are missing, print a sign-in link for each, and simulate a GPU where no back end is set."`
	LogLevel  string      `help:"debug, info, warn or error." default:"info" placeholder:"LEVEL"`
	LogFormat string      `help:"text or json; text on a terminal and json elsewhere when left out." placeholder:"FORMAT"`
	Settings  args.Fields `embed:""` // one flag for each setting
}

// demoUsers are the people of a try-out studio.
func demoUsers() []config.User {
	return []config.User{
		{Name: "operator", Role: string(identity.Operator)},
		{Name: "instructor", Role: string(identity.Instructor), Group: "demo"},
		{Name: "ann", Role: string(identity.Participant), Group: "demo"},
		{Name: "ben", Role: string(identity.Participant), Group: "demo"},
		{Name: "cleo", Role: string(identity.Participant), Group: "demo"},
	}
}

// settingFlags returns a pointer to a struct with one flag for each setting of the reference.
func settingFlags() any {
	var all []reflect.StructField
	for i, s := range config.Settings() {
		if s.Path == "data" {
			continue // every command has it
		}
		kind, placeholder := reflect.TypeFor[*string](), s.Default
		if s.Switch {
			kind, placeholder = reflect.TypeFor[*bool](), ""
		}
		if placeholder == "" {
			placeholder = "VALUE"
		}
		all = append(all, reflect.StructField{
			Name: "F" + strconv.Itoa(i), Type: kind,
			Tag: reflect.StructTag(fmt.Sprintf(`name:%q help:%q placeholder:%q group:"Settings" path:%q`,
				config.FlagName(s.Path), s.Doc+".", placeholder, s.Path)),
		})
	}
	return reflect.New(reflect.StructOf(all)).Interface()
}

// chosenSettings returns what the flags say, by path.
func chosenSettings(flags any) map[string]string {
	v := reflect.ValueOf(flags).Elem()
	chosen := map[string]string{}
	for i := range v.NumField() {
		path := v.Type().Field(i).Tag.Get("path")
		switch p := v.Field(i).Interface().(type) {
		case *string:
			if p != nil {
				chosen[path] = *p
			}
		case *bool:
			if p != nil {
				chosen[path] = strconv.FormatBool(*p)
			}
		}
	}
	return chosen
}

// Run serves until a signal comes. A second one ends the program at once.
func (cmd *serveCmd) Run(c *call) error {
	src := c.source()
	for path, text := range chosenSettings(cmd.Settings[0]) {
		src.Flags[path] = text
	}
	src.Backends = cmd.Backend
	if cmd.Demo {
		src.Users = demoUsers()
	}
	settings, err := config.Load(src)
	if err != nil {
		return err
	}
	log, _, err := telemetry.Logger(c.Stderr, logFormat(cmd.LogFormat, c.Stderr), cmd.LogLevel)
	if err != nil {
		return err
	}
	for _, w := range settings.Warnings {
		log.Warn("settings", "note", w)
	}
	folder, err := c.frontends()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(c.ctx)
	defer stop()
	defer boundGarbage()()
	return app.Run(ctx, app.Options{
		Settings: settings, Version: version(), Frontends: folder, Log: log,
		Simulate: cmd.Demo && len(settings.Backends) == 0,
	}, func(s *app.Studio) error {
		go resident.Keep(ctx)
		return cmd.announce(ctx, c.Stdout, s)
	})
}

// untilSignal returns a context that ends with the first signal of ends. By then a second one ends the program at once.
func untilSignal(ctx context.Context) (_ context.Context, stop func()) {
	signalled, unnotify := signal.NotifyContext(ctx, ends()...)
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(signalled, func() { unnotify(); cancel() })
	return ctx, func() { unnotify(); cancel() }
}

// ends are the signals that end a studio in good order. A closed terminal does too, except under nohup.
func ends() []os.Signal {
	all := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	return all
}

// announce prints where the studio is, and for a try-out studio who comes in how.
func (cmd *serveCmd) announce(ctx context.Context, w io.Writer, s *app.Studio) error {
	if !cmd.Demo {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "The studio is at %s. Each of these links signs one person in:\n", s.Address())
	for _, u := range demoUsers() {
		link, err := s.Link(ctx, u.Name)
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\n", u.Role, u.Name, link)
	}
	return t.Flush()
}

// logFormat returns the form of log lines: text for people, JSON for programs.
func logFormat(asked string, w io.Writer) string {
	if asked != "" {
		return asked
	}
	if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		return telemetry.Text
	}
	return telemetry.JSON
}
