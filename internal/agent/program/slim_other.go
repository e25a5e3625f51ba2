//go:build !linux

package program

import "runtime/debug"

// slim gives back memory that only the start needed.
func slim() { debug.FreeOSMemory() }
