package handover

import (
	"bufio"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
)

// Mount is the file system that a folder is on, as the kernel lists it.
type Mount struct {
	Point   string // where it is mounted
	Type    string // nfs4, ext4, …; empty: this system does not say
	Source  string // server:/export, or a device
	Options []string
}

// Network reports whether other machines may see the file system.
func (m Mount) Network() bool {
	switch m.Type {
	case "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "beegfs", "gpfs", "ocfs2", "gfs2", "afs", "virtiofs":
		return true
	}
	return m.Type == "fuse" || strings.HasPrefix(m.Type, "fuse.")
}

// slowCache is from how many seconds on a cache of attributes is named: what another machine wrote shows up late.
const slowCache = 120

// Risks are what in the mount's options may lose or delay files, in a sentence with its remedy each. Sources: nfs(5),
// mount.cifs(8).
func (m Mount) Risks() []string {
	if !m.Network() {
		return nil
	}
	var risks []string
	say := func(format string, args ...any) { risks = append(risks, fmt.Sprintf(format, args...)) }
	for _, o := range m.Options {
		name, value, _ := strings.Cut(o, "=")
		seconds, err := strconv.Atoi(value)
		switch {
		case name == "ro":
			say("It is mounted read-only (ro): mount it rw.")
		case name == "soft" || name == "softerr":
			say("It is mounted %s: when the server is slow, writes end with an error and files can be cut. Mount it hard.", name)
		case name == "nolock" || name == "local_lock" && value != "none":
			say("Its locks hold on this machine only (%s): two servers of a studio would not see each other. Mount it with locks (NFS 4).", o)
		case name == "vers" && (value == "2" || strings.HasPrefix(value, "1.")):
			say("It speaks an old version of its protocol (%s): mount it with a newer one (NFS: vers=4.2).", o)
		case err == nil && seconds >= slowCache && (name == "actimeo" || name == "acregmax" || name == "acdirmax" || name == "acdirmin" || name == "acregmin"):
			say("What others write shows up only after %d seconds (%s): leave the default, 60, or set actimeo=3.", seconds, o)
		}
	}
	return risks
}

// mountOf finds the mount that dir is on among those of a mountinfo file (proc_pid_mountinfo(5)). dir is absolute and
// without links.
func mountOf(r io.Reader, dir string) (Mount, error) {
	var best Mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		front, back, ok := strings.Cut(lines.Text(), " - ")
		fields, tail := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 6 || len(tail) < 2 {
			continue
		}
		point := unescape(fields[4])
		if rel, err := filepath.Rel(point, dir); err != nil || !filepath.IsLocal(rel) || len(point) < len(best.Point) {
			continue // a later line at the same point lies over the earlier one
		}
		best = Mount{Point: point, Type: tail[0], Source: unescape(tail[1]), Options: strings.Split(fields[5], ",")}
		if len(tail) > 2 {
			best.Options = append(best.Options, strings.Split(tail[2], ",")...)
		}
	}
	return best, lines.Err()
}

// unescape reads the kernel's octal escapes of space, tab, newline and back-slash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
