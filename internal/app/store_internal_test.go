package app

import (
	"context"
	"testing"

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
