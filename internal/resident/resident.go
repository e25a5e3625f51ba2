// Package resident keeps small what a program has in memory.
package resident

import (
	"context"
	"time"
)

const (
	soon      = 10 * time.Second // after a start: it brings things with it that come a little later
	trimEvery = time.Minute
)

// Keep trims until ctx ends: at once, soon again, then now and then. A trim costs about what a round of the collector does.
func Keep(ctx context.Context) {
	for pause := soon; ; pause = min(2*pause, trimEvery) {
		Trim()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
