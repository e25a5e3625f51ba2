package executor

import "slices"

// order picks the next node the way ComfyUI does, so that results show up early: nodes come in as they are met
// going up from the outputs; among those that can run, outputs go first, then what an output waits for, then what
// that waits for.
type order struct {
	g       *Graph
	cached  func(i int) bool
	seq     []int // 1 + when the node came in; 0: it did not
	waits   []int // how many nodes it waits for
	blocks  [][]int
	ready   []int // by seq
	pending int
	count   int
}

func newOrder(g *Graph, cached func(int) bool) *order {
	n := len(g.nodes)
	return &order{g: g, cached: cached, seq: make([]int, n), waits: make([]int, n), blocks: make([][]int, n)}
}

// add takes in a node and everything it needs that is not cached.
func (o *order) add(i int) {
	type link struct{ from, to int }
	var links []link
	var fresh []int
	for todo := []int{i}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if o.seq[at] != 0 {
			continue
		}
		o.count++
		o.pending++
		o.seq[at] = o.count
		fresh = append(fresh, at)
		for _, in := range o.g.nodes[at].inputs {
			if in.link && in.from >= 0 && !o.cached(in.from) {
				todo = append(todo, in.from)
				links = append(links, link{in.from, at})
			}
		}
	}
	for _, l := range links {
		if !slices.Contains(o.blocks[l.from], l.to) {
			o.blocks[l.from] = append(o.blocks[l.from], l.to)
			o.waits[l.to]++
		}
	}
	for _, at := range fresh {
		if o.waits[at] == 0 {
			o.nowReady(at)
		}
	}
}

func (o *order) nowReady(i int) {
	at, _ := slices.BinarySearchFunc(o.ready, o.seq[i], func(n, seq int) int { return o.seq[n] - seq })
	o.ready = slices.Insert(o.ready, at, i)
}

// next returns the node to run; ok is false when those that are left wait for one another.
func (o *order) next() (i int, ok bool) {
	if len(o.ready) == 0 {
		return 0, false
	}
	output := func(i int) bool { return o.g.nodes[i].class.OutputNode }
	feeds := func(i int) bool { return slices.ContainsFunc(o.blocks[i], output) }
	for _, good := range []func(int) bool{
		output, feeds, func(i int) bool { return slices.ContainsFunc(o.blocks[i], feeds) },
	} {
		if at := slices.IndexFunc(o.ready, good); at >= 0 {
			return o.ready[at], true
		}
	}
	return o.ready[0], true
}

// done takes a node out that was run.
func (o *order) done(i int) {
	o.pending--
	if at := slices.Index(o.ready, i); at >= 0 {
		o.ready = slices.Delete(o.ready, at, at+1)
	}
	for _, b := range o.blocks[i] {
		if o.waits[b]--; o.waits[b] == 0 {
			o.nowReady(b)
		}
	}
	o.blocks[i] = nil
}
