package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// listener names the program that listens at host, from /proc (proc(5), net/tcp: local address, state 0A, inode). What
// belongs to another user may stay hidden.
func listener(host string) string {
	_, text, err := net.SplitHostPort(host)
	if err != nil {
		return ""
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return ""
	}
	inode := ""
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		rows, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for row := range strings.Lines(string(rows)) {
			f := strings.Fields(row)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				inode = "socket:[" + f[9] + "]"
			}
		}
	}
	if inode == "" {
		return ""
	}
	open, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, fd := range open {
		if to, err := os.Readlink(fd); err != nil || to != inode {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name := line("/proc/" + pid + "/comm")
		return fmt.Sprintf("%s (process %s)", name, pid)
	}
	return ""
}
