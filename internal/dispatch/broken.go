package dispatch

import (
	"fmt"
	"sync"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/job"
)

// errBrokenBefore is that a run met a GPU that had failed under an earlier one: it says nothing of the job.
var errBrokenBefore = fmt.Errorf("%w under an earlier run", backend.ErrBroken)

// mostBroken is under how many runs of a job GPUs fail before that is taken for the job's own answer.
const mostBroken = 2

// brokenGPU reports whether a run failed since the GPU did, and with it the program that works at runs.
func brokenGPU(r backend.Result) bool {
	if r.State != job.Failed {
		return false
	}
	_, text := exception(r.Messages)
	_, ok := backend.BrokenGPU(text)
	return ok
}

// gpuFailed says what becomes of a run under which the GPU failed: it is tried again elsewhere. Nil: GPUs failed under
// the job often enough, and what its node raised is its owner's to know. It is worth a restart in any case.
func (a *attempt) gpuFailed() error {
	switch {
	case !a.broken.first(a.backEnd, a.run.Epoch()):
		return errBrokenBefore
	case a.past.broke+1 < mostBroken:
		return backend.ErrBroken
	}
	a.deps.Fleet.Report(a.backEnd, backend.ErrBroken)
	a.broke = true
	return nil
}

// brokenGPUs knows under which starts of back ends the GPU has failed. It is safe for concurrent use.
type brokenGPUs struct {
	mu   sync.Mutex
	seen map[[2]string]bool // by back end and epoch
}

// mostBrokenSeen bounds what is remembered.
const mostBrokenSeen = 1000

// first notes that the GPU failed, and reports whether that is news.
func (b *brokenGPUs) first(backEnd, epoch string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := [2]string{backEnd, epoch}
	if b.seen[key] {
		return false
	}
	if b.seen == nil || len(b.seen) >= mostBrokenSeen {
		b.seen = make(map[[2]string]bool)
	}
	b.seen[key] = true
	return true
}
