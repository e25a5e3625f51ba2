package app

import (
	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/balanced"
	"github.com/ahelme/comfyume/internal/config"
)

// balancedDriver makes the driver of plain ComfyUI servers behind a balancer without affinity.
func (s *Studio) balancedDriver(b config.Back) (backend.Driver, error) {
	header, err := keyHeader(b)
	if err != nil {
		return nil, err
	}
	return balanced.New(b.URL, b.Storage, balanced.Options{
		Studio: s.self.ID, Header: header, Log: s.log.With("backend", b.Name), Changed: s.nudge(b.Name), Parallel: b.MaxParallel,
	})
}
