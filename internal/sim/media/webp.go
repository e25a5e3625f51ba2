package media

import (
	"encoding/binary"
	"errors"
	"image"
	"slices"
)

// maxWebPSide is the longest side a WebP picture can have.
const maxWebPSide = 16384

// ErrTooBigForWebP is returned for pictures the format can't hold.
var ErrTooBigForWebP = errors.New("WebP pictures have at most 16384 pixels a side")

// WebP encodes frames without loss; more than one make an animation that runs for ever, each shown for millis.
// The texts become EXIF entries where ComfyUI's editor looks for them.
func WebP(frames []*image.NRGBA, millis int, texts []Text) ([]byte, error) {
	size := frames[0].Bounds()
	if size.Dx() > maxWebPSide || size.Dy() > maxWebPSide {
		return nil, ErrTooBigForWebP
	}
	alpha := false
	pictures := make([][]byte, len(frames))
	for i, f := range frames {
		pictures[i] = lossless(f)
		alpha = alpha || !f.Opaque()
	}
	var body []byte
	if len(frames) > 1 || len(texts) > 0 {
		body = appendRIFF(body, "VP8X", extendedHeader(size, alpha, len(frames) > 1, len(texts) > 0))
	}
	if len(frames) == 1 {
		body = appendRIFF(body, "VP8L", pictures[0])
	} else {
		body = appendRIFF(body, "ANIM", make([]byte, 6)) // transparent background, no end
		for _, p := range pictures {
			frame := make([]byte, 6, 24+len(p))
			frame = append24(frame, size.Dx()-1)
			frame = append24(frame, size.Dy()-1)
			frame = append24(frame, min(millis, 1<<24-1))
			frame = append(frame, 2) // do not blend with the frame before
			body = appendRIFF(body, "ANMF", appendRIFF(frame, "VP8L", p))
		}
	}
	if len(texts) > 0 {
		body = appendRIFF(body, "EXIF", exifTexts(texts))
	}
	out := append([]byte("RIFF"), binary.LittleEndian.AppendUint32(nil, uint32(len(body)+4))...)
	return append(append(out, "WEBP"...), body...), nil
}

func extendedHeader(size image.Rectangle, alpha, animated, exif bool) []byte {
	flags := byte(0)
	if alpha {
		flags |= 0x10
	}
	if exif {
		flags |= 0x08
	}
	if animated {
		flags |= 0x02
	}
	return append24(append24([]byte{flags, 0, 0, 0}, size.Dx()-1), size.Dy()-1)
}

func append24(dst []byte, v int) []byte { return append(dst, byte(v), byte(v>>8), byte(v>>16)) }

func appendRIFF(dst []byte, name string, body []byte) []byte {
	dst = append(dst, name...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	dst = append(dst, body...)
	if len(body)%2 == 1 {
		dst = append(dst, 0)
	}
	return dst
}

// exifTexts makes a directory of text entries: the first text is the camera's model, the next ones go down from
// the camera's maker, each as "key:value".
func exifTexts(texts []Text) []byte {
	type entry struct {
		tag  int
		text []byte
	}
	var entries []entry
	down := 0x010f
	for _, t := range texts {
		tag := 0x0110
		if t.Key != "prompt" {
			tag = down
			down--
		}
		entries = append(entries, entry{tag, append([]byte(t.Key+":"+t.Value), 0)})
	}
	slices.SortFunc(entries, func(a, b entry) int { return a.tag - b.tag })
	out := []byte("II*\x00\x08\x00\x00\x00")
	out = binary.LittleEndian.AppendUint16(out, uint16(len(entries)))
	at := 8 + 2 + 12*len(entries) + 4
	for _, e := range entries {
		out = binary.LittleEndian.AppendUint16(out, uint16(e.tag))
		out = binary.LittleEndian.AppendUint16(out, 2) // text
		out = binary.LittleEndian.AppendUint32(out, uint32(len(e.text)))
		if len(e.text) <= 4 {
			out = append(out, append(slices.Clone(e.text), make([]byte, 4)...)[:4]...)
			continue
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(at))
		at += len(e.text)
	}
	out = append(out, 0, 0, 0, 0) // no further directory
	for _, e := range entries {
		if len(e.text) > 4 {
			out = append(out, e.text...)
		}
	}
	return out
}

// lossless encodes one picture as a VP8L stream: green taken from red and blue, each pixel predicted from its
// neighbours, what remains written with one prefix code a channel.
func lossless(m *image.NRGBA) []byte {
	size := m.Bounds()
	w, h := size.Dx(), size.Dy()
	out := &lsbWriter{}
	out.put(0x2f, 8)
	out.put(uint32(w-1), 14)
	out.put(uint32(h-1), 14)
	if m.Opaque() {
		out.put(0, 1)
	} else {
		out.put(1, 1)
	}
	out.put(0, 3)
	out.put(1, 1)
	out.put(2, 2) // subtract green
	out.put(1, 1)
	out.put(0, 2) // predictor, the same for all blocks
	out.put(7, 3) // of 512 × 512
	out.put(0, 1) // whose picture has no colour cache
	const gradient = 12
	for channel := range 5 {
		symbol := 0
		switch channel {
		case 0:
			symbol = gradient
		case 3:
			symbol = 255
		}
		writeSingle(out, symbol)
	}
	out.put(0, 1) // no further transform
	out.put(0, 1) // no colour cache
	out.put(0, 1) // one set of codes for the whole picture
	residuals := predict(subtractGreen(m, w, h), w, h)
	var counts [4][]int
	counts[0] = make([]int, 256+24)
	for c := 1; c < 4; c++ {
		counts[c] = make([]int, 256)
	}
	for _, p := range residuals {
		for c := range 4 {
			counts[c][p[c]]++
		}
	}
	var codes [4]prefixCode
	for c := range codes {
		codes[c] = newPrefixCode(counts[c], 15)
		writeCode(out, codes[c])
	}
	writeSingle(out, 0) // distances, never used
	for _, p := range residuals {
		for c := range 4 {
			out.put(uint32(codes[c].codes[p[c]]), uint(codes[c].lengths[p[c]]))
		}
	}
	return out.bytes()
}

// pixel is green, red, blue, alpha: the order in which VP8L writes them.
type pixel [4]uint8

func subtractGreen(m *image.NRGBA, w, h int) []pixel {
	out := make([]pixel, w*h)
	for y := range h {
		row := m.Pix[y*m.Stride:]
		for x := range w {
			r, g, b, a := row[x*4], row[x*4+1], row[x*4+2], row[x*4+3]
			out[y*w+x] = pixel{g, r - g, b - g, a}
		}
	}
	return out
}

// predict returns what each pixel differs from its prediction: left plus above minus above-left, cut to a byte.
func predict(in []pixel, w, h int) []pixel {
	out := make([]pixel, len(in))
	for y := range h {
		for x := range w {
			i := y*w + x
			for c := range 4 {
				guess := 0
				switch {
				case x == 0 && y == 0:
					if c == 3 {
						guess = 255
					}
				case y == 0:
					guess = int(in[i-1][c])
				case x == 0:
					guess = int(in[i-w][c])
				default:
					guess = max(0, min(255, int(in[i-1][c])+int(in[i-w][c])-int(in[i-w-1][c])))
				}
				out[i][c] = in[i][c] - uint8(guess)
			}
		}
	}
	return out
}

// writeSingle writes a code with just one symbol; its occurrences take no bits.
func writeSingle(out *lsbWriter, symbol int) {
	out.put(1, 1) // simple
	out.put(0, 1) // one symbol
	out.put(1, 1) // of eight bits
	out.put(uint32(symbol), 8)
}

// lengthOrder is the order in which the lengths of the code for lengths are written.
var lengthOrder = [19]int{17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

func writeCode(out *lsbWriter, c prefixCode) {
	if c.only >= 0 {
		writeSingle(out, c.only)
		return
	}
	counts := make([]int, 19)
	for _, l := range c.lengths {
		counts[l]++
	}
	lengths := newPrefixCode(counts, 7)
	out.put(0, 1)
	out.put(19-4, 4)
	for _, s := range lengthOrder {
		n := lengths.lengths[s]
		if lengths.only == s {
			n = 1
		}
		out.put(uint32(n), 3)
	}
	out.put(0, 1) // lengths follow for the whole alphabet
	for _, l := range c.lengths {
		out.put(uint32(lengths.codes[l]), uint(lengths.lengths[l]))
	}
}
