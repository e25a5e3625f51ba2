package apart

import (
	"context"
	"sync"

	"github.com/ahelme/comfyume/internal/backend"
)

// Folders knows which of a studio's servers write their outputs to one folder. Drivers are its keys. A nil one knows of
// none. It is safe for concurrent use.
type Folders struct {
	mu    sync.Mutex
	marks map[any]mark
}

// mark is what is found in a server's folder of outputs.
type mark struct {
	word string // empty: it can't be read or written there
	sure bool
}

// Note takes in the mark in a server's folder. One that was made just now is not sure: another server may have made one in
// the same folder at the same time.
func (f *Folders) Note(server any, word string, sure bool) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.marks == nil {
		f.marks = make(map[any]mark)
	}
	f.marks[server] = mark{word, sure}
}

// Leave forgets a server.
func (f *Folders) Leave(server any) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.marks, server)
}

// Shared reports whether another server writes to the folder of this one, or may do so.
func (f *Folders) Shared(server any) bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	mine := f.marks[server]
	for other, m := range f.marks {
		if other != server && (!mine.sure || mine.word != "" && m.word == mine.word) {
			return true
		}
	}
	return false
}

// Run begins a run whose outputs are kept apart from those of others.
func Run(ctx context.Context, t backend.Task, begin func(context.Context, backend.Task) (backend.Run, error)) (backend.Run, error) {
	n, t, err := own(t, false)
	if err != nil {
		return nil, err
	}
	r, err := begin(ctx, t)
	if err != nil {
		return nil, err
	}
	return &run{r, n}, nil
}
