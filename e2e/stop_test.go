package e2e

import (
	"syscall"
	"testing"
	"time"
)

// end asks the process to end, as an operator does, and fails the test when it takes longer than within or complains.
func (p *process) end(t *testing.T, within time.Duration) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("stop %s: %v", p.name, err)
	}
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatalf("%s has not ended %v after SIGTERM", p.name, within)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("%s ended with %d after SIGTERM", p.name, code)
	}
}
