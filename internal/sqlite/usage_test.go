package sqlite_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/sqlite"
	"github.com/ahelme/comfyume/internal/usage"
)

func TestUsageIsKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "studio.db")
	db, err := sqlite.Open(ctx, path, sqlite.Options{})
	must(t, err)
	noon := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	hour := func(after int, user, group string, jobs int, gpu time.Duration) usage.Hour {
		return usage.Hour{Start: noon.Add(time.Duration(after) * time.Hour), User: user, Group: group, Jobs: jobs, GPU: gpu}
	}
	store := sqlite.NewUsage(db)
	must(t, store.Save(ctx, usage.Snapshot{
		Hours: []usage.Hour{hour(-30, "ann", "", 9, 0), hour(0, "ann", "class-a", 1, time.Second), hour(0, "ben", "class-a", 2, time.Minute), hour(1, "ann", "", 3, 0)},
		Learned: []usage.Learned{
			{Key: []byte("kept"), Body: []byte("old")}, {Key: []byte("gone"), Body: []byte("x")}, {Key: []byte{0, 255}, Body: []byte{7}},
		},
	}))
	// What is saved again is written over; what is over goes.
	must(t, store.Save(ctx, usage.Snapshot{
		Hours:   []usage.Hour{hour(0, "ann", "class-a", 4, 90*time.Second)},
		Learned: []usage.Learned{{Key: []byte("kept"), Body: []byte("new")}, {Key: []byte("gone")}},
		Before:  noon.Add(-24 * time.Hour),
	}))
	must(t, db.Close())

	db = open(t, path)
	store = sqlite.NewUsage(db)
	learned, err := store.Learned(ctx)
	must(t, err)
	if diff := cmp.Diff([]usage.Learned{{Key: []byte{0, 255}, Body: []byte{7}}, {Key: []byte("kept"), Body: []byte("new")}}, learned); diff != "" {
		t.Errorf("learned (-want +got):\n%s", diff)
	}
	hours := func(since time.Time, want ...usage.Hour) {
		t.Helper()
		got, err := store.Hours(ctx, since)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("hours (-want +got):\n%s", diff)
		}
	}
	hours(noon.Add(-100*time.Hour), hour(0, "ann", "class-a", 4, 90*time.Second), hour(0, "ben", "class-a", 2, time.Minute), hour(1, "ann", "", 3, 0))
	hours(noon.Add(time.Second), hour(1, "ann", "", 3, 0))

	// Of who goes, what their groups took stays.
	must(t, store.Forget(ctx, "ann"))
	must(t, store.Forget(ctx, "ben"))
	hours(noon, hour(0, "", "class-a", 6, 150*time.Second), hour(1, "", "", 3, 0))
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

	var got []job.Job
	took := sqlite.NewUsage(db)
	must(t, took.EachEnded(ctx, began, func(j job.Job) error {
		if j.User != "ann" || j.Group != "class-a" || j.Created.UnixMilli() != 1764000000000 || j.Finished.Before(began) {
			t.Errorf("found %+v", j)
		}
		if ran := j.State == job.Completed; ran == j.Started.IsZero() || ran != (j.Summary != nil) {
			t.Errorf("%s began %v, its summary is %s", j.State, j.Started, j.Summary)
		}
		got = append(got, job.Job{ID: j.ID, State: j.State})
		return nil
	}))
	slices.SortFunc(got, func(a, b job.Job) int { return strings.Compare(string(a.ID), string(b.ID)) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	must(t, took.EachEnded(ctx, time.Now().Add(time.Hour), func(job.Job) error { t.Error("found one that ends in the future"); return nil }))
}
