package sqlite_test

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/sqlite"
	"github.com/ahelme/comfyume/internal/usage"
	"github.com/ahelme/comfyume/internal/usage/usagetest"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "studio.db")
	usagetest.Run(t, func(t *testing.T) (usage.Store, func()) {
		db, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		must(t, err)
		return sqlite.NewUsage(db), func() { must(t, db.Close()) }
	})
}

// TestEndedAreFound: the ledger counts from the rows of jobs, also of those that are out of history.
func TestEndedAreFound(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := open(t, filepath.Join(t.TempDir(), "studio.db"))
	store, err := sqlite.NewQueue(ctx, db)
	must(t, err)
	defer store.Close()
	q, err := queue.New(ctx, store, queue.Options{})
	must(t, err)
	began := time.Now().Truncate(time.Millisecond)
	var want []job.Job
	for i := range 3 {
		j, _, err := q.Submit(ctx, queuetest.Submission("ann", i))
		must(t, err)
		if i == 2 { // taken out before it ran
			_, err := q.ClearPending(ctx, "ann")
			must(t, err)
			want = append(want, job.Job{ID: j.ID, State: job.Cancelled})
			continue
		}
		e, _, err := q.Claim(ctx, j.ID, queuetest.Params())
		must(t, err)
		must(t, q.Finish(ctx, j.ID, e.Job.Attempt.Fence, queuetest.Outcome(job.Completed)))
		want = append(want, job.Job{ID: j.ID, State: job.Completed})
	}
	must(t, q.ClearHistory(ctx, "ann"))
	_, _, err = q.Submit(ctx, queuetest.Submission("ann", 9)) // open
	must(t, err)

	var mu sync.Mutex
	var got []job.Job
	took := sqlite.NewUsage(db)
	must(t, took.EachEnded(ctx, began, func(j job.Job) error {
		if j.User != "ann" || j.Group != "class-a" || j.Created.UnixMilli() != 1764000000000 || j.Finished.Before(began) {
			t.Errorf("found %+v", j)
		}
		if ran := j.State == job.Completed; ran == j.Started.IsZero() || ran != (j.Summary != nil) {
			t.Errorf("%s began %v, its summary is %s", j.State, j.Started, j.Summary)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, job.Job{ID: j.ID, State: j.State})
		return nil
	}))
	slices.SortFunc(got, func(a, b job.Job) int { return strings.Compare(string(a.ID), string(b.ID)) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	must(t, took.EachEnded(ctx, time.Now().Add(time.Hour), func(job.Job) error { t.Error("found one that ends in the future"); return nil }))
}
