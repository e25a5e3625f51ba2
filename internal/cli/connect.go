package cli

import (
	"errors"
	"io/fs"
	"os"

	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/frontend"
	"github.com/ahelme/comfyume/internal/telemetry"
)

// source says which settings are meant: --config FILE, else those of --data DIR alone, else ./comfyume.yaml where
// there is one.
func (c *call) source() config.Source {
	src := config.Source{Environ: c.Environ, Flags: map[string]string{}}
	switch {
	case c.root.Config != "":
		src.File = c.root.Config
	case c.root.Data == "":
		src.File, src.Optional = "comfyume.yaml", true
	}
	if c.root.Data != "" {
		src.Flags["data"] = c.root.Data
	}
	return src
}

// ask connects to the studio that is meant and calls fn: to --server, else to the server that runs in the data
// folder, else it opens the folder itself. fresh says that the folder may be made.
func (c *call) ask(fresh bool, fn func(*client.Client) error) error {
	if c.root.Server != "" {
		over, err := client.Over(c.root.Server, c.root.Token)
		if err != nil {
			return err
		}
		defer over.Close()
		return fn(over)
	}
	settings, err := config.Load(c.source())
	if err != nil {
		return err
	}
	path, err := app.SocketPath(settings.Data, c.getenv("XDG_RUNTIME_DIR"))
	if err != nil {
		return err
	}
	if app.SocketIsOurs(path) {
		over := client.Socket(path)
		defer over.Close()
		if over.Answers(c.ctx) {
			return fn(over)
		}
	}
	return c.askFolder(settings, fresh, fn)
}

// askFolder opens a data folder that no server uses.
func (c *call) askFolder(settings *config.Loaded, fresh bool, fn func(*client.Client) error) error {
	if _, err := os.Stat(settings.Data); errors.Is(err, fs.ErrNotExist) && !fresh {
		return fault.Wrap(fault.Missing, err, "There is no studio in %s.", settings.Data).
			WithRemedy("Name its folder with --data DIR, its settings with --config FILE, or its address with --server URL.")
	}
	o, err := c.options(settings)
	if err != nil {
		return err
	}
	h, closeStudio, err := app.Open(c.ctx, o)
	if err != nil {
		return err
	}
	inside := client.Handler(h)
	return errors.Join(fn(inside), closeStudio())
}

// options are those of a command that opens the data folder itself.
func (c *call) options(settings *config.Loaded) (app.Options, error) {
	log, _, err := telemetry.Logger(c.Stderr, telemetry.Text, "warn")
	return app.Options{Settings: settings, Version: version(), Log: log}, err
}

// folder is options of the studio that is meant.
func (c *call) folder() (app.Options, error) {
	settings, err := config.Load(c.source())
	if err != nil {
		return app.Options{}, err
	}
	return c.options(settings)
}

// frontends returns the folder of installed editor pages.
func (c *call) frontends() (string, error) { return frontend.Folder(c.getenv) }
