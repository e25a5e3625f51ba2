package app

import (
	"net/http"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/balanced"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
)

// balancedDriver makes the driver of plain ComfyUI servers behind a balancer without affinity.
func (s *Studio) balancedDriver(b config.Back) (backend.Driver, error) {
	header := http.Header{}
	if b.Key.IsSet() {
		key, err := b.Key.Reveal()
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "The key of the back end %s can't be read.", b.Name).
				WithRemedy("Set what backends.key names, for the account that runs the studio.")
		}
		header.Set("Authorization", "Bearer "+key)
	}
	return balanced.New(b.URL, b.Storage, balanced.Options{
		Studio: s.self.ID, Header: header, Log: s.log.With("backend", b.Name), Changed: s.nudge(b.Name), Parallel: b.MaxParallel,
	})
}
