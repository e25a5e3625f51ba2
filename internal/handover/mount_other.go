//go:build !linux

package handover

// MountAt says nothing on this system.
func MountAt(string) (Mount, error) { return Mount{}, nil }
