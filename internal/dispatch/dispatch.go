// Package dispatch is the run loop: it takes jobs in the order that package sched decides, has back ends run them,
// brings the results home and makes sure that every accepted job ends exactly once.
//
// One goroutine owns the schedule and every attempt's place in line. Attempts are goroutines that report to it by
// messages; they alone wait for back ends and disks. What may be lost between any two steps, because the process
// dies, the back end dies or the connection breaks, is found again by the run id that was committed before the
// first byte went out. DESIGN.md tells the whole story.
package dispatch

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

// Queue is the durable queue, worker's side. A report with a stale fence is a conflict and changes nothing.
type Queue interface {
	EachOpen(ctx context.Context, fn func(job.Job) error) error
	Claim(ctx context.Context, id job.ID, p job.ClaimParams) (job.Entry, map[string]string, error)
	Load(ctx context.Context, id job.ID, fence int64) (job.Entry, map[string]string, error)
	Posted(id job.ID, fence int64) error
	Renew(ctx context.Context, fences []job.Fence, until time.Time) (lost []job.Fence, err error)
	Finish(ctx context.Context, id job.ID, fence int64, out job.Outcome) error
	Fail(ctx context.Context, id job.ID, out job.Outcome) error
	// Release makes a job wait again that was only taken back; GiveUp one whose attempt was lost, which is kept.
	Release(ctx context.Context, id job.ID, fence int64, reason string) error
	GiveUp(ctx context.Context, id job.ID, fence int64, t job.Try) error
	// Tries returns what was kept of a job's attempts.
	Tries(ctx context.Context, id job.ID) ([]job.Try, error)
	// ListAll lists everybody's jobs, the newest first.
	ListAll(ctx context.Context, q job.ListQuery, user string) ([]job.Job, int, error)
	// Expired returns the running jobs whose lease is over.
	Expired(at time.Time) []job.Job
}

// Fleet is the configured back ends.
type Fleet interface {
	// Status lists them in the order of the configuration.
	Status() []backend.Status
	// Report tells what an attempt met, an error of the classes of package backend. It does not block.
	Report(name string, err error)
	// Forgive takes back that runs were lost there: it was the job's doing. It does not block.
	Forgive(name string)
	// Woke learns how long a back end that slept took to begin a run. It does not block.
	Woke(name string, took time.Duration)
}

// Deliverer brings files of a back end into their owner's.
type Deliverer interface {
	// Deliver returns when the file is durable and has its name. It may be repeated.
	Deliver(ctx context.Context, o Output) (file.Info, error)
	// Resolve returns the person's file that an output that was not made anew means: what an earlier attempt brought
	// home for it, else what was delivered from there before. A fault of kind Missing: neither.
	Resolve(ctx context.Context, o Output) (file.Info, error)
	// OfJob returns what was brought home for an open job by any of its attempts, and still is its owner's as it came.
	OfJob(ctx context.Context, user string, id job.ID) ([]Delivered, error)
}

// Delivered is a file that an attempt brought home: it is to be shown at outputs[Node][Key].
type Delivered struct {
	Node string
	Key  string
	Ref  file.Ref // as its owner knows it
}

// Origin is where a file is: on which back end, since which of its starts, under which name.
type Origin struct {
	BackEnd string
	Epoch   string
	Ref     backend.FileRef
}

// Found is a file that a run's outputs name: outputs[Node][Key][Index].
type Found struct {
	Node  string
	Key   string
	Index int
	Ref   backend.FileRef
	// Marked says that the node carries its owner's mark, so that a back end never takes another person's run for it.
	Marked bool
}

// Output is a file of an attempt that is to be delivered.
type Output struct {
	User    string
	Job     job.ID
	Fence   int64
	Attempt int
	Found
	Origin Origin
	// Open reads the file from the back end.
	Open func(ctx context.Context) (io.ReadCloser, error)
	// PNG takes the owner's mark out of a PNG's embedded graph; nil: nothing to take out.
	PNG func(io.Reader) io.Reader
}

// Rewriter makes a back end's task of what a person asked for.
type Rewriter interface {
	// Out returns the translation for one attempt. A fault of kind Invalid, Denied or Missing is the person's to
	// know: the job fails with it.
	Out(ctx context.Context, e job.Entry, credentials map[string]string) (Translation, error)
}

// Translation is one attempt's two ways between a person's words and a back end's. It is used by one goroutine at
// a time.
type Translation interface {
	// Task fills in all but what the attempt is and whether somebody watches.
	Task(t *backend.Task)
	// Needs is what a back end must have for the graph: node classes, models.
	Needs() []string
	// Files lists the files that an executed frame names.
	Files(u backend.Update) []Found
	// In returns a frame in the person's ids and names.
	In(u backend.Update, names Names) (backend.Update, error)
	// ResultFiles lists the files that a result names.
	ResultFiles(r backend.Result) []Found
	// Result returns a result in the person's ids and names.
	Result(r backend.Result, names Names) (backend.Result, error)
	// Refused returns the body of a refusal in the person's ids and names.
	Refused(body json.RawMessage) json.RawMessage
	// PNG is Output.PNG for the files of this run.
	PNG() func(io.Reader) io.Reader
}

// Names gives the person's name of a file that a node reported. ok is false when it could not be brought home.
type Names func(node string, f backend.FileRef) (ref file.Ref, ok bool)

// Bus carries what happens to the people's sessions.
type Bus interface {
	Publish(event.Event)
	Watched(user string) bool
}

// Deps are the parts a dispatcher works with. All are needed but the functions.
type Deps struct {
	Queue    Queue
	Fleet    Fleet
	Deliver  Deliverer
	Rewriter Rewriter
	Bus      Bus
	// Missing returns which of the needs a back end lacks. Nil: none ever.
	Missing func(backEnd string, needs []string) []string
	// Estimate returns how long a job is expected to run on a back end of usual speed; 0: nobody knows. Nil: nobody ever does.
	Estimate func(job.Job) time.Duration
	// Ran learns for each run that a back end finished how long it took; ok says that the graph did not fail. It may be nil.
	Ran func(j job.Job, backEnd string, ran time.Duration, ok bool)
	// Share returns what a person and a group weigh in the fair order; 0 is 1. Nil: everybody the same.
	Share func(user, group string) (userWeight, groupWeight float64)
	// Spent learns what a run on a paid back end cost, in the unit of prices; Budget returns what may be spent, and when that
	// is to be asked for again. Nil: nobody keeps books, and there is no bound.
	Spent  func(user, group, backEnd string, cost float64)
	Budget func(now time.Time) (sched.Budget, time.Time)
	// Working learns how many runs a paid back end works at from now on, waking included. It must not block. It may be nil.
	Working func(backEnd string, runs int)
	// Taught returns what runs taught the schedule before, as Teach was given it. Nil, both: it learns anew at each start.
	Taught func() []byte
	Teach  func([]byte)
	// Room returns a fault while the disk is too full for another run. Nil: there is always room.
	Room func() error
	Log  *slog.Logger
}

// Options are the settings. The zero value of each field is good.
type Options struct {
	Order             sched.Order
	MaxRunningPerUser int
	AgeAfter          time.Duration // as in sched.Options
	HalfLife          time.Duration // as in sched.Options
	Affinity          time.Duration // as in sched.Options
	Lease             time.Duration // how long an attempt may be unheard of; 0: 1 min
	MaxAttempts       int           // runs that may be lost on back ends before the job fails; 0: 3
	RetryDelay        time.Duration // pause before a lost job is tried again, doubled each time; 0: 1 s
	DeliverFor        time.Duration // how long a result that can't be brought home is tried again; 0: 10 min
	MaxOutput         int64         // bytes of the files of one attempt that are taken; 0: 8 GiB
	MaxDelivering     int           // results brought home from one back end while it runs the next; 0: 4
	PlacesEvery       time.Duration // how often at most a person is told where their jobs stand; 0: 250 ms
	BandsEvery        time.Duration // how often at most it is looked ahead how long jobs wait; 0: 1 s
	RoomEvery         time.Duration // how often the disk is looked at; 0: 2 s
}

func (o *Options) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.Lease, time.Minute)
	def(&o.RetryDelay, time.Second)
	def(&o.DeliverFor, 10*time.Minute)
	def(&o.PlacesEvery, 250*time.Millisecond)
	def(&o.BandsEvery, time.Second)
	def(&o.RoomEvery, 2*time.Second)
	if o.MaxOutput <= 0 {
		o.MaxOutput = maxOutput
	}
	if o.MaxAttempts <= 0 {
		o.MaxAttempts = 3
	}
	if o.MaxDelivering <= 0 {
		o.MaxDelivering = 4
	}
}

// Dispatcher runs jobs. Its methods are safe for concurrent use.
type Dispatcher struct {
	deps    Deps
	options Options
	log     *slog.Logger
	inbox   inbox
	offers  offers
	hunger  appetites
	deaths  deaths
	broken  brokenGPUs
	wg      sync.WaitGroup // attempts and what they leave to others
	newID   func() string
}

// New returns a dispatcher; Run makes it work.
func New(d Deps, o Options) *Dispatcher {
	o.setDefaults()
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return &Dispatcher{deps: d, options: o, log: d.Log, inbox: inbox{wake: make(chan struct{}, 1)}, newID: uuid.NewString}
}

// JobChanged takes in a change of the queue, in the order of the commits. It does not block.
func (d *Dispatcher) JobChanged(c job.Changed) {
	switch c.Change {
	case job.Submitted, job.Removed, job.StopRequested, job.Released, job.Moved:
		d.inbox.send(changed{c.Change, *c.Job})
	}
}

// FleetChanged takes in that back ends, or what they can run, changed. It does not block.
func (d *Dispatcher) FleetChanged() { d.inbox.send(fleetChanged{}) }

// Control sets the order and the pauses that are in effect from now on; what runs is not touched. It does not block.
func (d *Dispatcher) Control(order sched.Order, pauses []Pause) {
	d.offers.hold()
	d.inbox.send(control{order, slices.Clone(pauses)})
}

// Why says why the job waits, as the schedule has it.
func (d *Dispatcher) Why(ctx context.Context, id job.ID) (event.Place, sched.Reason, error) {
	answer := make(chan whyAnswer, 1)
	d.inbox.send(why{id, answer})
	select {
	case a := <-answer:
		return a.place, a.reason, nil
	case <-ctx.Done():
		return event.Place{}, sched.Reason{}, context.Cause(ctx)
	}
}

// inbox is where messages wait for the loop. It is never full: whoever sends must not wait for back ends.
type inbox struct {
	mu   sync.Mutex
	list []any
	wake chan struct{}
}

// send appends a message and wakes the loop.
func (b *inbox) send(m any) {
	b.leave(m)
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// leave appends a message that can wait until the loop wakes for another reason.
func (b *inbox) leave(m any) {
	b.mu.Lock()
	b.list = append(b.list, m)
	b.mu.Unlock()
}

// take returns what waits. The given slice is used for what comes next.
func (b *inbox) take(empty []any) []any {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.list
	b.list = empty[:0]
	return list
}
