package queuetest

import (
	"testing"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// Conform runs the conformance suite over stores of the shelf.
func Conform(t *testing.T, shelf Shelf) {
	for name, test := range map[string]func(*testing.T, Shelf){
		"life of a job": testLife,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, shelf)
		})
	}
}

func testLife(t *testing.T, shelf Shelf) {
	b := start(t, shelf(t), queue.Options{})
	j := b.submit("ann")
	if n := b.Remaining("ann"); n != 1 {
		t.Errorf("Remaining = %d, want 1", n)
	}
	b.finish(j.ID, job.Completed)
	if n := b.Remaining("ann"); n != 0 {
		t.Errorf("Remaining = %d, want 0", n)
	}
}
