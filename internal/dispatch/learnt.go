package dispatch

import (
	"context"

	"github.com/ahelme/comfyume/internal/sched"
)

// asked is something that the loop does with its state when it comes to it.
type asked func(l *loop)

// question asks the schedule something on the loop's goroutine.
func question[T any](ctx context.Context, d *Dispatcher, ask func(*sched.Machine) T) (T, error) {
	answer := make(chan T, 1)
	d.inbox.send(asked(func(l *loop) { answer <- ask(l.machine) }))
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// Learnt is what runs taught of the back ends since the program started: how fast they are, and how long models take
// to load there.
func (d *Dispatcher) Learnt(ctx context.Context) ([]sched.Learnt, error) {
	return question(ctx, d, (*sched.Machine).Learnt)
}
