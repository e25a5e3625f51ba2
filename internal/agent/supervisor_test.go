package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/agent/flags"
	"github.com/ahelme/comfyume/internal/agent/proc"
	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
)

// machine is a simulated system: programs that are started are simulated ComfyUIs on a network of pipes. It is for
// tests in virtual time.
type machine struct {
	mu     sync.Mutex
	now    *program
	starts []time.Time
	begin  func(p *program) // how the next program begins; nil: it is ready at once
}

// program is one simulated ComfyUI.
type program struct {
	out  io.Writer
	done chan struct{}
	once sync.Once

	mu     sync.Mutex
	exit   proc.Exit
	listen *pipes
	mute   bool // takes connections and never answers
	queue  int  // runs it has
	used   time.Duration
	busy   bool // computes all the time
	born   time.Time
	grace  time.Duration // how Stop was called
}

func (m *machine) Start(spec proc.Spec) (proc.Process, error) {
	p := &program{out: spec.Output, done: make(chan struct{}), born: time.Now()}
	m.mu.Lock()
	m.now, m.starts = p, append(m.starts, time.Now())
	begin := m.begin
	m.mu.Unlock()
	if begin == nil {
		p.serve()
	} else {
		begin(p)
	}
	return p, nil
}

// dial opens a pipe to the program that runs.
func (m *machine) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	m.mu.Lock()
	p := m.now
	m.mu.Unlock()
	p.mu.Lock()
	l := p.listen
	p.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	return l.dial(ctx)
}

func (m *machine) running() *program {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *machine) times() []time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]time.Time(nil), m.starts...)
}

func (p *program) PID() int              { return 4711 }
func (p *program) Done() <-chan struct{} { return p.done }

func (p *program) Exit() proc.Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

func (p *program) Stop(grace time.Duration) {
	p.mu.Lock()
	p.grace = grace
	p.mu.Unlock()
	p.end(proc.Exit{Code: -1, Signal: "SIGKILL", Asked: true})
}

func (p *program) Work() (proc.Work, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy {
		return proc.Work{Used: time.Since(p.born)}, true
	}
	return proc.Work{Used: p.used}, true
}

// end ends the program.
func (p *program) end(e proc.Exit) {
	p.once.Do(func() {
		p.mu.Lock()
		p.exit = e
		l := p.listen
		p.mu.Unlock()
		if l != nil {
			l.Close()
		}
		close(p.done)
	})
}

func (p *program) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// serve lets the program answer as a ComfyUI.
func (p *program) serve() {
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.set(func() { p.listen = l })
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:errcheck // ends with the program
		for {
			p.mu.Lock()
			mute := p.mute
			p.mu.Unlock()
			if !mute {
				break
			}
			select {
			case <-r.Context().Done():
				return
			case <-p.done:
				return
			case <-time.After(time.Second):
			}
		}
		switch r.URL.Path {
		case "/system_stats":
			io.WriteString(w, `{"system":{"comfyui_version":"0.3.64","pytorch_version":"2.9","ram_total":8,"ram_free":NaN},"devices":[{"name":"cpu","type":"cpu","vram_total":8,"vram_free":4}]}`)
		case "/prompt":
			p.mu.Lock()
			defer p.mu.Unlock()
			fmt.Fprintf(w, `{"exec_info":{"queue_remaining":%d}}`, p.queue)
		case "/experiment/models":
			io.WriteString(w, `[{"name":"loras","folders":["/m/loras"]}]`)
		default:
			http.NotFound(w, r)
		}
	}))
}

// pipes is a listener whose connections are pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	mu     sync.Mutex
	open   []net.Conn
}

func (l *pipes) dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	l.mu.Lock()
	l.open = append(l.open, here, there)
	l.mu.Unlock()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range l.open {
			c.Close()
		}
	})
	return nil
}

func (*pipes) Addr() net.Addr { return &net.TCPAddr{} }

// keep starts a supervisor on a simulated machine, in a bubble of virtual time. stop ends it.
func keep(m *machine, o Own) (s *Supervisor, stop func()) {
	o.Starter, o.dial = m, m.dial
	o.Python = "/bin/sh"
	o.check = func(context.Context, *Own) []flags.Finding { return nil }
	o.holder = func(string) string { return "" }
	s = NewSupervisor(o)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	return s, func() {
		cancel()
		running.Wait()
		s.http.CloseIdleConnections()
	}
}

// await waits until the ComfyUI is in a state and returns how long that took.
func await(t *testing.T, s *Supervisor, state string, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		s.mu.Lock()
		now, changed := s.status.ComfyUI.State, s.changed
		s.mu.Unlock()
		if now == state {
			return time.Since(began)
		}
		left := limit - time.Since(began)
		if left <= 0 {
			t.Fatalf("ComfyUI is %s after %s, want %s; the log: %v", now, limit, state, s.o.Output.After(0))
		}
		select {
		case <-changed:
		case <-time.After(left):
		}
	}
}

func TestReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, stop := keep(&machine{}, Own{})
		defer stop()
		await(t, s, Ready, 5*time.Second)
		st := s.Status()
		if st.ComfyUI.Version != "0.3.64" || st.ComfyUI.Torch != "2.9" || len(st.Devices) != 1 || st.Memory.Total != 8 || st.Models["loras"][0] != "/m/loras" {
			t.Errorf("the status is %+v", st)
		}
		c, err := s.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
}

// TestFrozen: a ComfyUI that stops answering is noticed within 15 s of its last sign of life and started again.
func TestFrozen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		bound   time.Duration
		busy    bool
		notice  time.Duration // latest
		atLeast time.Duration
		restart time.Duration // latest, after it was noticed
	}{
		{"stopped", 0, false, 15 * time.Second, 10 * time.Second, 3 * time.Second},
		{"stopped in a long node", 40 * time.Second, false, 43 * time.Second, 35 * time.Second, 3 * time.Second},
		{"computing without an answer", 0, true, 15 * time.Second, 10 * time.Second, time.Minute},
		{"computing in a long node", 90 * time.Second, true, 93 * time.Second, 85 * time.Second, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &machine{}
				s, stop := keep(m, Own{Bound: func() time.Duration { return c.bound }})
				defer stop()
				await(t, s, Ready, 5*time.Second)
				time.Sleep(time.Minute) // in the middle of its life
				first := m.running()
				first.set(func() { first.mute, first.busy = true, c.busy })
				took := await(t, s, Frozen, 5*time.Minute)
				if took > c.notice || took < c.atLeast {
					t.Errorf("noticed after %s, want %s to %s", took, c.atLeast, c.notice)
				}
				if cause := s.Status().ComfyUI.LastCause; cause == nil || cause.Code != CodeFrozen {
					t.Errorf("the cause is %v", cause)
				}
				if _, err := s.Dial(t.Context()); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "frozen") {
					t.Errorf("dialling a frozen ComfyUI: %v", err)
				}
				if took := await(t, s, Ready, 2*time.Minute); took > c.restart {
					t.Errorf("started again after %s, want %s", took, c.restart)
				}
				if m.running() == first || s.Status().ComfyUI.Restarts != 1 {
					t.Error("it was not started again")
				}
				if first.grace != 0 {
					t.Errorf("a frozen program was given %s to end", first.grace)
				}
			})
		})
	}
}

// TestRecovers: one that computes and answers late is left alone.
func TestRecovers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		s, stop := keep(m, Own{})
		defer stop()
		await(t, s, Ready, 5*time.Second)
		p := m.running()
		p.set(func() { p.mute, p.busy = true, true })
		await(t, s, Frozen, 15*time.Second)
		time.Sleep(20 * time.Second)
		p.set(func() { p.mute = false })
		await(t, s, Ready, 5*time.Second)
		if m.running() != p {
			t.Error("it was started again")
		}
	})
}

// TestSilenceIsLearnt: what was silent in a run for long and came back is not called frozen so soon the next time, but
// is without a run.
func TestSilenceIsLearnt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		s, stop := keep(m, Own{})
		defer stop()
		await(t, s, Ready, 5*time.Second)
		p := m.running()
		p.set(func() { p.queue = 1 })
		time.Sleep(20 * time.Second) // it is known to run something
		silence := func(d time.Duration) {
			p.set(func() { p.mute, p.busy = true, true })
			time.Sleep(d)
			p.set(func() { p.mute, p.busy = false, false })
		}
		silence(40 * time.Second)
		await(t, s, Ready, 5*time.Second)
		time.Sleep(10 * time.Second)
		before := s.Status().ComfyUI.Since
		silence(50 * time.Second)
		time.Sleep(10 * time.Second)
		if s.Status().ComfyUI.Since != before || m.running() != p {
			t.Errorf("it was called frozen again:\n%s", said(s))
		}
		p.set(func() { p.queue = 0 })
		time.Sleep(20 * time.Second)
		p.set(func() { p.mute = true })
		if took := await(t, s, Frozen, time.Minute); took > 15*time.Second {
			t.Errorf("without a run it was noticed after %s", took)
		}
	})
}

// TestTalkIsLife: bytes for others and printed lines count, but a program that prints for ever and never answers does not live.
func TestTalkIsLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		s, stop := keep(m, Own{})
		defer stop()
		await(t, s, Ready, 5*time.Second)
		p := m.running()
		p.set(func() { p.mute = true })
		began := time.Now()
		for time.Since(began) < 55*time.Second {
			io.WriteString(p.out, "\r 50%|#####     |")
			time.Sleep(5 * time.Second)
			if state := s.Status().ComfyUI.State; state != Ready {
				t.Fatalf("it is %s after %s though it prints", state, time.Since(began))
			}
		}
		for s.Status().ComfyUI.State == Ready && time.Since(began) < 2*time.Minute {
			io.WriteString(p.out, "\r 60%|######    |")
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took > 70*time.Second {
			t.Errorf("a program that only prints was given up after %s", took)
		}
		await(t, s, Ready, time.Minute)
	})
}

// TestBackOff: starting again slows down, and is given up after a while, with a word about it.
func TestBackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{begin: func(p *program) {
			io.WriteString(p.out, "Traceback (most recent call last):\nRuntimeError: something odd\n")
			p.end(proc.Exit{Code: 1})
		}}
		s, stop := keep(m, Own{})
		defer stop()
		time.Sleep(30 * time.Minute)
		starts := m.times()
		if len(starts) != 8 { // after 1, 2, 4, 8 and 16 s, then each 10 minutes
			t.Errorf("%d starts in half an hour: %v", len(starts), starts)
		}
		for i := 1; i < len(starts); i++ {
			pause := starts[i].Sub(starts[i-1])
			if want := min(time.Second<<(i-1), time.Minute); i < maxFailures && pause != want || i >= maxFailures && pause != rarePause {
				t.Errorf("start %d came after %s", i, pause)
			}
		}
		st := s.Status().ComfyUI
		if st.State != Crashed || st.LastCause.Code != CodeError || st.NextTry == nil {
			t.Errorf("the state is %+v", st)
		}
		if log := said(s); !strings.Contains(log, "failed 6 times one after the other") {
			t.Errorf("it does not say that it gave up:\n%s", log)
		}
		// A restart that is asked for does not wait, and tells how it went.
		if err := s.Restart(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "something odd") {
			t.Errorf("a restart that fails: %v", err)
		}
		m.mu.Lock()
		m.begin = nil
		m.mu.Unlock()
		if err := s.Restart(t.Context(), "test"); err != nil {
			t.Errorf("a restart that works: %v", err)
		}
	})
}

// TestLasting: what can't get better by itself is not tried often.
func TestLasting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{begin: func(p *program) {
			io.WriteString(p.out, "ModuleNotFoundError: No module named 'av'\n")
			p.end(proc.Exit{Code: 1})
		}}
		s, stop := keep(m, Own{})
		defer stop()
		time.Sleep(9 * time.Minute)
		if n := len(m.times()); n != 2 {
			t.Errorf("%d starts", n)
		}
		if c := s.Status().ComfyUI.LastCause; c == nil || c.Code != CodeMissingModule {
			t.Errorf("the cause is %v", c)
		}
	})
}

func TestStuckLoad(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(p *program){
		"silent":             func(*program) {},
		"computing for ever": func(p *program) { p.busy = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &machine{begin: begin}
				s, stop := keep(m, Own{})
				defer stop()
				took := await(t, s, Frozen, 30*time.Minute)
				want := 3 * time.Minute
				if name != "silent" {
					want = 20 * time.Minute
				}
				if took < want || took > want+5*time.Second {
					t.Errorf("noticed after %s, want %s", took, want)
				}
				if c := s.Status().ComfyUI.LastCause; c.Code != CodeStuck {
					t.Errorf("the cause is %v", c)
				}
			})
		})
	}
}

func TestRestartWhileReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		s, stop := keep(m, Own{})
		defer stop()
		await(t, s, Ready, 5*time.Second)
		first := m.running()
		if err := s.Restart(t.Context(), "new nodes"); err != nil {
			t.Fatal(err)
		}
		if m.running() == first || first.grace == 0 {
			t.Error("the first program still runs, or was killed at once")
		}
		if log := said(s); !strings.Contains(log, "A restart was asked for: new nodes.") {
			t.Errorf("the log does not say why:\n%s", log)
		}
	})
}

func TestOutOfMemoryIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		s, stop := keep(m, Own{})
		defer stop()
		await(t, s, Ready, 5*time.Second)
		io.WriteString(m.running().out, "Got an OOM, unloading all loaded models.\nfine\nGot an OOM, unloading all loaded models.\n")
		time.Sleep(2 * time.Second)
		if n := s.Status().ComfyUI.OOM; n != 2 {
			t.Errorf("counted %d", n)
		}
	})
}

// TestBrokenGPUIsStartedAnew: ComfyUI goes on after an error of the GPU, and fails at every later run.
func TestBrokenGPUIsStartedAnew(t *testing.T) {
	t.Parallel()
	for text, again := range map[string]bool{
		"!!! Exception during processing !!! CUDA error: device-side assert triggered\n":        true,
		"Traceback\nRuntimeError: CUDA error: an illegal memory access was encountered\n":       true,
		"torch.AcceleratorError: CUDA error: unspecified launch failure\n":                      true,
		"!!! Exception during processing !!! CUDA error: out of memory\n":                       false,
		"my text: RuntimeError: CUDA error: an illegal memory access was encountered\n":         false,
		"!!! Exception during processing !!! the word device-side assert triggered is a word\n": false,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &machine{}
				s, stop := keep(m, Own{})
				defer stop()
				await(t, s, Ready, 5*time.Second)
				first := m.running()
				io.WriteString(first.out, text)
				time.Sleep(900 * time.Millisecond) // whoever waits for the run gets its answer
				if m.running() != first || s.Status().ComfyUI.State != Ready {
					t.Error("it was ended at once")
				}
				time.Sleep(10 * time.Second)
				st := s.Status().ComfyUI
				if st.State != Ready || (m.running() != first) != again {
					t.Errorf("%s, started anew %t", st.State, m.running() != first)
				}
				if !again {
					return
				}
				if first.grace == 0 || st.LastCause == nil || st.LastCause.Code != CodeGPUBroken || st.Restarts != 1 {
					t.Errorf("grace %v, %+v", first.grace, st)
				}
				if err := st.Death(time.Now().Add(-time.Hour)); !errors.Is(err, backend.ErrLost) || errors.Is(err, backend.ErrCrashed) {
					t.Errorf("a run that was lost with it: %v", err)
				}
			})
		})
	}
}

// TestSettingsAreLookedAtAgain: what became wrong meanwhile is named, not tried.
func TestSettingsAreLookedAtAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		s, stop := keep(m, Own{})
		defer stop()
		await(t, s, Ready, 5*time.Second)
		s.o.check = func(context.Context, *Own) []flags.Finding {
			return []flags.Finding{{Flag: "output-directory", Text: "there is no /mnt/sfs.", Fatal: true}}
		}
		err := s.Restart(t.Context(), "test")
		if err == nil || !strings.Contains(err.Error(), "--comfyui-output-directory: there is no /mnt/sfs.") {
			t.Errorf("%v", err)
		}
		if n := len(m.times()); n != 1 {
			t.Errorf("%d starts", n)
		}
	})
}

// said is what the log has.
func said(s *Supervisor) string {
	var b strings.Builder
	for _, l := range s.o.Output.After(0) {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

func procSpec() proc.Spec { return proc.Spec{Output: io.Discard} }
