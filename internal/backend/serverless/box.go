package serverless

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// box has the outputs of a run as they come. They are called by numbers, never by what a container calls them.
// It is safe for concurrent use; one goroutine fills it.
type box struct {
	spool string

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	folder  string        // made with the first file
	files   map[backend.FileRef]*boxed
	have    map[int]bool
	open    *os.File // the file that comes just now
	opened  int      // so many were begun: each has a place of its own, for one that came twice may be read just now
	full    bool     // all is there
	failed  error    // no more comes
}

// boxed is one output that is there.
type boxed struct {
	path   string
	absent bool
	kept   *oneshot.Kept
}

func newBox(spool string) *box {
	return &box{spool: spool, changed: make(chan struct{}), files: make(map[backend.FileRef]*boxed), have: make(map[int]bool)}
}

// spoolPrefix begins the names of folders of outputs.
const spoolPrefix = "comfyume-outputs-"

// openSpool makes the folder of outputs on their way, and deletes what a crash left there long ago. Another server of
// the studio may use it too.
func openSpool(folder string, log *slog.Logger) error {
	if folder == "" {
		return nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return folderTrouble(folder, err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return folderTrouble(folder, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !strings.HasPrefix(e.Name(), spoolPrefix) || time.Since(info.ModTime()) < notesFor {
			continue
		}
		if err := os.RemoveAll(filepath.Join(folder, e.Name())); err != nil {
			log.Warn("outputs of long ago stay", "err", err)
		}
	}
	return nil
}

// change wakes whoever waits. The lock is held.
func (b *box) change() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// whole returns the numbers of the files that are there.
func (b *box) whole() map[int]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[int]bool, len(b.have))
	for n := range b.have {
		all[n] = true
	}
	return all
}

// take takes an event that is about files.
func (b *box) take(e oneshot.Event) error {
	switch {
	case e.Data != nil:
		_, err := b.open.Write(e.Data) // the answer has data only inside of a file
		return b.diskTrouble(err)
	case e.Open != nil:
		return b.begin()
	case e.Close != nil:
		f := b.open
		b.open = nil
		if err := f.Close(); err != nil {
			return b.diskTrouble(err)
		}
		b.put(*e.Close, &boxed{path: f.Name()})
	case e.Absent != nil:
		b.put(*e.Absent, &boxed{absent: true})
	case e.Kept != nil:
		b.put(e.Kept.File, &boxed{kept: e.Kept})
	}
	return nil
}

// begin opens the place of a file. One that came before, and was cut, is void.
func (b *box) begin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open != nil {
		b.open.Close() //nolint:errcheck // what is in it is void
		b.open = nil
	}
	if b.folder == "" {
		folder, err := os.MkdirTemp(b.spool, spoolPrefix)
		if err != nil {
			return b.diskTrouble(err)
		}
		b.folder = folder
	}
	b.opened++
	f, err := os.OpenFile(filepath.Join(b.folder, strconv.Itoa(b.opened)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return b.diskTrouble(err)
	}
	b.open = f
	return nil
}

func (b *box) put(f oneshot.File, v *boxed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files[f.Ref], b.have[f.N] = v, true
	b.change()
}

// diskTrouble says that our own disk failed.
func (b *box) diskTrouble(err error) error {
	if err == nil {
		return nil
	}
	return diskError{fault.Wrap(fault.Unavailable, err, "An output can't be written to the folder of what is on its way.").
		WithRemedy("Make room on the studio's disk.")}
}

// diskError marks trouble of ours: no other container would do better.
type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

// end says that no more comes: all is there, or why not.
func (b *box) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.full, b.failed = err == nil, err
	b.change()
}

// fetch opens a file once it is there.
func (b *box) fetch(ctx context.Context, ref backend.FileRef) (*oneshot.Kept, io.ReadCloser, error) {
	for {
		b.mu.Lock()
		f, changed, full, failed := b.files[ref], b.changed, b.full, b.failed
		b.mu.Unlock()
		switch {
		case f != nil && f.kept != nil:
			return f.kept, nil, nil
		case f != nil && !f.absent:
			file, err := os.Open(f.path)
			if err != nil {
				err = fmt.Errorf("%w: an output that had come is gone: %w", backend.ErrLost, err)
			}
			return nil, file, err
		case f != nil, full:
			return nil, nil, fault.New(fault.Missing, "The back end no longer has the file %s.", ref.Filename)
		case failed != nil:
			return nil, nil, fmt.Errorf("%w: its outputs did not all come: %w", backend.ErrLost, failed)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// discard deletes what came.
func (b *box) discard() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	if b.open != nil {
		err = b.open.Close()
		b.open = nil
	}
	if b.folder != "" {
		err = errors.Join(err, os.RemoveAll(b.folder))
	}
	if b.failed == nil {
		b.failed = errClosed
	}
	b.full = false
	clear(b.files)
	b.change()
	return err
}
