package dispatch

import (
	"fmt"
	"io"
	"sync"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
)

// translate makes the back end's graph.
func (a *attempt) translate(credentials map[string]string) error {
	tr, err := a.deps.Rewriter.Out(a.ctx, a.entry, credentials)
	switch fault.KindOf(err) {
	case fault.Invalid, fault.Denied, fault.Missing:
		return graphError{err}
	}
	if err != nil {
		return fmt.Errorf("translating the graph: %w", err)
	}
	a.tr = &oneAtATime{Translation: tr}
	return nil
}

// oneAtATime lets frames be translated while files of earlier ones are brought home.
type oneAtATime struct {
	mu sync.Mutex
	Translation
}

func (t *oneAtATime) Files(u backend.Update) []Found {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.Translation.Files(u)
}

func (t *oneAtATime) In(u backend.Update, names Names) (backend.Update, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.Translation.In(u, names)
}

func (t *oneAtATime) PNG() func(io.Reader) io.Reader {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.Translation.PNG()
}

func (a *attempt) task() backend.Task {
	t := backend.Task{Job: a.id, Attempt: a.job.Attempt, Previews: a.deps.Bus.Watched(a.user)}
	a.tr.Task(&t)
	return t
}
