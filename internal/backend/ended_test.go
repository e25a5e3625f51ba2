package backend_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
)

func TestEnded(t *testing.T) {
	t.Parallel()
	began := time.Now()
	for name, c := range map[string]struct {
		ended backend.Ended
		want  error
	}{
		"never":             {backend.Ended{}, backend.ErrLost},
		"before":            {backend.Ended{At: began.Add(-time.Second), Code: "signal"}, backend.ErrLost},
		"by itself":         {backend.Ended{At: began.Add(time.Second), Code: "signal"}, backend.ErrCrashed},
		"by memory":         {backend.Ended{At: began.Add(time.Second), Code: "machine_memory"}, backend.ErrCrashed},
		"by somebody":       {backend.Ended{At: began.Add(time.Second), Code: "killed"}, backend.ErrLost},
		"for a broken GPU":  {backend.Ended{At: began.Add(time.Second), Code: "gpu_broken"}, backend.ErrLost},
		"as it stood still": {backend.Ended{At: began.Add(time.Second), Code: "frozen"}, backend.ErrFrozen},
	} {
		got := c.ended.Since(began)
		crashed, frozen := errors.Is(got, backend.ErrCrashed), errors.Is(got, backend.ErrFrozen)
		if !errors.Is(got, c.want) || crashed != (c.want == backend.ErrCrashed) || frozen != (c.want == backend.ErrFrozen) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
