package redis_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/account/accounttest"
	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/agents/agentstest"
	"github.com/ahelme/comfyume/internal/catalog/catalogtest"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/redis"
	"github.com/ahelme/comfyume/internal/usage"
	"github.com/ahelme/comfyume/internal/usage/usagetest"
)

// place opens a place of the test's own on the shared server.
func place(t testing.TB) *redis.DB {
	t.Helper()
	s, name := space(t)
	db := s.open(t, redis.Options{Space: name})
	t.Cleanup(func() { must(t, db.Close()) })
	return db
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	accounttest.Run(t, func(t *testing.T) account.Store { return redis.NewAccounts(place(t)) })
}

// TestPeopleLeaveNothing: when everybody is gone, the only thing that is left of them is the studio itself.
func TestPeopleLeaveNothing(t *testing.T) {
	t.Parallel()
	s, name := space(t)
	db := s.open(t, redis.Options{Space: name})
	defer func() { must(t, db.Close()) }()
	ctx, at, store := t.Context(), time.Now(), redis.NewAccounts(db)
	must(t, store.CreateGroup(ctx, account.Group{Name: "class-a", Created: at}))
	must(t, store.CreateUser(ctx, account.Record{User: account.User{Name: "ann", Group: "class-a", Role: identity.Participant, Created: at}}))
	_, err := store.AddSession(ctx, account.SessionRecord{Hash: account.Hash{1}, Session: account.Session{ID: "s", User: "ann", Created: at, Seen: at, Expires: at.Add(time.Hour)}}, 9)
	must(t, err)
	must(t, store.AddToken(ctx, account.TokenRecord{Hash: account.Hash{2}, Token: account.Token{ID: "t", User: "ann", Created: at, Expires: at.Add(time.Hour)}}, 9))
	must(t, store.AddLink(ctx, account.LinkRecord{Hash: account.Hash{3}, User: "ann", Created: at, Expires: at.Add(time.Hour)}))
	must(t, store.AddCode(ctx, account.Code{Code: "AAAA-AAAA", Group: "class-a", Places: 1, Created: at, Expires: at.Add(time.Hour)}))
	must(t, store.DeleteUser(ctx, "ann"))
	must(t, store.DeleteGroup(ctx, "class-a"))
	if got, want := s.cli("keys", "{"+name+"}:*"), "{"+name+"}:meta"; got != want {
		t.Errorf("left are %s", got)
	}
}

// TestOtherRedisTakesNobody: a Redis that was emptied gets no people, and shows none.
func TestOtherRedisTakesNobody(t *testing.T) {
	t.Parallel()
	s, name := space(t)
	db := s.open(t, redis.Options{Space: name})
	defer func() { must(t, db.Close()) }()
	ctx, store := t.Context(), redis.NewAccounts(db)
	must(t, store.CreateUser(ctx, account.Record{User: account.User{Name: "ann"}}))
	s.cli("del", "{"+name+"}:meta", "{"+name+"}:users")
	refused := func(what string, err error) {
		t.Helper()
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != "redis_emptied" {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("create", store.CreateUser(ctx, account.Record{User: account.User{Name: "ben"}}))
	_, err := store.User(ctx, "ann")
	refused("look up", err)
	_, _, err = store.Session(ctx, account.Hash{1})
	refused("session", err)
	refused("usage", redis.NewUsage(db).Save(ctx, usage.Snapshot{}))
	refused("catalog", redis.NewCatalog(db).SaveSnapshot(ctx, "gpu", []byte("x")))
	refused("agent's code", redis.NewAgents(db).AddCode(ctx, agents.CodeRecord{Name: "lab-1"}))
	_, err = redis.NewAgents(db).ByKey(ctx, agents.Hash{1})
	refused("agent's key", err)
	if got := s.cli("keys", "{"+name+"}:*"); got != "" {
		t.Errorf("the emptied Redis has got %s", got)
	}
}

func TestAgents(t *testing.T) {
	t.Parallel()
	agentstest.Run(t, func(t *testing.T) agents.Store { return redis.NewAgents(place(t)) })
}

func TestUsage(t *testing.T) {
	t.Parallel()
	s, name := space(t)
	usagetest.Run(t, func(t *testing.T) (usage.Store, func()) {
		db := s.open(t, redis.Options{Space: name})
		return redis.NewUsage(db), func() { must(t, db.Close()) }
	})
}

func TestCatalog(t *testing.T) {
	t.Parallel()
	s, name := space(t)
	catalogtest.Run(t, func(t *testing.T) (catalogtest.Store, func()) {
		db := s.open(t, redis.Options{Space: name})
		return redis.NewCatalog(db), func() { must(t, db.Close()) }
	})
}

// TestEndedAreFound: the ledger counts from the rows of jobs, also of those that are out of history.
func TestEndedAreFound(t *testing.T) {
	t.Parallel()
	ctx, db := t.Context(), place(t)
	store, err := redis.NewQueue(context.WithoutCancel(ctx), db)
	must(t, err)
	defer func() { must(t, store.Close()) }()
	q, err := queue.New(ctx, store, queue.Options{})
	must(t, err)
	began := time.Now().Truncate(time.Millisecond)
	want := map[job.ID]job.State{}
	for i := range 3 {
		j, _, err := q.Submit(ctx, queuetest.Submission("ann", i))
		must(t, err)
		if i == 2 { // taken out before it ran
			_, err := q.ClearPending(ctx, "ann")
			must(t, err)
			want[j.ID] = job.Cancelled
			continue
		}
		e, _, err := q.Claim(ctx, j.ID, queuetest.Params())
		must(t, err)
		must(t, q.Finish(ctx, j.ID, e.Job.Attempt.Fence, queuetest.Outcome(job.Completed)))
		want[j.ID] = job.Completed
	}
	must(t, q.ClearHistory(ctx, "ann"))
	_, _, err = q.Submit(ctx, queuetest.Submission("ann", 9)) // open
	must(t, err)
	got := map[job.ID]job.State{}
	took := redis.NewUsage(db)
	must(t, took.EachEnded(ctx, began, func(j job.Job) error {
		if j.User != "ann" || j.Group != "class-a" || j.Finished.Before(began) {
			t.Errorf("found %+v", j)
		}
		if ran := j.State == job.Completed; ran == j.Started.IsZero() || ran != (j.Summary != nil) {
			t.Errorf("%s began %v, its summary is %s", j.State, j.Started, j.Summary)
		}
		got[j.ID] = j.State
		return nil
	}))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	must(t, took.EachEnded(ctx, time.Now().Add(time.Hour), func(job.Job) error { t.Error("found one that ends in the future"); return nil }))
}
