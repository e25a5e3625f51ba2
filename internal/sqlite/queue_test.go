package sqlite_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/fault"
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

// TestQueueOnAFullDisk: who is refused hears why, nothing of it is announced or counted, what was acknowledged stays, and
// it goes on when there is room again.
func TestQueueOnAFullDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "comfyume.db")
	db, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	must(t, err)
	store, err := sqlite.NewQueue(t.Context(), db)
	must(t, err)
	var told atomic.Int64
	q, err := queue.New(t.Context(), store, queue.Options{Notify: func(job.Changed) { told.Add(1) }})
	must(t, err)
	submit := func(user string, size int) (job.Job, error) {
		sub := queuetest.Submission(user, 1)
		noise := make([]byte, size) // it can't be packed
		rand.Read(noise)
		sub.Request.ExtraData = json.RawMessage(`"` + base64.StdEncoding.EncodeToString(noise) + `"`)
		j, _, err := q.Submit(t.Context(), sub)
		return j, err
	}
	pages := func(n int) {
		must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
			var now int
			return tx.QueryRow(fmt.Sprintf(`pragma max_page_count = %d`, n)).Scan(&now)
		}))
	}
	kept, err := submit("ann", 100)
	must(t, err)
	e, _, err := q.Claim(t.Context(), kept.ID, queuetest.Params())
	must(t, err)
	before := told.Load()
	pages(1) // as many as there are now
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := submit(fmt.Sprint("user", i), 40_000)
			if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "disk_full" || e.Kind != fault.Unavailable {
				t.Errorf("on a full disk: %v", err)
			}
		})
	}
	wg.Wait()
	if n := told.Load(); n != before {
		t.Errorf("%d changes were announced that did not happen", n-before)
	}
	if diff := cmp.Diff(job.Counts{Running: 1}, q.Counts()); diff != "" {
		t.Errorf("counts: want -, got +\n%s", diff)
	}
	pages(1 << 30)
	must(t, q.Finish(t.Context(), kept.ID, e.Job.Attempt.Fence, queuetest.Outcome(job.Completed)))
	_, err = submit("ann", 40_000)
	must(t, err)
	must(t, errors.Join(store.Close(), db.Close()))

	db = open(t, path)
	store, err = sqlite.NewQueue(t.Context(), db)
	must(t, err)
	defer store.Close()
	q, err = queue.New(t.Context(), store, queue.Options{})
	must(t, err)
	if diff := cmp.Diff(job.Counts{Pending: 1}, q.Counts()); diff != "" {
		t.Errorf("counts after a restart: want -, got +\n%s", diff)
	}
	var verdict string
	must(t, db.QueryRow(t.Context(), `pragma integrity_check`).Scan(&verdict))
	if verdict != "ok" {
		t.Errorf("integrity: %s", verdict)
	}
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
