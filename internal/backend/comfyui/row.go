package comfyui

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"github.com/ahelme/comfyume/internal/backend"
)

// row is the runs of ours that the server may have, as far as one has to know which of them it was at when it died. It
// works at one run after the other. It is safe for concurrent use.
type row struct {
	mu    sync.Mutex
	seats map[string]*seat // by run id: of runs that were handed over and are not known to be off the server
}

// seat is a run's place in the row. Its fields are the row's, under its lock.
type seat struct {
	settled bool    // which runs may go before it is known
	ahead   []*seat // those
	crowded bool    // somebody else's run may go before it
	ended   bool    // the server told its end
}

// enter takes a place for a run that is about to be handed over, or was.
func (r *row) enter(id string) *seat {
	s := new(seat)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seats == nil {
		r.seats = make(map[string]*seat)
	}
	r.seats[id] = s
	return s
}

// settle notes, when the server has the run or may have it, which others may go before it: all that were handed over
// until then, since those that are on their way at the same time may arrive in any order. A run that is over has no seat.
func (r *row) settle(s *seat, crowded bool) {
	if s == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.crowded = s.crowded || crowded
	if s.settled {
		return
	}
	s.settled = true
	for _, x := range r.seats {
		if x != s {
			s.ahead = append(s.ahead, x)
		}
	}
}

// leave gives up the place of a run that the server does not have any more. ended: it told the run's end.
func (r *row) leave(id string, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.seats[id]; s != nil {
		s.ended, s.ahead = ended, nil
		delete(r.seats, id)
	}
}

// first reports whether the server can have been at no other run than this one: it told the end of all that may have gone
// before it.
func (r *row) first(s *seat) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s == nil || !s.settled || s.crowded {
		return false
	}
	for _, x := range s.ahead {
		if !x.ended {
			return false
		}
	}
	return true
}

// death says what became of a run with which the server went away: it may have died of it, or lost it otherwise. gone:
// there is no doubt that its program ended.
func (f *follower) death(ctx context.Context, gone bool) error {
	var how error
	if f.d.options.Death != nil {
		how = f.d.options.Death(ctx, f.handed)
	}
	if how == nil && gone {
		how = backend.ErrCrashed
	}
	return f.accused(how)
}

// endedMeanwhile is death where whoever looks after the server knows that it ended since the run was handed over: there is nothing
// to wait for then. Nil: it may go on.
func (f *follower) endedMeanwhile(ctx context.Context) error {
	if f.d.options.Death == nil || f.handed.IsZero() {
		return nil
	}
	how := f.d.options.Death(ctx, f.handed)
	if how == nil || errors.Is(how, backend.ErrNotEnded) {
		return nil
	}
	return f.accused(how)
}

// accused says what the end of a server is to this run. Nil: nobody knows how it ended.
func (f *follower) accused(how error) error {
	at := f.began || f.d.row.first(f.seat)
	if how == nil || errors.Is(how, backend.ErrCrashed) && !at { // it waited behind another one
		return backend.ErrLost
	}
	return how
}

// refused reports whether nobody listens at a server's port: its host is there, and its program is not.
func refused(err error) bool {
	const windows = syscall.Errno(10061)
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, windows)
}
