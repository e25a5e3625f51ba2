package app

import "strings"

// why is what went wrong, for an operator: at which step, what, why, and what to do.
type why struct{ step, text, cause, remedy string }

// hints tell apart why a back end does not answer, by what its driver said. The first that fits counts.
var hints = []struct {
	says []string // any of them
	why
}{
	{[]string{"status 401", "status 403"}, why{"key", "It wants to know who asks.", "", "Name its key under backends.key as env:NAME or file:PATH, or see that the one that is named is right."}},
	{[]string{"x509: certificate signed by unknown", "x509: certificate is not trusted"}, why{"certificate", "Its certificate is of an authority that this machine does not know.", "", "Add the authority to the system's, or use one that is known."}},
	{[]string{"x509: certificate has expired"}, why{"certificate", "Its certificate is out of date, or a clock is wrong.", "", "Renew it; compare the time of both machines."}},
	{[]string{"x509:"}, why{"certificate", "Its certificate is for another name.", "", "Use the name that the certificate is for."}},
	{[]string{"server gave HTTP response to HTTPS client", "first record does not look like a TLS handshake"}, why{"address", "It speaks without encryption.", "", "Write http:// in its address."}},
	{[]string{"malformed HTTP response"}, why{"address", "It speaks another protocol.", "", "See whether its address needs https://, or has another port."}},
	{[]string{"no such host"}, why{"address", "Nobody knows a machine of that name.", "", "See the name in its address; type: getent hosts NAME"}},
	{[]string{"connection refused"}, why{"address", "The machine answers, and nothing listens at that port.", "", "See whether ComfyUI runs there. On another machine it needs --listen to be reached."}},
	{[]string{"no route to host", "network is unreachable"}, why{"address", "There is no way to that machine.", "", "See the network and the firewalls between here and there."}},
	{[]string{"deadline exceeded", "i/o timeout", "Client.Timeout"}, why{"address", "Nothing came back in time.", "", "See the firewalls between here and there, and whether ComfyUI is stuck in a long load."}},
	{[]string{"older than the oldest"}, why{"version", "Its ComfyUI is too old.", "", "Update ComfyUI there."}},
	{[]string{"is not a ComfyUI"}, why{"comfyui", "Something answers at its address that is no ComfyUI.", "", "See the address, its port and path, and what a proxy in front of it answers: open ADDRESS/system_stats"}},
	{[]string{"taking in"}, why{"nodes", "It answers, and what it says it can run can't be taken in.", "", "See the studio's log and disk."}},
}

// explain says why a back end can't be used, from what was noted of it.
func explain(cause string, b gpu) why {
	if b.Driver == "agent" && !strings.Contains(cause, "status ") {
		return why{
			"address", "Its agent is not connected, or the ComfyUI beside it does not answer.", cause,
			"Start comfyume agent on that machine and see what it says. To let it join: comfyume backend join " + b.Name,
		}
	}
	for _, h := range hints {
		for _, part := range h.says {
			if strings.Contains(cause, part) {
				w := h.why
				w.cause = cause
				return w
			}
		}
	}
	return why{"address", "It does not answer.", cause, "See whether ComfyUI runs there, and its log."}
}
