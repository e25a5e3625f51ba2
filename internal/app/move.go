package app

import (
	"context"
	"errors"
	"io"

	"github.com/ahelme/comfyume/internal/queue"
)

// withoutCredentials is a store whose jobs have no credentials: what leaves the studio as a file must not hold any, not
// even sealed ones.
type withoutCredentials struct{ queue.Store }

func (s withoutCredentials) EachRecord(ctx context.Context, fn func(queue.Record) error) error {
	return s.Store.EachRecord(ctx, func(r queue.Record) error {
		r.Credentials = nil
		return fn(r)
	})
}

// Export implements api.Queue.
func (q queueFace) Export(ctx context.Context, w io.Writer) error {
	_, err := queue.Export(ctx, withoutCredentials{q.s.jobs}, w)
	return err
}

// ImportQueue fills the empty queue of a studio that no server uses with what was exported from another, and returns how
// many jobs that were.
func ImportQueue(ctx context.Context, o Options, r io.Reader) (jobs int, err error) {
	o.alone = true
	s, err := open(ctx, o)
	if err != nil {
		return 0, err
	}
	defer func() {
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		err = errors.Join(err, s.parts.stop(deadline))
	}()
	if err = s.openJobs(ctx); err != nil {
		return 0, err
	}
	return queue.Import(ctx, s.jobs, r)
}
