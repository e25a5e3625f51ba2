package media

// lsbWriter collects bits, the lowest first, as WebP wants them.
type lsbWriter struct {
	out  []byte
	acc  uint64
	held uint
}

func (w *lsbWriter) put(value uint32, n uint) {
	w.acc |= uint64(value) << w.held
	w.held += n
	for w.held >= 8 {
		w.out = append(w.out, byte(w.acc))
		w.acc >>= 8
		w.held -= 8
	}
}

func (w *lsbWriter) bytes() []byte {
	if w.held > 0 {
		w.out = append(w.out, byte(w.acc))
		w.acc, w.held = 0, 0
	}
	return w.out
}

// msbWriter collects bits, the highest first, as FLAC wants them.
type msbWriter struct {
	out  []byte
	acc  uint64
	held uint
}

// put appends the low n bits of value, n at most 32.
func (w *msbWriter) put(value uint64, n uint) {
	w.acc = w.acc<<n | value&(1<<n-1)
	w.held += n
	for w.held >= 8 {
		w.held -= 8
		w.out = append(w.out, byte(w.acc>>w.held))
	}
}

// align fills the last byte with zero bits.
func (w *msbWriter) align() {
	if w.held > 0 {
		w.put(0, 8-w.held)
	}
}

// msbReader reads what msbWriter wrote. After the end it gives zeros and remembers that it did.
type msbReader struct {
	in    []byte
	at    int // in bits
	ended bool
}

func (r *msbReader) get(n uint) uint64 {
	var v uint64
	for range n {
		i := r.at >> 3
		if i >= len(r.in) {
			r.ended = true
			return v
		}
		v = v<<1 | uint64(r.in[i]>>(7-r.at&7)&1)
		r.at++
	}
	return v
}

// signed reads an n-bit number in two's complement.
func (r *msbReader) signed(n uint) int64 {
	v := r.get(n)
	if n > 0 && v>>(n-1) != 0 {
		return int64(v) - 1<<n
	}
	return int64(v)
}

// unary counts zero bits up to the next one.
func (r *msbReader) unary() int {
	n := 0
	for !r.ended && r.get(1) == 0 {
		n++
	}
	return n
}
