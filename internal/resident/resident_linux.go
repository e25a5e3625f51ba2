package resident

import (
	"bufio"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Trim gives back memory that only the start needed. The program's file is mapped into memory, and the start touches
// half of it: every package of the whole of comfyume sets itself up. These pages are the file's own, so the kernel reads
// again what is needed after all (madvise(2), MADV_DONTNEED).
func Trim() {
	debug.FreeOSMemory()
	for _, p := range unchanged() {
		unix.Syscall(unix.SYS_MADVISE, p.from, p.to-p.from, unix.MADV_DONTNEED) //nolint:errcheck // it is a kindness, not a need
	}
}

// pages are a part of the address space.
type pages struct{ from, to uintptr }

// unchanged returns where the program's file is mapped to be read only, and no page differs from it: where it was moved
// when it was loaded, as position-independent programs are, what was written then would be lost.
func unchanged() (list []pages) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	maps, err := os.Open("/proc/self/smaps") // a line FROM-TO RIGHTS OFFSET DEVICE INODE PATH, then lines NAME: NUMBER kB
	if err != nil {
		return nil
	}
	defer maps.Close()
	var at pages
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"):
			at = pages{}
			if len(f) > 5 && f[5] == self && strings.HasPrefix(f[1], "r") && !strings.Contains(f[1], "w") {
				at = span(f[0])
			}
		case len(f) == 3 && f[0] == "Anonymous:" && f[1] == "0" && at.to > at.from:
			list = append(list, at)
		}
	}
	return list
}

// span reads FROM-TO.
func span(text string) (p pages) {
	from, to, _ := strings.Cut(text, "-")
	begin, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err1 != nil || err2 != nil {
		return pages{}
	}
	return pages{uintptr(begin), uintptr(end)}
}
