package agent

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/agent/flags"
	"github.com/ahelme/comfyume/internal/agent/proc"
	"github.com/ahelme/comfyume/internal/fault"
)

// Own says which ComfyUI to start, and how it is watched. Dir is required.
type Own struct {
	Dir     string    // ComfyUI's folder
	Python  string    // empty: it is looked for, see FindPython
	Flags   flags.Set // with absolute paths
	Env     []string  // environment of ComfyUI; nil: nothing
	Output  *Log      // where its output goes; nil: memory only
	Log     *slog.Logger
	Version string // of the agent
	Starter proc.Starter

	// Bound tells how long the node that runs now may take without a sign of life, as was learnt of earlier runs.
	// 0: nothing is known. Nil: never known.
	Bound func() time.Duration

	FrozenAfter  time.Duration // without any sign of life: noticed; 0: 12 s
	HungAfter    time.Duration // without an answer while it prints or computes: given up; 0: 1 min
	StartLimit   time.Duration // from start to ready; 0: 20 min (custom nodes may install what they need)
	StartSilence time.Duration // while starting, without output and without computing; 0: 3 min
	StopGrace    time.Duration // for ending in good order; 0: 10 s

	// For tests: how often it is looked at, the network, what Check finds, and who has the port.
	tick   time.Duration
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	check  func(ctx context.Context, o *Own) []flags.Finding
	holder func(host string) string
}

func (o *Own) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.FrozenAfter, 12*time.Second)
	def(&o.HungAfter, time.Minute)
	def(&o.StartLimit, 20*time.Minute)
	def(&o.StartSilence, 3*time.Minute)
	def(&o.StopGrace, 10*time.Second)
	def(&o.tick, time.Second)
	if o.Bound == nil {
		o.Bound = func() time.Duration { return 0 }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Output == nil {
		o.Output = &Log{waiter: make(chan struct{})}
	}
	if o.Starter == nil {
		o.Starter = proc.System{}
	}
	if o.check == nil {
		o.check, o.holder = Check, holder
	}
	if o.dial == nil {
		o.dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
}

// Supervisor starts a ComfyUI and keeps it running while Run does.
type Supervisor struct {
	o     Own
	host  string // HOST:PORT
	http  *http.Client
	pulse pulse
	kick  chan string // restarts that were asked for: why

	learnt time.Duration // see watcher; owned by Run

	mu      sync.Mutex
	status  Status
	changed chan struct{} // closed when the state changes
	starts  int           // how often it was started
}

var _ ComfyUI = (*Supervisor)(nil)

// NewSupervisor prepares a ComfyUI without starting it; see Run. Settings that can't work are found by Check.
func NewSupervisor(o Own) *Supervisor {
	o.setDefaults()
	o.Flags = withDefaults(o.Flags)
	s := &Supervisor{o: o, host: hostOf(&o.Flags), kick: make(chan string, 1), changed: make(chan struct{})}
	s.http = client(s.open)
	s.status.Version = o.Version
	s.status.ComfyUI = State{State: Stopped, Since: time.Now(), Address: s.Address(), Owned: true, Commit: commitOf(o.Dir)}
	return s
}

// withDefaults adds what is good for a ComfyUI behind a studio.
func withDefaults(set flags.Set) flags.Set {
	set = set.Clone()
	for name, value := range map[string]string{"max-upload-size": "2048", "preview-method": "auto", "port": "8188"} {
		if !set.Has(name) {
			if err := set.Put(name, value); err != nil {
				panic(err) // they are constants
			}
		}
	}
	if err := set.Put("disable-auto-launch"); err != nil {
		panic(err)
	}
	return set
}

// hostOf is where the ComfyUI with these flags is reached from this machine.
func hostOf(set *flags.Set) string {
	host, port := "127.0.0.1", set.Get("port")
	if port == "" {
		port = "8188"
	}
	if set.Has("listen") {
		host = reach(set.Get("listen"))
	}
	return net.JoinHostPort(host, port)
}

// Address is where the ComfyUI is.
func (s *Supervisor) Address() string { return "http://" + s.host }

// Dir is ComfyUI's folder.
func (s *Supervisor) Dir() string { return s.o.Dir }

// Output is what ComfyUI printed.
func (s *Supervisor) Output() *Log { return s.o.Output }

// Status tells how the ComfyUI is.
func (s *Supervisor) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Clock = time.Now()
	return st
}

// Dial opens a connection to the ComfyUI. What arrives on it counts as a sign of life.
func (s *Supervisor) Dial(ctx context.Context) (net.Conn, error) {
	st := s.Status().ComfyUI
	if st.State != Ready {
		return nil, notThere(st)
	}
	c, err := s.open(ctx, "tcp", s.host)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The ComfyUI at %s does not take connections.", s.host)
	}
	return &watched{Conn: c, pulse: &s.pulse}, nil
}

// Carried counts the bytes that went to and fro on connections of Dial.
func (s *Supervisor) Carried() int64 { return s.pulse.carried.Load() }

func (s *Supervisor) open(ctx context.Context, network, _ string) (net.Conn, error) {
	return s.o.dial(ctx, network, s.host)
}

// notThere says why there is no connection to a ComfyUI now.
func notThere(st State) error {
	switch {
	case st.LastCause != nil && st.State != Starting && st.State != Restarting:
		return fault.New(fault.Unavailable, "ComfyUI is %s: %s", st.State, st.LastCause.Text).
			WithRemedy("%s", st.LastCause.Remedy).WithCode("comfyui_" + st.State)
	default:
		return fault.New(fault.Unavailable, "ComfyUI is %s.", st.State).WithCode("comfyui_" + st.State)
	}
}

// Restart ends the ComfyUI and starts it again; also one that was given up.
func (s *Supervisor) Restart(ctx context.Context, why string) error {
	s.mu.Lock()
	before := s.starts
	s.mu.Unlock()
	select {
	case s.kick <- why:
	default: // somebody asked already, and it has not begun
	}
	for {
		s.mu.Lock()
		st, starts, wait := s.status.ComfyUI, s.starts, s.changed
		s.mu.Unlock()
		if starts > before {
			switch st.State {
			case Ready:
				return nil
			case Crashed, Frozen, Stopped:
				return notThere(st)
			}
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// set changes the status and wakes who waits for a change.
func (s *Supervisor) set(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.status.ComfyUI.State
	change(&s.status)
	if now := s.status.ComfyUI.State; now != before {
		s.status.ComfyUI.Since = time.Now()
		s.o.Log.Info("ComfyUI is "+now, "pid", s.status.ComfyUI.PID, "address", s.host)
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// setState changes the state alone.
func (s *Supervisor) setState(state string) { s.set(func(st *Status) { st.ComfyUI.State = state }) }

// blame notes why the ComfyUI is in the state.
func (s *Supervisor) blame(state string, c Cause) {
	now := time.Now()
	s.o.Output.Note("%s", c)
	s.o.Log.Warn("ComfyUI is in trouble", "code", c.Code, "cause", c.Text, "remedy", c.Remedy)
	s.set(func(st *Status) {
		st.ComfyUI.State, st.ComfyUI.LastCause, st.ComfyUI.CauseAt = state, &c, &now
	})
}

// The pace of starting again.
const (
	firstPause  = time.Second
	longPause   = time.Minute
	stable      = 5 * time.Minute // ready for so long: earlier failures are forgotten
	maxFailures = 6               // one after the other, after which it is tried rarely
	maxLasting  = 2               // of those that come again without a change
	rarePause   = 10 * time.Minute
)

// Run starts the ComfyUI and starts it again whenever it ended, until ctx does. Then it is ended and waited for.
func (s *Supervisor) Run(ctx context.Context) {
	failures := 0
	for {
		began := time.Now()
		cause, asked := s.life(ctx)
		switch {
		case ctx.Err() != nil:
			s.set(func(st *Status) { st.ComfyUI.State, st.ComfyUI.PID = Stopped, 0 })
			return
		case asked:
			failures = 0
			s.set(func(st *Status) { st.ComfyUI.State = Restarting })
			continue
		}
		if time.Since(began) > stable {
			failures = 0
		}
		failures++
		pause := min(firstPause<<min(failures-1, 10), longPause)
		if failures >= maxFailures || cause.lasts && failures >= maxLasting {
			pause = rarePause
			s.o.Output.Note("ComfyUI failed %d times one after the other. It is tried again each %s, or at a restart.", failures, strconv.Itoa(int(rarePause.Minutes()))+" minutes")
		}
		next := time.Now().Add(pause)
		s.set(func(st *Status) { st.ComfyUI.NextTry = &next })
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case why := <-s.kick:
			failures = 0
			s.o.Output.Note("A restart was asked for: %s.", why)
		case <-timer.C:
		}
		timer.Stop()
	}
}
