package queue_test

import (
	"context"
	"crypto/rand"
	"testing"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/memory"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
)

// fading is a store whose disk fails at the end of a change: it has been announced by then.
type fading struct {
	*memory.Store
	broken error
}

func (f *fading) Insert(ctx context.Context, in queue.Insertion, done func(seq, fence int64)) (*queue.Clash, error) {
	clash, err := f.Store.Insert(ctx, in, done)
	if err == nil && clash == nil {
		err = f.broken
	}
	return clash, err
}

func (f *fading) Finish(ctx context.Context, ends []queue.Ending, done func([]int64)) error {
	if err := f.Store.Finish(ctx, ends, done); err != nil {
		return err
	}
	return f.broken
}

func (f *fading) Rank(ctx context.Context, ranks []queue.Rank, done func([]bool)) error {
	if err := f.Store.Rank(ctx, ranks, done); err != nil {
		return err
	}
	return f.broken
}

func (f *fading) Settled(context.Context) error { return f.broken }

// TestNothingIsAcknowledgedUnsettled: what a disk did not keep is there to be read, and to ask for it again, or to find nothing
// left to do, is no way to have it acknowledged.
func TestNothingIsAcknowledgedUnsettled(t *testing.T) {
	t.Parallel()
	store := &fading{Store: memory.New()}
	q, err := queue.New(t.Context(), store, queue.Options{MaxPendingPerUser: 3})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	submit := func(prompt, key string) (job.Job, error) {
		sub := queuetest.Submission("ann", 1)
		sub.PromptID, sub.Key = prompt, key
		j, _, err := q.Submit(ctx, sub)
		return j, err
	}
	runs, err := submit("runs", "")
	if err != nil {
		t.Fatal(err)
	}
	e, _, err := q.Claim(ctx, runs.ID, queuetest.Params())
	if err != nil {
		t.Fatal(err)
	}
	waits, err := submit("waits", "")
	if err != nil {
		t.Fatal(err)
	}
	store.broken = fault.New(fault.Unavailable, "The disk is gone.")
	for range 2 {
		for what, try := range map[string]func() error{
			"by prompt id": func() error { _, err := submit("again", ""); return err },
			"by key":       func() error { _, err := submit("", "key"); return err }, // at the limit from the second time on
			"hold":         func() error { _, err := q.Hold(ctx, waits.ID, true); return err },
			"finish":       func() error { return q.Finish(ctx, runs.ID, e.Job.Attempt.Fence, queuetest.Outcome(job.Completed)) },
			"remove":       func() error { _, err := q.RemovePending(ctx, "ann", []string{"gone"}); return err },
		} {
			if err := try(); !fault.Is(err, fault.Unavailable) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if n := q.Rejected(); n != (queue.Rejected{}) {
		t.Errorf("kept out: %+v", n)
	}
}

// TestSecretsLeaveWithASettledJob: a job with credentials is not on its way to a back end while the disk gets it.
func TestSecretsLeaveWithASettledJob(t *testing.T) {
	t.Parallel()
	key := make([]byte, 32)
	rand.Read(key) //nolint:errcheck // never fails
	sealer, err := queue.NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	q, err := queue.New(t.Context(), memory.New(), queue.Options{Sealer: sealer, Place: func(job.Job) (job.ClaimParams, bool) {
		return queuetest.Params(), true
	}})
	if err != nil {
		t.Fatal(err)
	}
	for secret, want := range map[string]job.State{"": job.Running, "key": job.Pending} {
		sub := queuetest.Submission("ann", 1)
		if secret != "" {
			sub.Credentials = map[string]string{"api_key_comfy_org": secret}
		}
		if j, _, err := q.Submit(t.Context(), sub); err != nil || j.State != want {
			t.Errorf("with credentials %q: %v %v, want %v", secret, j.State, err, want)
		}
	}
}
