package executor

import (
	"encoding/binary"
	"encoding/json"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/nodes"
)

// Cache keeps the results of the nodes of the last graph. A result is found again by the class of its node, all
// inputs and everything upstream; what the next graph does not use is dropped when it starts. It belongs to one
// executor.
type Cache struct {
	results map[key]*result
	objects map[objectKey]*nodes.Object
	unique  uint64 // last value that equals no other
	seeds   [2]maphash.Seed
}

// key is the signature of a node in its graph: two hashes with secrets of the cache's own.
type key [2]uint64

type objectKey struct{ node, class string }

// result is what a node gave.
type result struct {
	values  []any
	tainted bool
	ui      json.RawMessage // nil: shows nothing
	meta    json.RawMessage
}

// NewCache returns an empty cache.
func NewCache() *Cache {
	return &Cache{
		results: map[key]*result{}, objects: map[objectKey]*nodes.Object{},
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
	}
}

// use makes the keys of g and drops everything else.
func (c *Cache) use(g *Graph, changed []json.RawMessage) []key {
	keys := make([]key, len(g.nodes))
	s := signer{g: g, changed: changed, cache: c, place: make([]int, len(g.nodes)), parts: make([]part, len(g.nodes))}
	for i := range g.nodes {
		s.prepare(i)
	}
	kept := make(map[key]*result, len(g.nodes))
	objects := make(map[objectKey]*nodes.Object, len(g.nodes))
	for i := range g.nodes {
		keys[i] = s.sign(i)
		if r := c.results[keys[i]]; r != nil {
			kept[keys[i]] = r
		}
		o := objectKey{g.nodes[i].id, g.nodes[i].class.Name}
		if objects[o] = c.objects[o]; objects[o] == nil {
			objects[o] = &nodes.Object{}
		}
	}
	c.results, c.objects = kept, objects
	return keys
}

// signer makes keys. place and order are scratch space.
type signer struct {
	g       *Graph
	changed []json.RawMessage
	cache   *Cache
	place   []int // 1 + position among the ancestors; 0: not met yet
	order   []int
	buf     []byte
	parts   []part
}

// part is what a node says itself, hashed, and its links in order of the inputs' names.
type part struct {
	own   key
	links []*input
}

// sign returns the key of node i: what the node itself says, then each ancestor in the order in which they are
// met going up input by input. Links name ancestors by their place in that order, so that equal parts of
// different graphs have equal keys.
func (s *signer) sign(i int) key {
	for _, a := range s.order {
		s.place[a] = 0
	}
	s.order = s.order[:0]
	s.ancestors(i)
	s.buf = s.buf[:0]
	s.immediate(i)
	for _, a := range s.order {
		s.immediate(a)
	}
	return s.hash()
}

func (s *signer) hash() key {
	return key{maphash.Bytes(s.cache.seeds[0], s.buf), maphash.Bytes(s.cache.seeds[1], s.buf)}
}

// ancestors lists all nodes upstream of i, depth first, without recursion: graphs can be deep.
func (s *signer) ancestors(i int) {
	type frame struct{ node, next int }
	stack := []frame{{i, 0}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		links := s.parts[top.node].links
		if top.next == len(links) {
			stack = stack[:len(stack)-1]
			continue
		}
		in := links[top.next]
		top.next++
		if s.place[in.from] == 0 {
			s.order = append(s.order, in.from)
			s.place[in.from] = len(s.order)
			stack = append(stack, frame{in.from, 0})
		}
	}
}

// immediate appends a node: what it says itself, and the places of those it is linked to.
func (s *signer) immediate(i int) {
	p := &s.parts[i]
	s.buf = binary.LittleEndian.AppendUint64(s.buf, p.own[0])
	s.buf = binary.LittleEndian.AppendUint64(s.buf, p.own[1])
	for _, in := range p.links {
		s.buf = binary.LittleEndian.AppendUint32(s.buf, uint32(s.place[in.from]))
	}
}

// prepare hashes what node i says itself.
func (s *signer) prepare(i int) {
	n := &s.g.nodes[i]
	s.buf = s.buf[:0]
	s.text(n.class.Name)
	switch changed := s.changed[i]; {
	case n.class.Changed == nil:
		s.buf = append(s.buf, 0)
	case changed == nil: // nobody knows: equal to nothing
		s.never()
	default:
		s.buf = append(s.buf, 2)
		s.text(string(changed))
	}
	if n.class.UniqueID() {
		s.text(n.id)
	}
	sorted := make([]*input, len(n.inputs))
	for k := range n.inputs {
		sorted[k] = &n.inputs[k]
	}
	slices.SortFunc(sorted, func(a, b *input) int { return strings.Compare(a.name, b.name) })
	for _, in := range sorted {
		s.text(in.name)
		switch {
		case in.link && in.from >= 0:
			s.buf = binary.LittleEndian.AppendUint32(append(s.buf, 3), uint32(in.slot))
			s.parts[i].links = append(s.parts[i].links, in)
		case in.link:
			s.never()
		default:
			s.buf = append(s.buf, 5)
			s.value(in.raw)
		}
	}
	s.parts[i].own = s.hash()
}

// never appends something that equals nothing.
func (s *signer) never() {
	s.cache.unique++
	s.buf = binary.LittleEndian.AppendUint64(append(s.buf, 1), s.cache.unique)
}

func (s *signer) text(t string) {
	s.buf = append(binary.LittleEndian.AppendUint32(s.buf, uint32(len(t))), t...)
}

// value appends a written value so that what Python takes for equal looks alike: 1, 1.0 and true are one value.
func (s *signer) value(raw json.RawMessage) {
	switch pyjson.KindOf(raw) {
	case pyjson.Bool:
		n := "0"
		if pyjson.Truthy(raw) {
			n = "1"
		}
		s.text(n)
	case pyjson.Number:
		n, _ := pyjson.ParseNum(raw)
		if n.IsFloat() && n.Float() != n.Float() {
			s.never()
			return
		}
		if whole, ok := n.Truncate(); ok && !whole.Less(n) && !n.Less(whole) {
			n = whole
		}
		s.text(n.String())
	case pyjson.String:
		s.buf = append(s.buf, '"')
		s.text(pyjson.TextOf(raw))
	default:
		s.text(string(nodes.Dump(nil, raw)))
	}
}
