package cli

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// What the collector leaves lying, by Go's own rule, is as much as is in use. That is right for a small studio. With a
// million jobs in the queue it would be hundreds of megabytes, while the queue is made so that marking it costs little.
const (
	garbageFree  = 48 << 20 // bytes that may be left lying however little is in use
	garbageLeast = 25       // percent of what is in use that may be left lying in any case
)

// garbagePercent returns how much may be left lying, in percent of the bytes that are in use.
func garbagePercent(live uint64) int {
	return int(min(max(garbageFree*100/max(live, 1), garbageLeast), 100))
}

// boundGarbage bounds what the collector leaves lying, until end is called. It looks after each of its rounds. Where
// GOGC or GOMEMLIMIT say what an operator wants, that stays.
func boundGarbage() (end func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	var ended atomic.Bool
	before := debug.SetGCPercent(100)
	now := 100
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var look func(*[16]byte)
	look = func(*[16]byte) { // the runtime calls it in a goroutine of its own after a round
		if ended.Load() {
			debug.SetGCPercent(before)
			return
		}
		metrics.Read(sample)
		if want := garbagePercent(sample[0].Value.Uint64()); want < now-4 || want > now+4 {
			now = want
			debug.SetGCPercent(now)
		}
		runtime.SetFinalizer(new([16]byte), look)
	}
	runtime.SetFinalizer(new([16]byte), look)
	return func() { ended.Store(true) }
}
