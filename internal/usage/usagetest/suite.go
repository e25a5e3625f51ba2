// Package usagetest holds what every usage.Store has to pass.
package usagetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/usage"
)

// Run tests a store. Each call of open opens the same store anew.
func Run(t *testing.T, open func(t *testing.T) (store usage.Store, closed func())) {
	t.Helper()
	ctx := t.Context()
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	store, closed := open(t)
	noon := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	hour := func(after int, user, group string, jobs int, gpu time.Duration) usage.Hour {
		return usage.Hour{Start: noon.Add(time.Duration(after) * time.Hour), User: user, Group: group, Jobs: jobs, GPU: gpu, Spent: usage.Money(jobs) * usage.Unit / 4}
	}
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
	closed()

	store, closed = open(t)
	defer closed()
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
