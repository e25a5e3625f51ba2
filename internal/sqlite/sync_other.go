//go:build !linux

package sqlite

import "os"

// syncData returns when the disk has the file.
func syncData(f *os.File) error { return f.Sync() }
