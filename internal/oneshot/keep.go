package oneshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/handover"
)

// keeping is a file on its way into storage.
type keeping struct {
	done  bool
	entry *handover.Entry // nil: it goes over the wire
}

// keep puts the outputs of the run into storage as they come, and seals them when the run is over. A file that can't be
// put there goes over the wire, so that trouble of the storage costs time and no result.
func (w *work) keep(over <-chan struct{}) {
	if err := w.sameStorage(); err != nil {
		w.log.Warn("outputs are not left in storage, and go with the answer", "err", err)
		w.apart.Store(true)
		w.mu.Lock()
		w.change()
		w.mu.Unlock()
		return
	}
	var entries []handover.Entry
	for n := 0; ; {
		w.mu.Lock()
		files, changed, run := w.files, w.changed, w.run
		w.mu.Unlock()
		if n < len(files) {
			k := keeping{done: true}
			if e, err := w.put(run, files[n]); err == nil {
				k.entry = &e
				entries = append(entries, e)
			} else if !fault.Is(err, fault.Missing) && w.ctx.Err() == nil {
				w.log.Warn("an output can't be left in storage, and goes with the answer", "err", err)
			}
			w.mu.Lock()
			w.keeps = append(w.keeps, k)
			w.change()
			w.mu.Unlock()
			n++
			continue
		}
		select {
		case <-changed:
			continue
		case <-over:
		case <-w.ctx.Done():
			return
		}
		w.mu.Lock()
		all := n == len(w.files)
		w.mu.Unlock()
		if all {
			break
		}
	}
	if err := w.j.options.Place.Seal(w.ctx, w.q.Store, entries); err != nil && w.ctx.Err() == nil {
		w.log.Warn("the outputs in storage could not be sealed, and go with the answer", "err", err)
		w.mu.Lock()
		for i := range w.keeps {
			w.keeps[i].entry = nil
		}
		w.mu.Unlock()
	}
}

// put puts one file into storage.
func (w *work) put(run backend.Run, ref backend.FileRef) (e handover.Entry, err error) {
	body, err := run.Fetch(w.ctx, ref)
	if err != nil {
		return e, err
	}
	e, err = w.j.options.Place.Put(w.ctx, w.q.Store, path.Join(ref.Type, ref.Subfolder, ref.Filename), body)
	return e, errors.Join(err, body.Close())
}

// input opens an input that came along or that is in storage. Of one there a copy is made first: nothing else than what the
// caller meant, to its last byte, comes near the ComfyUI.
func (w *work) input(n int) (io.ReadCloser, error) {
	if in := w.q.Inputs[n]; in.Stored != "" && !w.in.have[n] {
		if err := w.take(n, in); err != nil {
			if w.ctx.Err() == nil {
				w.log.Warn("an input can't be had from storage, and is asked for", "err", err)
			}
			return nil, fmt.Errorf("input %d: %w: %w", n, errNotSent, err)
		}
	}
	return w.in.open(n)
}

// take copies an input from storage.
func (w *work) take(n int, in Input) error {
	if w.j.options.Place == nil {
		return fault.New(fault.Unavailable, "The agent has no storage.").WithRemedy("Start it with --storage.")
	}
	if err := w.sameStorage(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	w.j.wg.Go(func() {
		select {
		case <-w.stopped:
			cancel()
		case <-ctx.Done():
		}
	})
	late := time.AfterFunc(w.j.options.FindFor, cancel)
	from, err := w.j.options.Place.Open(ctx, in.Stored, handover.Entry{Name: in.Name, Size: in.Size, SHA256: in.SHA256})
	late.Stop()
	if err != nil {
		return err
	}
	to, err := w.in.keep(n, in)
	if err == nil {
		_, err = io.Copy(to, from)
		err = errors.Join(err, to.Close())
	}
	if err = errors.Join(err, from.Close()); err != nil {
		return errors.Join(err, w.in.drop(n))
	}
	return nil
}

// keptAt returns how a file reaches the caller. ready is false while that is not known.
func (w *work) keptAt(n int) (entry *handover.Entry, ready bool) {
	if !w.keepsFiles() {
		return nil, true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended.IsZero() || n >= len(w.keeps) { // only what is sealed can be opened
		return nil, false
	}
	return w.keeps[n].entry, true
}

// keepsFiles reports whether outputs are left in storage.
func (w *work) keepsFiles() bool {
	return w.q.Store != "" && w.j.options.Place != nil && !w.apart.Load()
}

// lookWithin bounds how long it is looked what the storage here is.
const lookWithin = 10 * time.Second

// sameStorage compares the mark of the caller's storage with the one here: two disks may be mounted under one name.
func (w *work) sameStorage() error {
	p, ok := w.j.options.Place.(handover.Prober)
	if !ok || w.q.StoreID == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(w.ctx, lookWithin)
	defer cancel()
	id, err := p.ID(ctx)
	if err == nil && id != w.q.StoreID {
		err = fault.New(fault.Unavailable, "The storage here is not the studio's: another disk, bucket or prefix has the same name.").
			WithRemedy("Mount the same share on both sides: %s.", handover.MountHint)
	}
	return err
}
