package comfyui

import (
	"sync"
	"time"
)

// ear is where a run hears what its socket says.
type ear struct {
	runID  string
	frames chan []frame    // closed when the connection is over
	off    chan struct{}   // closed when nobody listens any more
	gone   <-chan struct{} // closed when the connection is over

	// Of sockets, under its lock.
	began bool // the server is at it, or was
	away  bool // the server has put the run away
	// settled is set once nobody listens any more, and called when the server has put the run away: its entry is in
	// the history, and it counts no more in the queue. Nil while somebody listens.
	settled func()

	mu    sync.Mutex
	held  []frame
	timer *time.Timer
	deaf  bool // frames is closed
}

// gather is how long a frame waits for those that follow it. A quick run sends a dozen within a millisecond, and each
// that comes alone wakes everybody on its way to its owner.
const gather = 2 * time.Millisecond

// manyHeld is how many frames wait at most.
const manyHeld = 64

func newEar(runID string, gone <-chan struct{}) *ear {
	return &ear{runID: runID, frames: make(chan []frame, 8), off: make(chan struct{}), gone: gone}
}

// canWait reports whether others may come before the frame is passed on: it tells how far the run is, and not what it
// gave or that it is over.
func (f *frame) canWait() bool {
	switch f.Type {
	case "execution_start", "execution_cached", "executing", "progress", "progress_state":
		return f.kind != frameNull
	}
	return f.Binary != nil
}

// give passes a frame on, at once or with those that follow it in a moment. It reports false when the connection is over.
func (e *ear) give(f frame) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = append(e.held, f)
	if !f.canWait() || len(e.held) >= manyHeld {
		return e.flush()
	}
	if len(e.held) > 1 {
		return true
	}
	if e.timer == nil {
		e.timer = time.AfterFunc(gather, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.flush()
		})
	} else {
		e.timer.Reset(gather)
	}
	return true
}

// flush passes on what is held. The lock is held.
func (e *ear) flush() bool {
	batch := e.held
	if e.held = nil; len(batch) == 0 || e.deaf {
		return !e.deaf
	}
	select {
	case e.frames <- batch: // also when the connection is over: what came before is told
		return true
	default:
	}
	select {
	case e.frames <- batch:
	case <-e.off:
	case <-e.gone:
		return false
	}
	return true
}

// close tells the run that the connection is over.
func (e *ear) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flush()
	e.deaf = true
	close(e.frames)
}
