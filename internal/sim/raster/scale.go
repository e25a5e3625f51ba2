package raster

import "math"

// The ways of scaling, by the words nodes use for them.
const (
	Nearest  = "nearest-exact"
	Bilinear = "bilinear"
	Area     = "area"
	Bicubic  = "bicubic"
	Lanczos  = "lanczos"
	Bislerp  = "bislerp"
)

// Scale returns the batch at w × h. With center the picture is first cut to the new aspect ratio around its
// middle. An unknown method scales bilinearly.
func (m *Image) Scale(w, h int, method string, center bool) *Image {
	s := m
	if center {
		s = m.centerCut(w, h)
	}
	switch method {
	case Nearest:
		return s.nearest(w, h)
	case Area:
		return s.area(w, h)
	case Bicubic:
		return s.separable(w, h, cubicTaps)
	case Lanczos:
		return s.lanczos(w, h)
	default:
		return s.separable(w, h, linearTaps)
	}
}

// centerCut cuts away what would not fit the aspect ratio of w × h.
func (m *Image) centerCut(w, h int) *Image {
	oldAspect, newAspect := float64(m.W)/float64(m.H), float64(w)/float64(h)
	x, y := 0, 0
	if oldAspect > newAspect {
		x = Round((float64(m.W) - float64(m.W)*(newAspect/oldAspect)) / 2)
	} else if oldAspect < newAspect {
		y = Round((float64(m.H) - float64(m.H)*(oldAspect/newAspect)) / 2)
	}
	if x == 0 && y == 0 {
		return m
	}
	return m.Crop(x, y, m.W-2*x, m.H-2*y)
}

func (m *Image) nearest(w, h int) *Image {
	out := New(m.N, h, w, m.C)
	sx, sy := float32(m.W)/float32(w), float32(m.H)/float32(h)
	columns := make([]int, w)
	for x := range columns {
		columns[x] = min(int(float32(float32(float32(x)+0.5)*sx)), m.W-1)
	}
	for n := range m.N {
		for y := range h {
			src, dst := m.row(n, min(int(float32(float32(float32(y)+0.5)*sy)), m.H-1)), out.row(n, y)
			for x, c := range columns {
				copy(dst[x*m.C:(x+1)*m.C], src[c*m.C:])
			}
		}
	}
	return out
}

// area averages the source pixels each target pixel touches, whole pixels only.
func (m *Image) area(w, h int) *Image {
	out := New(m.N, h, w, m.C)
	for n := range m.N {
		for y := range h {
			y0, y1 := y*m.H/h, ((y+1)*m.H+h-1)/h
			dst := out.row(n, y)
			for x := range w {
				x0, x1 := x*m.W/w, ((x+1)*m.W+w-1)/w
				for k := range m.C {
					var sum float32
					for r := y0; r < y1; r++ {
						src := m.row(n, r)
						for c := x0; c < x1; c++ {
							sum += src[c*m.C+k]
						}
					}
					dst[x*m.C+k] = float32(sum/float32(y1-y0)) / float32(x1-x0)
				}
			}
		}
	}
	return out
}

// tap is what one source column or row adds to a target one.
type tap struct {
	at     int
	weight float32
}

// linearTaps are the two neighbours of a target position, the first never left of the edge.
func linearTaps(target, from, to int) []tap {
	scale := float32(from) / float32(to)
	pos := max(float32(scale*(float32(target)+0.5))-0.5, 0)
	at := min(int(pos), from-1)
	next := at
	if at < from-1 {
		next++
	}
	w := clamp(pos - float32(at))
	return []tap{{at, 1 - w}, {next, w}}
}

// cubicTaps are the four neighbours of a target position with the weights of cubic convolution, a = -0.75.
func cubicTaps(target, from, to int) []tap {
	const a = float32(-0.75)
	near := func(x float32) float32 { return float32(float32(float32(float32((a+2)*x)-(a+3))*x)*x) + 1 }
	far := func(x float32) float32 {
		return float32(float32(float32(float32(float32(a*x)-5*a)*x)+8*a)*x) - 4*a
	}
	scale := float32(from) / float32(to)
	pos := float32(scale*(float32(target)+0.5)) - 0.5
	floor := float32(math.Floor(float64(pos)))
	t := pos - floor
	at := int(floor)
	weights := [4]float32{far(t + 1), near(t), near(1 - t), far(2 - t)}
	taps := make([]tap, 4)
	for i := range taps {
		taps[i] = tap{clampInt(at-1+i, 0, from-1), weights[i]}
	}
	return taps
}

// separable scales with one set of taps per target column and one per target row: columns first, then rows.
func (m *Image) separable(w, h int, taps func(target, from, to int) []tap) *Image {
	columns := make([][]tap, w)
	for x := range columns {
		columns[x] = taps(x, m.W, w)
	}
	out := New(m.N, h, w, m.C)
	line := make([]float32, w*m.C)
	for n := range m.N {
		for y := range h {
			dst := out.row(n, y)
			for i, t := range taps(y, m.H, h) {
				across(line, m.row(n, t.at), columns, m.C)
				for j, v := range line {
					if i == 0 {
						dst[j] = float32(v * t.weight)
					} else {
						dst[j] += float32(v * t.weight)
					}
				}
			}
		}
	}
	return out
}

// across fills line with the columns made from one source row.
func across(line, src []float32, columns [][]tap, channels int) {
	for x, taps := range columns {
		for k := range channels {
			var sum float32
			for i, t := range taps {
				v := float32(src[t.at*channels+k] * t.weight)
				if i == 0 {
					sum = v
				} else {
					sum += v
				}
			}
			line[x*channels+k] = sum
		}
	}
}
