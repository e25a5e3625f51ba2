//go:build unix

package benchtest

import (
	"syscall"
	"testing"
	"time"
)

// Processor returns the processor time that this process has used, kernel time included.
func Processor(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
