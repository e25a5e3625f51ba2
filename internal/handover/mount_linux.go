package handover

import (
	"errors"
	"os"
	"path/filepath"
)

// MountAt says which file system a folder is on.
func MountAt(dir string) (Mount, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return Mount{}, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Mount{}, err
	}
	m, err := mountOf(f, dir)
	return m, errors.Join(err, f.Close())
}
