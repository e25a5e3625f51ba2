package program

import (
	"net"
	"strings"
)

// notify tells systemd how the agent is (sd_notify(3)), where it runs as a service of Type=notify.
func notify(environ []string, state string) {
	socket := ""
	for _, pair := range environ {
		if path, ok := strings.CutPrefix(pair, "NOTIFY_SOCKET="); ok {
			socket = path
		}
	}
	if socket == "" {
		return
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return // systemd says itself when it waits in vain
	}
	defer c.Close()
	c.Write([]byte(state)) //nolint:errcheck // as above
}
