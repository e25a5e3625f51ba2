package apart

import (
	"context"
	"io"

	"github.com/ahelme/comfyume/internal/backend"
)

// Around returns the driver with the outputs of its runs kept apart. A node whose prefix is computed stays as it is.
func Around(d backend.Driver) backend.Driver { return &driver{d} }

type driver struct{ backend.Driver }

func (d *driver) Prepare(ctx context.Context, t backend.Task) (backend.Run, error) {
	return Run(ctx, t, d.Driver.Prepare)
}

func (d *driver) Resume(ctx context.Context, t backend.Task) (backend.Run, error) {
	return Run(ctx, t, d.Driver.Resume)
}

type run struct {
	backend.Run
	names *Names
}

func (r *run) Start(ctx context.Context, posted func(), update func(backend.Update) error) (backend.Result, error) {
	result, err := r.Run.Start(ctx, posted, func(u backend.Update) error { return update(r.names.Update(u)) })
	if err != nil {
		return result, err
	}
	return r.names.Result(result)
}

func (r *run) Fetch(ctx context.Context, told backend.FileRef) (io.ReadCloser, error) {
	if f, ok := r.names.Actual(told); ok {
		return r.Run.Fetch(ctx, f)
	}
	return r.Run.Fetch(ctx, told)
}
