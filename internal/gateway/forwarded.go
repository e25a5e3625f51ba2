package gateway

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// parsePrefix reads an address or a network.
func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func (g *Gateway) trusts(address string) bool {
	if len(g.trusted) == 0 {
		return false
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	for _, p := range g.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// readForwarded fills in who asks, and by which name and scheme. What a proxy says counts only if the proxy is
// trusted: anybody can send these headers.
func (g *Gateway) readForwarded(v *visit, r *http.Request) {
	v.host, v.secure, v.address = r.Host, r.TLS != nil, r.RemoteAddr
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		v.address = host
	}
	if g.trusts(v.address) {
		h := r.Header
		v.address = g.client(v.address, h)
		switch lastOf(h, "X-Forwarded-Proto") {
		case "https", "wss":
			v.secure = true
		case "http", "ws":
			v.secure = false
		}
		if host := lastOf(h, "X-Forwarded-Host"); validHost(host) {
			v.host = host
		}
		if id := h.Get("X-Request-Id"); validID(id) {
			v.id = id
		}
	}
	// A proxy in front that says nothing, or is not trusted, still shows by the name under which it is reached.
	if v.host == g.pubHost && strings.HasPrefix(g.public, "https:") {
		v.secure = true
	}
}

// client returns the address past the trusted proxies: the last one in the chain that is not one of them.
func (g *Gateway) client(proxy string, h http.Header) string {
	chain := strings.Split(strings.Join(h.Values("X-Forwarded-For"), ","), ",")
	client := proxy
	for n := len(chain) - 1; n >= 0; n-- {
		hop := strings.TrimSpace(chain[n])
		if host, _, err := net.SplitHostPort(hop); err == nil {
			hop = host
		}
		a, err := netip.ParseAddr(strings.Trim(hop, "[]"))
		if err != nil {
			break
		}
		client = a.Unmap().String()
		if !g.trusts(client) {
			return client
		}
	}
	if client == proxy {
		if a, err := netip.ParseAddr(strings.TrimSpace(h.Get("X-Real-IP"))); err == nil {
			return a.Unmap().String()
		}
	}
	return client
}

// lastOf returns the last of a list's values: the one that the nearest proxy added.
func lastOf(h http.Header, name string) string {
	all := h.Values(name)
	if len(all) == 0 {
		return ""
	}
	last := all[len(all)-1]
	if i := strings.LastIndexByte(last, ','); i >= 0 {
		last = last[i+1:]
	}
	return strings.ToLower(strings.TrimSpace(last))
}

// validHost reports whether a host may be repeated in a header of ours.
func validHost(host string) bool {
	if host == "" || len(host) > 255 {
		return false
	}
	for _, b := range []byte(host) {
		if !(b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("-._:[]", b) >= 0) {
			return false
		}
	}
	return true
}

func validID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, b := range []byte(id) {
		if !(b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_') {
			return false
		}
	}
	return true
}
