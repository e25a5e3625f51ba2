package raster

import (
	"fmt"
	"math"
)

// Blend mixes b into a by factor, mode by mode. b must have the shape of a.
func Blend(a, b *Image, factor float64, mode string) (*Image, error) {
	mix, ok := blendModes[mode]
	if !ok {
		return nil, fmt.Errorf("no blend mode %q", mode)
	}
	f, rest := float32(factor), float32(1-factor)
	out := New(a.N, a.H, a.W, a.C)
	for i, x := range a.Pix {
		out.Pix[i] = clamp(float32(x*rest) + float32(mix(x, b.Pix[i])*f))
	}
	return out, nil
}

// blendModes are the modes as functions of the lower and the upper value.
var blendModes = map[string]func(x, y float32) float32{
	"normal":     func(_, y float32) float32 { return y },
	"multiply":   func(x, y float32) float32 { return x * y },
	"screen":     func(x, y float32) float32 { return 1 - float32((1-x)*(1-y)) },
	"difference": func(x, y float32) float32 { return x - y },
	"overlay": func(x, y float32) float32 {
		if x <= 0.5 {
			return float32(2*x) * y
		}
		return 1 - float32(float32(2*(1-x))*(1-y))
	},
	"soft_light": func(x, y float32) float32 {
		if y <= 0.5 {
			return x - float32(float32((1-float32(2*y))*x)*(1-x))
		}
		return x + float32((float32(2*y)-1)*(softCurve(x)-x))
	},
}

func softCurve(x float32) float32 {
	if x <= 0.25 {
		return float32(float32(float32(float32(16*x)-12)*x)+4) * x
	}
	return float32(math.Sqrt(float64(x)))
}

// GaussianKernel is a square of side 2·radius+1 with the weights of a bell over -1…1 in both directions.
func GaussianKernel(radius int, sigma float64) []float32 {
	side := 2*radius + 1
	at := make([]float32, side)
	for i := range at { // the positions are made from both ends towards the middle
		step := float32(2) / float32(side-1)
		if i < side/2 {
			at[i] = -1 + float32(step*float32(i))
		} else {
			at[i] = 1 - float32(step*float32(side-i-1))
		}
	}
	kernel := make([]float32, side*side)
	var sum float64
	for i := range side {
		for j := range side {
			d := float32(math.Sqrt(float64(float32(at[i]*at[i]) + float32(at[j]*at[j]))))
			k := float32(math.Exp(float64(-float32(d*d) / float32(2*sigma*sigma))))
			kernel[i*side+j] = k
			sum += float64(k)
		}
	}
	for i := range kernel {
		kernel[i] /= float32(sum)
	}
	return kernel
}

// SharpenKernel is the kernel that takes alpha times a blur away and leaves the sum at one.
func SharpenKernel(radius int, sigma, alpha float64) []float32 {
	kernel := GaussianKernel(radius, sigma)
	var sum float64
	for i := range kernel {
		kernel[i] = float32(kernel[i] * float32(-(alpha * 10)))
		sum += float64(kernel[i])
	}
	kernel[len(kernel)/2] = kernel[len(kernel)/2] - float32(sum) + 1
	return kernel
}

// Convolve applies a square kernel of the given radius; beyond its edges a picture continues mirrored. Both
// sides of a picture must be longer than radius.
func (m *Image) Convolve(kernel []float32, radius int) *Image {
	side := 2*radius + 1
	out := New(m.N, m.H, m.W, m.C)
	columns := make([]int, m.W+2*radius)
	for x := range columns {
		columns[x] = mirror(x-radius, m.W) * m.C
	}
	for n := range m.N {
		for y := range m.H {
			dst := out.row(n, y)
			for i := range side {
				src := m.row(n, mirror(y+i-radius, m.H))
				for j := range side {
					w := kernel[i*side+j]
					for x := range m.W {
						from := columns[x+j]
						for k := range m.C {
							dst[x*m.C+k] += float32(src[from+k] * w)
						}
					}
				}
			}
		}
	}
	return out
}

// Clamp cuts every value to 0…1.
func (m *Image) Clamp() *Image { return m.Map(clamp) }

// mirror folds a position beyond the edges back, the edge itself not doubled.
func mirror(i, n int) int {
	if i < 0 {
		i = -i
	}
	if i >= n {
		i = 2*(n-1) - i
	}
	return clampInt(i, 0, n-1)
}

// Composite lays source over destination at (x, y), through mask when there is one (one channel; scaled to the
// source). With resize the source is first brought to the destination's size.
func Composite(destination, source *Image, x, y int, mask *Image, resize bool) *Image {
	if resize {
		source = source.Scale(destination.W, destination.H, Bilinear, false)
	}
	source = source.RepeatTo(destination.N)
	x = clampInt(x, -source.W, destination.W)
	y = clampInt(y, -source.H, destination.H)
	if mask != nil {
		mask = mask.Scale(source.W, source.H, Bilinear, false).RepeatTo(source.N)
	}
	out := destination.Clone()
	for n := range out.N {
		for r := max(0, y); r < min(out.H, y+source.H); r++ {
			dst, src := out.row(n, r), source.row(n, r-y)
			for c := max(0, x); c < min(out.W, x+source.W); c++ {
				a := float32(1)
				if mask != nil {
					a = mask.row(n, r-y)[c-x]
				}
				for k := range out.C {
					d := &dst[c*out.C+k]
					*d = float32(a*src[(c-x)*source.C+k]) + float32((1-a)**d)
				}
			}
		}
	}
	return out
}
