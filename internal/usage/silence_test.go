package usage_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/usage"
)

// TestSilences: a class is patient for twice as long as it ever was silent on that back end, and is known after some runs;
// that stays over restarts, and fades.
func TestSilences(t *testing.T) {
	t.Parallel()
	store := newMemory()
	l := open(t, store, usage.Options{})
	check := func(backEnd, class string, want time.Duration, known bool) {
		t.Helper()
		if bound, ok := l.Bound(backEnd, class); bound.Round(time.Second) != want || ok != known {
			t.Errorf("%s on %s: %v, %v; want %v, %v", class, backEnd, bound, ok, want, known)
		}
	}
	check("a", "Slow", 0, false)
	for i := range 3 {
		l.Silent("a", "Slow", time.Duration(40-i)*time.Second)
		check("a", "Slow", 80*time.Second-time.Duration(float64(i)*0.8*float64(time.Second)).Round(time.Second), i == 2)
	}
	l.Silent("a", "Quick", 0)
	l.Silent("a", "Endless", time.Hour)
	l.Silent("a", "Slow", -time.Second) // a clock that was set back
	check("a", "Endless", 10*time.Minute, false)
	check("b", "Slow", 0, false)

	if err := l.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	l = open(t, store, usage.Options{})
	check("a", "Slow", 78*time.Second, true)
	check("a", "Quick", 0, false)
	for range 300 {
		l.Silent("a", "Slow", time.Second)
	}
	if bound, _ := l.Bound("a", "Slow"); bound > 10*time.Second || bound < 2*time.Second {
		t.Errorf("what was long ago makes it wait for %v", bound)
	}
	list, undo := l.Changed()
	if len(list) == 0 {
		t.Error("nothing is to be saved")
	}
	undo()
	if again, _ := l.Changed(); len(again) != len(list) {
		t.Errorf("%d are to be saved after a save that failed, want %d", len(again), len(list))
	}
}

// TestSilencesAreBounded: with very many classes those that ran least are forgotten, in the store too.
func TestSilencesAreBounded(t *testing.T) {
	t.Parallel()
	var s usage.Silences
	s.Silent("a", "Often", 20*time.Second)
	s.Silent("a", "Often", 20*time.Second)
	kept := map[string]bool{}
	save := func() {
		list, _ := s.Changed()
		for _, l := range list {
			if l.Body == nil {
				delete(kept, string(l.Key))
			} else {
				kept[string(l.Key)] = true
			}
		}
	}
	for i := range 10_000 {
		s.Silent("a", fmt.Sprint("Class", i), time.Second)
		if i%500 == 0 {
			save()
		}
	}
	save()
	if bound, _ := s.Bound("a", "Often"); bound == 0 || len(kept) > 4096 {
		t.Errorf("of a class that ran more than others %v is known, and %d are kept", bound, len(kept))
	}
	var again usage.Silences
	again.Restore([]usage.Learned{{Key: []byte("twelve bytes"), Body: []byte("no")}, {Key: []byte("short"), Body: nil}})
	if list, _ := again.Changed(); len(list) != 0 {
		t.Errorf("of nothing %v is to be saved", list)
	}
}
