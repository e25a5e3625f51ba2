//go:build unix

package app

import (
	"io/fs"
	"os"
	"syscall"
)

// owned reports whether a file belongs to this account.
func owned(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
