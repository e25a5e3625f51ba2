package dispatch

import (
	"context"

	"github.com/ahelme/comfyume/internal/sched"
)

// learnt asks the loop what the schedule learnt of the back ends.
type learnt struct{ answer chan<- []sched.Learnt }

// Learnt is what runs taught of the back ends since the program started: how fast they are, and how long models take
// to load there.
func (d *Dispatcher) Learnt(ctx context.Context) ([]sched.Learnt, error) {
	answer := make(chan []sched.Learnt, 1)
	d.inbox.send(learnt{answer})
	select {
	case l := <-answer:
		return l, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
