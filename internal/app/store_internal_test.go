package app

import (
	"context"
	"slices"
	"testing"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/memory"
)

// TestStoreAnswers: whether the store is there is asked of the store itself.
func TestStoreAnswers(t *testing.T) {
	t.Parallel()
	q, err := queue.New(t.Context(), memory.New(), queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &Studio{queue: q}
	if !s.storeAnswers(t.Context()) {
		t.Error("a store that is there does not answer")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if s.storeAnswers(gone) {
		t.Error("a store that does not answer is there")
	}
}

// TestNotReadyWhereNothingIsKept: a database that can't keep anything is no studio, and its operator reads why.
func TestNotReadyWhereNothingIsKept(t *testing.T) {
	t.Parallel()
	var trouble error
	s := &Studio{stores: &stores{trouble: func() error { return trouble }}}
	s.ready.Store(true)
	if why := s.whyNotReady(t.Context()); why != nil {
		t.Errorf("not ready: %v", why)
	}
	trouble = fault.New(fault.Unavailable, "The disk is gone.").WithRemedy("Put it back.")
	if why := s.whyNotReady(t.Context()); !slices.Equal(why, []string{"The disk is gone. Put it back."}) {
		t.Errorf("not ready: %v", why)
	}
	s.stores.trouble = nil // another store
	if why := s.whyNotReady(t.Context()); why != nil {
		t.Errorf("not ready: %v", why)
	}
}
