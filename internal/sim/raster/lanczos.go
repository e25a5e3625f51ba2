package raster

import "math"

// lanczos scales bytes, not floats: ComfyUI hands such pictures to an imaging library that works with fixed-point
// weights and rounds after the columns and again after the rows.
func (m *Image) lanczos(w, h int) *Image {
	out := New(m.N, h, w, m.C)
	columns, rows := lanczosTaps(m.W, w), lanczosTaps(m.H, h)
	src := make([]uint8, m.H*m.W*m.C)
	mid := make([]uint8, m.H*w*m.C)
	for n := range m.N {
		frame := m.Pix[n*len(src) : (n+1)*len(src)]
		for i, v := range frame {
			src[i] = Byte(v)
		}
		if w == m.W {
			copy(mid, src)
		} else {
			for y := range m.H {
				fixedRow(mid[y*w*m.C:(y+1)*w*m.C], src[y*m.W*m.C:], columns, m.C)
			}
		}
		dst := out.Pix[n*h*w*m.C : (n+1)*h*w*m.C]
		for y := range h {
			for i := range w * m.C {
				if h == m.H {
					dst[y*w*m.C+i] = Unit(mid[y*w*m.C+i])
					continue
				}
				sum := int32(1) << (fixedBits - 1)
				for j, k := range rows[y].weights {
					sum += int32(mid[(rows[y].first+j)*w*m.C+i]) * k
				}
				dst[y*w*m.C+i] = Unit(fixedByte(sum))
			}
		}
	}
	return out
}

// fixedBits is how many binary places a weight has.
const fixedBits = 32 - 8 - 2

func fixedByte(sum int32) uint8 { return uint8(clampInt(int(sum>>fixedBits), 0, 255)) }

func fixedRow(dst, src []uint8, columns []window, channels int) {
	for x, c := range columns {
		for k := range channels {
			sum := int32(1) << (fixedBits - 1)
			for j, weight := range c.weights {
				sum += int32(src[(c.first+j)*channels+k]) * weight
			}
			dst[x*channels+k] = fixedByte(sum)
		}
	}
}

// window is the run of source pixels a target pixel is made from.
type window struct {
	first   int
	weights []int32
}

func lanczosTaps(from, to int) []window {
	const radius = 3.0
	scale := float64(from) / float64(to)
	filter := max(scale, 1)
	support := radius * filter
	windows := make([]window, to)
	for i := range windows {
		center := (float64(i) + 0.5) * scale
		lo := max(int(center-support+0.5), 0)
		hi := min(int(center+support+0.5), from)
		weights := make([]float64, hi-lo)
		var sum float64
		for j := range weights {
			weights[j] = lanczosAt((float64(j+lo)-center+0.5)/filter, radius)
			sum += weights[j]
		}
		windows[i] = window{first: lo, weights: make([]int32, len(weights))}
		for j, v := range weights {
			if sum != 0 {
				v /= sum
			}
			windows[i].weights[j] = int32(math.Trunc(v*(1<<fixedBits) + math.Copysign(0.5, v)))
		}
	}
	return windows
}

func lanczosAt(x, radius float64) float64 {
	if x < -radius || x >= radius {
		return 0
	}
	return sinc(x) * sinc(x/radius)
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	x *= math.Pi
	return math.Sin(x) / x
}
