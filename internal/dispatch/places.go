package dispatch

import (
	"maps"
	"time"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

// mostTold is how many of a person's waiting jobs are told their places.
const mostTold = 50

// tellPlaces tells the people who watch where their waiting jobs stand, as far as that changed.
func (l *loop) tellPlaces() {
	l.stale = false
	now := time.Now()
	for user := range l.waiting {
		places := l.machine.Places(user)
		if len(places) == 0 {
			delete(l.waiting, user)
		}
		if !l.deps.Bus.Watched(user) {
			delete(l.told, user)
			continue
		}
		told := make(map[job.ID]event.Place, min(len(places), mostTold))
		for _, p := range places[:min(len(places), mostTold)] {
			told[p.Job] = event.Place{Position: p.Position, Reason: l.machine.Why(p.Job, now).Sentence}
		}
		if before, ok := l.told[user]; ok && maps.Equal(before, told) || !ok && len(told) == 0 {
			continue
		}
		if len(told) == 0 {
			delete(l.told, user)
		} else {
			l.told[user] = told
		}
		l.deps.Bus.Publish(event.Event{User: user, Body: event.Queued{Places: told}})
	}
}
