package thumb

import (
	"image"
	"image/color"
	"testing"
)

// TestSmooth holds the mixing of colours to the filter of libjpeg: three parts of the near sample and one of the far one.
func TestSmooth(t *testing.T) {
	t.Parallel()
	gray := func(w, h int, ratio image.YCbCrSubsampleRatio, cb ...uint8) *image.YCbCr {
		img := image.NewYCbCr(image.Rect(0, 0, w, h), ratio)
		for i := range img.Y {
			img.Y[i] = 128
		}
		for i := range img.Cr {
			img.Cr[i] = 128
		}
		if n := copy(img.Cb, cb); n != len(img.Cb) {
			t.Fatalf("%d samples for %d", n, len(img.Cb))
		}
		return img
	}
	for name, c := range map[string]struct {
		img  *image.YCbCr
		want []uint8 // Cb of each pixel
	}{
		"4:2:2":          {gray(4, 1, image.YCbCrSubsampleRatio422, 100, 140), []uint8{100, 110, 130, 140}},
		"4:2:2, odd":     {gray(3, 1, image.YCbCrSubsampleRatio422, 100, 140), []uint8{100, 110, 130}},
		"4:4:0":          {gray(1, 4, image.YCbCrSubsampleRatio440, 100, 140), []uint8{100, 110, 130, 140}},
		"4:2:0":          {gray(4, 4, image.YCbCrSubsampleRatio420, 100, 140, 100, 140), []uint8{100, 110, 130, 140, 100, 110, 130, 140, 100, 110, 130, 140, 100, 110, 130, 140}},
		"4:2:0, corners": {gray(4, 4, image.YCbCrSubsampleRatio420, 64, 128, 128, 128), []uint8{64, 80, 112, 128, 80, 92, 116, 128, 112, 116, 124, 128, 128, 128, 128, 128}},
		"one pixel":      {gray(1, 1, image.YCbCrSubsampleRatio420, 77), []uint8{77}},
	} {
		out := smooth(c.img)
		for i, cb := range c.want {
			x, y := i%c.img.Rect.Dx(), i/c.img.Rect.Dx()
			r, g, b := color.YCbCrToRGB(128, cb, 128)
			if got := out.NRGBAAt(x, y); got != (color.NRGBA{R: r, G: g, B: b, A: 255}) {
				t.Errorf("%s: pixel %d, %d is %v, want %v", name, x, y, got, color.NRGBA{R: r, G: g, B: b, A: 255})
			}
		}
	}
	if smooth(image.NewYCbCr(image.Rect(0, 0, 2, 2), image.YCbCrSubsampleRatio444)) != nil {
		t.Error("a picture with a colour for each pixel was mixed")
	}
}
