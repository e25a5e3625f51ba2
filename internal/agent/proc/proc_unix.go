//go:build unix

package proc

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// tree is the process group, which has the program's number. It is set before anybody has the process.
type tree struct{ group int }

func (p *process) prepare() {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithUs(p.cmd.SysProcAttr)
}

func (p *process) adopt() error {
	p.tree.group = p.PID()
	return nil
}

func (*process) release() {}

// interrupt is what Ctrl-C does. Python turns it into KeyboardInterrupt, at which ComfyUI tidies up.
func (p *process) interrupt() {
	syscall.Kill(-p.tree.group, syscall.SIGINT) //nolint:errcheck // it may have ended
}

func (p *process) killTree() {
	syscall.Kill(-p.tree.group, syscall.SIGKILL) //nolint:errcheck // they may have ended
}

func exitOf(state *os.ProcessState) Exit {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return Exit{Code: -1, Signal: unix.SignalName(status.Signal())}
	}
	return Exit{Code: state.ExitCode()}
}

// killed reports whether the program ended as the system ends programs when memory runs out.
func killed(e Exit) bool { return e.Signal == "SIGKILL" }
