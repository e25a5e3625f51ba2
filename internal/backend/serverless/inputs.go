package serverless

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/handover"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// handing says how the bytes of a job's inputs reach a container that lacks them. A job is first offered without: most
// inputs were there before. What a way can't bring, the next one does.
type handing uint8

const (
	byName    handing = iota // nothing is sent; what is in storage already is named
	byStorage                // large ones are put into storage, the rest is sent
	byRequest                // all are sent
)

// nextHanding is the way after one that a container could not use.
func (f *follower) nextHanding() handing {
	if f.inputs == byName && f.d.options.Place != nil && !f.d.shelf.isAvoided() {
		for _, u := range f.t.Uploads {
			if u.Size >= f.d.options.StoreFrom {
				return byStorage
			}
		}
	}
	return byRequest
}

// Bounds of what is remembered of storage.
const (
	// storedFor is how long an input counts as stored. Then it is put anew, long before anybody clears it away by its age.
	storedFor = 24 * time.Hour
	// avoidFor is how long storage is not used for inputs after a container could not have one from there.
	avoidFor = 10 * time.Minute
)

// inputShelf knows which inputs are in storage. They are there once for all jobs that want them, under names that
// nobody can guess who does not know the input, and go by their age. It is safe for concurrent use.
type inputShelf struct {
	mu      sync.Mutex
	inputs  map[string]*stored // by name in storage
	avoided time.Time          // until when
}

// stored is one input, there or on its way.
type stored struct {
	done  chan struct{} // closed when entry and err are known
	entry handover.Entry
	err   error
	since time.Time
}

func (s *inputShelf) isAvoided() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.avoided)
}

// avoid forgets inputs that a container could not have from storage, and storage for a while.
func (s *inputShelf) avoid(studio string, uploads []backend.Upload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.avoided = time.Now().Add(avoidFor)
	for _, u := range uploads {
		delete(s.inputs, inputName(studio, u))
	}
}

// known returns an input that is in storage.
func (s *inputShelf) known(name string) (handover.Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.inputs[name]
	if in == nil || time.Since(in.since) > storedFor || time.Now().Before(s.avoided) {
		return handover.Entry{}, false
	}
	select {
	case <-in.done:
		return in.entry, in.err == nil
	default:
		return handover.Entry{}, false
	}
}

// put puts an input into storage, unless it is there. Who wants one that another job puts just now waits for that.
func (s *inputShelf) put(ctx context.Context, place handover.Place, name string, u backend.Upload) (handover.Entry, error) {
	s.mu.Lock()
	in := s.inputs[name]
	if in != nil && time.Since(in.since) <= storedFor {
		s.mu.Unlock()
		select {
		case <-in.done:
			return in.entry, in.err
		case <-ctx.Done():
			return handover.Entry{}, context.Cause(ctx)
		}
	}
	now := time.Now()
	maps.DeleteFunc(s.inputs, func(_ string, in *stored) bool { return now.Sub(in.since) > storedFor })
	in = &stored{done: make(chan struct{}), since: now}
	s.inputs[name] = in
	s.mu.Unlock()
	in.entry, in.err = putInput(ctx, place, name, u)
	if in.err != nil {
		s.mu.Lock()
		if s.inputs[name] == in {
			delete(s.inputs, name)
		}
		s.mu.Unlock()
	}
	close(in.done)
	return in.entry, in.err
}

func putInput(ctx context.Context, place handover.Place, name string, u backend.Upload) (e handover.Entry, err error) {
	from, err := u.Open()
	if err != nil {
		return e, fmt.Errorf("opening input %s: %w", u.Name, err)
	}
	// One byte more than there should be is enough to see that there is more.
	e, err = place.Put(ctx, name, u.Name, io.LimitReader(from, u.Size+1))
	if err = errors.Join(err, from.Close()); err == nil && e.Size != u.Size {
		err = fmt.Errorf("input %s does not have the %d bytes that it should have", u.Name, u.Size)
	}
	return e, err
}

// inputName is where an input is in storage. What it is called on back ends follows from its content and its owner by a
// key of the studio, so that no job leads to another one's.
func inputName(studio string, u backend.Upload) string {
	return handover.InputName(studio, fmt.Sprintf("%s\x00%s\x00%d", u.Subfolder, u.Name, u.Size))
}

// inputsOf says of each input how it reaches the container. usable reports that containers can tell whether their
// storage is this one.
func (r *run) inputsOf(ctx context.Context, way handing, usable bool) (all []oneshot.Input) {
	o := &r.d.options
	for _, u := range r.t.Uploads {
		in := oneshot.Input{Name: u.Name, Subfolder: u.Subfolder, Size: u.Size, Sent: way != byName}
		if usable && way != byRequest && u.Size >= o.StoreFrom {
			name := inputName(o.Studio, u)
			e, there := r.d.shelf.known(name)
			if !there && way == byStorage {
				var err error
				if e, err = r.d.shelf.put(ctx, o.Place, name, u); err == nil {
					there = true
				} else if ctx.Err() == nil {
					r.d.log.Warn("an input can't be put into storage, and goes with the request", "req", r.id, "err", err)
				}
			}
			if there {
				in.Sent, in.Stored, in.SHA256 = false, name, e.SHA256
			}
		}
		all = append(all, in)
	}
	return all
}
