package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// bare returns an address without what may be secret in it.
func bare(address string) string {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		return "?"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// trouble says in one sentence why the studio was not reached, or did not want us.
func (d *dialer) trouble(resp *http.Response, err error) error {
	if e, ok := errors.AsType[*fault.Error](err); ok { // a proxy's
		return e
	}
	if to, ok := errors.AsType[elsewhere](err); ok {
		return fault.Wrap(fault.Invalid, err, "The address %s leads on to another one, %s://%s.", d.base, to.to.Scheme, to.to.Host).
			WithCode(CodeAddress).WithRemedy("Give that one, if it is the studio's: the key is sent to no other host.")
	}
	if resp == nil {
		return d.unreached(err)
	}
	if e := d.refused(resp); e != nil {
		return e
	}
	if resp.Header.Get(headerStudio) != "" || resp.StatusCode == http.StatusSwitchingProtocols {
		return fault.Wrap(fault.Unavailable, err, "The studio at %s did not take the web socket.", d.base).WithCode(CodeUpgrade).
			WithRemedy("A proxy in between may change its head: see that it passes Upgrade, Connection and Sec-WebSocket-* on as they are.")
	}
	switch resp.StatusCode {
	case http.StatusProxyAuthRequired:
		return fault.Wrap(fault.Unavailable, err, "The proxy in between wants a name and a password.").WithCode(CodeProxy).
			WithRemedy("Write them into the proxy's address: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT.")
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fault.Wrap(fault.Unavailable, err, "What stands in front of the studio at %s does not reach it (%d).", d.base, resp.StatusCode).
			WithCode(CodeAddress).WithRemedy("See that the studio runs.")
	}
	return d.notStudio("it answered " + resp.Status)
}

// refused is what the studio itself said, nil: it was not the studio, or it said nothing that can be read.
func (d *dialer) refused(resp *http.Response) error {
	if resp.Header.Get(headerStudio) == "" || resp.Body == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	var r refusal
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&r); err != nil || r.Detail == "" {
		return nil
	}
	return r.fault()
}

// notStudio is the error of an address at which something else answers.
func (d *dialer) notStudio(why string) error {
	return fault.New(fault.Unavailable, "What answers at %s is not a ComfyuME studio: %s.", d.base, why).WithCode(CodeNotStudio).
		WithRemedy("Give the address that people type to reach the studio, with its path if it has one.")
}

// unreached tells apart why nothing was heard.
func (d *dialer) unreached(err error) error {
	if e := d.untrusted(err); e != nil {
		return e
	}
	if name, ok := errors.AsType[*net.DNSError](err); ok {
		return fault.Wrap(fault.Unavailable, err, "The name %s of the studio's address can't be looked up.", name.Name).
			WithCode(CodeAddress).WithRemedy("Look for a slip of the pen in it, and see that this machine has a name server.")
	}
	switch {
	case isProxy(err):
		return fault.Wrap(fault.Unavailable, err, "The proxy in between does not lead to the studio: %s.", reason(err)).WithCode(CodeProxy).
			WithRemedy("Look at HTTP_PROXY and HTTPS_PROXY, or name the studio's host in NO_PROXY.")
	case errors.Is(err, syscall.ECONNREFUSED):
		return fault.Wrap(fault.Unavailable, err, "Nothing listens at %s.", d.base).WithCode(CodeAddress).
			WithRemedy("See that the studio runs, and that its address and port are these.")
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fault.Wrap(fault.Unavailable, err, "%s speaks http and not https.", d.base).WithCode(CodeAddress).
			WithRemedy("Write http:// in front of the address.")
	case errors.Is(err, errSlow), errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return fault.Wrap(fault.Unavailable, err, "%s does not answer.", d.base).WithCode(CodeAddress).
			WithRemedy("See that the studio runs, and that no firewall is between.")
	}
	return fault.Wrap(fault.Unavailable, err, "The studio at %s can't be reached: %s.", d.base, reason(err)).WithCode(CodeAddress).
		WithRemedy("See that the address is right and the studio runs.")
}

// untrusted is the trouble with a certificate; nil: there is none.
func (d *dialer) untrusted(err error) error {
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired && e.Cert != nil {
		now := time.Now()
		when, side := e.Cert.NotAfter, "until"
		if now.Before(e.Cert.NotBefore) {
			when, side = e.Cert.NotBefore, "from"
		}
		return fault.Wrap(fault.Unavailable, err, "The studio's certificate is good %s %s, and this machine's clock says %s.",
			side, when.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime)).WithCode(CodeClock).
			WithRemedy("Set this machine's clock; if it is right, the studio needs a new certificate.")
	}
	unknown := fault.Wrap(fault.Unavailable, err, "The certificate at %s is of an authority that this machine does not trust.", d.base).
		WithCode(CodeCertificate).
		WithRemedy("If the studio has its own authority, get its certificate from the sign-in page and give it with --ca FILE.")
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return unknown
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return fault.Wrap(fault.Unavailable, err, "The certificate at %s is for another name than %s.", d.base, e.Host).
			WithCode(CodeCertificate).WithRemedy("Give the address under which the studio's certificate was made.")
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return unknown
	}
	return nil
}

// proxyTrouble is the error of a proxy that gives no tunnel. Its address is shown without its password.
func proxyTrouble(proxy *url.URL, why string, cause error) error {
	return fault.Wrap(fault.Unavailable, cause, "The proxy %s does not lead to the studio: %s.", proxy.Redacted(), why).WithCode(CodeProxy).
		WithRemedy("Look at HTTP_PROXY and HTTPS_PROXY, or name the studio's host in NO_PROXY.")
}

// isProxy reports whether http.Transport failed at the proxy. It says so in words only.
func isProxy(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "proxyconnect" || strings.HasPrefix(op.Op, "socks")) {
		return true
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		switch e.Error() {
		case "Proxy Authentication Required", "Forbidden", "Bad Gateway", "Service Unavailable", "Method Not Allowed", "Gateway Timeout":
			return true // the status of its answer to CONNECT
		}
	}
	return false
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// reason is the innermost error's text: what was wrong, without who called whom.
func reason(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return strings.TrimRight(err.Error(), ".")
		}
		err = next
	}
}

// cuts looks for a proxy that cuts lines after a time of its own.
type cuts struct{ lasted []time.Duration }

// note takes in how long a line lasted, and names what cuts it when three in a row lasted equally long.
func (c *cuts) note(lasted time.Duration, err error) error {
	if errors.Is(err, errGoodbye) || errors.Is(err, errSilent) || lasted < 4*time.Second {
		c.lasted = nil
		return nil
	}
	c.lasted = append(c.lasted, lasted)
	if len(c.lasted) < 3 {
		return nil
	}
	c.lasted = c.lasted[len(c.lasted)-3:]
	low, high := c.lasted[0], c.lasted[0]
	for _, d := range c.lasted {
		low, high = min(low, d), max(high, d)
	}
	if high-low > max(high/10, time.Second) {
		return nil
	}
	return fault.Wrap(fault.Unavailable, err, "Something in between cuts the line after %s each time.", high.Round(time.Second)).WithCode(CodeCut).
		WithRemedy("It is most likely a proxy with a time limit on web sockets: raise it (in nginx proxy_read_timeout and proxy_send_timeout).")
}
