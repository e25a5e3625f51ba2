package handover

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

const readFlags = os.O_RDONLY

// syncFolder does nothing: NTFS journals renames, and a folder can't be flushed.
func syncFolder(*os.Root, string) error { return nil }

func isReadOnly(err error) bool { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }

// isStale reports whether a share's connection was cut and made again beneath an open file.
func isStale(err error) bool {
	return errors.Is(err, windows.ERROR_NETNAME_DELETED) || errors.Is(err, windows.ERROR_UNEXP_NET_ERR)
}
