// Package raster holds batches of pictures as 32-bit floats and the arithmetic that ComfyUI's image nodes do on
// them, rounding as they round, so that a simulated run gives the pixels of a real one.
package raster

import (
	"fmt"
	"math"
)

// Image is a batch of N pictures of H rows and W columns with C channels, interleaved, values nominally 0 to 1.
// Pix is not shared between images that nodes may change: operations return new images.
type Image struct {
	N, H, W, C int
	Pix        []float32
}

// New returns a black batch.
func New(n, h, w, c int) *Image {
	return &Image{N: n, H: h, W: w, C: c, Pix: make([]float32, n*h*w*c)}
}

// Filled returns a batch whose pixels all have the given channels.
func Filled(n, h, w int, channels ...float32) *Image {
	m := New(n, h, w, len(channels))
	for i := range m.Pix {
		m.Pix[i] = channels[i%len(channels)]
	}
	return m
}

// Size is the number of values a batch of that shape holds, for limits; it does not overflow.
func Size(n, h, w, c int) float64 { return float64(n) * float64(h) * float64(w) * float64(c) }

// String names the shape the way tensor shapes are written.
func (m *Image) String() string { return fmt.Sprintf("[%d, %d, %d, %d]", m.N, m.H, m.W, m.C) }

// SameShape reports whether two batches have equal dimensions, the batch included.
func (m *Image) SameShape(o *Image) bool {
	return m.N == o.N && m.H == o.H && m.W == o.W && m.C == o.C
}

// Clone returns a copy with pixels of its own.
func (m *Image) Clone() *Image {
	c := *m
	c.Pix = append([]float32(nil), m.Pix...)
	return &c
}

// Frames returns pictures i to j of the batch, sharing pixels.
func (m *Image) Frames(i, j int) *Image {
	size := m.H * m.W * m.C
	return &Image{N: j - i, H: m.H, W: m.W, C: m.C, Pix: m.Pix[i*size : j*size]}
}

// row returns row y of picture n.
func (m *Image) row(n, y int) []float32 {
	i := (n*m.H + y) * m.W * m.C
	return m.Pix[i : i+m.W*m.C]
}

// Map returns the batch with f applied to each value.
func (m *Image) Map(f func(float32) float32) *Image {
	out := &Image{N: m.N, H: m.H, W: m.W, C: m.C, Pix: make([]float32, len(m.Pix))}
	for i, v := range m.Pix {
		out.Pix[i] = f(v)
	}
	return out
}

// Concat joins batches of equal height, width and channels.
func Concat(parts ...*Image) *Image {
	out := &Image{H: parts[0].H, W: parts[0].W, C: parts[0].C}
	for _, p := range parts {
		out.N += p.N
		out.Pix = append(out.Pix, p.Pix...)
	}
	return out
}

// RepeatTo makes a batch n long by dropping pictures from its end or by repeating it from its start.
func (m *Image) RepeatTo(n int) *Image {
	if m.N == n {
		return m
	}
	if m.N > n {
		return m.Frames(0, n)
	}
	out := &Image{N: n, H: m.H, W: m.W, C: m.C, Pix: make([]float32, 0, n*m.H*m.W*m.C)}
	for len(out.Pix) < cap(out.Pix) {
		out.Pix = append(out.Pix, m.Pix[:min(len(m.Pix), cap(out.Pix)-len(out.Pix))]...)
	}
	return out
}

// WithChannels returns the batch with c channels: missing ones are filled with fill, surplus ones dropped.
func (m *Image) WithChannels(c int, fill float32) *Image {
	if m.C == c {
		return m
	}
	out := New(m.N, m.H, m.W, c)
	for i := range m.N * m.H * m.W {
		for k := range c {
			if k < m.C {
				out.Pix[i*c+k] = m.Pix[i*m.C+k]
			} else {
				out.Pix[i*c+k] = fill
			}
		}
	}
	return out
}

// Channel returns one channel as a batch with a single one.
func (m *Image) Channel(k int) *Image {
	out := New(m.N, m.H, m.W, 1)
	for i := range out.Pix {
		out.Pix[i] = m.Pix[i*m.C+k]
	}
	return out
}

// Crop returns the part of each picture from (x, y), at most w wide and h high; bounds are cut to the picture.
func (m *Image) Crop(x, y, w, h int) *Image {
	x, y = clampInt(x, 0, m.W), clampInt(y, 0, m.H)
	w, h = clampInt(w, 0, m.W-x), clampInt(h, 0, m.H-y)
	out := New(m.N, h, w, m.C)
	for n := range m.N {
		for r := range h {
			copy(out.row(n, r), m.row(n, y+r)[x*m.C:(x+w)*m.C])
		}
	}
	return out
}

// Paste writes src over m with its top left corner at (x, y); what falls outside is dropped.
func (m *Image) Paste(src *Image, x, y int) {
	x0, x1 := max(0, x), min(m.W, x+src.W)
	if x1 <= x0 {
		return
	}
	for n := range min(m.N, src.N) {
		for r := max(0, y); r < min(m.H, y+src.H); r++ {
			copy(m.row(n, r)[x0*m.C:x1*m.C], src.row(n, r-y)[(x0-x)*src.C:])
		}
	}
}

// Rotate turns each picture clockwise by k quarter turns.
func (m *Image) Rotate(k int) *Image {
	switch k = ((k % 4) + 4) % 4; k {
	case 0:
		return m
	case 2:
		return m.FlipX().FlipY()
	}
	out := New(m.N, m.W, m.H, m.C)
	for n := range m.N {
		for y := range m.H {
			src := m.row(n, y)
			for x := range m.W {
				ty, tx := x, m.H-1-y
				if k == 3 {
					ty, tx = m.W-1-x, y
				}
				copy(out.row(n, ty)[tx*m.C:(tx+1)*m.C], src[x*m.C:])
			}
		}
	}
	return out
}

// FlipX mirrors left and right.
func (m *Image) FlipX() *Image {
	out := New(m.N, m.H, m.W, m.C)
	for n := range m.N {
		for y := range m.H {
			src, dst := m.row(n, y), out.row(n, y)
			for x := range m.W {
				copy(dst[(m.W-1-x)*m.C:(m.W-x)*m.C], src[x*m.C:])
			}
		}
	}
	return out
}

// FlipY mirrors top and bottom.
func (m *Image) FlipY() *Image {
	out := New(m.N, m.H, m.W, m.C)
	for n := range m.N {
		for y := range m.H {
			copy(out.row(n, m.H-1-y), m.row(n, y))
		}
	}
	return out
}

// Byte is a value as it is written to a file: scaled, cut to 0…255, decimals dropped.
func Byte(v float32) uint8 {
	i := float32(255 * v)
	switch {
	case i >= 255:
		return 255
	case i > 0:
		return uint8(i)
	default: // negative, zero, not a number
		return 0
	}
}

// Unit is the value of a byte read from a file.
func Unit(b uint8) float32 { return float32(b) / 255 }

// clamp cuts v to 0…1.
func clamp(v float32) float32 {
	if v < 0 {
		return 0
	}
	if v > 1 {
		return 1
	}
	return v
}

func clampInt(v, lo, hi int) int { return max(lo, min(v, hi)) }

// Round rounds half to even, as Python's round does.
func Round(v float64) int { return int(math.RoundToEven(v)) }
