package sched

import (
	"iter"
	"slices"
)

// chunk is how many elements a list keeps together.
const chunk = 256

// list keeps elements in their order. Putting one in, taking one out and finding its rank cost about the same among a
// million as among a thousand: the elements lie in chunks, and only one of these is moved. What decides the order of an
// element must not change while it is in.
type list[T ordered[T]] struct {
	chunks [][]T // none is empty
	n      int
}

// ordered is what can stand in a list.
type ordered[T any] interface{ compare(other T) int }

var (
	_ ordered[bySeq] = bySeq{}
	_ ordered[later] = later{}
)

// find returns where x is, or belongs.
func (l *list[T]) find(x T) (c, i int, found bool) {
	if l.n == 0 {
		return 0, 0, false
	}
	// Most come to the end and go from the front.
	last := len(l.chunks) - 1
	tail := l.chunks[last]
	switch d := tail[len(tail)-1].compare(x); {
	case d < 0:
		return last, len(tail), false
	case d == 0:
		return last, len(tail) - 1, true
	}
	if d := x.compare(l.chunks[0][0]); d <= 0 {
		return 0, 0, d == 0
	}
	c, found = slices.BinarySearchFunc(l.chunks, x, func(k []T, x T) int { return k[len(k)-1].compare(x) })
	if found {
		return c, len(l.chunks[c]) - 1, true
	}
	i, found = slices.BinarySearchFunc(l.chunks[c], x, T.compare)
	return c, i, found
}

// insert puts x in. It reports false when it is in already.
func (l *list[T]) insert(x T) bool {
	c, i, found := l.find(x)
	switch {
	case found:
		return false
	case l.n == 0:
		l.chunks = append(l.chunks[:0], []T{x})
	case i == chunk: // behind all: what is full stays full
		l.chunks = append(l.chunks, []T{x})
	default:
		l.chunks[c] = slices.Insert(l.chunks[c], i, x)
		if k := l.chunks[c]; len(k) > chunk {
			half := len(k) / 2
			l.chunks = slices.Insert(l.chunks, c+1, slices.Clone(k[half:]))
			clear(k[half:])
			l.chunks[c] = k[:half]
		}
	}
	l.n++
	return true
}

// remove takes x out. It reports false when it is not in.
func (l *list[T]) remove(x T) bool {
	c, i, found := l.find(x)
	if !found {
		return false
	}
	k := l.chunks[c]
	switch {
	case len(k) == 1:
		l.chunks = slices.Delete(l.chunks, c, c+1)
	case i == 0: // the usual case costs nothing
		var none T
		k[0] = none
		l.chunks[c] = k[1:]
	default:
		l.chunks[c] = slices.Delete(k, i, i+1)
	}
	l.n--
	return true
}

// rank counts the elements before x.
func (l *list[T]) rank(x T) int {
	c, i, _ := l.find(x)
	for _, k := range l.chunks[:min(c, len(l.chunks))] {
		i += len(k)
	}
	return i
}

// count counts the elements for which before holds: those up to some place in the order.
func (l *list[T]) count(before func(T) bool) (n int) {
	search := func(k []T) int {
		i, _ := slices.BinarySearchFunc(k, true, func(x T, _ bool) int {
			if before(x) {
				return -1
			}
			return 1
		})
		return i
	}
	c, _ := slices.BinarySearchFunc(l.chunks, true, func(k []T, _ bool) int {
		if before(k[len(k)-1]) {
			return -1
		}
		return 1
	})
	for _, k := range l.chunks[:c] {
		n += len(k)
	}
	if c < len(l.chunks) {
		n += search(l.chunks[c])
	}
	return n
}

// first returns the first element of a list that is not empty.
func (l *list[T]) first() T { return l.chunks[0][0] }

// all goes through the elements in order. The list must not change meanwhile.
func (l *list[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, k := range l.chunks {
			for _, x := range k {
				if !yield(x) {
					return
				}
			}
		}
	}
}

// cursor is a place in a list.
type cursor[T ordered[T]] struct {
	list *list[T]
	c, i int
}

// at returns the element at the cursor.
func (c *cursor[T]) at() (x T, ok bool) {
	if c.c >= len(c.list.chunks) {
		return x, false
	}
	return c.list.chunks[c.c][c.i], true
}

// next moves the cursor on.
func (c *cursor[T]) next() {
	if c.i++; c.i == len(c.list.chunks[c.c]) {
		c.c, c.i = c.c+1, 0
	}
}
