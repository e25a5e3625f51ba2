package queueapi

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Bounds of what is read at the same time.
const (
	bodiesPerPerson = 4
	bodiesInAll     = 256 << 20 // bytes
	bodyWithin      = time.Minute
)

// bodies bounds the memory that requests on their way take. It is safe for concurrent use.
type bodies struct {
	mu     sync.Mutex
	people map[string]int
	bytes  int64
}

func newBodies() *bodies { return &bodies{people: make(map[string]int)} }

func (b *bodies) take(user string, n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	busy := func(format string, args ...any) error {
		e := fault.New(fault.Busy, format, args...).WithCode("too_many_requests").WithRemedy("Send it again in a moment.")
		e.RetryAfter = time.Second
		return e
	}
	if b.people[user] >= bodiesPerPerson {
		return busy("%d requests of yours are being read already.", bodiesPerPerson)
	}
	if b.bytes > 0 && b.bytes+n > bodiesInAll {
		return busy("The studio reads many large requests just now.")
	}
	b.people[user]++
	b.bytes += n
	return nil
}

func (b *bodies) give(user string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes -= n
	if b.people[user]--; b.people[user] <= 0 {
		delete(b.people, user)
	}
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
	if err := f.bodies.take(p.Name, size); err != nil {
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
