package thumb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"

	"github.com/deepteams/webp"
	still "golang.org/x/image/webp"
)

// maxWebP is the longest side a WebP can have.
const maxWebP = webp.MaxDimension

// encodeWebP is the only place that knows the encoder. It is young, so that a defect in it must not end the program.
func encodeWebP(w io.Writer, img image.Image, quality int) (err error) {
	if max(img.Bounds().Dx(), img.Bounds().Dy()) > maxWebP {
		return tooLarge("The picture has a side of more than %d pixels, which WebP can't have.", maxWebP)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the WebP encoder panicked: %v", p)
		}
	}()
	o := webp.DefaultOptions()
	o.Quality = float32(quality)
	if err := webp.Encode(w, img, o); err != nil {
		return fmt.Errorf("encode a WebP: %w", err)
	}
	return nil
}

// decodeWebP decodes a still picture, or the first one of an animation, which only the younger decoder can.
func decodeWebP(r io.Reader) (image.Image, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	img, err := still.Decode(bytes.NewReader(b))
	if err != nil {
		if img, err = webp.Decode(bytes.NewReader(b)); err != nil {
			return nil, err
		}
	}
	switch src := img.(type) {
	case *image.YCbCr:
		return widen(src, nil), nil
	case *image.NYCbCrA:
		return widen(&src.YCbCr, src), nil
	}
	return img, nil
}

// widen turns the brightness and colours of a lossy WebP into red, green and blue. WebP keeps them as video does, in
// 16 to 235; Go's own conversion takes them for JPEG's 0 to 255, and the picture would come out pale. The constants
// are those of BT.601 in 16.16 bits.
func widen(src *image.YCbCr, alpha *image.NYCbCrA) *image.NRGBA {
	b := src.Bounds()
	out := image.NewNRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	for y := range b.Dy() {
		to := row(out.Pix, out.Stride, y, b.Dx())
		for x := range b.Dx() {
			i := src.COffset(b.Min.X+x, b.Min.Y+y)
			l := (int32(src.Y[src.YOffset(b.Min.X+x, b.Min.Y+y)]) - 16) * 76309
			u, v := int32(src.Cb[i])-128, int32(src.Cr[i])-128
			p := to[4*x : 4*x+4 : 4*x+4]
			p[0], p[1], p[2], p[3] = clamp(l+104597*v), clamp(l-25675*u-53279*v), clamp(l+132201*u), 0xff
			if alpha != nil {
				p[3] = alpha.A[alpha.AOffset(b.Min.X+x, b.Min.Y+y)]
			}
		}
	}
	return out
}

// clamp rounds a number in 16.16 bits to a byte.
func clamp(v int32) uint8 { return uint8(min(max((v+1<<15)>>16, 0), 255)) }

var errWebP = errors.New("not a well-formed WebP")

// webpConfig returns the largest of all sizes that a WebP names: its canvas, its frames, and the pictures in them.
// The decoder believes each of them where it makes room.
func webpConfig(r io.Reader) (image.Config, error) {
	b, err := io.ReadAll(r)
	if err != nil || len(b) < 12 {
		return image.Config{}, errors.Join(errWebP, err)
	}
	var c image.Config
	if err := webpSizes(b[12:], &c, 0); err != nil {
		return image.Config{}, err
	}
	if c.Width == 0 || c.Height == 0 {
		return image.Config{}, errWebP
	}
	return c, nil
}

// webpSizes looks at the chunks in b. Frames hold chunks themselves.
func webpSizes(b []byte, c *image.Config, depth int) error {
	for len(b) >= 8 {
		name, size := string(b[:4]), int(binary.LittleEndian.Uint32(b[4:]))
		body := b[8:]
		if size > len(body) {
			size = len(body) // decoders differ in what they make of a cut chunk; its head is there
		}
		next := body[min(size+size%2, len(body)):]
		body = body[:size]
		switch {
		case name == "VP8 " && size >= 10:
			grow(c, int(binary.LittleEndian.Uint16(body[6:]))&0x3fff, int(binary.LittleEndian.Uint16(body[8:]))&0x3fff)
		case name == "VP8L" && size >= 5:
			bits := binary.LittleEndian.Uint32(body[1:])
			grow(c, int(bits&0x3fff)+1, int(bits>>14&0x3fff)+1)
		case name == "VP8X" && size >= 10:
			grow(c, uint24(body[4:])+1, uint24(body[7:])+1)
		case name == "ANMF" && size >= 16 && depth == 0:
			grow(c, uint24(body[6:])+1, uint24(body[9:])+1)
			if err := webpSizes(body[16:], c, depth+1); err != nil {
				return err
			}
		case name == "ANMF":
			return errWebP
		}
		b = next
	}
	return nil
}

func grow(c *image.Config, w, h int) {
	c.Width, c.Height = max(c.Width, w), max(c.Height, h)
}

func uint24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }
