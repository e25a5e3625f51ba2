package sim

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/sim/executor"
)

// life is everything a server forgets when it dies: queue, history, sockets, cache, loaded models.
type life struct {
	server *ComfyUI
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when the worker has ended

	sockets *hub
	queue   *queue
	logs    *logs
	machine *machine
	runs    *executor.Executor

	stop   atomic.Bool // the running prompt is to be interrupted
	broken atomic.Bool // the GPU failed: nothing runs any more
}

// begin gives the server a new life with an empty queue.
func (s *ComfyUI) begin() error {
	if err := s.folders.ClearTemp(); err != nil {
		return err
	}
	l := &life{server: s, done: make(chan struct{}), logs: newLogs()}
	l.ctx, l.cancel = context.WithCancel(s.closed)
	l.sockets = newHub(l)
	l.queue = newQueue(l.statusChanged)
	l.machine = &machine{life: l, loaded: map[string]int64{}}
	l.runs = executor.New(l.machine)
	l.print("Simulated ComfyUI version: " + s.opts.Version + "\n")
	l.print("Starting server\n\n")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Err() != nil {
		l.cancel()
		return s.closed.Err()
	}
	s.life = l
	s.parts.Go(l.work)
	return nil
}

// end ends a life at once: nobody is told anything.
func (l *life) end() {
	l.cancel()
	l.queue.close()
	l.sockets.cut()
	<-l.done
}

// Crash makes the server die as by kill -9: connections break, queue, history, temp files and cache are gone. It
// comes back after RestartAfter.
func (s *ComfyUI) Crash() {
	if s.opts.OnCrash != nil {
		s.opts.OnCrash()
		return
	}
	s.mu.Lock()
	l := s.life
	s.life = nil
	s.mu.Unlock()
	if l == nil {
		return
	}
	s.log.Info("simulated crash", "back_in", s.opts.RestartAfter)
	l.cancel()
	s.parts.Go(func() {
		l.end()
		if s.pause(s.closed, s.opts.RestartAfter) != nil {
			return
		}
		if err := s.begin(); err != nil && s.closed.Err() == nil {
			s.log.Error("the simulated server did not come back", "err", err)
		}
	})
}

// Freeze makes the server stop answering without dying, for FreezeFor or until Thaw.
func (s *ComfyUI) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate != nil {
		return
	}
	gate := make(chan struct{})
	s.gate = gate
	s.log.Info("simulated freeze", "for", s.opts.FreezeFor)
	if s.opts.FreezeFor > 0 {
		s.parts.Go(func() {
			if s.pause(s.closed, s.opts.FreezeFor) == nil {
				s.thaw(gate)
			}
		})
	}
}

// Thaw ends a freeze.
func (s *ComfyUI) Thaw() {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		s.thaw(gate)
	}
}

func (s *ComfyUI) thaw(gate chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate == gate {
		s.gate = nil
		close(gate)
	}
}

// breathe waits while the server is frozen.
func (s *ComfyUI) breathe(ctx context.Context) error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate == nil {
		return ctx.Err()
	}
	select {
	case <-gate:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed.Done():
		return s.closed.Err()
	}
}

// pause lets time pass.
func (s *ComfyUI) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// print adds a line to the server's log.
func (l *life) print(line string) { l.sockets.logged(l.logs.add(line)) }
