//go:build unix

package agent

import "golang.org/x/sys/unix"

// spaceOf returns the room of the file system that folder is on.
func spaceOf(folder string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil {
		return Space{}, err
	}
	size := int64(st.Bsize) //nolint:unconvert // its type differs between systems
	return Space{Total: int64(st.Blocks) * size, Free: int64(st.Bavail) * size}, nil
}
