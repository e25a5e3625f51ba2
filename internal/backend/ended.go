package backend

import (
	"fmt"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// ErrNotEnded is an ErrLost of which whoever keeps the ComfyUI says that it did not end by itself meanwhile.
var ErrNotEnded = fmt.Errorf("%w: its ComfyUI is not known to have ended", ErrLost)

// Ended is what whoever keeps a ComfyUI knows of its last end that nobody asked for. The zero value: there was none.
type Ended struct {
	At     time.Time
	Code   string // of its cause, as package agent has them
	Text   string // one sentence
	Remedy string
}

// Since says what became of a run that was there since a time and is gone, on a ComfyUI that somebody keeps: ErrCrashed
// when it died by itself since then, ErrFrozen when it was ended since it stood still, and else ErrLost: it was ended from
// outside, or on purpose. The last is ErrNotEnded where nothing is known of an end since then.
func (e Ended) Since(began time.Time) error {
	if e.Code == "" || e.At.Before(began) {
		return ErrNotEnded
	}
	class := ErrCrashed
	switch e.Code {
	case "killed", "gpu_broken":
		class = ErrLost
	case "frozen", "stuck_load":
		class = ErrFrozen
	}
	return fmt.Errorf("%w: %w", class, fault.New(fault.Unavailable, "%s", e.Text).WithRemedy("%s", e.Remedy))
}
