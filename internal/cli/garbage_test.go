package cli

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

func TestGarbagePercent(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 100, 10 << 20: 100, 48 << 20: 100, 96 << 20: 50, 160 << 20: 30, 1 << 30: 25, 64 << 30: 25} {
		if got := garbagePercent(live); got != want {
			t.Errorf("with %d MB in use %d %%, want %d", live>>20, got, want)
		}
	}
}

// TestBoundGarbage has the collector's rule follow what is in use, up and down.
func TestBoundGarbage(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	before := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	end := boundGarbage()
	until := func(what string, ok func(percent int) bool) {
		t.Helper()
		for range 1000 {
			runtime.GC()
			runtime.Gosched()
			rule := []metrics.Sample{{Name: "/gc/gogc:percent"}}
			metrics.Read(rule)
			if ok(int(rule[0].Value.Uint64())) {
				return
			}
		}
		t.Fatal(what)
	}
	big := make([]byte, 192<<20)
	until("a large heap leaves as much lying as a small one", func(percent int) bool { return percent <= 30 })
	runtime.KeepAlive(big)
	big = nil
	until("a heap that became small is still held short", func(percent int) bool { return percent == 100 })
	big = make([]byte, 192<<20)
	until("it stopped looking", func(percent int) bool { return percent <= 30 })
	end()
	until("its end leaves another rule behind", func(percent int) bool { return percent == 100 })
	runtime.KeepAlive(big)
}
