package queueapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Bounds of what is read at the same time, in bytes.
const (
	smallBody       = 64 << 10 // does not count
	bodiesPerPerson = 64 << 20
	bodiesInAll     = 512 << 20
)

// Bounds of a body's time.
const (
	bodyWaits  = 20 * time.Second // for room
	bodyWithin = time.Minute      // until it is here
)

// bodies bounds the memory that requests on their way take. It is safe for concurrent use.
type bodies struct {
	mu     sync.Mutex
	people map[string]int64
	all    int64
	freed  chan struct{} // closed when some are given back
}

func newBodies() *bodies { return &bodies{people: make(map[string]int64), freed: make(chan struct{})} }

// take waits until there is room for a body, for a while.
func (b *bodies) take(ctx context.Context, user string, n int64) error {
	if n <= smallBody {
		return nil
	}
	late := time.NewTimer(bodyWaits)
	defer late.Stop()
	for {
		freed, ok := b.try(user, n)
		if ok {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			e := fault.New(fault.Busy, "The studio reads many large requests just now.").
				WithCode("too_many_requests").WithRemedy("Send it again in a moment.")
			e.RetryAfter = time.Second
			return e
		}
	}
}

// try takes room if there is. Else freed is closed when it is worth another try.
func (b *bodies) try(user string, n int64) (freed <-chan struct{}, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.people[user]+n > bodiesPerPerson || b.all+n > bodiesInAll {
		return b.freed, false
	}
	b.people[user] += n
	b.all += n
	return nil, true
}

func (b *bodies) give(user string, n int64) {
	if n <= smallBody {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all -= n
	if b.people[user] -= n; b.people[user] == 0 {
		delete(b.people, user)
	}
	close(b.freed)
	b.freed = make(chan struct{})
}

// body reads a request's body of at most so many bytes. done gives its memory back.
func (f *Face) body(w http.ResponseWriter, r *http.Request, p identity.Person, most int64) (raw []byte, done func(), err error) {
	large := fault.New(fault.Invalid, "body: it has more than the %d bytes that are taken here.", most).
		WithRemedy("Send less.").WithCode(codeTooLarge)
	size := r.ContentLength
	switch {
	case size == 0:
		return nil, func() {}, nil
	case size > most:
		return nil, nil, large
	case size < 0:
		size = most
	}
	if err := f.bodies.take(r.Context(), p.Name, size); err != nil {
		return nil, nil, err
	}
	done = func() { f.bodies.give(p.Name, size) }
	// Not every writer has deadlines; those of the studio's ports have.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyWithin))
	raw, err = io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	_ = control.SetReadDeadline(time.Time{})
	if err == nil {
		return raw, done, nil
	}
	done()
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, nil, large
	}
	return nil, nil, fault.Wrap(fault.Invalid, err, "body: it ended before it was complete.").
		WithRemedy("Send it again.").WithCode("incomplete_body")
}
