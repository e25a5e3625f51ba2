package memory_test

import (
	"testing"

	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/memory"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
)

// shelf gives one store again and again: closing it forgets nothing.
func shelf(testing.TB) queuetest.Open {
	store := memory.New()
	return func(testing.TB) (queue.Store, func()) { return store, func() {} }
}

func TestConforms(t *testing.T) {
	t.Parallel()
	queuetest.Conform(t, shelf)
}

func TestModel(t *testing.T) { queuetest.Model(t, shelf) }

func BenchmarkQueue(b *testing.B) { queuetest.Benchmark(b, shelf) }

func BenchmarkPeers(b *testing.B) { queuetest.Peers(b, "comfyume-memory", shelf) }
