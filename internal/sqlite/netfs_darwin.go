package sqlite

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// localDisk refuses network file systems: the write-ahead log needs memory shared between processes, and their
// locks and syncs can't be trusted.
func localDisk(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return classify(fmt.Errorf("look at the folder %s: %w", dir, err))
	}
	switch kind := unix.ByteSliceToString(st.Fstypename[:]); kind {
	case "nfs", "smbfs", "afpfs", "webdav":
		return networkDisk(dir, kind)
	}
	return nil
}
