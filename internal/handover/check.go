package handover

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/ahelme/comfyume/internal/fault"
)

// Check tries a place as the studio will use it and says what is wrong with it, in sentences with their remedies; none:
// nothing is. known is the id that the place had when it was checked before, empty at the first time; id is the one it
// has now, empty when it could not be read.
func Check(ctx context.Context, address, known string, o Options) (id string, findings []string) {
	say := func(err error) { findings = append(findings, sentence(err)) }
	p, err := Open(address, o)
	if err != nil {
		say(err)
		return "", findings
	}
	if c, ok := p.(interface{ Close() error }); ok {
		defer c.Close() //nolint:errcheck // idle connections
	}
	if f, ok := p.(*folder); ok {
		found, usable := f.checkMount(ctx)
		findings = append(findings, found...)
		if !usable {
			return "", findings
		}
	}
	prober := p.(Prober)
	id, err = prober.ID(ctx)
	if err == nil && known != "" && id != known {
		say(wrongMount(nil, "The storage %s is not the one it was: another disk or bucket is there now.", shown(address)))
	}
	if err == nil {
		var token string
		if token, err = prober.Leave(ctx); err == nil {
			err = prober.Sees(ctx, token)
		}
	}
	if err != nil {
		say(err)
	}
	return id, findings
}

// shown is an address without what may refer to keys.
func shown(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "that is set"
	}
	u.RawQuery, u.User = "", nil
	return u.String()
}

func sentence(err error) string {
	public, remedy := fault.Public(err)
	if _, ok := errors.AsType[*fault.Error](err); !ok {
		public, remedy = "The storage can't be used: "+err.Error(), ""
	}
	if remedy == "" {
		return public
	}
	return public + " " + remedy
}

// checkMount looks how the folder is mounted. usable: it can be tried further.
func (f *folder) checkMount(ctx context.Context) (findings []string, usable bool) {
	_, err := ask(ctx, f, func(root *os.Root) (struct{}, error) { return struct{}{}, nil })
	if err != nil {
		return []string{sentence(err)}, false
	}
	return MountFindings(f.dir), true
}

// MountFindings says what is risky in the mount that a folder is on.
func MountFindings(dir string) (findings []string) {
	m, err := MountAt(dir)
	if err != nil { // it is only advice
		return nil
	}
	for _, risk := range m.Risks() {
		findings = append(findings, fmt.Sprintf("The folder %s is on %s (%s at %s). %s", filepath.Clean(dir), m.Source, m.Type, m.Point, risk))
	}
	return findings
}
