package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// renew extends the leases of all attempts, beside the loop.
func (l *loop) renew() {
	if l.renewing {
		return
	}
	var fences []job.Fence
	for id, a := range l.attempts {
		if n := a.fence.Load(); n != 0 && a.held.Load() {
			fences = append(fences, job.Fence{Job: id, N: n})
		}
	}
	if len(fences) == 0 {
		return
	}
	l.renewing = true
	l.wg.Go(func() {
		lost, err := l.deps.Queue.Renew(l.ctx, fences, time.Now().Add(l.options.Lease))
		if err != nil && !errors.Is(err, context.Canceled) {
			l.log.Error("leases could not be renewed", "err", err)
		}
		l.inbox.send(renewed{lost})
	})
}

// releaseOrphans lets jobs wait again whose lease is over and that no attempt holds: its right to report was lost to a
// withdrawal, say, which then could not be written down.
func (l *loop) releaseOrphans(now time.Time) {
	for _, j := range l.deps.Queue.Expired(now) {
		if l.attempts[j.ID] != nil {
			continue
		}
		l.wg.Go(func() {
			err := l.deps.Queue.GiveUp(l.ctx, j.ID, j.Attempt.Fence, job.Try{
				N: j.Attempt.N, BackEnd: j.Attempt.BackEnd, Began: j.Started, Ended: time.Now(), Posted: j.Attempt.Posted,
				Cause: job.CauseAbandoned, Reason: "Nobody held its attempt any more.",
			})
			if err != nil && !fault.Is(err, fault.Conflict) && l.ctx.Err() == nil {
				l.log.Error("a job without an attempt could not be released; it is tried again", "job", string(j.ID), "err", err)
			}
		})
	}
}
