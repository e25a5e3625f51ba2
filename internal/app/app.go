// Package app is the composition root: it builds the parts of a studio, starts them in order and stops them in
// the reverse order. It is the only package that sees all others. The order itself, and what is handed to whom, is
// in wire.go.
package app

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
)

// stopWithin is the one deadline that all parts share when the studio stops.
const stopWithin = 20 * time.Second

// Options are what Run and Open need beside the settings.
type Options struct {
	Settings  *config.Loaded
	Version   string       // of the program
	Frontends string       // folder of installed editor pages
	Simulate  bool         // add a simulated GPU
	Log       *slog.Logger // needed

	alone bool // no server may use the folder meanwhile
}

// Run runs a studio until ctx ends or a part fails. up is called once when it serves; its error ends the studio.
func Run(ctx context.Context, o Options, up func(*Studio) error) error {
	if err := checkDoor(o.Settings); err != nil {
		return err
	}
	s, err := open(ctx, o)
	if err != nil {
		return err
	}
	err = s.serve(ctx)
	if err == nil && up != nil {
		err = up(s)
	}
	if err == nil {
		err = s.wait(ctx)
	}
	s.ready.Store(false)
	o.Log.Info("stopping")
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	return errors.Join(err, s.parts.stop(deadline))
}

// open makes ready what both a server and a command without server need: the folder, the lock, who the studio is,
// and its store.
func open(ctx context.Context, o Options) (_ *Studio, err error) {
	s := &Studio{o: o, log: o.Log, cfg: o.Settings, parts: newParts(o.Log), since: time.Now()}
	defer func() {
		if err != nil {
			deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
			defer cancel()
			err = errors.Join(err, s.parts.stop(deadline))
		}
	}()
	release, err := lock(o.Settings.Data, s.several() && !o.alone)
	if err != nil {
		return nil, err
	}
	s.parts.add("data folder", func(context.Context) error { return release() })
	if s.self, err = loadSelf(o.Settings.Data); err != nil {
		return nil, err
	}
	return s, s.store(ctx)
}

// serve starts the rest of a studio and opens its doors last.
func (s *Studio) serve(ctx context.Context) error {
	s.serving = true
	for _, step := range []func(context.Context) error{s.promises, s.certificates, s.people, s.work, s.faces, s.begin, s.doors} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	s.ready.Store(true)
	s.log.Info("ready", "address", s.Address(), "took", time.Since(s.since).Round(time.Millisecond))
	return nil
}

// wait returns when ctx ends (nil) or a part failed.
func (s *Studio) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.parts.failed:
		return err
	}
}

// Open opens the studio in a data folder that no server uses, for a command that works without one, and returns its
// control interface. close gives the folder back.
func Open(ctx context.Context, o Options) (_ http.Handler, closeStudio func() error, err error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	closeStudio = func() error {
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		return s.parts.stop(deadline)
	}
	if err := s.idleQueue(ctx); err != nil {
		return nil, nil, errors.Join(err, closeStudio())
	}
	return s.control(), closeStudio, nil
}

// inUse is the error of a data folder that another server has.
func inUse(data, by string, cause error) error {
	return fault.Wrap(fault.Conflict, cause, "Another ComfyuME%s uses the data folder %s.", by, data).
		WithCode("data_in_use").WithRemedy("Stop it, or choose another folder with --data.")
}
