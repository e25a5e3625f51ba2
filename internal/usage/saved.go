package usage

import (
	"encoding/binary"
	"math"
)

// What was learned is saved in groups: the key of a group, or the hash of a back end's name, and a body of a version,
// and numbers of fixed size.
const (
	bodyVersion = 1
	sampleSize  = 8 + 8 + 8 + 4
)

func (g *group) encode() []byte {
	b := append(make([]byte, 0, 2+len(g.samples)*sampleSize), bodyVersion, byte(g.next)) //nolint:gosec // below maxSamples
	for _, s := range g.samples {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.work))
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.seconds))
		b = binary.LittleEndian.AppendUint64(b, uint64(s.at)) //nolint:gosec // and back
		b = binary.LittleEndian.AppendUint32(b, s.backEnd)
	}
	return b
}

// decodeGroup reads what encode wrote; nil where it can't be.
func decodeGroup(b []byte) *group {
	if len(b) < 2+sampleSize || b[0] != bodyVersion || (len(b)-2)%sampleSize != 0 {
		return nil
	}
	g := &group{next: int(b[1])}
	for b = b[2:]; len(b) > 0; b = b[sampleSize:] {
		s := sample{
			work:    math.Float64frombits(binary.LittleEndian.Uint64(b)),
			seconds: math.Float64frombits(binary.LittleEndian.Uint64(b[8:])),
			at:      int64(binary.LittleEndian.Uint64(b[16:])), //nolint:gosec // as it was written
			backEnd: binary.LittleEndian.Uint32(b[24:]),
		}
		if !(s.work >= 0 && s.work <= maxWork && s.seconds > 0 && s.seconds < 1e9) {
			return nil
		}
		g.samples = append(g.samples, s)
		g.used = max(g.used, s.at)
	}
	if len(g.samples) > maxSamples || g.next >= maxSamples || len(g.samples) < maxSamples && g.next != 0 {
		return nil
	}
	g.news, g.saved = len(g.samples), true
	return g
}

func (r *rates) encode() []byte {
	b := append(make([]byte, 0, 2+8*len(r.list)), bodyVersion, byte(r.next)) //nolint:gosec // below maxRates
	for _, v := range r.list {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	}
	return b
}

func decodeRates(b []byte) *rates {
	if len(b) < 2 || b[0] != bodyVersion || len(b) > 2+8*maxRates || (len(b)-2)%8 != 0 {
		return nil
	}
	r := &rates{next: int(b[1]), speed: 1}
	for b = b[2:]; len(b) > 0; b = b[8:] {
		v := math.Float64frombits(binary.LittleEndian.Uint64(b))
		if !(math.Abs(v) <= 4) {
			return nil
		}
		r.list = append(r.list, v)
	}
	r.settle()
	if r.next >= maxRates || len(r.list) < maxRates && r.next != 0 {
		return nil
	}
	return r
}

// restore takes in what was saved. What can't be read is left out: it is learned again.
func (e *estimator) restore(saved []Learned) {
	for _, s := range saved {
		switch len(s.Key) {
		case len(key{}):
			if g := decodeGroup(s.Body); g != nil && len(e.groups) < e.most {
				e.groups[key(s.Key)] = g
			}
		case 4:
			if r := decodeRates(s.Body); r != nil {
				e.backEnds[binary.LittleEndian.Uint32(s.Key)] = r
			}
		}
	}
	e.compare()
}

// changed returns what is to be saved. undo makes it changed again.
func (e *estimator) changed() (list []Learned, undo func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var groups []*group
	for k, g := range e.groups {
		if g.dirty {
			g.dirty, g.saved = false, true
			groups = append(groups, g)
			list = append(list, Learned{Key: k[:], Body: g.encode()})
		}
	}
	gone := e.gone
	e.gone = map[key]bool{}
	for k := range gone {
		list = append(list, Learned{Key: k[:]})
	}
	var paced []*rates
	for name, r := range e.backEnds {
		if r.dirty {
			r.dirty = false
			paced = append(paced, r)
			list = append(list, Learned{Key: binary.LittleEndian.AppendUint32(nil, name), Body: r.encode()})
		}
	}
	return list, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, g := range groups {
			g.dirty = true
		}
		for _, r := range paced {
			r.dirty = true
		}
		for k := range gone {
			if e.groups[k] == nil {
				e.gone[k] = true
			}
		}
	}
}
