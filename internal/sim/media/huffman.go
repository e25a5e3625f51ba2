package media

import (
	"container/heap"
	"math/bits"
)

// prefixCode gives each symbol a length and the bits to write, the lowest first. Symbols that never occur have
// length zero; so has the only symbol of a code that has just one.
type prefixCode struct {
	lengths []uint8
	codes   []uint16
	only    int // the single symbol, or -1
}

// newPrefixCode makes a code for symbols that occur count times, no length above limit.
func newPrefixCode(counts []int, limit int) prefixCode {
	c := prefixCode{lengths: make([]uint8, len(counts)), codes: make([]uint16, len(counts)), only: -1}
	used := 0
	for s, n := range counts {
		if n > 0 {
			c.only = s
			used++
		}
	}
	if used < 2 {
		c.only = max(c.only, 0)
		return c
	}
	c.only = -1
	weights := append([]int(nil), counts...)
	for !codeLengths(weights, c.lengths, limit) {
		for s, n := range weights { // flatter counts give shorter codes
			if n > 0 {
				weights[s] = n/2 + 1
			}
		}
	}
	c.assign(limit)
	return c
}

// assign numbers the symbols in order of length, then of value.
func (c *prefixCode) assign(limit int) {
	next := uint16(0)
	for length := 1; length <= limit; length++ {
		for s, l := range c.lengths {
			if int(l) == length {
				c.codes[s] = bits.Reverse16(next) >> (16 - length)
				next++
			}
		}
		next <<= 1
	}
}

// tree is a node of a Huffman tree under construction.
type tree struct {
	weight      int
	symbol      int // of a leaf
	left, right *tree
}

type forest []*tree

func (f forest) Len() int           { return len(f) }
func (f forest) Less(i, j int) bool { return f[i].weight < f[j].weight }
func (f forest) Swap(i, j int)      { f[i], f[j] = f[j], f[i] }
func (f *forest) Push(x any)        { *f = append(*f, x.(*tree)) }
func (f *forest) Pop() any {
	old := *f
	t := old[len(old)-1]
	*f = old[:len(old)-1]
	return t
}

// codeLengths fills lengths and reports whether none is above limit.
func codeLengths(weights []int, lengths []uint8, limit int) bool {
	var f forest
	for s, n := range weights {
		lengths[s] = 0
		if n > 0 {
			f = append(f, &tree{weight: n, symbol: s})
		}
	}
	heap.Init(&f)
	for f.Len() > 1 {
		a, b := heap.Pop(&f).(*tree), heap.Pop(&f).(*tree)
		heap.Push(&f, &tree{weight: a.weight + b.weight, left: a, right: b})
	}
	return measure(f[0], 0, lengths, limit)
}

func measure(t *tree, depth int, lengths []uint8, limit int) bool {
	if t.left == nil {
		lengths[t.symbol] = uint8(depth)
		return depth <= limit
	}
	return depth < limit && measure(t.left, depth+1, lengths, limit) && measure(t.right, depth+1, lengths, limit)
}
