package oneshot

import (
	"context"
	"errors"
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
