package app

import (
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/backend"
)

// why is what went wrong, for an operator: at which step, what, why, and what to do.
type why struct{ step, text, cause, remedy string }

// hint is what an error means that has one of these texts in it.
type hint struct {
	says []string
	why
}

// hints tell apart why a back end does not answer, by what its driver said. The first that fits counts.
var hints = []hint{
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

// explain says why a back end can't be used, from what was noted of it. What its driver says of it by itself counts more
// than what can be guessed from the error.
func explain(cause string, b gpu) why {
	w := why{step: "address", text: "It does not answer.", remedy: "See whether ComfyUI runs there, and its log."}
	if b.Driver == "agent" {
		w.text, w.remedy = "Its agent is not connected, or the ComfyUI beside it does not answer.", "Start comfyume agent on that machine and see what it says."
	}
	found := slices.IndexFunc(hints, func(h hint) bool {
		return slices.ContainsFunc(h.says, func(part string) bool { return strings.Contains(cause, part) })
	})
	if found >= 0 {
		w = hints[found].why
	}
	if text, remedy := ownWords(cause); text != "" {
		w.text, w.remedy = text, remedy
	}
	if b.Driver == "agent" {
		w.remedy += " To let it join: comfyume backend join " + b.Name
	}
	w.cause = cause
	return w
}

// ownWords takes the sentence and the remedy out of an error that a driver wrote for people: class: sentence — remedy:
// what was behind it.
func ownWords(cause string) (text, remedy string) {
	text, remedy, ok := strings.Cut(cause, " — ")
	if !ok {
		return "", ""
	}
	for _, class := range []error{backend.ErrUnreachable, backend.ErrNotComfyUI, backend.ErrTooOld} {
		text = strings.TrimPrefix(text, class.Error()+": ")
	}
	if short, _, behind := strings.Cut(remedy, ".: "); behind {
		remedy = short + "."
	}
	return text, remedy
}
