package queueapi

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// workerMark begins the name of a worker where a back end's name stands. No back end of the settings has one with it.
const workerMark = "worker:"

// OnWorker reports whether a worker of this interface holds the job, or did so last. The studio's own dispatch leaves
// such a job alone until its lease is over.
func OnWorker(j job.Job) bool { return strings.HasPrefix(j.Attempt.BackEnd, workerMark) }

// Bounds of workers.
const (
	maxTries  = 5                // attempts after which a job that workers lost is given up
	activeFor = time.Minute      // how long after its last call a worker counts as active
	knownFor  = 10 * time.Minute // and as one at all
)

var workerID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

// workers is the compatibility face over leases: a worker that comes for a job gets a lease, its fence is kept here,
// and whatever it reports is reported under that fence. So a report that comes late, twice, or for a job that moved on
// changes nothing. It is safe for concurrent use.
type workers struct {
	f       *Face
	started time.Time
	late    atomic.Int64 // reports that were kept out

	mu     sync.Mutex
	heard  map[string]time.Time // last call by worker
	claims map[job.ID][]claim   // of jobs that are open, oldest first
	unfit  map[job.ID]bool      // open jobs that workers can't run
}

// claim is one job that was given to a worker.
type claim struct {
	account string // whose token it came with
	worker  string
	fence   int64
}

func newWorkers(f *Face) *workers {
	return &workers{
		f: f, started: time.Now(), heard: make(map[string]time.Time), claims: make(map[job.ID][]claim), unfit: make(map[job.ID]bool),
	}
}

// Late counts the reports of workers that were kept out.
func (f *Face) Late() int64 { return f.workers.late.Load() }

// count returns how many workers there are, and how many of them came lately.
func (ws *workers) count(now time.Time) (total, active int) {
	busy := map[string]bool{}
	for _, j := range ws.f.Queue.Running() {
		if OnWorker(j) && j.Attempt.LeaseUntil.After(now) {
			busy[strings.TrimPrefix(j.Attempt.BackEnd, workerMark)] = true
		}
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for name, at := range ws.heard {
		switch silent := now.Sub(at); {
		case busy[name]:
		case silent < activeFor:
			active++
			total++
		case silent < knownFor:
			total++
		default:
			delete(ws.heard, name)
		}
	}
	return total + len(busy), active + len(busy)
}

func (ws *workers) hear(worker string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.heard[worker] = time.Now()
}

// next gives a worker the job that is next in line. ok is false when there is none.
func (ws *workers) next(ctx context.Context, account, worker string, lease time.Duration) (e job.Entry, ok bool, err error) {
	ws.hear(worker)
	if err := ws.giveBack(ctx, account, worker); err != nil {
		return e, false, err
	}
	for {
		j, ok, err := ws.pick(ctx)
		if err != nil || !ok {
			return e, false, err
		}
		if j.Attempt.N >= maxTries && OnWorker(j) {
			if err := ws.giveUp(ctx, j); err != nil {
				return e, false, err
			}
			continue
		}
		until := time.Now().Add(lease)
		e, credentials, err := ws.f.Leases.Claim(ctx, j.ID, job.ClaimParams{BackEnd: workerMark + worker, RunID: uuid.NewString(), LeaseUntil: until})
		if fault.Is(err, fault.Conflict) || fault.Is(err, fault.Missing) {
			continue // somebody else was faster
		}
		if err != nil {
			return e, false, err
		}
		id, fence := e.Job.ID, e.Job.Attempt.Fence
		if len(credentials) > 0 { // those never leave the studio but for a back end of the settings
			ws.mu.Lock()
			ws.unfit[id] = true
			ws.mu.Unlock()
			if err := ws.f.Leases.Release(ctx, id, fence, "its paid nodes run on the studio's own back ends only"); err != nil && !fault.Is(err, fault.Conflict) {
				return e, false, err
			}
			continue
		}
		ws.mu.Lock()
		ws.claims[id] = append(ws.claims[id], claim{account, worker, fence})
		ws.mu.Unlock()
		if err := ws.f.Leases.Posted(id, fence); err != nil {
			continue // its owner took it out
		}
		// This writes down that it runs. The worker has it whatever becomes of that.
		if _, err := ws.f.Leases.Renew(ctx, []job.Fence{{Job: id, N: fence}}, until); err != nil {
			ws.f.log.Warn("a worker's lease could not be renewed", "job", string(id), "user", e.Job.User, "err", err)
		}
		ws.f.log.Info("a worker has a job", "job", string(id), "user", e.Job.User, "backend", e.Job.Attempt.BackEnd, "attempt", e.Job.Attempt.N)
		return e, true, nil
	}
}

// giveBack lets jobs wait again that the worker still holds: one that asks for the next job does not work on them any
// more, whatever happened to it.
func (ws *workers) giveBack(ctx context.Context, account, worker string) error {
	for _, j := range ws.f.Queue.Running() {
		if j.Attempt.BackEnd != workerMark+worker || ws.isOthers(account, j) {
			continue
		}
		err := ws.f.Leases.Release(ctx, j.ID, j.Attempt.Fence, "its worker asked for another job")
		if err != nil && !fault.Is(err, fault.Conflict) {
			return err
		}
	}
	return nil
}

// isOthers reports whether a worker of the same name and another account has the job.
func (ws *workers) isOthers(account string, j job.Job) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return slices.ContainsFunc(ws.claims[j.ID], func(c claim) bool { return c.fence == j.Attempt.Fence && c.account != account })
}

// pick returns the job that is next in line: of everybody's first ones that may go, the one with the best place.
func (ws *workers) pick(ctx context.Context) (best job.Job, ok bool, err error) {
	var lines [][]job.Job // everybody's waiting jobs in order
	for user, c := range ws.f.Queue.CountsByUser() {
		if c.Pending == 0 {
			continue
		}
		open, err := ws.f.Queue.Open(ctx, user)
		if err != nil {
			return best, false, err
		}
		lines = append(lines, slices.DeleteFunc(open, func(j job.Job) bool {
			return j.State != job.Pending || j.Held || j.Stop || ws.isUnfit(j.ID)
		}))
	}
	place := 0
	for {
		lines = slices.DeleteFunc(lines, func(l []job.Job) bool { return len(l) == 0 })
		if len(lines) == 0 {
			return best, ok, nil
		}
		ids := make([]job.ID, len(lines))
		for i, l := range lines {
			ids[i] = l[0].ID
		}
		places := ws.f.Line.Places(ctx, ids)
		for i, l := range lines {
			p, known := places[l[0].ID]
			switch {
			case !known || p.Position == 0 || p.Code == "retry" || p.Code == "held":
				lines[i] = l[1:] // not this one, maybe the next
			case blocked(p.Code):
				lines[i] = nil
			default:
				if !ok || p.Position < place {
					best, place, ok = l[0], p.Position, true
				}
				lines[i] = nil
			}
		}
	}
}

// blocked reports whether the code of a reason keeps all of a person's jobs from running anywhere.
func blocked(code string) bool {
	return code == "paused" || code == "paused_group" || code == "max_running" || strings.HasPrefix(code, "quota")
}

func (ws *workers) isUnfit(id job.ID) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.unfit[id]
}

// giveUp ends a job that one worker after another lost.
func (ws *workers) giveUp(ctx context.Context, j job.Job) error {
	ws.f.log.Warn("a job is given up", "job", string(j.ID), "user", j.User, "attempt", j.Attempt.N)
	out := failed(j, fmt.Sprintf("The job was given to workers %d times and never came to its end.", j.Attempt.N))
	if err := ws.f.Leases.Fail(ctx, j.ID, out); err != nil && !fault.Is(err, fault.Conflict) {
		return err
	}
	return nil
}

// held returns the job that a worker reports about, with the fence under which it was given to it. worker is empty
// where the report does not name it, as those of old: then it must be clear which one it is.
func (ws *workers) held(ctx context.Context, account, worker, id string) (job.Job, int64, error) {
	j, err := ws.f.Queue.Get(ctx, job.ID(id))
	switch {
	case fault.Is(err, fault.Missing):
		return j, 0, noJob(id)
	case err != nil:
		return j, 0, err
	case j.State.Final():
		if err := ws.f.Queue.Settled(ctx); err != nil { // it may be this result that the disk does not have
			return j, 0, err
		}
		return j, 0, over(j)
	}
	ws.mu.Lock()
	all := ws.claims[j.ID]
	mine := slices.Clone(all)
	ws.mu.Unlock()
	mine = slices.DeleteFunc(mine, func(c claim) bool { return c.account != account || worker != "" && c.worker != worker })
	if len(all) == 0 && OnWorker(j) && j.State == job.Running { // it was given away before the studio was started anew
		if name := strings.TrimPrefix(j.Attempt.BackEnd, workerMark); worker == "" || worker == name {
			mine = []claim{{account, name, j.Attempt.Fence}}
		}
	}
	if len(mine) == 0 {
		return j, 0, gone(j)
	}
	last := mine[len(mine)-1]
	others := slices.ContainsFunc(mine, func(c claim) bool { return c.worker != last.worker })
	// Before the last start others may have had it, and may still be at it.
	earlier := j.Attempt.N > len(all) && time.Since(ws.started) < ws.f.o.Lease
	if worker == "" && (others || earlier && j.Attempt.N > 1) {
		return j, 0, fault.New(fault.Conflict, "Job %s was given to more than one worker, and the report does not say which one it is of.", j.ID).
			WithRemedy("Add worker_id to the address.").WithCode("worker_id_needed")
	}
	return j, last.fence, nil
}

// gone is the error of a report about a job that its worker does not hold any more.
func gone(j job.Job) error {
	return fault.New(fault.Conflict, "Job %s is not this worker's any more: its lease ended, or its owner cancelled it.", j.ID).
		WithRemedy("Ask for the next job.").WithCode("stale_fence")
}

// report finishes a job for a worker.
func (ws *workers) report(ctx context.Context, p identity.Person, worker, id string, out func(job.Job) (job.Outcome, error)) (job.Job, error) {
	j, fence, err := ws.held(ctx, p.Name, worker, id)
	if err == nil {
		var o job.Outcome
		if o, err = out(j); err != nil {
			return j, err
		}
		if err = ws.f.Leases.Finish(ctx, j.ID, fence, o); fault.Is(err, fault.Conflict) {
			err = gone(j)
		}
	}
	if fault.Is(err, fault.Conflict) {
		ws.late.Add(1)
		ws.f.log.Warn("a worker's report is kept out", "job", id, "user", j.User, "backend", workerMark+cmp.Or(worker, "?"), "err", err)
	}
	if err == nil && worker != "" {
		ws.hear(worker)
	}
	return j, err
}

// lookEvery is how often all that workers hold is looked at, for what an event did not get done.
const lookEvery = time.Minute

// Run ends jobs that workers hold when their owner wants them interrupted: nobody could tell the worker, and what it
// brings later is kept out. It works until ctx ends.
func (f *Face) Run(ctx context.Context) error {
	sub := f.Bus.Subscribe("", event.Options{OnlyState: true})
	defer sub.Close()
	var events []event.Event
	for looked := (time.Time{}); ; {
		if time.Since(looked) >= lookEvery {
			f.workers.lookAll(ctx)
			looked = time.Now()
		}
		var err error
		soon, cancel := context.WithTimeout(ctx, lookEvery)
		events, err = sub.Batch(soon, events[:0])
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && soon.Err() == nil {
			return err
		}
		for _, e := range events {
			switch b := e.Body.(type) {
			case event.JobChanged:
				f.workers.changed(ctx, b.Changed)
			case event.Lagged:
				f.workers.lookAll(ctx)
			}
		}
	}
}

// changed takes in what happened to a job.
func (ws *workers) changed(ctx context.Context, c job.Changed) {
	switch {
	case c.Change == job.HistoryChanged:
	case c.Job.State.Final():
		ws.forget(c.Job.ID)
	case c.Change == job.StopRequested:
		ws.stop(ctx, *c.Job)
	}
}

func (ws *workers) forget(id job.ID) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.claims, id)
	delete(ws.unfit, id)
}

// lookAll is changed for all there is, where it is not known what happened.
func (ws *workers) lookAll(ctx context.Context) {
	for _, j := range ws.f.Queue.Running() {
		if j.Stop {
			ws.stop(ctx, j)
		}
	}
	ws.mu.Lock()
	ids := slices.AppendSeq(slices.Collect(maps.Keys(ws.claims)), maps.Keys(ws.unfit))
	ws.mu.Unlock()
	for _, id := range ids {
		if j, err := ws.f.Queue.Get(ctx, id); fault.Is(err, fault.Missing) || err == nil && j.State.Final() {
			ws.forget(id)
		}
	}
}

// stop ends a job that a worker holds.
func (ws *workers) stop(ctx context.Context, j job.Job) {
	if !OnWorker(j) || j.State != job.Running {
		return
	}
	err := ws.f.Leases.Finish(ctx, j.ID, j.Attempt.Fence, interrupted(j))
	if err != nil && !fault.Is(err, fault.Conflict) && ctx.Err() == nil {
		ws.f.log.Error("a job that its owner stopped could not be ended", "job", string(j.ID), "user", j.User, "err", err)
	}
}
