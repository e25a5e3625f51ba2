//go:build !linux

package resident

import "runtime/debug"

// Trim gives back memory that only the start needed.
func Trim() { debug.FreeOSMemory() }
