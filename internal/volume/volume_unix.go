//go:build unix

// Package volume asks the system about the disks that folders lie on.
package volume

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Free returns how many bytes this account may still write on the disk of a folder.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == unix.EINTR {
			continue
		}
		return int64(st.Bavail) * int64(st.Bsize), err
	}
}

// IsFull reports whether an error says that the disk, or what an account may have of it, is full.
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
