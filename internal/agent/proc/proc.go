// Package proc starts a program so that it ends with everything it started itself, and tells how it ended. On Unix the
// program leads a process group, on Windows it is in a job object; on Linux and Windows it also ends when this program
// is killed.
package proc

import (
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"sync/atomic"
	"time"
)

// Spec says what to start.
type Spec struct {
	Path   string
	Args   []string // without the program's name
	Env    []string
	Dir    string
	Output io.Writer // gets both outputs; it is never called from two goroutines at once
}

// Process is a program that was started. It is safe for concurrent use.
type Process interface {
	PID() int
	// Done is closed when the program has ended and its output was read. What it started is ended then, too.
	Done() <-chan struct{}
	// Exit tells how it ended. It is valid once Done is closed.
	Exit() Exit
	// Stop asks the program to end in good order, and kills it with all it started when grace is over. It does not wait.
	Stop(grace time.Duration)
	// Work tells what the program has done so far. ok is false where the system does not tell.
	Work() (w Work, ok bool)
}

// Work is what a program has done.
type Work struct {
	Used time.Duration // processor time since its start
	Disk bool          // it waits for a disk or a network folder now, and can't be ended before that answers
}

// Exit is how a program ended.
type Exit struct {
	Code   int    // its exit code; -1 when a signal ended it
	Signal string // what ended it, such as SIGKILL; empty: it ended by itself
	OOM    bool   // the system killed it, or another one of its group, because memory ran out
	Asked  bool   // Stop was called before
}

// String returns the exit in words.
func (e Exit) String() string {
	switch {
	case e.OOM:
		return "the system killed it because memory ran out"
	case e.Signal != "":
		return "ended by " + e.Signal
	default:
		return fmt.Sprintf("exit code %d", e.Code)
	}
}

// Starter starts programs.
type Starter interface {
	Start(Spec) (Process, error)
}

// System starts real programs.
type System struct{}

// outputGrace is how long output is read after the program's end: a child that it left behind may hold the pipe open.
const outputGrace = 2 * time.Second

// Start starts a program.
func (System) Start(spec Spec) (Process, error) {
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Dir, cmd.Env = spec.Dir, spec.Env
	cmd.Stdout, cmd.Stderr = spec.Output, spec.Output // the same writer: one goroutine copies both
	cmd.WaitDelay = outputGrace
	p := &process{cmd: cmd, done: make(chan struct{}), kills: oomKills()}
	p.prepare()
	started := make(chan error, 1)
	go func() {
		// Linux ends the program when the thread that started it ends. So this one stays until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		p.run(started)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// process is a program on this system.
type process struct {
	cmd   *exec.Cmd
	tree  tree // the system's handle on all that it started
	done  chan struct{}
	exit  Exit
	asked atomic.Bool
	kills uint64 // what the system counted of memory kills before
}

var _ Process = (*process)(nil)

// run starts the program, reports whether that went well, and waits for its end.
func (p *process) run(started chan<- error) {
	defer close(p.done)
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	if err := p.adopt(); err != nil {
		p.cmd.Process.Kill() //nolint:errcheck // it may have ended
		p.cmd.Wait()         //nolint:errcheck // it was killed
		p.release()
		started <- err
		return
	}
	started <- nil
	// Children that outlive the program hold its port, its GPU memory and the other end of its output: they go with it.
	state, err := p.cmd.Process.Wait()
	p.killTree()
	p.cmd.Wait() //nolint:errcheck // reads the rest of the output; the process itself was waited for
	if err == nil {
		p.exit = exitOf(state)
	} else {
		p.exit = Exit{Code: -1}
	}
	p.exit.Asked = p.asked.Load()
	if now := oomKills(); !p.exit.Asked && killed(p.exit) && now > p.kills {
		p.exit.OOM = true
	}
	p.release()
}

func (p *process) PID() int              { return p.cmd.Process.Pid }
func (p *process) Done() <-chan struct{} { return p.done }
func (p *process) Exit() Exit            { return p.exit }

func (p *process) Stop(grace time.Duration) {
	p.asked.Store(true)
	select {
	case <-p.done:
		return
	default:
	}
	if grace <= 0 {
		p.killTree()
		return
	}
	p.interrupt()
	timer := time.AfterFunc(grace, func() {
		select {
		case <-p.done: // its number may be another's by now
		default:
			p.killTree()
		}
	})
	go func() {
		<-p.done
		timer.Stop()
	}()
}
