package job

import (
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// ParseDeadline reads when a job is needed, as field gives it: RFC 3339, and not before now; empty: no deadline.
func ParseDeadline(field, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fault.New(fault.Invalid, "%s: %q is not a time.", field, text).WithCode("deadline").
			WithRemedy("Write it with day and zone, like 2026-11-27T16:30:00+01:00.")
	}
	if !t.After(now) {
		return time.Time{}, fault.New(fault.Invalid, "%s: %s is over already.", field, text).WithCode("deadline").
			WithRemedy("Name a later time, or leave it out.")
	}
	return t.UTC().Truncate(time.Millisecond), nil
}
