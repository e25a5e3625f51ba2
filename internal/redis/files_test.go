package redis_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/redis"
	"github.com/ahelme/comfyume/internal/workspace"
)

// places opens servers of one studio with files.
func places(t testing.TB, n int) (all []*redis.Files, dbs []*redis.DB) {
	t.Helper()
	s, name := space(t)
	for range n {
		db := s.open(t, redis.Options{Space: name})
		t.Cleanup(func() { must(t, db.Close()) })
		all, dbs = append(all, redis.NewFiles(db)), append(dbs, db)
	}
	return all, dbs
}

func pasted(name string) file.Ref {
	return file.Ref{Type: file.Input, Subfolder: "pasted", Name: name}
}

// put names bytes that need not be there: the table does not look.
func put(t testing.TB, s *redis.Files, name string, overwrite bool, content byte) workspace.Placed {
	t.Helper()
	p, err := s.PlaceFile(t.Context(), workspace.Placement{
		User: "ann", Ref: pasted(name), Key: blob.NewFileKey("ann"),
		Sum: blob.Sum{Size: int64(content), SHA256: [32]byte{content}}, Modified: time.Now(), Overwrite: overwrite,
	})
	must(t, err)
	return p
}

// TestVersionsOfFiles holds the promise that caches stand on: the version has grown when a change is answered, and a moment
// later on the other servers.
func TestVersionsOfFiles(t *testing.T) {
	t.Parallel()
	all, _ := places(t, 2)
	s, other := all[0], all[1]
	for _, s := range all { // while nobody listens every look gives another number
		eventually(t, "both listen", func() bool {
			before := s.FileVersion("ann")
			return s.FileVersion("ann") == before
		})
	}
	last, there, bobs := s.FileVersion("ann"), other.FileVersion("ann"), other.FileVersion("bob")
	grew := func(what string, want bool) {
		t.Helper()
		now := s.FileVersion("ann")
		if (now > last) != want {
			t.Errorf("after %s the version went from %d to %d", what, last, now)
		}
		if last = now; want {
			eventually(t, "the other server hears of "+what, func() bool { return other.FileVersion("ann") > there })
			there = other.FileVersion("ann")
		}
	}
	put(t, s, "a", false, 1)
	grew("a new file", true)
	put(t, s, "a", false, 1)
	grew("the same bytes again", false)
	put(t, s, "a", false, 2)
	grew("a sibling", true)
	put(t, s, "a", true, 3)
	grew("other bytes", true)
	put(t, s, "a", true, 3)
	grew("the same bytes written again", true)
	if _, err := s.RemoveFile(t.Context(), "ann", pasted("none")); err == nil {
		t.Error("a file that is not there was removed")
	}
	grew("a removal of nothing", false)
	_, err := s.RemoveFile(t.Context(), "ann", pasted("a"))
	must(t, err)
	grew("a removal", true)
	_, err = s.ForgetFiles(t.Context(), "ann", 10)
	must(t, err)
	grew("all were forgotten", true)
	used, err := other.FileUsage(t.Context(), "ann")
	must(t, err)
	if used != (workspace.Usage{}) {
		t.Errorf("nothing is kept, but %+v is counted", used)
	}
	if other.FileVersion("bob") != bobs {
		t.Error("bob's version grew")
	}
}

// TestFilesOfTwoServers has two servers bring files under one name at the same time: each body gets one name, and sums,
// lists and keys agree.
func TestFilesOfTwoServers(t *testing.T) {
	t.Parallel()
	all, _ := places(t, 2)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			_, err := all[i%2].PlaceFile(t.Context(), workspace.Placement{
				User: "ann", Ref: pasted("image.png"), Key: fmt.Sprint("key", i),
				Sum: blob.Sum{Size: 10, SHA256: [32]byte{byte(i % 6)}}, Modified: time.UnixMilli(int64(1000 + i)),
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := all[0].Files(t.Context(), "ann", file.Input)
	must(t, err)
	names, hashes := map[string]bool{}, map[string]bool{}
	keys := 0
	for i, f := range list {
		names[f.Name], hashes[f.Hash] = true, true
		if i > 0 && f.Modified.After(list[i-1].Modified) {
			t.Errorf("%s is newer than %s before it", f.Name, list[i-1].Name)
		}
		if _, err := all[1].File(t.Context(), "ann", f.Ref); err != nil {
			t.Error(err)
		}
	}
	for i := range 24 {
		unknown, err := all[1].UnknownKeys(t.Context(), []string{fmt.Sprint("key", i)})
		must(t, err)
		keys += 1 - len(unknown)
	}
	used, err := all[1].FileUsage(t.Context(), "ann")
	must(t, err)
	if len(list) != 6 || len(names) != 6 || len(hashes) != 6 || keys != 6 || used != (workspace.Usage{Bytes: 60, Files: 6}) {
		t.Errorf("6 bodies have %d files, %d names, %d hashes, %d keys; %+v is counted", len(list), len(names), len(hashes), keys, used)
	}
	_, err = all[0].PlaceFile(t.Context(), workspace.Placement{
		User: "ann", Ref: pasted("big"), Key: "big", Sum: blob.Sum{Size: 41, SHA256: [32]byte{99}}, Modified: time.Now(), Quota: 100,
	})
	if err == nil {
		t.Error("a file beyond the quota was taken")
	}
}

// TestDeliveries goes through the table of deliveries, with the job's attempt as the condition.
func TestDeliveries(t *testing.T) {
	t.Parallel()
	all, dbs := places(t, 1)
	s, ctx := all[0], context.WithoutCancel(t.Context())
	store, err := redis.NewQueue(ctx, dbs[0])
	must(t, err)
	defer func() { must(t, errors.Join(store.Close())) }()
	q, err := queue.New(ctx, store, queue.Options{})
	must(t, err)
	j, _, err := q.Submit(ctx, queuetest.Submission("ann", 1))
	must(t, err)
	e, _, err := q.Claim(ctx, j.ID, queuetest.Params())
	must(t, err)
	fence := e.Job.Attempt.Fence
	from := deliver.Origin{BackEnd: "gpu", Epoch: "1", Ref: file.Ref{Type: file.Temp, Name: "x_00007_.png"}}
	slot := deliver.Slot{Job: j.ID, Node: "9", Key: "images"}
	bring := func(fence int64, content byte) (file.Info, []string, error) {
		return s.Deliver(ctx, deliver.Delivery{
			User: "ann", Fence: fence, Attempt: 1, Slot: slot, From: from, Blob: fmt.Sprint("blob", content),
			Want: deliver.ParseName(from.Ref, ""), Sum: blob.Sum{Size: 5, SHA256: [32]byte{content}}, Modified: time.UnixMilli(5000),
		})
	}
	info, unused, err := bring(fence, 1)
	must(t, err)
	if len(unused) != 0 || info.Job != j.ID {
		t.Errorf("delivered %+v, unused %v", info, unused)
	}
	again, unused, err := bring(fence, 1)
	if err != nil || again != info || len(unused) != 1 {
		t.Errorf("the same again: %+v, unused %v, %v", again, unused, err)
	}
	if got, err := s.Delivered(ctx, "ann", fence, slot, from); err != nil || got != info {
		t.Errorf("delivered: %+v %v", got, err)
	}
	if got, err := s.Resolve(ctx, "ann", deliver.Slot{Job: "other"}, from); err != nil || got != info {
		t.Errorf("by its origin: %+v %v", got, err)
	}
	if _, err := s.Resolve(ctx, "bob", slot, from); err == nil {
		t.Error("bob got ann's file")
	}
	must(t, q.Release(ctx, j.ID, fence, "test"))
	if _, _, err := bring(fence, 2); !fault.Is(err, fault.Conflict) {
		t.Errorf("a late attempt: %v", err)
	}
	next, _, err := q.Claim(ctx, j.ID, queuetest.Params())
	must(t, err)
	other, unused, err := bring(next.Job.Attempt.Fence, 2)
	if err != nil || other.Name != info.Name || len(unused) != 1 || unused[0] != "blob1" {
		t.Errorf("other bytes: %+v, unused %v, %v", other, unused, err)
	}

	prune := func(what string, before time.Time, want int) {
		t.Helper()
		if n, err := s.PruneDeliveries(ctx, before, 10); err != nil || n != want {
			t.Errorf("%s: %d went, want %d; %v", what, n, want, err)
		}
	}
	prune("an open job", time.UnixMilli(4000), 0)
	must(t, q.Finish(ctx, j.ID, next.Job.Attempt.Fence, queuetest.Outcome(job.Completed)))
	prune("a job that is over", time.UnixMilli(4000), 1)
	prune("again", time.UnixMilli(4000), 0)
	prune("an old counter", time.UnixMilli(6000), 1)
	prune("again", time.UnixMilli(6000), 0)
	must(t, s.ForgetOrigins(ctx, "gpu", "1"))
	if got, err := s.Resolve(ctx, "ann", slot, from); err != nil || got != other {
		t.Errorf("by its origin: %+v %v", got, err)
	}
	must(t, s.ForgetOrigins(ctx, "gpu", "2"))
	if _, err := s.Resolve(ctx, "ann", slot, from); err == nil {
		t.Error("an origin of an earlier epoch was found")
	}
	keys, err := s.ExpireFiles(ctx, time.Now(), 10)
	must(t, err)
	if len(keys) != 1 || keys[0] != "blob2" {
		t.Errorf("expired %v", keys)
	}
}
