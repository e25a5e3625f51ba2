package rehearse

import (
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// history learns how long graphs take from those that ran.
type history map[string]float64 // seconds for one unit of work, by Profile.Like

// weight is how much the newest run counts.
const weight = 0.2

// estimate says how long a job will take; 0: no graph like it ran yet.
func (h history) estimate(j job.Job) time.Duration {
	return millis(h[j.Profile.Like] * j.Profile.Work * float64(time.Second))
}

// ran learns from a run.
func (h history) ran(j job.Job, took time.Duration) {
	if j.Profile.Work <= 0 {
		return
	}
	per := took.Seconds() / j.Profile.Work
	if old, ok := h[j.Profile.Like]; ok {
		per = old + weight*(per-old)
	}
	h[j.Profile.Like] = per
}
