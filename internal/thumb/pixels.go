package thumb

import (
	"image"
	"image/color"

	"golang.org/x/image/draw"
)

// straight returns the pixels of img with their alpha beside the colours, not multiplied into them: a colour under
// a transparent part survives. The result may share img's pixels.
func straight(img image.Image) *image.NRGBA {
	switch src := img.(type) {
	case *image.NRGBA:
		return src
	case *image.Paletted:
		return unpalette(src)
	case *image.YCbCr:
		if out := smooth(src); out != nil {
			return out
		}
	}
	if isOpaque(img) {
		// Without transparency both forms are the same, and this one is converted fast.
		out := image.NewRGBA(image.Rect(0, 0, img.Bounds().Dx(), img.Bounds().Dy()))
		draw.Draw(out, out.Bounds(), img, img.Bounds().Min, draw.Src)
		return &image.NRGBA{Pix: out.Pix, Stride: out.Stride, Rect: out.Rect}
	}
	b := img.Bounds()
	out := image.NewNRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	for y := range b.Dy() {
		for x := range b.Dx() {
			out.SetNRGBA(x, y, color.NRGBAModel.Convert(img.At(b.Min.X+x, b.Min.Y+y)).(color.NRGBA))
		}
	}
	return out
}

func unpalette(src *image.Paletted) *image.NRGBA {
	var table [256]color.NRGBA
	for i, c := range src.Palette {
		table[i] = color.NRGBAModel.Convert(c).(color.NRGBA)
	}
	b := src.Bounds()
	out := image.NewNRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	for y := range b.Dy() {
		for x, i := range src.Pix[y*src.Stride : y*src.Stride+b.Dx()] {
			out.SetNRGBA(x, y, table[i])
		}
	}
	return out
}

func isOpaque(img image.Image) bool {
	o, ok := img.(interface{ Opaque() bool })
	return ok && o.Opaque()
}

// opaque returns the colours of img without its alpha.
func opaque(img image.Image) image.Image {
	if isOpaque(img) {
		return img
	}
	src := straight(img)
	b := src.Bounds()
	out := image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	for y := range b.Dy() {
		from, to := row(src.Pix, src.Stride, y, b.Dx()), row(out.Pix, out.Stride, y, b.Dx())
		copy(to, from)
		for i := 3; i < len(to); i += 4 {
			to[i] = 0xff
		}
	}
	return out
}

// alphaOnly returns black pixels with the alpha of src.
func alphaOnly(src *image.NRGBA) *image.NRGBA {
	out := image.NewNRGBA(image.Rect(0, 0, src.Bounds().Dx(), src.Bounds().Dy()))
	copyAlpha(out, src)
	return out
}

// copyAlpha gives dst the alpha of src, which is as large.
func copyAlpha(dst, src *image.NRGBA) {
	b := dst.Bounds()
	for y := range b.Dy() {
		from, to := row(src.Pix, src.Stride, y, b.Dx()), row(dst.Pix, dst.Stride, y, b.Dx())
		for i := 3; i < len(to); i += 4 {
			to[i] = from[i]
		}
	}
}

// row returns the bytes of one row of four-byte pixels.
func row(pix []byte, stride, y, width int) []byte { return pix[y*stride : y*stride+4*width] }
