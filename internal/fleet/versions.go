package fleet

import (
	"cmp"
	"context"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
)

// Difference is a pack of which two back ends that serve the same people have different versions.
type Difference struct {
	Pack    string
	BackEnd string   // whose version is not served where the other one serves
	Served  string   // whose is
	Paths   []string // files that differ, a few of them
}

// mostPaths is how many files of a difference are named.
const mostPaths = 5

// Differences lists the packs of which back ends that serve the same people have different versions.
func (p *Packs) Differences() []Difference {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.differences()
}

// differences is Differences for who holds the lock.
func (p *Packs) differences() []Difference {
	var list []Difference
	for i, m := range p.order {
		packs := map[string]bool{}
		for at := range p.known[m.Name] {
			packs[at.pack] = true
		}
		for pack := range packs {
			if !p.allowed(pack) {
				continue
			}
			for _, first := range p.order[:i] {
				if !p.hasPack(first.Name, pack) || !overlap(first.Groups, m.Groups) {
					continue
				}
				if paths := p.different(first.Name, m.Name, pack); len(paths) > 0 {
					list = append(list, Difference{pack, m.Name, first.Name, paths[:min(mostPaths, len(paths))]})
				}
				break // whose version is served, as far as they serve the same people
			}
		}
	}
	slices.SortFunc(list, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.BackEnd, b.BackEnd), cmp.Compare(a.Pack, b.Pack))
	})
	return list
}

// overlap reports whether two back ends run jobs of the same people.
func overlap(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(g string) bool { return slices.Contains(b, g) })
}

// warn logs differences that are new. The lock is held.
func (p *Packs) warn() {
	now := map[string]bool{}
	for _, d := range p.differences() {
		key := d.Pack + "\x00" + d.BackEnd + "\x00" + d.Served
		if now[key] = true; !p.told[key] {
			p.log.Warn("back ends have different versions of a pack; the first one's is served",
				"pack", d.Pack, "backend", d.BackEnd, "served", d.Served, "paths", d.Paths)
		}
	}
	p.told = now
}

// Route asks for an address of a pack's own, which the operator opened: at a back end that serves the group and has
// the version of the pack that the group's pages have. Missing when the address is of no pack that is open.
func (p *Packs) Route(ctx context.Context, group, address, query string, ready func(backEnd string) bool) (io.ReadCloser, string, error) {
	pack := p.opened(address)
	if pack == "" {
		return nil, "", fault.New(fault.Missing, "There is no %s here.", address)
	}
	p.mu.Lock()
	var ask []backend.Driver
	for _, b := range p.provider(group, pack) {
		if d := p.drivers[b]; d != nil && ready(b) {
			ask = append(ask, d)
		}
	}
	p.mu.Unlock()
	err := error(fault.New(fault.Unavailable, "No GPU that has the custom nodes %s is there now.", pack))
	for _, d := range ask {
		r, ok := d.(backend.Router)
		if !ok {
			continue
		}
		var body io.ReadCloser
		var kind string
		if body, kind, err = r.Route(ctx, address, query); err == nil || fault.Is(err, fault.Missing) {
			return body, kind, err
		}
	}
	return nil, "", err
}

// opened returns the pack whose address it is; empty: of none that is open.
func (p *Packs) opened(address string) string {
	decoded, err := url.PathUnescape(address)
	if err != nil || path.Clean(decoded) != strings.TrimSuffix(decoded, "/") || strings.ContainsAny(decoded, "\\\x00") {
		return ""
	}
	for pack, prefixes := range p.options.Routes {
		if !p.allowed(pack) {
			continue
		}
		for _, prefix := range prefixes {
			if decoded == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(decoded, strings.TrimSuffix(prefix, "/")+"/") {
				return pack
			}
		}
	}
	return ""
}
