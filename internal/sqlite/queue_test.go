package sqlite_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/job"
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

func BenchmarkPeers(b *testing.B) { queuetest.Peers(b, "comfyume", shelf) }

func TestQueueModel(t *testing.T) {
	queuetest.Model(t, quick)
}

// TestCredentialsGoAfterARestart: an end finds the credentials of a job that another process accepted.
func TestCredentialsGoAfterARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "comfyume.db")
	start := func() (*sqlite.DB, *sqlite.Queue) {
		db, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		must(t, err)
		q, err := sqlite.NewQueue(t.Context(), db)
		must(t, err)
		return db, q
	}
	kept := func(db *sqlite.DB) (n int) {
		must(t, db.QueryRow(t.Context(), `select count(*) from job_credential`).Scan(&n))
		return n
	}
	db, q := start()
	in := queue.Insertion{
		Job:         job.Job{ID: "one", User: "ann", PromptID: "one", Created: time.Now()},
		Request:     job.Request{Prompt: json.RawMessage(`{}`)},
		Credentials: []byte("sealed"),
	}
	var seq int64
	_, err := q.Insert(t.Context(), in, func(n, _ int64) { seq = n })
	must(t, err)
	must(t, errors.Join(q.Close(), db.Close()))

	db, q = start()
	if n := kept(db); n != 1 {
		t.Errorf("%d credentials before the end, want 1", n)
	}
	end := queue.Ending{Ref: queue.Ref{Seq: seq}, User: "ann", State: job.Cancelled, Finished: time.Now()}
	must(t, q.Finish(t.Context(), []queue.Ending{end}, func([]int64) {}))
	if n := kept(db); n != 0 {
		t.Errorf("%d credentials outlive their job", n)
	}
	must(t, errors.Join(q.Close(), db.Close()))
}
