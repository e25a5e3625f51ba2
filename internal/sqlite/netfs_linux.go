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
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC:
		return networkDisk(dir, "NFS")
	case unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		return networkDisk(dir, "SMB")
	case unix.CEPH_SUPER_MAGIC:
		return networkDisk(dir, "Ceph")
	case unix.AFS_SUPER_MAGIC:
		return networkDisk(dir, "AFS")
	}
	return nil
}
