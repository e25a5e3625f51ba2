package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// part is one running part of a studio.
type part struct {
	name string
	stop func(ctx context.Context) error
}

// parts are what runs, in the order in which it was started. A part that fails ends the studio loudly: nothing is
// restarted behind anybody's back.
type parts struct {
	log    *slog.Logger
	list   []part
	failed chan error // takes the first failure
}

func newParts(log *slog.Logger) *parts {
	return &parts{log: log, failed: make(chan error, 1)}
}

// add notes a part that is started already and how it is stopped. ctx of stop is the shared deadline.
func (p *parts) add(name string, stop func(ctx context.Context) error) {
	p.list = append(p.list, part{name: name, stop: stop})
}

// run starts a part that works until its context ends. One that ends by itself ends the studio.
func (p *parts) run(name string, work func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := work(ctx)
		if ctx.Err() != nil {
			return // asked to
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		p.fail(fmt.Errorf("%s: %w", name, err))
	})
	p.add(name, func(context.Context) error { cancel(); wg.Wait(); return nil })
}

// fail reports the failure of a part. Only the first one counts; the others follow from it.
func (p *parts) fail(err error) {
	select {
	case p.failed <- err:
	default:
	}
}

// stop stops all parts in the reverse order. Every part is stopped, also after one that failed to. One that is not
// done at the deadline is left behind, so that the others and the program get their end.
func (p *parts) stop(deadline context.Context) error {
	var errs []error
	for _, one := range slices.Backward(p.list) {
		began := time.Now()
		stopped := make(chan error, 1)
		go func() { stopped <- one.stop(deadline) }()
		var err error
		select {
		case err = <-stopped:
		case <-deadline.Done():
			select {
			case err = <-stopped: // parts know the deadline too, and may tell more
			case <-time.After(time.Second):
				err = errors.New("it did not end in time")
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("stopping %s: %w", one.name, err))
		}
		p.log.Debug("stopped", "part", one.name, "dur", time.Since(began))
	}
	p.list = nil
	return errors.Join(errs...)
}
