package agent

import "golang.org/x/sys/windows"

// spaceOf returns the room of the file system that folder is on.
func spaceOf(folder string) (Space, error) {
	path, err := windows.UTF16PtrFromString(folder)
	if err != nil {
		return Space{}, err
	}
	var free, total uint64
	if err := windows.GetDiskFreeSpaceEx(path, &free, &total, nil); err != nil {
		return Space{}, err
	}
	return Space{Total: int64(total), Free: int64(free)}, nil
}
