package usage_test

import (
	"testing"

	"github.com/ahelme/comfyume/internal/usage"
)

// TestScheduleIsKept: what the schedule learnt outlives the ledger, and is saved once.
func TestScheduleIsKept(t *testing.T) {
	t.Parallel()
	store := newMemory()
	l := open(t, store, usage.Options{})
	if got := l.Taught(); got != nil {
		t.Errorf("a new ledger knows %q", got)
	}
	l.Teach([]byte("monday"))
	l.Teach([]byte("tuesday"))
	if err := l.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := open(t, store, usage.Options{})
	if got := string(next.Taught()); got != "tuesday" {
		t.Errorf("it knows %q", got)
	}
	clear(store.learned)
	next.Teach([]byte("tuesday"))
	if err := next.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(store.learned) != 0 {
		t.Error("it was saved again although nothing changed")
	}
	next.Teach([]byte("wednesday"))
	if err := next.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Relearn(t.Context()); err != nil { // another server led meanwhile
		t.Fatal(err)
	}
	if got := string(l.Taught()); got != "wednesday" {
		t.Errorf("behind another server it knows %q", got)
	}
}
