package app

import (
	"context"
	"net"
	"net/netip"
	"strings"

	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
)

// checkDoor refuses to serve a network without encryption, unless that is wanted.
func checkDoor(c *config.Loaded) error {
	if c.TLS.Mode != "off" || c.InsecureLAN {
		return nil
	}
	for _, address := range []string{c.Listen, c.QueueAPI} {
		if address != "" && !loopback(address) {
			return fault.New(fault.Invalid, "Without encryption, passwords and pictures can be read by everybody on the network of %s.", address).
				WithCode("insecure_lan").
				WithRemedy("Set tls (--tls-mode self needs nothing else), put a proxy with TLS in front and listen on 127.0.0.1, or accept it with insecure_lan: true.")
		}
	}
	return nil
}

// insecure reports whether the studio is open to a network without encryption.
func (s *Studio) insecure() bool { return s.cfg.TLS.Mode == "off" && !loopback(s.cfg.Listen) }

// Address returns how people reach the studio, without slash at the end.
func (s *Studio) Address() string {
	if s.cfg.PublicURL != "" {
		return strings.TrimRight(s.cfg.PublicURL, "/")
	}
	scheme := "http"
	if s.cfg.TLS.Mode != "off" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(s.cfg.Listen)
	if err != nil {
		return scheme + "://" + s.cfg.Listen
	}
	if _, chosen, err := net.SplitHostPort(s.listen); err == nil {
		port = chosen
	}
	if s.cfg.TLS.Mode == "acme" {
		host = s.cfg.TLS.Domain
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = ownAddress()
	}
	if port == "443" && scheme == "https" || port == "80" && scheme == "http" {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return scheme + "://" + host
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// ownAddress returns the address under which others on the network most likely reach this machine. Nothing is sent.
func ownAddress() string {
	c, err := net.Dial("udp", "192.0.2.1:9") // a network for documentation: the kernel only chooses the way
	if err != nil {
		return "127.0.0.1"
	}
	defer c.Close()
	if a, ok := c.LocalAddr().(*net.UDPAddr); ok {
		return a.IP.String()
	}
	return "127.0.0.1"
}

// whyNotReady returns why the studio can't do its work. Back ends are no reason: jobs wait for them.
func (s *Studio) whyNotReady(context.Context) []string {
	if !s.ready.Load() {
		return []string{"The studio is starting or stopping."}
	}
	if err := s.trouble(); err != nil {
		sentence, remedy := fault.Public(err)
		return []string{sentence + " " + remedy}
	}
	return nil
}

// trouble says why the database can't keep anything until the next start, if so.
func (s *Studio) trouble() error {
	if s.stores.trouble == nil {
		return nil
	}
	return s.stores.trouble()
}

// Link makes a one-time sign-in link for a person.
func (s *Studio) Link(ctx context.Context, user string) (string, error) {
	l, err := people{s: s.accounts, address: s.Address}.NewLink(ctx, user, "", 0)
	return l.URL, err
}
