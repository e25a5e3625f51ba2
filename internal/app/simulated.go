package app

import (
	"context"
	"net"
	"path/filepath"
	"time"

	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/sim"
)

// simulate adds a simulated GPU on a port of its own, as an ordinary back end.
func (s *Studio) simulate() error {
	if !s.o.Simulate {
		return nil
	}
	simulated, err := sim.NewComfyUI(sim.Options{
		Base: filepath.Join(s.cfg.Data, "simulated"), LoadTime: time.Second, StepTime: 100 * time.Millisecond,
		Log: s.log.With("backend", "simulated"),
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "The simulated GPU has no port to listen on.")
	}
	s.parts.add("simulated GPU's folders", func(context.Context) error { return simulated.Close() })
	s.parts.run("simulated GPU", func(ctx context.Context) error { return simulated.Run(ctx, l) })
	s.gpus.set(gpu{Back: config.Back{Name: "simulated", Driver: "comfyui", URL: "http://" + l.Addr().String()}})
	s.notes = append(s.notes, "The GPU is simulated: its pictures say so.")
	return nil
}
