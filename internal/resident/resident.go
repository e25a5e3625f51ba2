// Package resident keeps small what a program has in memory.
package resident

import (
	"context"
	"runtime/metrics"
	"time"
)

const (
	lookEvery = 5 * time.Second
	trimEvery = time.Minute // however busy the program is
	quiet     = 1 << 20     // bytes: who asked for less since the last look is not at work
	worth     = 8 << 20     // bytes: after fewer there is little to give back
)

// Keep trims until ctx ends: at once, when a start or a burst of work is over, and now and then. A trim costs about what
// a round of the collector does.
func Keep(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var trimmed time.Time
	var then, last uint64 // bytes asked for by the last trim, and by the last look
	for {
		now := allocated()
		if time.Since(trimmed) >= trimEvery || now-then >= worth && now-last < quiet {
			Trim()
			trimmed, then = time.Now(), now
		}
		last = now
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// allocated returns how many bytes the program has asked for since its start.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
