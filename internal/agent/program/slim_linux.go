package program

import (
	"bufio"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// slim gives back memory that only the start needed. The program's file is mapped into memory, and the start touches
// half of it: every package of the whole of comfyume sets itself up. These pages are the file's own, unchanged, so the
// kernel reads again what is needed after all (madvise(2), MADV_DONTNEED).
func slim() {
	debug.FreeOSMemory()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return // it is a kindness, not a need
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := strings.Fields(lines.Text()) // FROM-TO RIGHTS OFFSET DEVICE INODE PATH
		if len(f) < 6 || f[5] != self || !strings.HasPrefix(f[1], "r") || strings.Contains(f[1], "w") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		begin, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil && end > begin {
			unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED) //nolint:errcheck // as above
		}
	}
}
