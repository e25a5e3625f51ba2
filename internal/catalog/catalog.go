package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
)

// Store keeps the last snapshot of each back end.
type Store interface {
	SaveSnapshot(ctx context.Context, backEnd string, blob []byte) error
	LoadSnapshots(ctx context.Context) (map[string][]byte, error)
}

// Member is a configured back end.
type Member struct {
	Name   string
	Groups []string // whose jobs it runs; empty: everybody's
}

// Options are the settings of a Catalog. The zero value is good.
type Options struct {
	Members []Member // in the order of the configuration: on conflict the earlier one wins; others are left out
	Log     *slog.Logger
}

// Catalog is what the back ends can run, merged for each group of people. It is safe for concurrent use.
type Catalog struct {
	store Store
	log   *slog.Logger
	views atomic.Pointer[views]

	mu      sync.Mutex // guards what views are made of
	members []Member
	known   map[string]*known
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
	digest     [32]byte        // of all that was told
	nodes      [32]byte        // of ObjectInfo
}

// New returns a catalog with the snapshots of before.
func New(ctx context.Context, store Store, o Options) (*Catalog, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Catalog{store: store, members: o.Members, log: o.Log, known: map[string]*known{}}
	blobs, err := store.LoadSnapshots(ctx)
	if err != nil {
		return nil, fmt.Errorf("load what the back ends can run: %w", err)
	}
	for name, blob := range blobs {
		if !slices.ContainsFunc(o.Members, func(m Member) bool { return m.Name == name }) {
			continue // not configured any more
		}
		k, err := decodeKnown(blob)
		if err == nil {
			err = k.parse(c.known)
		}
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
	if err := k.sum(); err != nil {
		return false, fault.Wrap(fault.Unavailable, err, "Back end %s describes itself in a form that can't be read.", backEnd)
	}
	c.mu.Lock()
	before, others := c.known[backEnd], maps.Clone(c.known)
	c.mu.Unlock()
	if before != nil && before.digest == k.digest { // as after a start of the studio: every back end tells all of it again
		return false, nil
	}
	if err := k.parse(others); err != nil {
		return false, fault.Wrap(fault.Unavailable, err, "Back end %s describes its nodes in a form that can't be read.", backEnd)
	}
	blob, err := k.pack()
	if err != nil {
		return false, err
	}
	if err := c.store.SaveSnapshot(context.Background(), backEnd, blob); err != nil {
		return false, fmt.Errorf("keep what back end %s can run: %w", backEnd, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[backEnd] = k
	return c.merge(), nil
}

// Arrange takes in which back ends there are now, in their order, and whose jobs they run. What is known of others is
// forgotten. changed reports whether what can be run has changed.
func (c *Catalog) Arrange(members []Member) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = slices.Clone(members)
	maps.DeleteFunc(c.known, func(name string, _ *known) bool {
		return !slices.ContainsFunc(members, func(m Member) bool { return m.Name == name })
	})
	return c.merge()
}

// parse reads the node classes, or takes them from another back end that told the same.
func (k *known) parse(others map[string]*known) error {
	for _, o := range others {
		if o.nodes == k.nodes {
			k.classes, k.has = o.classes, o.has
			return nil
		}
	}
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

// passing is what of a back end's stats is another at each look.
var passing = regexp.MustCompile(`"(ram_free|vram_free|torch_vram_free|torch_vram_total)": ?[0-9]+`)

// compact returns raw without spaces, as it is kept.
func compact(raw json.RawMessage) []byte {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil { // then parsing says what is wrong with it
		return raw
	}
	return b.Bytes()
}

// sum works out the digests.
func (k *known) sum() error {
	k.nodes = sha256.Sum256(compact(k.ObjectInfo))
	system := string(passing.ReplaceAll(compact(k.System), nil))
	raw, err := json.Marshal([]any{hex.EncodeToString(k.nodes[:]), system, k.Models, k.Embeddings, k.Extensions, k.WebTexts})
	k.digest = sha256.Sum256(raw)
	return err
}

func (k *known) pack() ([]byte, error) {
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
	return k, k.sum()
}

// Missing returns which of the needs a back end lacks. Of a back end that was never asked nothing is known, and so
// nothing missing.
func (c *Catalog) Missing(backEnd string, needs []string) []string {
	return missing(c.views.Load().has[backEnd], needs)
}

func missing(has map[string]bool, needs []string) []string {
	if has == nil {
		return nil
	}
	var lacks []string
	for _, name := range needs {
		if !has[name] {
			lacks = append(lacks, name)
		}
	}
	return lacks
}

// Known lists the back ends of which something is known, with the number of their node classes and of their model
// files.
func (c *Catalog) Known() map[string]Size {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]Size, len(c.known))
	for name, k := range c.known {
		size := Size{Classes: len(k.classes)}
		for _, files := range k.Models {
			size.Models += len(files)
		}
		out[name] = size
	}
	return out
}

// Size is how much a back end can run.
type Size struct{ Classes, Models int }
