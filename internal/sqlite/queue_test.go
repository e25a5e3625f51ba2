package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/sqlite"
)

// shelf gives stores over one database file, so that the suite can reopen it as after a crash.
func shelf(t testing.TB) queuetest.Open { return shelfWith(t, sqlite.Options{}) }

// quick is shelf without waiting for the disk.
func quick(t testing.TB) queuetest.Open { return shelfWith(t, sqlite.Unsynced(sqlite.Options{})) }

func shelfWith(t testing.TB, o sqlite.Options) queuetest.Open {
	path := filepath.Join(t.TempDir(), "comfyume.db")
	return func(t testing.TB) (queue.Store, func()) {
		t.Helper()
		db, err := sqlite.Open(t.Context(), path, o)
		if err != nil {
			t.Fatal(err)
		}
		store, err := sqlite.NewQueue(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
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
	queuetest.Conform(t, quick)
}

func BenchmarkQueue(b *testing.B) { queuetest.Benchmark(b, shelf) }

func TestQueueModel(t *testing.T) {
	queuetest.Model(t, quick)
}
