package media

import "encoding/binary"

// maxSamples ends files that unpack to hours: an hour and a half at 48 kHz.
const maxSamples = 1 << 28

// flacStream is a FLAC file being read.
type flacStream struct {
	in       *msbReader
	rate     int
	channels int
	bits     uint
	out      [][]int64
}

func decodeFLAC(file []byte) (*Sound, error) {
	s := &flacStream{}
	rest := file[4:]
	for last := false; !last; {
		if len(rest) < 4 {
			return nil, ErrAudioFormat
		}
		last = rest[0]&0x80 != 0
		n := int(binary.BigEndian.Uint32(rest) & 0xffffff)
		if n > len(rest)-4 {
			return nil, ErrAudioFormat
		}
		if rest[0]&0x7f == 0 && n >= 18 {
			info := &msbReader{in: rest[4 : 4+n], at: 80}
			s.rate = int(info.get(20))
			s.channels = int(info.get(3)) + 1
			s.bits = uint(info.get(5)) + 1
		}
		rest = rest[4+n:]
	}
	if s.channels == 0 || s.rate == 0 {
		return nil, ErrAudioFormat
	}
	s.in = &msbReader{in: rest}
	s.out = make([][]int64, s.channels)
	for s.in.at/8 < len(rest) {
		if len(s.out[0]) > maxSamples || !s.frame() {
			return nil, ErrAudioFormat
		}
	}
	sound := &Sound{Rate: s.rate}
	scale := float64(int64(1) << (s.bits - 1))
	for _, c := range s.out {
		samples := make([]float32, len(c))
		for i, v := range c {
			samples[i] = float32(float64(v) / scale)
		}
		sound.Channels = append(sound.Channels, samples)
	}
	return sound, nil
}

func (s *flacStream) frame() bool {
	in := s.in
	if in.get(15) != 0x7ffc {
		return false
	}
	in.get(1)
	size, rate := in.get(4), in.get(4)
	layout := int(in.get(4))
	in.get(4)
	for more := in.get(8); more&0xc0 == 0xc0; more <<= 1 { // the frame's number
		in.get(8)
	}
	length := flacLength(in, size)
	switch rate {
	case 12:
		in.get(8)
	case 13, 14:
		in.get(16)
	}
	in.get(8)
	if length == 0 || layout > 10 || layout < 8 && layout+1 != s.channels || layout >= 8 && s.channels != 2 {
		return false
	}
	block := make([][]int64, s.channels)
	for c := range block {
		width := s.bits
		if layout == 8 && c == 1 || layout == 9 && c == 0 || layout == 10 && c == 1 {
			width++ // a difference of two channels
		}
		if block[c] = s.subframe(length, width); block[c] == nil {
			return false
		}
	}
	for i := range length {
		switch layout {
		case 8:
			block[1][i] = block[0][i] - block[1][i]
		case 9:
			block[0][i] += block[1][i]
		case 10:
			mid, side := block[0][i]<<1|block[1][i]&1, block[1][i]
			block[0][i], block[1][i] = (mid+side)>>1, (mid-side)>>1
		}
	}
	in.at = (in.at + 7) &^ 7
	in.get(16)
	for c := range block {
		s.out[c] = append(s.out[c], block[c]...)
	}
	return !in.ended
}

func flacLength(in *msbReader, code uint64) int {
	switch {
	case code == 1:
		return 192
	case code >= 2 && code <= 5:
		return 576 << (code - 2)
	case code == 6:
		return int(in.get(8)) + 1
	case code == 7:
		return int(in.get(16)) + 1
	case code >= 8:
		return 256 << (code - 8)
	}
	return 0
}

func (s *flacStream) subframe(length int, width uint) []int64 {
	in := s.in
	in.get(1)
	kind := int(in.get(6))
	wasted := uint(0)
	if in.get(1) == 1 {
		wasted = uint(in.unary()) + 1
	}
	if wasted >= width {
		return nil
	}
	width -= wasted
	out := make([]int64, length)
	ok := true
	switch {
	case kind == 0:
		v := in.signed(width)
		for i := range out {
			out[i] = v
		}
	case kind == 1:
		for i := range out {
			out[i] = in.signed(width)
		}
	case kind >= 8 && kind <= 12:
		ok = s.predicted(out, kind-8, width, fixedPredictors[kind-8], 0)
	case kind >= 32:
		ok = s.linear(out, kind-31, width)
	default:
		return nil
	}
	if !ok || in.ended {
		return nil
	}
	for i := range out {
		out[i] <<= wasted
	}
	return out
}

// fixedPredictors are the weights of the samples before, newest first, by order.
var fixedPredictors = [5][]int64{{}, {1}, {2, -1}, {3, -3, 1}, {4, -6, 4, -1}}

func (s *flacStream) linear(out []int64, order int, width uint) bool {
	if order > len(out) {
		return false
	}
	for i := range order {
		out[i] = s.in.signed(width)
	}
	precision := uint(s.in.get(4)) + 1
	shift := s.in.signed(5)
	if precision > 15 || shift < 0 {
		return false
	}
	weights := make([]int64, order)
	for i := range weights {
		weights[i] = s.in.signed(precision)
	}
	return s.residual(out, order, weights, uint(shift))
}

func (s *flacStream) predicted(out []int64, order int, width uint, weights []int64, shift uint) bool {
	if order > len(out) {
		return false
	}
	for i := range order {
		out[i] = s.in.signed(width)
	}
	return s.residual(out, order, weights, shift)
}

// residual reads what the samples differ from their prediction and restores them.
func (s *flacStream) residual(out []int64, order int, weights []int64, shift uint) bool {
	in := s.in
	parameterBits, escape := uint(4), uint64(15)
	if in.get(2) == 1 {
		parameterBits, escape = 5, 31
	}
	parts := 1 << in.get(4)
	if len(out)%parts != 0 || len(out)/parts < order {
		return false
	}
	at := order
	for p := range parts {
		end := (p + 1) * (len(out) / parts)
		parameter := in.get(parameterBits)
		raw := uint(0)
		if parameter == escape {
			raw = uint(in.get(5))
		}
		for ; at < end; at++ {
			var v int64
			if parameter == escape {
				v = in.signed(raw)
			} else {
				u := uint64(in.unary())<<parameter | in.get(uint(parameter))
				v = int64(u>>1) ^ -int64(u&1)
			}
			if in.ended {
				return false
			}
			var guess int64
			for i, w := range weights {
				guess += w * out[at-1-i]
			}
			out[at] = guess>>shift + v
		}
	}
	return true
}
