//go:build unix && !linux

package proc

import "syscall"

// endWithUs does nothing: this system has no such thing. A ComfyUI that an agent left behind when it was killed still
// holds its port, which the next start names.
func endWithUs(*syscall.SysProcAttr) {}

// Work is not told without cgo here.
func (*process) Work() (w Work, ok bool) { return Work{}, false }

func oomKills() uint64 { return 0 }
