// Package queue is the studio's durable queue: who asked for which run, in which order, who works on it, how it
// ended. Idempotency, limits, order of announcements and the rights of attempts are decided here, once; a [Store]
// keeps the rows.
package queue

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// The modes: how the queue chooses between people.
const (
	FIFO       = "fifo"        // oldest job first
	RoundRobin = "round_robin" // one job each in turn
	Priority   = "priority"    // by class
	Fair       = "fair"        // by GPU time used
)

// Options are the optional settings of New.
type Options struct {
	Mode              string            // that of the settings; empty: fair. See Service.Mode
	MaxPending        int               // most pending jobs of all; 0: no limit
	MaxPendingPerUser int               // most pending jobs of one person; 0: no limit
	KeepFor           time.Duration     // how long final jobs are kept; 0: for ever. See Service.Prune
	KeepPerUser       int               // most final jobs that are kept of one person; 0: no limit
	Sealer            Sealer            // seals credentials of paid nodes; nil: jobs that carry some are refused
	Notify            func(job.Changed) // see Service; nil: nobody listens
	Control           func(Control)     // see Service; nil: nobody listens
	Admit             Admit             // nil: nothing but the limits above
	Place             Place             // nil: every job waits until it is claimed
	Log               *slog.Logger      // nil: discarded
}

// Admit says whether a submission may be accepted beside the queue's own limits: nil, or a fault that is the answer.
// What the person has submitted before under the same key or prompt id is answered as before, whatever it says.
type Admit func(context.Context, job.Submission) error

// Place may choose, for a job that is about to be accepted, a back end that can take it at once. The job is then
// accepted and claimed in one commit, and announced as submitted with its first attempt. It must be quick.
type Place func(job.Job) (p job.ClaimParams, ok bool)

// Service is the queue. It is safe for concurrent use.
//
// Options.Notify is called for every change after the commit that made it true, one call at a time, per job in the
// order in which the changes happened, and before the method that made the change returns. It must be quick; it may
// ask the service what is in memory (Remaining, Open, Counts), and must not change anything through it.
//
// Options.Control is called alike for every change of mode or pauses, with all of them as they are then.
type Service struct {
	store    Store
	shared   Shared // nil: no other server changes the store
	opts     Options
	log      *slog.Logger
	book     *book
	recent   *recent
	order    sync.Mutex // held from a change in the book to the end of its announcement
	control  control
	rejected rejected
}

// New returns the queue over a store and reads the open jobs from it.
func New(ctx context.Context, store Store, o Options) (*Service, error) {
	if o.Mode == "" {
		o.Mode = Fair
	}
	if err := checkMode(o.Mode); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Notify == nil {
		o.Notify = func(job.Changed) {}
	}
	if o.Control == nil {
		o.Control = func(Control) {}
	}
	s := &Service{store: store, opts: o, log: o.Log, book: newBook(), recent: newRecent()}
	numbers, err := store.Numbers(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the counters of the queue: %w", err)
	}
	s.book.setNumbers(numbers)
	s.book.ended, err = store.EachOpen(ctx, func(j job.Job) error {
		s.book.put(&j)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the open jobs: %w", err)
	}
	if err := s.readControl(ctx); err != nil {
		return nil, err
	}
	if shared, ok := store.(Shared); ok {
		s.shared = shared
		shared.Follow(s.follow)
	}
	return s, nil
}

// change runs one change of the book and announces what it says, in order.
func (s *Service) change(mutate func() []job.Changed) {
	s.order.Lock()
	defer s.order.Unlock()
	for _, c := range mutate() {
		s.opts.Notify(c)
	}
}

// now returns the time as the store keeps it.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func millis(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Millisecond)
}

func missing() error {
	return fault.New(fault.Missing, "There is no such job.").WithCode("no_such_job")
}

func stale() error {
	return fault.New(fault.Conflict, "This attempt has lost the right to report: the job has moved on.").
		WithCode("stale_fence")
}

// plural returns "1 job" or "n jobs".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + strings.TrimSuffix(thing, "s")
	}
	return fmt.Sprintf("%d %s", n, thing)
}
