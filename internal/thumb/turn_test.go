package thumb_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/thumb"
)

// stuck is a picture that does not come before it is let go.
type stuck struct{ begun, let chan struct{} }

func (s stuck) Read([]byte) (int, error) {
	s.begun <- struct{}{}
	<-s.let
	return 0, io.EOF
}

func TestPeopleTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := thumb.New(thumb.Options{Workers: 1})
		as := func(name string) context.Context {
			return identity.With(t.Context(), identity.Person{Name: name})
		}
		work := func(ctx context.Context) stuck {
			p := stuck{make(chan struct{}, 1), make(chan struct{})}
			go func() { _ = s.Thumbnail(ctx, io.Discard, p) }() // no picture comes of it
			synctest.Wait()
			return p
		}
		begun := func(p stuck) bool {
			synctest.Wait()
			return len(p.begun) > 0
		}
		first := work(as("eve"))
		var more []stuck
		for range 50 {
			more = append(more, work(as("eve")))
		}
		ann := work(as("ann"))
		if !begun(first) || begun(ann) {
			t.Fatal("want the first picture at work and no other")
		}
		close(first.let)
		if !begun(ann) {
			t.Error("fifty pictures of one person go before another's first")
		}
		leaving, leave := context.WithCancelCause(as("ann"))
		left := make(chan error, 1)
		go func() { left <- s.Thumbnail(leaving, io.Discard, stuck{}) }()
		synctest.Wait()
		gone := errors.New("gone")
		leave(gone)
		if err := <-left; !errors.Is(err, gone) {
			t.Errorf("whoever left got %v", err)
		}
		close(ann.let)
		for _, p := range more {
			close(p.let)
		}
		synctest.Wait()
		for _, p := range more {
			if !begun(p) {
				t.Fatal("a picture never had its turn")
			}
		}
	})
}
