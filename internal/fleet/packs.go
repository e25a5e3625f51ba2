package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
)

// PackFile is a file of a custom node's web directory as a back end has it. Path is below the pack, decoded.
type PackFile struct {
	BackEnd string
	Pack    string
	Path    string
	Hash    string // SHA-256 of the content, lower-case hex
	Listed  bool   // in the back end's /extensions: a script that a page loads by itself
}

// PackStore keeps the files. Every change is durable when the call returns. It is safe for concurrent use.
type PackStore interface {
	LoadPacks(ctx context.Context) ([]PackFile, error)
	// SavePackFile keeps a file in place of the one with the same back end, pack and path.
	SavePackFile(ctx context.Context, f PackFile, content []byte) error
	// DropPackFiles forgets files, and contents that no file has any more.
	DropPackFiles(ctx context.Context, files []PackFile) error
	// PackContent returns a content by its hash; a fault of kind Missing when it is not kept.
	PackContent(ctx context.Context, hash string) ([]byte, error)
}

// PackOptions say which packs reach the people. ComfyUI-Manager never does.
type PackOptions struct {
	Only []string // when not empty, no other packs
	Deny []string
	// Routes are addresses of packs' own, by pack, that are open to who is signed in: GET of what begins so goes to a
	// back end that has the pack.
	Routes map[string][]string
	Log    *slog.Logger
}

// maxPackFile is the largest file that is kept.
const maxPackFile = 32 << 20

// ownPack is the studio's own extension; core is the frontend's.
const (
	ownPack  = "comfyume"
	corePack = "core"
)

// Packs keeps the web files of the back ends' custom nodes, so that pages work while the back ends sleep. Each group of
// people gets a pack as one back end has it: the first in the configuration that runs their jobs and has the pack. Files
// of two versions are never mixed. It is safe for concurrent use.
type Packs struct {
	store   PackStore
	options PackOptions
	log     *slog.Logger
	wake    chan struct{}

	mu      sync.Mutex
	order   []PackMember
	told    map[string]bool                  // differences that were logged
	known   map[string]map[packPath]PackFile // by back end
	drivers map[string]backend.Driver
	fresh   map[string]string // epoch for which a back end's files were read
	due     map[string]dueSync
}

type packPath struct{ pack, path string }

// dueSync is a back end whose files are to be read anew.
type dueSync struct {
	epoch   string
	scripts []string // nil: those that are known
}

// PackMember is a back end whose files are kept.
type PackMember struct {
	Name   string
	Groups []string // whose jobs it runs; empty: everybody's
}

// NewPacks returns what the store keeps of the back ends, in the order of the configuration.
func NewPacks(ctx context.Context, store PackStore, order []PackMember, o PackOptions) (*Packs, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Packs{
		store: store, order: order, options: o, log: o.Log, wake: make(chan struct{}, 1),
		known: make(map[string]map[packPath]PackFile), drivers: make(map[string]backend.Driver),
		fresh: make(map[string]string), due: make(map[string]dueSync), told: make(map[string]bool),
	}
	files, err := store.LoadPacks(ctx)
	if err != nil {
		return nil, fmt.Errorf("loading the web files of custom nodes: %w", err)
	}
	for _, f := range files {
		p.put(f)
	}
	return p, nil
}

func (p *Packs) put(f PackFile) {
	if p.known[f.BackEnd] == nil {
		p.known[f.BackEnd] = make(map[packPath]PackFile)
	}
	p.known[f.BackEnd][packPath{f.Pack, f.Path}] = f
}

// allowed reports whether a pack may reach people.
func (p *Packs) allowed(pack string) bool {
	lower := strings.ToLower(pack)
	same := func(name string) bool { return strings.EqualFold(name, pack) }
	switch {
	case strings.HasPrefix(lower, "comfyui-manager"), lower == ownPack, lower == corePack:
		return false
	case slices.ContainsFunc(p.options.Deny, same):
		return false
	}
	return len(p.options.Only) == 0 || slices.ContainsFunc(p.options.Only, same)
}

// Arrange takes in which back ends there are now, in their order.
func (p *Packs) Arrange(order []PackMember) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order = slices.Clone(order)
	for name := range p.drivers {
		if !slices.ContainsFunc(order, func(m PackMember) bool { return m.Name == name }) {
			delete(p.drivers, name)
			delete(p.fresh, name)
			delete(p.due, name)
		}
	}
}

// serving lists the back ends that run a group's jobs, in their order. The lock is held.
func (p *Packs) serving(group string) (names []string) {
	for _, m := range p.order {
		if len(m.Groups) == 0 || group != "" && slices.Contains(m.Groups, group) {
			names = append(names, m.Name)
		}
	}
	return names
}

// Scripts lists the addresses of scripts that a group's pages load, such as /extensions/PACK/js/main.js.
func (p *Packs) Scripts(group string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	served := make(map[string]string) // by pack: whose
	out := []string{}
	for _, name := range p.serving(group) {
		var own []string
		for at, f := range p.known[name] {
			if served[at.pack] == "" {
				served[at.pack] = name
			}
			if f.Listed && served[at.pack] == name && p.allowed(f.Pack) {
				own = append(own, "/extensions/"+url.PathEscape(f.Pack)+"/"+f.Path)
			}
		}
		slices.Sort(own)
		out = append(out, own...)
	}
	return out
}

// provider lists the back ends that may give a group the files of a pack: the first that has it, and those that have
// the same version. The lock is held.
func (p *Packs) provider(group, pack string) (names []string) {
	for _, name := range p.serving(group) {
		if p.hasPack(name, pack) && (len(names) == 0 || len(p.different(names[0], name, pack)) == 0) {
			names = append(names, name)
		}
	}
	return names
}

// different lists the files of a pack that both back ends have, and not alike; and, when nothing of it is in both, what
// one of them has. The lock is held.
func (p *Packs) different(a, b, pack string) (paths []string) {
	common := false
	var only []string
	for at, f := range p.known[a] {
		if at.pack != pack {
			continue
		}
		other, ok := p.known[b][at]
		switch common = common || ok; {
		case ok && other.Hash != f.Hash:
			paths = append(paths, at.path)
		case !ok:
			only = append(only, at.path)
		}
	}
	if !common {
		paths = only
	}
	slices.Sort(paths)
	return paths
}

// File opens one file below /extensions/PACK/ as a group's pages see it. A file that is not kept is asked for at the
// back ends that have that version of the pack, and kept from then on. Missing when there is none, or the pack is
// switched off.
func (p *Packs) File(ctx context.Context, group, pack, name string) (content io.ReadSeekCloser, hash string, err error) {
	if !p.allowed(pack) || name == "" || path.Clean("/"+name) != "/"+name || strings.ContainsAny(name, "\\\x00") {
		return nil, "", noFile(pack, name)
	}
	at := packPath{pack, name}
	p.mu.Lock()
	var found PackFile
	var ask []string
	for _, b := range p.provider(group, pack) {
		if f, ok := p.known[b][at]; ok && found.Hash == "" {
			found = f
		}
		if p.drivers[b] != nil {
			ask = append(ask, b)
		}
	}
	p.mu.Unlock()
	if found.Hash != "" {
		b, err := p.store.PackContent(ctx, found.Hash)
		if err != nil {
			return nil, "", err
		}
		return nopCloser{bytes.NewReader(b)}, found.Hash, nil
	}
	for _, b := range ask {
		f, text, err := p.read(ctx, b, at, false)
		if err == nil {
			return nopCloser{bytes.NewReader(text)}, f.Hash, nil
		}
		if !fault.Is(err, fault.Missing) {
			p.log.Warn("a web file could not be read", "backend", b, "pack", pack, "path", name, "err", err)
		}
	}
	return nil, "", noFile(pack, name)
}

func noFile(pack, name string) error {
	return fault.New(fault.Missing, "There is no file %s of the custom nodes %s.", name, pack)
}

func (p *Packs) hasPack(backEnd, pack string) bool {
	for at := range p.known[backEnd] {
		if at.pack == pack {
			return true
		}
	}
	return false
}

// Note takes in what a probe told: a new start, or a changed list of scripts (nil: not read), has the files read
// anew in the background.
func (p *Packs) Note(name string, d backend.Driver, epoch string, scripts []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drivers[name] = d
	if scripts == nil && p.fresh[name] == epoch {
		return
	}
	if old, ok := p.due[name]; ok && scripts == nil {
		scripts = old.scripts
	}
	p.due[name] = dueSync{epoch, scripts}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run reads files until ctx ends.
func (p *Packs) Run(ctx context.Context) error {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return nil
		}
		p.mu.Lock()
		due := p.due
		p.due = make(map[string]dueSync)
		p.mu.Unlock()
		for name, d := range due {
			if err := p.sync(ctx, name, d); err != nil && ctx.Err() == nil {
				p.log.Warn("the web files of custom nodes stay as they were", "backend", name, "err", err)
				p.mu.Lock()
				if _, newer := p.due[name]; !newer { // for the next probe that gets an answer
					p.due[name] = d
				}
				p.mu.Unlock()
			}
		}
	}
}

// sync reads every file of a back end anew. What is not there any more is forgotten.
func (p *Packs) sync(ctx context.Context, name string, due dueSync) error {
	p.mu.Lock()
	want := make(map[packPath]bool) // value: listed
	for at, f := range p.known[name] {
		want[at] = f.Listed && due.scripts == nil
	}
	p.mu.Unlock()
	for _, s := range due.scripts {
		if at, ok := parseScript(s); ok && p.allowed(at.pack) {
			want[at] = true
		}
	}
	var gone []PackFile
	for at, listed := range want {
		_, _, err := p.read(ctx, name, at, listed)
		if fault.Is(err, fault.Missing) || !p.allowed(at.pack) {
			gone = append(gone, PackFile{BackEnd: name, Pack: at.pack, Path: at.path})
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		if err := p.store.DropPackFiles(ctx, gone); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range gone {
		delete(p.known[name], packPath{f.Pack, f.Path})
	}
	p.fresh[name] = due.epoch
	p.warn()
	return nil
}

// read reads one file from a back end and keeps it.
func (p *Packs) read(ctx context.Context, name string, at packPath, listed bool) (PackFile, []byte, error) {
	p.mu.Lock()
	d := p.drivers[name]
	p.mu.Unlock()
	if d == nil {
		return PackFile{}, nil, backend.ErrUnreachable
	}
	r, _, err := d.WebFile(ctx, "/extensions/"+url.PathEscape(at.pack)+(&url.URL{Path: "/" + at.path}).EscapedPath())
	if err != nil {
		return PackFile{}, nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, maxPackFile+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return PackFile{}, nil, err
	}
	if len(text) > maxPackFile {
		return PackFile{}, nil, fault.New(fault.Missing, "The file %s of the custom nodes %s is too large.", at.path, at.pack)
	}
	sum := sha256.Sum256(text)
	f := PackFile{BackEnd: name, Pack: at.pack, Path: at.path, Hash: hex.EncodeToString(sum[:]), Listed: listed}
	p.mu.Lock()
	same := p.known[name][at] == f
	p.mu.Unlock()
	if !same {
		if err := p.store.SavePackFile(ctx, f, text); err != nil {
			return PackFile{}, nil, err
		}
		p.mu.Lock()
		p.put(f)
		p.mu.Unlock()
	}
	return f, text, nil
}

// parseScript splits an address of /extensions, in which the pack's name is quoted and the rest is not.
func parseScript(address string) (packPath, bool) {
	rest, ok := strings.CutPrefix(address, "/extensions/")
	pack, name, found := strings.Cut(rest, "/")
	decoded, err := url.PathUnescape(pack)
	return packPath{decoded, name}, ok && found && err == nil && decoded != "" && name != "" && path.Clean("/"+name) == "/"+name
}

// nopCloser is a reader that has nothing to close.
type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }
