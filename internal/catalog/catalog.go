package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
)

// Store keeps the last snapshot of each back end.
type Store interface {
	SaveSnapshot(ctx context.Context, backEnd string, blob []byte) error
	LoadSnapshots(ctx context.Context) (map[string][]byte, error)
}

// Options are the settings of a Catalog. The zero value is good.
type Options struct {
	Order []string // back ends as configured: on conflict the earlier one wins; others are left out
	Log   *slog.Logger
}

// Catalog is the merged description of all back ends. It is safe for concurrent use.
type Catalog struct {
	store  Store
	order  []string
	log    *slog.Logger
	merged atomic.Pointer[merged]
	lists  listCache

	mu    sync.Mutex // guards known
	known map[string]*known
}

// known is what one back end told last.
type known struct {
	ObjectInfo json.RawMessage            `json:"object_info"`
	System     json.RawMessage            `json:"system"`
	Models     map[string][]string        `json:"models"`
	Embeddings []string                   `json:"embeddings"`
	Extensions []string                   `json:"extensions"`
	WebTexts   map[string]json.RawMessage `json:"web_texts"`
	classes    []class
	has        map[string]bool // needs it can meet
}

// New returns a catalog with the snapshots of before.
func New(ctx context.Context, store Store, o Options) (*Catalog, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Catalog{store: store, order: o.Order, log: o.Log, known: map[string]*known{}}
	blobs, err := store.LoadSnapshots(ctx)
	if err != nil {
		return nil, fmt.Errorf("load what the back ends can run: %w", err)
	}
	for name, blob := range blobs {
		if !slices.Contains(o.Order, name) {
			continue // not configured any more
		}
		k, err := decodeKnown(blob)
		if err != nil {
			o.Log.Warn("a stored description can't be read; the back end is asked again", "backend", name, "err", err)
			continue
		}
		c.known[name] = k
	}
	c.merge()
	return c, nil
}

// Update takes in a snapshot and keeps it. changed reports whether what can be run has changed. A snapshot without
// a description says that nothing changed.
func (c *Catalog) Update(backEnd string, snap backend.Snapshot) (changed bool, err error) {
	if snap.ObjectInfo == nil {
		return false, nil
	}
	k := &known{
		ObjectInfo: snap.ObjectInfo, System: snap.System, Models: snap.Models, Embeddings: snap.Embeddings,
		Extensions: snap.Extensions, WebTexts: snap.WebTexts,
	}
	if err := k.parse(); err != nil {
		return false, fault.Wrap(fault.Unavailable, err, "Back end %s describes its nodes in a form that can't be read.", backEnd)
	}
	blob, err := k.encode()
	if err != nil {
		return false, err
	}
	if err := c.store.SaveSnapshot(context.Background(), backEnd, blob); err != nil {
		return false, fmt.Errorf("keep what back end %s can run: %w", backEnd, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.merged.Load()
	c.known[backEnd] = k
	c.merge()
	return before.sum != c.merged.Load().sum, nil
}

func (k *known) parse() error {
	members, err := pyjson.Members(k.ObjectInfo)
	if err != nil {
		return err
	}
	k.classes, k.has = make([]class, len(members)), make(map[string]bool, len(members))
	for i, m := range members {
		k.classes[i] = parseClass(m.Key, m.Value)
		k.has[m.Key] = true
		k.classes[i].eachChoice(func(in *input, choice string) { k.has[need(m.Key, in.name, choice)] = true })
	}
	return nil
}

// need is how a back end's ability to take a choice, such as a model's file, is called.
func need(class, input, choice string) string { return choice + " (" + class + "." + input + ")" }

// eachChoice calls fn for everything that the choice inputs of a core class offer. What other classes list is no
// promise.
func (c *class) eachChoice(fn func(in *input, choice string)) {
	if !c.core() {
		return
	}
	for i := range c.inputs {
		in := &c.inputs[i]
		if in.choices == nil || in.dynamic || in.multi || in.reads.kind != noFile || c.checksItself(in.name) {
			continue
		}
		choices, err := pyjson.Elements(in.choices)
		if err != nil {
			continue
		}
		for _, choice := range choices {
			if text, ok := pyjson.Text(choice); ok {
				fn(in, text)
			}
		}
	}
}

func (k *known) encode() ([]byte, error) {
	raw, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("encode a description: %w", err)
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer w.Close()
	return w.EncodeAll(raw, nil), nil
}

func decodeKnown(blob []byte) (*known, error) {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := r.DecodeAll(blob, nil)
	if err != nil {
		return nil, err
	}
	k := new(known)
	if err := json.Unmarshal(raw, k); err != nil {
		return nil, err
	}
	return k, k.parse()
}

// Classes counts the node classes.
func (c *Catalog) Classes() int { return len(c.merged.Load().classes) }

// Needs lists what a back end must have for the graph: its node classes, and what its core nodes choose, such as
// models. Each is a name that people understand.
func (c *Catalog) Needs(g *comfy.Graph) []string {
	m := c.merged.Load()
	var needs []string
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			needs = append(needs, name)
		}
	}
	for _, n := range g.Nodes() {
		add(n.ClassType)
		k := m.classes[n.ClassType]
		if k == nil {
			continue
		}
		for _, value := range n.Inputs {
			if text, ok := pyjson.Text(value.Value); ok {
				if name := need(n.ClassType, value.Key, text); m.choices[name] {
					add(name)
				}
			}
		}
	}
	return needs
}

// Missing returns which of the needs a back end lacks. Of a back end that was never asked nothing is known, and so
// nothing missing.
func (c *Catalog) Missing(backEnd string, needs []string) []string {
	m := c.merged.Load()
	has := m.has[backEnd]
	if has == nil {
		return nil
	}
	var missing []string
	for _, name := range needs {
		if !has[name] {
			missing = append(missing, name)
		}
	}
	return missing
}

// Class returns one node's description with the person's inputs in its lists, nil when there is no such class.
func (c *Catalog) Class(name string, inputs []string) json.RawMessage {
	m := c.merged.Load()
	p, ok := m.pieces[name]
	if !ok {
		return nil
	}
	return p.fill(nil, inputs)
}

// Models lists the model files of a folder.
func (c *Catalog) Models(folder string) (names []string, ok bool) {
	names, ok = c.merged.Load().models[folder]
	return names, ok
}

// Folders lists the model folders.
func (c *Catalog) Folders() []string { return c.merged.Load().folders }

// Embeddings lists the embeddings.
func (c *Catalog) Embeddings() []string { return c.merged.Load().embeddings }

// Extensions lists the web files of custom nodes by back end, as the back ends list them.
func (c *Catalog) Extensions() map[string][]string { return c.merged.Load().extensions }

// WebText returns what the back ends gave for a route such as "i18n", nil when none did.
func (c *Catalog) WebText(route string) json.RawMessage { return c.merged.Load().webTexts[route] }

// SystemStats returns the first back end's answer, fit for participants: no arguments, no paths. Nil when no back
// end was ever seen.
func (c *Catalog) SystemStats() json.RawMessage { return c.merged.Load().stats }

// merge makes the description of all. The lock is held, or nobody else knows c yet.
func (c *Catalog) merge() {
	m := newMerged()
	for _, name := range c.order {
		if k := c.known[name]; k != nil {
			m.add(name, k, c.log)
		}
	}
	m.seal()
	c.merged.Store(m)
	c.lists.clear()
}

// BackEnds lists the back ends of which something is known.
func (c *Catalog) BackEnds() []string { return slices.Sorted(maps.Keys(c.merged.Load().has)) }
