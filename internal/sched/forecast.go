package sched

import (
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Band is how long a waiting job will wait from now: in three of five cases it begins between From and To. The zero
// value says that nobody can tell.
type Band struct{ From, To time.Duration }

// Outlook is what the machine knew at a moment, as far as it tells how long jobs wait. Another goroutine may use it
// while the machine goes on.
type Outlook struct{}

// Outlook returns the state as it is now. It costs less than a thousandth of what Bands costs.
func (m *Machine) Outlook(now time.Time) *Outlook { return &Outlook{} }

// Bands simulates what comes and returns how long each waiting job waits, as far ahead as one can see: jobs that are
// left out begin later. The same outlook gives the same bands.
func (o *Outlook) Bands() map[job.ID]Band { return nil }

// Forecast returns the bands of the state as it is now.
func (m *Machine) Forecast(now time.Time) map[job.ID]Band { return m.Outlook(now).Bands() }
