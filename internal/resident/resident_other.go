//go:build !linux

// Package resident keeps small what a program has in memory.
package resident

import "runtime/debug"

// Trim gives back memory that only the start needed.
func Trim() { debug.FreeOSMemory() }
