package sqlite

import (
	"errors"
	"os"
	"syscall"
)

// syncData returns when the disk has the file's bytes and its size. Timestamps may come later: that is half the wait on ext4.
func syncData(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
