package media

import (
	"crypto/md5"
	"encoding/binary"
	"math/bits"
)

const (
	flacBlock    = 4096
	flacBits     = 16
	maxRice      = 14
	maxFLACOrder = 2
)

// FLAC encodes a sound of one or two channels without loss at 16 bits a sample, with texts as comments.
func FLAC(s *Sound, texts []Text) []byte {
	samples := make([][]int64, len(s.Channels))
	length := 0
	for c, in := range s.Channels {
		length = len(in)
		samples[c] = make([]int64, length)
		for i, v := range in {
			samples[c][i] = sample16(v)
		}
	}
	out := &msbWriter{out: []byte("fLaC")}
	out.put(0, 8) // stream information, more follows
	out.put(34, 24)
	out.put(flacBlock, 16)
	out.put(flacBlock, 16)
	out.put(0, 24) // sizes of frames: not known
	out.put(0, 24)
	out.put(uint64(s.Rate), 20)
	out.put(uint64(len(samples)-1), 3)
	out.put(flacBits-1, 5)
	out.put(uint64(length)>>32, 4)
	out.put(uint64(length)&0xffffffff, 32)
	sum := pcmSum(samples, length)
	out.out = append(out.out, sum[:]...)
	comment := flacComment(texts)
	out.put(0x84, 8) // comments, the last piece of metadata
	out.put(uint64(len(comment)), 24)
	out.out = append(out.out, comment...)
	for n := 0; n*flacBlock < length; n++ {
		out.out = append(out.out, flacFrame(samples, n, min(flacBlock, length-n*flacBlock))...)
	}
	return out.out
}

func pcmSum(samples [][]int64, length int) [md5.Size]byte {
	plain := make([]byte, 0, 2*length*len(samples))
	for i := range length {
		for _, c := range samples {
			plain = binary.LittleEndian.AppendUint16(plain, uint16(c[i]))
		}
	}
	return md5.Sum(plain)
}

func flacComment(texts []Text) []byte {
	const vendor = "comfyume"
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(vendor)))
	out = append(out, vendor...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(texts)))
	for _, t := range texts {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(t.Key)+1+len(t.Value)))
		out = append(append(append(out, t.Key...), '='), t.Value...)
	}
	return out
}

func flacFrame(samples [][]int64, n, length int) []byte {
	w := &msbWriter{}
	w.put(0xfff8, 16) // all frames but the last have one length
	w.put(7, 4)       // which stands after the header in 16 bits
	w.put(0, 4)       // rate as in the stream information
	w.put(uint64(len(samples)-1), 4)
	w.put(4, 3) // 16 bits
	w.put(0, 1)
	w.out = appendCoded(w.out, uint64(n))
	w.put(uint64(length-1), 16)
	w.put(uint64(crc8(w.out)), 8)
	for _, c := range samples {
		flacChannel(w, c[n*flacBlock:n*flacBlock+length])
	}
	w.align()
	w.put(uint64(crc16(w.out)), 16)
	return w.out
}

// flacChannel writes the samples of a channel predicted from the ones before, with whatever order is shortest.
func flacChannel(w *msbWriter, samples []int64) {
	best, order, parameter := len(samples)*flacBits, -1, 0
	for o := 0; o <= min(maxFLACOrder, len(samples)-1); o++ {
		rest := residual(samples, o)
		for p := range maxRice + 1 {
			if size := riceSize(rest, p) + o*flacBits; size < best {
				best, order, parameter = size, o, p
			}
		}
	}
	if order < 0 { // noise: as it is
		w.put(1<<1, 8)
		for _, v := range samples {
			w.put(uint64(v), flacBits)
		}
		return
	}
	w.put(uint64(8+order)<<1, 8)
	for _, v := range samples[:order] {
		w.put(uint64(v), flacBits)
	}
	w.put(0, 6) // one Rice code for the whole block
	w.put(uint64(parameter), 4)
	for _, v := range residual(samples, order) {
		u := zigzag(v)
		for range u >> parameter {
			w.put(0, 1)
		}
		w.put(1, 1)
		w.put(u, uint(parameter))
	}
}

func residual(samples []int64, order int) []int64 {
	out := make([]int64, 0, len(samples))
	for i := order; i < len(samples); i++ {
		switch order {
		case 0:
			out = append(out, samples[i])
		case 1:
			out = append(out, samples[i]-samples[i-1])
		default:
			out = append(out, samples[i]-2*samples[i-1]+samples[i-2])
		}
	}
	return out
}

func zigzag(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }

func riceSize(rest []int64, parameter int) int {
	n := 10
	for _, v := range rest {
		n += int(zigzag(v)>>parameter) + 1 + parameter
	}
	return n
}

// appendCoded appends a number in the extended form of UTF-8 that FLAC uses.
func appendCoded(dst []byte, v uint64) []byte {
	if v < 0x80 {
		return append(dst, byte(v))
	}
	more := 1
	for bits.Len64(v) > 6*more+6-more {
		more++
	}
	dst = append(dst, byte(0xff<<(7-more))|byte(v>>(6*more)))
	for i := more - 1; i >= 0; i-- {
		dst = append(dst, 0x80|byte(v>>(6*i))&0x3f)
	}
	return dst
}

func crc8(b []byte) uint8 {
	var crc uint8
	for _, x := range b {
		crc ^= x
		for range 8 {
			if crc&0x80 != 0 {
				crc = crc<<1 ^ 0x07
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

func crc16(b []byte) uint16 {
	var crc uint16
	for _, x := range b {
		crc ^= uint16(x) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x8005
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}
