package queue

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/job"
)

// TestWaiting holds what the book packs against jobs as they were.
func TestWaiting(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b, want := newBook(), map[job.ID]job.Job{}
		pick := func(t *rapid.T) job.ID {
			if len(want) == 0 {
				t.Skip("no job")
			}
			return rapid.SampledFrom(slices.Sorted(maps.Keys(want))).Draw(t, "job")
		}
		seq := int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				seq++
				some := rapid.SampledFrom([]string{"", "a", "b"})
				id := fmt.Sprintf("00000000-0000-7000-8000-%012d", seq)
				j := job.Job{
					ID: job.ID(id), User: "user " + some.Draw(t, "user"), Group: some.Draw(t, "group"), PromptID: id,
					ClientID: some.Draw(t, "client"), Number: float64(rapid.IntRange(-9, 9).Draw(t, "number")), Seq: seq,
					Class: job.Class(rapid.IntRange(0, 3).Draw(t, "class")), State: job.Pending, WorkflowID: some.Draw(t, "workflow"),
					Profile: job.Profile{Like: some.Draw(t, "like"), Work: rapid.Float64().Draw(t, "work"), Models: some.Draw(t, "models")},
					Held:    rapid.Bool().Draw(t, "held"),
				}
				switch rapid.IntRange(0, 5).Draw(t, "kind") {
				case 0:
					j.PromptID = fmt.Sprint("p", seq)
				case 1:
					j.ID = job.ID("odd " + id)
				case 2:
					j.ID = job.ID(fmt.Sprintf("00000000-0000-7000-8000-%011dA", seq)) // not canonical
				case 3:
					j.Created = time.UnixMilli(rapid.Int64Range(0, 1<<45).Draw(t, "created")).UTC()
				}
				want[j.ID] = j
				b.put(&j)
			},
			"claim": func(t *rapid.T) {
				id := pick(t)
				b.update(id, func(j *job.Job) bool { j.State, j.Attempt.N = job.Running, 1; return true })
				j := want[id]
				j.State, j.Attempt.N = job.Running, 1
				want[id] = j
			},
			"release": func(t *rapid.T) {
				id := pick(t)
				b.update(id, func(j *job.Job) bool { j.State = job.Pending; return true })
				j := want[id]
				j.State = job.Pending
				want[id] = j
			},
			"hold": func(t *rapid.T) {
				id := pick(t)
				b.update(id, func(j *job.Job) bool { j.Held = !j.Held; return true })
				j := want[id]
				j.Held = !j.Held
				want[id] = j
			},
			"end": func(t *rapid.T) {
				id := pick(t)
				b.end(id, seq, func(j *job.Job) { j.State = job.Cancelled })
				delete(want, id)
			},
			"": func(t *rapid.T) { checkBook(t, b, want) },
		})
	})
}

func checkBook(t *rapid.T, b *book, want map[job.ID]job.Job) {
	bySeq := slices.SortedFunc(maps.Values(want), func(x, y job.Job) int { return int(x.Seq - y.Seq) })
	users := map[string]job.Counts{}
	var ids []job.ID
	for _, j := range bySeq {
		ids = append(ids, j.ID)
		got, ok := b.get(j.ID)
		if diff := cmp.Diff(j, got); !ok || diff != "" {
			t.Fatalf("%s: %s", j.ID, diff)
		}
		if got, ok := b.find(j.User, j.PromptID); !ok || got.ID != j.ID {
			t.Fatalf("%s finds %q", j.PromptID, got.ID)
		}
		if got, ok := b.find("somebody", j.PromptID); ok {
			t.Fatalf("somebody finds %s", got.ID)
		}
		c := users[j.User]
		c.Add(j.State, 1)
		users[j.User] = c
	}
	if got := slices.Collect(b.ids()); !slices.Equal(got, ids) {
		t.Fatalf("open jobs %v, want %v", got, ids)
	}
	if diff := cmp.Diff(users, b.byUser()); diff != "" {
		t.Fatalf("users: %s", diff)
	}
	for user := range users {
		own := slices.DeleteFunc(slices.Clone(bySeq), func(j job.Job) bool { return j.User != user })
		if got := b.open(user); len(got) != len(own) {
			t.Fatalf("%s has %d, want %d", user, len(got), len(own))
		}
		slices.Reverse(own)
		got, total, _ := b.list(choice{user: user, most: 2})
		if diff := cmp.Diff(own[:min(2, len(own))], got); total != len(own) || diff != "" {
			t.Fatalf("the newest of %s, %d in all: %s", user, total, diff)
		}
	}
	if got, total, _ := b.list(choice{ascending: true, most: 3}); total != len(bySeq) || !cmp.Equal(bySeq[:min(3, len(bySeq))], got) && total > 0 {
		t.Fatalf("the oldest are %v, want %v", got, bySeq)
	}
}

// TestWaitingIsSmall: what a waiting job costs in memory decides how long a queue may get.
func TestWaitingIsSmall(t *testing.T) {
	const jobs, most = 200_000, 130
	before := heap()
	b := newBook()
	for i := range jobs {
		id := uuid.Must(uuid.NewV7()).String()
		b.put(&job.Job{
			ID: job.ID(id), User: fmt.Sprint("user", i%1000), Group: "class-a", PromptID: id, ClientID: fmt.Sprint("session", i%1000),
			Number: float64(i), Seq: int64(i), State: job.Pending, WorkflowID: "wf", Created: time.UnixMilli(1764000000000),
		})
	}
	each := (heap() - before) / jobs
	runtime.KeepAlive(b)
	t.Logf("a waiting job takes %d bytes", each)
	if each > most {
		t.Errorf("a waiting job takes %d bytes, want at most %d", each, most)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
