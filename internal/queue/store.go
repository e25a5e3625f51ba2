package queue

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// ErrStale is what a store answers when the condition of a change does not hold: the job is in another state, or
// its newest fence is another one. Nothing was changed.
var ErrStale = errors.New("the job is not as the change expects it")

// ErrMissing is what a store answers when there is no such job in the scope that was asked for.
var ErrMissing = errors.New("no such job")

// ErrNotEmpty is what Restore answers when the store has jobs, or numbers of people, already.
var ErrNotEmpty = errors.New("the store is not empty")

// Store keeps jobs durably. It owns no policy: every change is conditional, and either happens wholly or not at all.
//
// A change is durable when its method returns nil. Its done function is called once, before the method returns and after the
// point from which no death of the process undoes the change; a disk may get it meanwhile (ADR 0036). The calls of one store
// come one at a time, in the order in which the changes became true. done is quick and does not call the store. It is not
// called when the method returns an error, unless it is the disk that fails after it: then the store takes no more changes.
//
// Reads see every change whose done was called. Those that take a user return that user's jobs only; an empty user
// is no user, except where the method says that it asks for all.
//
// A store is safe for concurrent use.
type Store interface {
	// Insert adds a pending job. When the person has used its key, or has a visible job with its prompt id, it changes
	// nothing and returns that job; then done is not called. The key is looked at first. seq orders acceptance and is
	// never reused. With an attempt the job is claimed in the same step, with a fence as Claim gives it; fence is zero
	// without.
	Insert(ctx context.Context, in Insertion, done func(seq, fence int64)) (*Clash, error)
	// Claim makes a pending job that is not held running with the attempt; the fence is the store's to give: greater
	// than every fence before it in the whole store, also over restarts.
	Claim(ctx context.Context, seq int64, a job.Attempt, done func(fence int64)) error
	// Renew extends the leases of running jobs whose newest fence is the given one, and keeps what only memory
	// knew of them. It reports for each whether it did.
	Renew(ctx context.Context, renewals []Renewal, until time.Time) (renewed []bool, err error)
	// Release makes a running job pending again if fence is its newest, and keeps what its attempt came to; nil: nothing
	// is kept.
	Release(ctx context.Context, seq, fence int64, try *job.Try, done func()) error
	// Stop notes for running jobs with these fences that they are to be interrupted. done learns for each whether
	// it held.
	Stop(ctx context.Context, jobs []Ref, done func(stopped []bool)) error
	// Finish makes open jobs final, drops their credentials and keeps their outcomes. done learns for each the
	// number of its end, or zero where the condition did not hold, which is not an error. Numbers of ends grow in
	// the order of the done calls, and order history.
	Finish(ctx context.Context, ends []Ending, done func(ended []int64)) error
	// Hide takes final jobs out of the person's history and drops what they asked and gave: those with the prompt
	// ids, or all when prompts is nil. done learns how many.
	Hide(ctx context.Context, user string, prompts []string, done func(n int)) error
	// Rank changes what open jobs wait by: their class, number and deadline, and whether they are held. done learns for each whether
	// its condition held, and the job became what its Rank says.
	Rank(ctx context.Context, ranks []Rank, done func(ranked []bool)) error
	// PutSetting keeps one of the few facts of the queue that are no job's, such as its mode; nil deletes it.
	PutSetting(ctx context.Context, name string, value []byte, done func()) error
	// Prune takes final jobs, and keys that have expired, out of the store for ever: row, request, outcome and key. done
	// learns which jobs went, in any order; it is called when none did, too. As many as p.Limit went: there may be more.
	Prune(ctx context.Context, p Pruning, done func(gone []Gone)) error
	// Restore fills a store without jobs and numbers with what EachRecord and Numbers of another one gave, or answers
	// ErrNotEmpty. Sequence, fences and numbers of ends stay as they are, and what the store gives later is beyond all
	// of them. It happens wholly or not at all: what a crash cut short is gone at the next start. Nothing else uses the
	// store meanwhile.
	Restore(ctx context.Context, numbers map[string]int64, records iter.Seq2[Record, error]) error

	// Settled returns once every change whose done was called is durable; an error: that will never be. Who answers by what
	// was read, and not by a change of their own, asks it first.
	Settled(ctx context.Context) error
	// EachOpen calls fn for every open job of everybody in order of acceptance. It is called before any change, and
	// returns a number that is not below any end so far, and below every end to come.
	EachOpen(ctx context.Context, fn func(job.Job) error) (ended int64, err error)
	// Numbers returns for each person the last mark of Insertion.NumberMark.
	Numbers(ctx context.Context) (map[string]int64, error)
	// Settings returns what PutSetting kept, by name.
	Settings(ctx context.Context) (map[string][]byte, error)
	// EachRecord calls fn for everything that is kept of jobs, in order of acceptance, credentials sealed as they are.
	// It holds nothing open while fn runs; what changes meanwhile may be given as it was or as it is.
	EachRecord(ctx context.Context, fn func(Record) error) error
	// Find returns the person's visible job with the prompt id, or ErrMissing.
	Find(ctx context.Context, user, promptID string) (job.Job, error)
	// FindKey returns the job that the person submitted with the key, hidden or not, or ErrMissing; a key that has
	// expired at the time is no key.
	FindKey(ctx context.Context, user, key string, at time.Time) (job.Job, error)
	// Get returns anybody's job, hidden or not, or ErrMissing.
	Get(ctx context.Context, id job.ID) (job.Job, error)
	// Task returns what an open job asks for and its sealed credentials, or ErrMissing.
	Task(ctx context.Context, seq int64) (job.Request, []byte, error)
	// Tries returns what was kept of the job's attempts, in their order, as long as the job is kept.
	Tries(ctx context.Context, seq int64) ([]job.Try, error)
	// Requests returns what the person's visible jobs asked for; jobs that are not theirs are left out.
	Requests(ctx context.Context, user string, seqs []int64) (map[int64]job.Request, error)
	// Entry returns the person's visible job with the prompt id, with request and outcome, or ErrMissing.
	Entry(ctx context.Context, user, promptID string) (job.Entry, error)
	// EachHistory calls fn for the person's final visible jobs, in the order in which they ended. It holds nothing
	// open while fn runs. Of the jobs, attempts and digests may be left out.
	EachHistory(ctx context.Context, user string, q job.HistoryQuery, fn func(job.Entry) error) error
	// List returns final jobs and how many there are without limit and offset, unless q.Uncounted. q.States must be
	// final ones.
	List(ctx context.Context, scope Scope, q job.ListQuery) ([]job.Job, int, error)
}

// Scope says which final jobs are listed.
type Scope struct {
	User   string // empty: everybody's
	Hidden bool   // with those that are not in history
	Ended  int64  // those that ended up to this number, so that none is listed as open and as final
}

// Insertion is a new job. The job's Seq is not set yet.
type Insertion struct {
	Job         job.Job
	Request     job.Request
	Credentials []byte       // sealed; nil: none
	NumberMark  int64        // above zero: no number of the person's counter up to here is given again, also after a restart
	Replace     int64        // above zero: hide this final job, which has the same prompt id, in the same step
	Attempt     *job.Attempt // its first, when it is claimed at once; the fence is the store's to give

	Key      string    // the person's Idempotency-Key; empty: none
	KeyUntil time.Time // when the key expires
	Now      time.Time // with a key: one that expires now or before is no key any more, and may be used again
}

// Clash is the job because of which an insertion changed nothing.
type Clash struct {
	Job job.Job
	Key bool // the person used the key for it; else it has the prompt id
}

// Ref names an attempt of an open job.
type Ref struct {
	Seq   int64
	Fence int64 // zero: the job is pending
}

// Renewal is what Renew keeps of a running job.
type Renewal struct {
	Ref
	Posted  bool
	Started time.Time
}

// Ending makes a job final.
type Ending struct {
	Ref      // fence zero: if it is pending; else if it is running with this as newest fence
	User     string
	State    job.State // a final one
	Outcome  *job.Outcome
	Hidden   bool // keep it out of history, and drop what it asked
	Started  time.Time
	Finished time.Time
	Try      *job.Try // what is kept of its last attempt; nil: nothing
}

// Rank is what orders an open job.
type Rank struct {
	Ref        // fence zero: if it is pending; else if it is running with this as newest fence
	User       string
	Class      job.Class
	Number     float64
	Held       bool
	Deadline   time.Time // orders nothing, and is kept with the rest
	NumberMark int64     // as that of an insertion; kept also where the condition does not hold
}

// Pruning says which final jobs go.
type Pruning struct {
	Before time.Time // those that finished before; zero: none for their age
	Keep   int       // those of a person beyond this many that ended last, of those in history and of hidden ones each; 0: none for their number
	Limit  int       // most jobs that go in one call, above zero
	Now    time.Time // keys that expire now or before go
}

// Gone is a job that was pruned.
type Gone struct {
	ID       job.ID
	User     string
	PromptID string
	Hidden   bool
}

// Record is everything that a store keeps of a job.
type Record struct {
	Job         job.Job
	Request     job.Request  // zero when it was dropped
	Credentials []byte       // sealed; nil: none
	Outcome     *job.Outcome // nil while open, and when it was dropped
	Tries       []job.Try    // what was kept of its attempts
	Ended       int64        // number of its end; zero while open
	Key         string
	KeyUntil    time.Time
}
