// Package media writes and reads the files that image and audio nodes make and take: PNG with text, animated PNG
// and WebP, FLAC, WAV. It knows formats, nothing of nodes.
package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/png"

	"github.com/ahelme/comfyume/internal/sim/raster"
)

// Text is one keyword with its text, as image files carry them.
type Text struct{ Key, Value string }

// RGBA8 converts picture n of a batch to bytes. One channel becomes gray; without alpha it is opaque.
func RGBA8(m *raster.Image, n int) *image.NRGBA {
	out := image.NewNRGBA(image.Rect(0, 0, m.W, m.H))
	frame := m.Pix[n*m.H*m.W*m.C : (n+1)*m.H*m.W*m.C]
	for i := range m.H * m.W {
		px, d := frame[i*m.C:(i+1)*m.C], out.Pix[i*4:i*4+4]
		switch m.C {
		case 1, 2:
			v := raster.Byte(px[0])
			d[0], d[1], d[2], d[3] = v, v, v, 255
		case 3:
			d[0], d[1], d[2], d[3] = raster.Byte(px[0]), raster.Byte(px[1]), raster.Byte(px[2]), 255
		default:
			d[0], d[1], d[2], d[3] = raster.Byte(px[0]), raster.Byte(px[1]), raster.Byte(px[2]), raster.Byte(px[3])
		}
	}
	return out
}

// PNG encodes a picture with texts. fast trades size for speed.
func PNG(m image.Image, texts []Text, fast bool) ([]byte, error) {
	enc := png.Encoder{CompressionLevel: png.DefaultCompression}
	if fast {
		enc.CompressionLevel = png.BestSpeed
	}
	var buf bytes.Buffer
	if err := enc.Encode(&buf, m); err != nil {
		return nil, err
	}
	if len(texts) == 0 {
		return buf.Bytes(), nil
	}
	plain := buf.Bytes()
	out := make([]byte, 0, len(plain)+256)
	out = append(out, plain[:headerEnd]...)
	for _, t := range texts {
		out = appendText(out, t)
	}
	return append(out, plain[headerEnd:]...), nil
}

// headerEnd is where the IHDR chunk of a PNG ends: signature, length, name, 13 bytes, checksum.
const headerEnd = 8 + 4 + 4 + 13 + 4

func appendText(dst []byte, t Text) []byte {
	latin := make([]byte, 0, len(t.Value))
	for _, r := range t.Value {
		if r > 255 || r == 0 {
			body := append([]byte(t.Key), 0, 0, 0, 0, 0) // not compressed, no language, no translated key
			return appendChunk(dst, "iTXt", append(body, t.Value...))
		}
		latin = append(latin, byte(r))
	}
	body := append([]byte(t.Key), 0)
	return appendChunk(dst, "tEXt", append(body, latin...))
}

func appendChunk(dst []byte, name string, body []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)))
	start := len(dst)
	dst = append(append(dst, name...), body...)
	return binary.BigEndian.AppendUint32(dst, crc32.ChecksumIEEE(dst[start:]))
}

// errNotPNG says that a chunk walk met something else.
var errNotPNG = errors.New("not a PNG file")

// chunk is one piece of a PNG file.
type chunk struct {
	name string
	body []byte
}

func chunks(file []byte) ([]chunk, error) {
	const signature = "\x89PNG\r\n\x1a\n"
	if !bytes.HasPrefix(file, []byte(signature)) {
		return nil, errNotPNG
	}
	var out []chunk
	for rest := file[len(signature):]; len(rest) > 0; {
		if len(rest) < 12 {
			return nil, errNotPNG
		}
		n := int(binary.BigEndian.Uint32(rest))
		if n < 0 || n > len(rest)-12 {
			return nil, errNotPNG
		}
		out = append(out, chunk{string(rest[4:8]), rest[8 : 8+n]})
		rest = rest[12+n:]
	}
	return out, nil
}

// Texts returns the tEXt and uncompressed iTXt chunks of a PNG in order; of other files nothing.
func Texts(file []byte) []Text {
	all, err := chunks(file)
	if err != nil {
		return nil
	}
	var out []Text
	for _, c := range all {
		key, value, ok := bytes.Cut(c.body, []byte{0})
		if !ok {
			continue
		}
		switch c.name {
		case "tEXt":
			runes := make([]rune, len(value))
			for i, b := range value {
				runes[i] = rune(b)
			}
			out = append(out, Text{string(key), string(runes)})
		case "iTXt":
			if len(value) < 2 || value[0] != 0 {
				continue
			}
			if _, value, ok = bytes.Cut(value[2:], []byte{0}); !ok {
				continue
			}
			if _, value, ok = bytes.Cut(value, []byte{0}); ok {
				out = append(out, Text{string(key), string(value)})
			}
		}
	}
	return out
}

// AnimatedPNG encodes frames of equal size that are shown for millis each, over and over. The texts go into
// private chunks after the picture, where ComfyUI's editor looks for them in such files.
func AnimatedPNG(frames []*image.NRGBA, millis int, texts []Text) ([]byte, error) {
	alpha := false
	for _, f := range frames {
		alpha = alpha || !f.Opaque()
	}
	var out []byte
	seq := uint32(0)
	for i, f := range frames {
		var m image.Image = f
		if alpha {
			m = withAlpha{f}
		}
		one, err := PNG(m, nil, false)
		if err != nil {
			return nil, err
		}
		parts, err := chunks(one)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			out = append(out, one[:headerEnd]...)
			out = appendChunk(out, "acTL", binary.BigEndian.AppendUint32(
				binary.BigEndian.AppendUint32(nil, uint32(len(frames))), 0))
		}
		out = appendChunk(out, "fcTL", frameControl(seq, f.Bounds(), millis))
		seq++
		for _, p := range parts {
			if p.name != "IDAT" {
				continue
			}
			if i == 0 {
				out = appendChunk(out, "IDAT", p.body)
				continue
			}
			out = appendChunk(out, "fdAT", append(binary.BigEndian.AppendUint32(nil, seq), p.body...))
			seq++
		}
	}
	for _, t := range texts {
		out = appendChunk(out, "comf", append(append([]byte(t.Key), 0), t.Value...))
	}
	return appendChunk(out, "IEND", nil), nil
}

func frameControl(seq uint32, r image.Rectangle, millis int) []byte {
	b := binary.BigEndian.AppendUint32(nil, seq)
	b = binary.BigEndian.AppendUint32(b, uint32(r.Dx()))
	b = binary.BigEndian.AppendUint32(b, uint32(r.Dy()))
	b = append(b, make([]byte, 8)...) // at the top left corner
	b = binary.BigEndian.AppendUint16(b, uint16(min(millis, 65535)))
	b = binary.BigEndian.AppendUint16(b, 1000)
	return append(b, 0, 0) // leave the frame there, overwrite the one before
}

// withAlpha makes the encoder keep the alpha channel of a picture that happens to be opaque.
type withAlpha struct{ *image.NRGBA }

// Opaque says no, so that every frame of an animation has the same kind of pixels.
func (withAlpha) Opaque() bool { return false }
