package agentstest

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/fault"
)

var at = time.Date(2026, 11, 27, 10, 0, 0, int(7*time.Millisecond), time.UTC)

// Run holds a store to its contract. open returns an empty one.
func Run(t *testing.T, open func(t *testing.T) agents.Store) {
	t.Run("code is used once", func(t *testing.T) { t.Parallel(); usedOnce(t, open(t)) })
	t.Run("codes end", func(t *testing.T) { t.Parallel(); codesEnd(t, open(t)) })
	t.Run("agents", func(t *testing.T) { t.Parallel(); kept(t, open(t)) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func missing(t *testing.T, what string, err error) {
	t.Helper()
	if !fault.Is(err, fault.Missing) {
		t.Errorf("%s: %v, want missing", what, err)
	}
}

func code(n byte, name string) agents.CodeRecord {
	return agents.CodeRecord{Hash: agents.Hash{n}, Name: name, By: "olga", Expires: at.Add(time.Hour)}
}

// as accepts a code with a key.
func as(key byte) func(agents.CodeRecord) (agents.Record, error) {
	return func(c agents.CodeRecord) (agents.Record, error) {
		return agents.Record{Key: agents.Hash{key}, Agent: agents.Agent{
			Name: c.Name, By: c.By, About: agents.About{Machine: "gpu “1”", Version: "v1", OS: "linux/amd64"}, Joined: at,
		}}, nil
	}
}

func usedOnce(t *testing.T, s agents.Store) {
	ctx := t.Context()
	must(t, s.AddCode(ctx, code(1, "lab-1")))
	no := errors.New("not so")
	if err := s.UseCode(ctx, agents.Hash{1}, at, func(c agents.CodeRecord) (agents.Record, error) {
		if diff := cmp.Diff(code(1, "lab-1"), c); diff != "" {
			t.Error(diff)
		}
		return agents.Record{}, no
	}); !errors.Is(err, no) {
		t.Errorf("a code that is not accepted: %v", err)
	}
	var used atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if err := s.UseCode(ctx, agents.Hash{1}, at, as(byte(10+i))); err == nil {
				used.Add(1)
			} else if !fault.Is(err, fault.Missing) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if used.Load() != 1 {
		t.Errorf("the code was used %d times", used.Load())
	}
	list, err := s.Agents(ctx)
	must(t, err)
	if len(list) != 1 {
		t.Errorf("agents: %+v", list)
	}
}

func codesEnd(t *testing.T, s agents.Store) {
	ctx := t.Context()
	must(t, s.AddCode(ctx, code(1, "lab-1")))
	missing(t, "a code at its end", s.UseCode(ctx, agents.Hash{1}, at.Add(time.Hour), as(9)))
	must(t, s.AddCode(ctx, code(2, "lab-1")))
	missing(t, "a code after another was made", s.UseCode(ctx, agents.Hash{1}, at, as(9)))
	must(t, s.Sweep(ctx, at.Add(time.Hour-time.Millisecond)))
	must(t, s.UseCode(ctx, agents.Hash{2}, at, as(9)))
	must(t, s.AddCode(ctx, code(3, "lab-2")))
	must(t, s.Sweep(ctx, at.Add(time.Hour)))
	missing(t, "a swept code", s.UseCode(ctx, agents.Hash{3}, at, as(9)))
	must(t, s.AddCode(ctx, code(4, "lab-2")))
	must(t, s.Remove(ctx, "lab-2"))
	missing(t, "a removed code", s.UseCode(ctx, agents.Hash{4}, at, as(9)))
	missing(t, "remove twice", s.Remove(ctx, "lab-2"))
}

func kept(t *testing.T, s agents.Store) {
	ctx := t.Context()
	for i, name := range []string{"lab-2", "lab-1"} {
		must(t, s.AddCode(ctx, code(byte(i+1), name)))
		must(t, s.UseCode(ctx, agents.Hash{byte(i + 1)}, at, as(byte(10+i))))
	}
	want := []agents.Agent{
		{Name: "lab-1", By: "olga", About: agents.About{Machine: "gpu “1”", Version: "v1", OS: "linux/amd64"}, Joined: at},
		{Name: "lab-2", By: "olga", About: agents.About{Machine: "gpu “1”", Version: "v1", OS: "linux/amd64"}, Joined: at},
	}
	check := func(what string) {
		t.Helper()
		got, err := s.Agents(ctx)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("joined")
	a, err := s.ByKey(ctx, agents.Hash{11})
	must(t, err)
	if diff := cmp.Diff(want[0], a); diff != "" {
		t.Error(diff)
	}
	_, err = s.ByKey(ctx, agents.Hash{99})
	missing(t, "an unknown key", err)

	want[0].Seen, want[0].About = at.Add(time.Minute), agents.About{Machine: "other", Version: "v2", OS: "windows/amd64"}
	must(t, s.Touch(ctx, "lab-1", want[0].Seen, want[0].About))
	must(t, s.Touch(ctx, "nobody", at, agents.About{}))
	check("touched")

	// Whoever joins under the name takes it over.
	must(t, s.AddCode(ctx, code(5, "lab-1")))
	must(t, s.UseCode(ctx, agents.Hash{5}, at, as(20)))
	want[0].Seen, want[0].About = time.Time{}, want[1].About
	check("joined anew")
	_, err = s.ByKey(ctx, agents.Hash{11})
	missing(t, "the key of before", err)
	_, err = s.ByKey(ctx, agents.Hash{20})
	must(t, err)

	must(t, s.Remove(ctx, "lab-1"))
	want = want[1:]
	check("removed")
	_, err = s.ByKey(ctx, agents.Hash{20})
	missing(t, "a revoked key", err)
}
