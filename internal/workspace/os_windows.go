package workspace

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// syncFolder does nothing: NTFS journals renames, and a folder can't be flushed.
func syncFolder(*os.Root, string) error { return nil }

func isNotFolder(err error) bool {
	return errors.Is(err, syscall.ENOTDIR) || errors.Is(err, windows.ERROR_DIRECTORY)
}

func isBadName(err error) bool {
	return errors.Is(err, windows.ERROR_INVALID_NAME) || errors.Is(err, windows.ERROR_FILENAME_EXCED_RANGE) ||
		errors.Is(err, syscall.EINVAL)
}

func isReadOnly(err error) bool { return errors.Is(err, fs.ErrPermission) }
