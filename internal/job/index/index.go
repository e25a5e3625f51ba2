// Package index finds jobs among a million by their ids, in little memory: it keeps no ids, since the jobs have theirs.
package index

import (
	"hash/maphash"
	"math/bits"
)

// ID is the id of a job in sixteen bytes.
type ID = [16]byte

// Index finds elements by their ids. The zero value of E is none. An Index is not safe for concurrent use.
//
// It is a hash table with open addressing, cut into parts: each grows by itself, so that none of a million puts has to
// wait for all the others to be moved.
type Index[E comparable] struct {
	id    func(E) ID
	seed  maphash.Seed
	parts [parts]part[E]
	n     int
}

const (
	parts    = 256
	partBits = 8
	smallest = 8 // cells of a part that has any
)

type part[E comparable] struct {
	cells []E // a power of two; an element is in the first free cell from its own on
	n     int
}

// New returns an empty index of elements whose ids id tells. The id of an element must not change while it is in.
func New[E comparable](id func(E) ID) *Index[E] { return &Index[E]{id: id, seed: maphash.MakeSeed()} }

// Len counts the elements.
func (x *Index[E]) Len() int { return x.n }

// place returns an id's part and what decides its cell there.
func (x *Index[E]) place(id ID) (*part[E], uint64) {
	h := maphash.Bytes(x.seed, id[:])
	return &x.parts[h>>(64-partBits)], h
}

// find returns the cell that has the id, or the free one where it belongs. The part has cells.
func (x *Index[E]) find(p *part[E], h uint64, id ID) (at int, found bool) {
	var none E
	mask := len(p.cells) - 1
	for at = int(h) & mask; p.cells[at] != none; at = (at + 1) & mask {
		if x.id(p.cells[at]) == id {
			return at, true
		}
	}
	return at, false
}

// Get returns the element with the id; the zero value: there is none.
func (x *Index[E]) Get(id ID) (e E) {
	p, h := x.place(id)
	if p.n == 0 {
		return e
	}
	if at, found := x.find(p, h, id); found {
		return p.cells[at]
	}
	return e
}

// Put takes an element in, in place of another one with its id.
func (x *Index[E]) Put(e E) {
	id := x.id(e)
	p, h := x.place(id)
	if 5*(p.n+1) > 4*len(p.cells) {
		x.resize(p, max(2*len(p.cells), smallest))
	}
	at, found := x.find(p, h, id)
	p.cells[at] = e
	if !found {
		p.n++
		x.n++
	}
}

// Delete takes the element with the id out. It reports whether there was one. The element still has to tell its id.
func (x *Index[E]) Delete(id ID) bool {
	p, h := x.place(id)
	if p.n == 0 {
		return false
	}
	hole, found := x.find(p, h, id)
	if !found {
		return false
	}
	// Those behind it up to the next free cell may have been put there because it was taken: they move up.
	var none E
	mask := len(p.cells) - 1
	for at := (hole + 1) & mask; p.cells[at] != none; at = (at + 1) & mask {
		_, h := x.place(x.id(p.cells[at]))
		if home := int(h) & mask; (at-home)&mask >= (at-hole)&mask {
			p.cells[hole], hole = p.cells[at], at
		}
	}
	p.cells[hole] = none
	p.n--
	x.n--
	if p.n == 0 {
		p.cells = nil
	} else if len(p.cells) > smallest && 8*p.n < len(p.cells) {
		x.resize(p, len(p.cells)/2)
	}
	return true
}

// resize moves the elements of a part into so many cells.
func (x *Index[E]) resize(p *part[E], cells int) {
	var none E
	old := p.cells
	p.cells = make([]E, 1<<bits.Len(uint(cells-1)))
	for _, e := range old {
		if e != none {
			id := x.id(e)
			_, h := x.place(id)
			at, _ := x.find(p, h, id)
			p.cells[at] = e
		}
	}
}
