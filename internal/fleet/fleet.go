// Package fleet knows the configured back ends: whether each can take work now and, if not, why; what each can run;
// and the web files of their custom nodes.
//
// Every back end is probed by a goroutine of its own: from time to time, at once when its driver noticed something,
// and at once when an attempt met trouble. A back end that loses one run after another is left alone for a while.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// State is what a back end is fit for now.
type State string

// The states. Only a ready back end is given work.
const (
	Unknown     State = "unknown"     // not probed yet
	Ready       State = "ready"       // takes work
	Busy        State = "busy"        // works for somebody else
	Unreachable State = "unreachable" // does not answer
	Refused     State = "refused"     // answers, but can't be used: no ComfyUI, or too old
	Quarantined State = "quarantined" // lost several runs in a row
	Trial       State = "trial"       // comes back from a quarantine: takes one job, and all when that went well
	Drained     State = "drained"     // taken out by the operator
)

// Member is a configured back end.
type Member struct {
	Name   string
	Driver backend.Driver

	Parallel int           // runs at the same time; 0: 1
	Groups   []string      // whose jobs it runs; empty: everybody's
	Price    float64       // of an hour in which it works; 0: it is ours
	Prefer   int           // the higher one gets a job first; among equals, the cheaper one
	MaxRun   time.Duration // a run that takes longer is stopped; 0: never

	Drained bool      // taken out by the operator before
	Text    string    // what people read then; empty: that
	Until   time.Time // when it takes work by itself again; zero: when somebody says so
}

// MemberStore keeps what operators changed of the back ends while the studio ran, by name. The form is the caller's.
// Every change is durable when the call returns. It is safe for concurrent use.
type MemberStore interface {
	SaveMember(ctx context.Context, name string, body []byte) error
	// DropMember forgets one; one that is not kept is no error.
	DropMember(ctx context.Context, name string) error
	LoadMembers(ctx context.Context) (map[string][]byte, error)
}

// Catalog takes in what back ends can run.
type Catalog interface {
	// Update takes in a snapshot. changed reports whether what can be run has changed.
	Update(backend string, snap backend.Snapshot) (changed bool, err error)
}

// Options are the settings. The zero value of each field is good.
type Options struct {
	// Changed is called when the state of a back end, or what can be run, changed. It must not block.
	Changed func()
	// Restarted is called when a back end was started anew since it was last seen.
	Restarted func(ctx context.Context, backEnd, epoch string) error
	// Follows reports that another server of the studio gives work to the back ends just now: then work that is not this
	// server's says nothing. Nil: no other server does.
	Follows func() bool
	// Packs learns where the web files of custom nodes are. Nil: they are not kept.
	Packs *Packs
	Log   *slog.Logger

	ProbeEvery    time.Duration // of a back end that answers; 0: 10 s
	NudgeEvery    time.Duration // at most, however often its driver notices something; 0: 500 ms
	RetryFirst    time.Duration // first pause after one did not answer, doubled each time; 0: 500 ms
	RetryMost     time.Duration // longest such pause; 0: 15 s
	MaxLosses     int           // runs lost in a row before a quarantine, times what it runs at the same time; 0: 5
	QuarantineFor time.Duration // length of the first quarantine, doubled each time up to 16 times; 0: 1 min
}

func (o *Options) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.ProbeEvery, 10*time.Second)
	def(&o.NudgeEvery, 500*time.Millisecond)
	def(&o.RetryFirst, 500*time.Millisecond)
	def(&o.RetryMost, 15*time.Second)
	def(&o.QuarantineFor, time.Minute)
	if o.MaxLosses <= 0 {
		o.MaxLosses = 5
	}
	if o.Follows == nil {
		o.Follows = func() bool { return false }
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// BackEnd is what is known of one back end.
type BackEnd struct {
	Name       string
	State      State
	Reason     string // a sentence for people; empty when ready
	Cause      string // the last trouble in full, for the operator
	Version    string
	Epoch      string
	Devices    []backend.Device
	QueueOther int       // runs in its queue that are not ours
	Seen       time.Time // when it last answered
	Since      time.Time // when it got into its state

	Parallel int      // runs at the same time
	Groups   []string // whose jobs it runs; empty: everybody's
	Price    float64  // of an hour in which it works; 0: it is ours
	Prefer   int
	MaxRun   time.Duration // a run that takes longer is stopped; 0: never
	Wake     time.Duration // how long waking took lately; 0: not known
	Cold     string        // a sentence when it sleeps and the next run has to wake it; empty: it is awake

	Until  time.Time         // the end of its quarantine or maintenance; zero: there is none
	Runs   int               // that came to an end there since the program started, good or bad
	Losses map[job.Cause]int // runs and attempts that did not, by cause; not to be changed
}

// Memory returns the bytes of the largest device; 0: not known.
func (b BackEnd) Memory() (most int64) {
	for _, d := range b.Devices {
		most = max(most, d.VRAMTotal)
	}
	return most
}

// Fleet is the configured back ends. It is safe for concurrent use.
type Fleet struct {
	catalog Catalog
	options Options
	log     *slog.Logger

	mu      sync.RWMutex // guards what follows
	members []*member
	running context.Context // of Run; nil: it does not run yet, or not any more
	probing sync.WaitGroup
}

// member is one back end with what its prober needs.
type member struct {
	Member
	wakeup chan struct{} // probe now
	nudge  chan struct{} // probe soon
	gone   chan struct{} // closed when it is no member any more
	left   chan struct{} // closed when nobody watches it any more
	one    sync.Mutex    // one probe at a time

	mu          sync.Mutex
	now         BackEnd
	failures    int // probes in a row that got no answer
	losses      int // runs in a row that were lost
	quarantines int // in a row
	until       time.Time
	drained     bool
	text        string    // for people, while it is drained
	end         time.Time // of that; zero: there is none
	tried       bool      // it is, or was, on trial after a quarantine
	broken      string    // its epoch when its GPU failed; empty: it did not
}

// New returns a fleet of members in the order of the configuration. Run probes them.
func New(members []Member, c Catalog, o Options) (*Fleet, error) {
	o.setDefaults()
	f := &Fleet{catalog: c, options: o, log: o.Log}
	for _, m := range members {
		if err := f.Add(m); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Add takes in one more back end, behind those that are there. It is probed at once when the fleet runs.
func (f *Fleet) Add(m Member) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.Name == "" || m.Driver == nil || slices.ContainsFunc(f.members, func(x *member) bool { return x.Name == m.Name }) {
		return fault.New(fault.Invalid, "Two back ends are called %q, or one has no name or driver.", m.Name)
	}
	added := newMember(m)
	f.members = append(slices.Clone(f.members), added)
	if f.running != nil {
		f.probing.Go(func() { f.watch(f.running, added) })
	}
	return nil
}

// Remove lets go of a back end and returns when it is not probed any more. It is not told about again; its driver is
// the caller's to close, when nothing uses it.
func (f *Fleet) Remove(name string) error {
	f.mu.Lock()
	i := slices.IndexFunc(f.members, func(m *member) bool { return m.Name == name })
	if i < 0 {
		f.mu.Unlock()
		return noBackEnd(name)
	}
	gone := f.members[i]
	f.members = slices.Delete(slices.Clone(f.members), i, i+1)
	close(gone.gone)
	watched := f.running != nil
	f.mu.Unlock()
	if watched {
		<-gone.left
	}
	f.options.Changed()
	return nil
}

// list returns the back ends of now.
func (f *Fleet) list() []*member {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.members
}

func noBackEnd(name string) error {
	return fault.New(fault.Missing, "There is no back end %q.", name).WithRemedy("See which there are with: comfyume backend list")
}

func newMember(m Member) *member {
	made := &member{
		Member: m, wakeup: make(chan struct{}, 1), nudge: make(chan struct{}, 1), gone: make(chan struct{}), left: make(chan struct{}),
		now: BackEnd{
			Name: m.Name, State: Unknown, Reason: fmt.Sprintf("%s has not answered yet.", m.Name), Since: time.Now(),
			Parallel: max(m.Parallel, 1), Groups: m.Groups, Price: m.Price, Prefer: m.Prefer, MaxRun: m.MaxRun,
		},
		drained: m.Drained, text: m.Text, end: m.Until,
	}
	if made.out() {
		made.drain()
	}
	return made
}

// Run probes the back ends until ctx ends.
func (f *Fleet) Run(ctx context.Context) error {
	f.mu.Lock()
	f.running = ctx
	for _, m := range f.members {
		f.probing.Go(func() { f.watch(ctx, m) })
	}
	f.mu.Unlock()
	<-ctx.Done() // also where there is no back end to watch
	f.mu.Lock()
	f.running = nil
	f.mu.Unlock()
	f.probing.Wait()
	return nil
}

// Status lists the back ends for the dispatcher.
func (f *Fleet) Status() []backend.Status {
	members := f.list()
	out := make([]backend.Status, len(members))
	for i, m := range members {
		m.mu.Lock()
		b := &m.now
		out[i] = backend.Status{
			Name: m.Name, Driver: m.Driver, Ready: b.State == Ready || b.State == Trial, Trial: b.State == Trial, Reason: b.Reason,
			Parallel: b.Parallel, Groups: b.Groups, Price: b.Price, Prefer: b.Prefer, Memory: b.Memory(), Cold: b.Cold,
			MaxRun: b.MaxRun, Wake: b.Wake,
		}
		m.mu.Unlock()
	}
	return out
}

// BackEnds lists what is known of the back ends.
func (f *Fleet) BackEnds() []BackEnd {
	members := f.list()
	out := make([]BackEnd, len(members))
	for i, m := range members {
		m.mu.Lock()
		out[i] = m.now
		m.mu.Unlock()
	}
	return out
}

// Test probes a back end now and tells what came of it.
func (f *Fleet) Test(ctx context.Context, name string) (BackEnd, error) {
	m := f.member(name)
	if m == nil {
		return BackEnd{}, noBackEnd(name)
	}
	f.probe(ctx, m)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now, nil
}

// Nudge has a back end probed soon: its driver noticed something. It does not block.
func (f *Fleet) Nudge(name string) {
	if m := f.member(name); m != nil {
		signal(m.nudge)
	}
}

// Drain takes a back end out, what runs there ends; or lets it take work again.
func (f *Fleet) Drain(name string, on bool) error {
	return f.Maintain(name, on, "", time.Time{})
}

// Maintain is Drain with a text for people in place of the usual one, and an end after which the back end takes work by
// itself again; zero: when somebody says so.
func (f *Fleet) Maintain(name string, on bool, text string, until time.Time) error {
	m := f.member(name)
	if m == nil {
		return noBackEnd(name)
	}
	m.mu.Lock()
	m.drained, m.text, m.end = on, text, until
	changed := on && m.drain()
	m.mu.Unlock()
	if changed {
		f.options.Changed()
	}
	m.wake()
	return nil
}

// Report takes in how an attempt ended: nil when a run came to its end, or an error of the classes of package
// backend. What is certain counts at once, the rest is for the next probe, which is made now. It does not block.
func (f *Fleet) Report(name string, err error) {
	m := f.member(name)
	if m == nil {
		return
	}
	m.mu.Lock()
	if err == nil {
		m.losses, m.quarantines, m.broken = 0, 0, ""
		m.now.Runs++
		well := m.tried
		m.tried = false
		well = well && m.now.State == Trial && m.become(Ready, "", nil)
		m.mu.Unlock()
		if well {
			f.log.Info("a back end changed", "backend", name, "state", string(Ready), "reason", "its trial went well")
			f.options.Changed()
		}
		return
	}
	m.count(err)
	changed := false
	switch {
	case errors.Is(err, backend.ErrForeign):
		changed = m.become(Busy, fmt.Sprintf("%s is busy with other work.", name), err)
	case errors.Is(err, backend.ErrBroken):
		changed = m.broke(f.options, err)
	case errors.Is(err, backend.ErrLost), errors.Is(err, backend.ErrFrozen):
		changed = m.lost(f.options, err)
	default:
		changed = m.become(Unreachable, fmt.Sprintf("%s does not answer.", name), err)
	}
	m.mu.Unlock()
	f.log.Info("trouble with a back end", "backend", name, "err", err)
	if changed {
		f.options.Changed()
	}
	m.wake()
}

// Silent takes in that a back end gives no sign of life in the middle of a run: it is given no more until it answers. It
// does not block.
func (f *Fleet) Silent(name, text string) {
	m := f.member(name)
	if m == nil {
		return
	}
	m.mu.Lock()
	at := m.now.State
	changed := (at == Ready || at == Trial) && m.become(Unreachable, fmt.Sprintf("%s %s.", name, text), nil)
	m.mu.Unlock()
	if changed {
		f.log.Warn("a back end changed", "backend", name, "state", string(Unreachable), "reason", text)
		f.options.Changed()
	}
}

// Forgive takes back that runs were lost on a back end: it was a job's doing.
func (f *Fleet) Forgive(name string) {
	if m := f.member(name); m != nil {
		m.mu.Lock()
		m.losses = 0
		m.mu.Unlock()
	}
}

// Woke learns how long a back end that slept took to begin a run.
func (f *Fleet) Woke(name string, took time.Duration) {
	m := f.member(name)
	if m == nil || took <= 0 {
		return
	}
	m.mu.Lock()
	m.now.Wake = learnt(m.now.Wake, took)
	m.mu.Unlock()
}

// learnt takes one more value into a mean of the last few.
func learnt(mean, value time.Duration) time.Duration {
	if mean == 0 {
		return value
	}
	return mean + (value-mean)/4
}

func (f *Fleet) member(name string) *member {
	members := f.list()
	i := slices.IndexFunc(members, func(m *member) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return members[i]
}
