package redis_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/redis"
)

// refused holds an error against the kind and code of a refusal.
func refused(t testing.TB, what string, err error, code string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Unavailable || f.Code != code || f.Public == "" || f.Remedy == "" {
		t.Errorf("%s: %v, want a refusal %s", what, err, code)
	}
}

// startQueue opens a queue on the server and closes it with the test.
func startQueue(t testing.TB, s *server, o redis.Options) (*redis.DB, *redis.Queue, *queue.Service) {
	t.Helper()
	db := s.open(t, o)
	store, err := redis.NewQueue(context.WithoutCancel(t.Context()), db)
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(store.Close(), db.Close())) })
	q, err := queue.New(context.WithoutCancel(t.Context()), store, queue.Options{})
	must(t, err)
	return db, store, q
}

// TestEmptied: a Redis that lost everything is not taken for an empty queue, neither by who runs nor by who starts.
func TestEmptied(t *testing.T) {
	t.Parallel()
	s := startServer(t, "always")
	db, store, q := startQueue(t, s, redis.Options{Studio: "studio-1"})
	j, _, err := q.Submit(t.Context(), queuetest.Submission("ann", 1))
	must(t, err)
	again := s.open(t, redis.Options{Studio: "studio-1", Generation: db.Generation()})
	if again.Generation() != db.Generation() {
		t.Errorf("generation %s became %s", db.Generation(), again.Generation())
	}
	must(t, again.Close())
	_, err = redis.Open(t.Context(), s.url(), redis.Options{Studio: "studio-2"})
	refused(t, "another studio", err, "redis_other_studio")

	s.cli("flushall")
	read := func(code string) {
		t.Helper()
		_, _, err = q.Submit(t.Context(), queuetest.Submission("ann", 2))
		refused(t, "submit", err, code)
		_, err = store.Find(t.Context(), "ann", j.PromptID)
		refused(t, "find", err, code)
		_, err = store.EachOpen(t.Context(), nil)
		refused(t, "open jobs", err, code)
		_, _, err = store.Task(t.Context(), j.Seq)
		refused(t, "task", err, code)
	}
	read("redis_emptied")
	_, err = redis.Open(t.Context(), s.url(), redis.Options{Studio: "studio-1", Generation: db.Generation()})
	refused(t, "a start", err, "redis_emptied")

	other := s.open(t, redis.Options{Studio: "studio-1"}) // somebody begins anew
	defer other.Close()
	read("redis_other")
	_, err = redis.Open(t.Context(), s.url(), redis.Options{Studio: "studio-1", Generation: db.Generation()})
	refused(t, "a start", err, "redis_other")
	s.cli("hset", "{comfyume}:meta", "form", "99")
	_, err = redis.Open(t.Context(), s.url(), redis.Options{Studio: "studio-1"})
	refused(t, "a newer form", err, "redis_form")
}
