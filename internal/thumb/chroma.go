package thumb

import (
	"image"
	"image/color"
)

// smooth returns the pixels of a picture whose colours have half the resolution of its brightness in one direction or
// both, as those of photos have. Between two samples of colour it mixes three parts of the near one with one of the far
// one, as libjpeg does unless told otherwise: what a mask was drawn on is then what ComfyUI would have loaded without
// it. It returns nil for other pictures.
func smooth(src *image.YCbCr) *image.NRGBA {
	var wide, high bool // whether a sample of colour is two pixels wide or high
	switch src.SubsampleRatio {
	case image.YCbCrSubsampleRatio420:
		wide, high = true, true
	case image.YCbCrSubsampleRatio422:
		wide = true
	case image.YCbCrSubsampleRatio440:
		high = true
	}
	if !wide && !high || src.Rect.Min != (image.Point{}) {
		return nil
	}
	width, height := src.Rect.Dx(), src.Rect.Dy()
	samples, rows := width, height
	if wide {
		samples = (width + 1) / 2
	}
	if high {
		rows = (height + 1) / 2
	}
	out := image.NewNRGBA(src.Rect)
	cb, cr, mixed := make([]uint8, width), make([]uint8, width), make([]int, samples)
	for y := range height {
		near, far := y, y
		if high {
			near = y / 2
			far = min(max(near+y%2*2-1, 0), rows-1)
		}
		for _, plane := range []struct{ to, from []uint8 }{{cb, src.Cb}, {cr, src.Cr}} {
			mixRows(mixed, plane.from[near*src.CStride:], plane.from[far*src.CStride:], high)
			mixAlong(plane.to, mixed, wide, high, y%2)
		}
		to := row(out.Pix, out.Stride, y, width)
		for x, bright := range src.Y[y*src.YStride : y*src.YStride+width] {
			to[4*x], to[4*x+1], to[4*x+2] = color.YCbCrToRGB(bright, cb[x], cr[x])
			to[4*x+3] = 0xff
		}
	}
	return out
}

// mixRows mixes two rows of samples: four times their value, or once where rows are not halved.
func mixRows(to []int, near, far []uint8, high bool) {
	for i := range to {
		to[i] = int(near[i])
		if high {
			to[i] = 3*to[i] + int(far[i])
		}
	}
}

// mixAlong spreads mixed samples over the pixels of a row, whose parity says which way halves are rounded: up and down in
// turn, so that a surface of one colour keeps it.
func mixAlong(to []uint8, mixed []int, wide, high bool, parity int) {
	for x := range to {
		switch {
		case wide:
			i, side := x/2, x%2*2-1
			v := 3*mixed[i] + mixed[min(max(i+side, 0), len(mixed)-1)]
			if high {
				to[x] = uint8((v + 8 - x%2) >> 4)
			} else {
				to[x] = uint8((v + 1 + x%2) >> 2)
			}
		case high:
			to[x] = uint8((mixed[x] + 1 + parity) >> 2)
		}
	}
}
