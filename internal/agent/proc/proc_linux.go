package proc

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// endWithUs has the kernel kill the program when this one is killed.
func endWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// ticks is how many of /proc's units of processor time a second has. It is 100 on every architecture Go runs on.
const ticks = 100

// Work reads /proc/PID/stat (proc(5): field 3 is the state of the first thread, 14 and 15 are processor time).
func (p *process) Work() (w Work, ok bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID()) + "/stat")
	if err != nil {
		return Work{}, false
	}
	// The name, in brackets, may have any character in it.
	_, rest, found := strings.Cut(string(text[max(0, strings.LastIndexByte(string(text), ')')):]), " ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 13 {
		return Work{}, false
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		return Work{}, false
	}
	return Work{Used: time.Duration(user+system) * time.Second / ticks, Disk: fields[0] == "D"}, true
}

// oomKills counts the processes that the kernel killed because memory ran out: in our group of processes (a container)
// where that is counted, else on the whole machine.
func oomKills() uint64 {
	if text, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		for line := range strings.Lines(string(text)) {
			if path, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::"); v2 {
				if n, ok := counter(filepath.Join("/sys/fs/cgroup", path, "memory.events"), "oom_kill"); ok {
					return n
				}
			}
		}
	}
	n, _ := counter("/proc/vmstat", "oom_kill") // none on kernels before 4.13: then a kill is only called a kill
	return n
}

// counter reads one line NAME NUMBER.
func counter(file, name string) (uint64, bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
