package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/draw"
	"image/gif"
	_ "image/jpeg" // formats LoadImage reads
	_ "image/png"

	_ "golang.org/x/image/bmp"
	_ "golang.org/x/image/tiff"
	_ "golang.org/x/image/webp"

	"github.com/ahelme/comfyume/internal/sim/raster"
)

// ErrTooLarge is returned for pictures with more pixels than the caller allows.
var ErrTooLarge = errors.New("the picture has too many pixels")

// Picture is a decoded image file: its frames as bytes, turned upright.
type Picture struct {
	Frames []*image.NRGBA
	Alpha  bool // the file has transparency
}

// Decode reads a PNG, JPEG, GIF, WebP, BMP or TIFF file with at most maxPixels pixels in all frames together.
func Decode(file []byte, maxPixels int) (*Picture, error) {
	config, format, err := image.DecodeConfig(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("cannot identify image file: %w", err)
	}
	if config.Width*config.Height > maxPixels {
		return nil, ErrTooLarge
	}
	if format == "gif" {
		return decodeGIF(file, maxPixels)
	}
	m, _, err := image.Decode(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("cannot read image file: %w", err)
	}
	p := &Picture{Frames: []*image.NRGBA{straight(m)}, Alpha: hasAlpha(m)}
	if format == "jpeg" {
		p.Frames[0] = upright(p.Frames[0], orientation(file))
	}
	return p, nil
}

// hasAlpha reports whether a picture's kind of pixels can be transparent; for palettes, whether one entry is.
func hasAlpha(m image.Image) bool {
	switch m := m.(type) {
	case *image.NRGBA, *image.NRGBA64, *image.NYCbCrA:
		return true
	case *image.Paletted:
		for _, c := range m.Palette {
			if _, _, _, a := c.RGBA(); a != 0xffff {
				return true
			}
		}
	}
	return false
}

// straight returns the picture with colours that are not multiplied by alpha.
func straight(m image.Image) *image.NRGBA {
	if n, ok := m.(*image.NRGBA); ok && n.Rect.Min == (image.Point{}) && n.Stride == 4*n.Rect.Dx() {
		return n
	}
	out := image.NewNRGBA(image.Rect(0, 0, m.Bounds().Dx(), m.Bounds().Dy()))
	if _, alpha := m.(*image.NRGBA64); !alpha && !hasAlpha(m) {
		draw.Draw(out, out.Rect, m, m.Bounds().Min, draw.Src)
		return out
	}
	for y := range out.Rect.Dy() { // the drawing package would multiply and divide
		for x := range out.Rect.Dx() {
			out.Set(x, y, m.At(m.Bounds().Min.X+x, m.Bounds().Min.Y+y))
		}
	}
	return out
}

func decodeGIF(file []byte, maxPixels int) (*Picture, error) {
	g, err := gif.DecodeAll(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("cannot read image file: %w", err)
	}
	size := image.Rect(0, 0, g.Config.Width, g.Config.Height)
	if size.Dx()*size.Dy()*len(g.Image) > maxPixels {
		return nil, ErrTooLarge
	}
	p := &Picture{}
	canvas := image.NewNRGBA(size)
	for i, frame := range g.Image {
		before := append([]uint8(nil), canvas.Pix...)
		draw.Draw(canvas, frame.Bounds(), frame, frame.Bounds().Min, draw.Over)
		shot := image.NewNRGBA(size)
		copy(shot.Pix, canvas.Pix)
		p.Frames = append(p.Frames, shot)
		p.Alpha = p.Alpha || !shot.Opaque()
		switch g.Disposal[i] {
		case gif.DisposalBackground:
			draw.Draw(canvas, frame.Bounds(), image.Transparent, image.Point{}, draw.Src)
		case gif.DisposalPrevious:
			copy(canvas.Pix, before)
		}
	}
	return p, nil
}

// orientation finds the camera's orientation in a JPEG, 1 to 8; 1 when there is none.
func orientation(file []byte) int {
	for at := 2; at+4 <= len(file) && file[at] == 0xff; {
		n := int(binary.BigEndian.Uint16(file[at+2:]))
		if n < 2 || at+2+n > len(file) {
			return 1
		}
		body := file[at+4 : at+2+n]
		if file[at+1] == 0xe1 && bytes.HasPrefix(body, []byte("Exif\x00\x00")) {
			return exifOrientation(body[6:])
		}
		if file[at+1] == 0xda {
			return 1
		}
		at += 2 + n
	}
	return 1
}

func exifOrientation(tiff []byte) int {
	if len(tiff) < 8 {
		return 1
	}
	var order binary.ByteOrder = binary.BigEndian
	if tiff[0] == 'I' {
		order = binary.LittleEndian
	}
	at := int(order.Uint32(tiff[4:]))
	if at < 0 || at+2 > len(tiff) {
		return 1
	}
	for i := range int(order.Uint16(tiff[at:])) {
		entry := at + 2 + 12*i
		if entry+12 > len(tiff) {
			return 1
		}
		if order.Uint16(tiff[entry:]) == 0x0112 {
			if v := int(order.Uint16(tiff[entry+8:])); v >= 1 && v <= 8 {
				return v
			}
			return 1
		}
	}
	return 1
}

// upright turns a picture the way its orientation says.
func upright(m *image.NRGBA, o int) *image.NRGBA {
	if o == 1 {
		return m
	}
	w, h := m.Rect.Dx(), m.Rect.Dy()
	out := image.NewNRGBA(image.Rect(0, 0, w, h))
	if o >= 5 {
		out = image.NewNRGBA(image.Rect(0, 0, h, w))
	}
	for y := range h {
		for x := range w {
			tx, ty := x, y
			switch o {
			case 2:
				tx = w - 1 - x
			case 3:
				tx, ty = w-1-x, h-1-y
			case 4:
				ty = h - 1 - y
			case 5:
				tx, ty = y, x
			case 6:
				tx, ty = h-1-y, x
			case 7:
				tx, ty = h-1-y, w-1-x
			case 8:
				tx, ty = y, w-1-x
			}
			copy(out.Pix[out.PixOffset(tx, ty):][:4], m.Pix[m.PixOffset(x, y):][:4])
		}
	}
	return out
}

// Batch returns the frames that are as large as the first one as a batch of three channels, and their
// transparency, 1 where nothing is to be seen, as a batch of one. Without transparency mask is nil.
func (p *Picture) Batch() (colours, mask *raster.Image) {
	w, h := p.Frames[0].Rect.Dx(), p.Frames[0].Rect.Dy()
	colours = &raster.Image{H: h, W: w, C: 3}
	if p.Alpha {
		mask = &raster.Image{H: h, W: w, C: 1}
	}
	for _, f := range p.Frames {
		if f.Rect.Dx() != w || f.Rect.Dy() != h {
			continue
		}
		colours.N++
		for i := 0; i < len(f.Pix); i += 4 {
			colours.Pix = append(colours.Pix, raster.Unit(f.Pix[i]), raster.Unit(f.Pix[i+1]), raster.Unit(f.Pix[i+2]))
		}
		if mask == nil {
			continue
		}
		mask.N++
		for i := 3; i < len(f.Pix); i += 4 {
			mask.Pix = append(mask.Pix, 1-raster.Unit(f.Pix[i]))
		}
	}
	return colours, mask
}
