package redis_test

import (
	"context"
	"testing"

	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/redis"
)

// shelf gives stores over one place in the shared server, so that the suite can reopen it as after a crash.
func shelf(t testing.TB) queuetest.Open {
	s, name := space(t)
	return shelfOf(s, redis.Options{Space: name})
}

func shelfOf(s *server, o redis.Options) queuetest.Open {
	return func(t testing.TB) (queue.Store, func()) {
		t.Helper()
		db := s.open(t, o)
		store, err := redis.NewQueue(context.WithoutCancel(t.Context()), db)
		must(t, err)
		return store, func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestQueueConforms(t *testing.T) {
	t.Parallel()
	queuetest.Conform(t, shelf)
}

func TestQueueModel(t *testing.T) {
	queuetest.Model(t, shelf)
}
