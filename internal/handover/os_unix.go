//go:build unix

package handover

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// readFlags open a file for reading. A pipe that was put in a file's place must not hold the reader.
const readFlags = os.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW

// syncFolder makes renames in the folder durable.
func syncFolder(root *os.Root, dir string) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, errors.ErrUnsupported) { // a file system that can't; it has to see to it
		err = nil
	}
	return errors.Join(err, f.Close())
}

func isReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }

// isStale reports whether a handle means nothing to the file server any more: what it led to was deleted or replaced by
// another machine, the export changed, or the program that serves a FUSE mount is gone.
func isStale(err error) bool { return errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOTCONN) }
