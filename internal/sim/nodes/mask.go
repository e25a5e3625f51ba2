package nodes

import (
	"math"
	"slices"

	"github.com/ahelme/comfyume/internal/sim/raster"
)

// channelIndex finds a channel by its word.
func channelIndex(word string) int {
	return slices.Index([]string{"red", "green", "blue", "alpha"}, word)
}

func runImageToMask(c *Call) ([]any, error) {
	m, k := c.Image("image"), channelIndex(c.Text("channel"))
	if k < 0 || k >= m.C {
		return nil, Raise("IndexError", "index %d is out of bounds for dimension 3 with size %d", k, m.C)
	}
	return one(Mask{m.Channel(k)})
}

func runMaskToImage(c *Call) ([]any, error) {
	m := c.Mask("mask")
	out := raster.New(m.N, m.H, m.W, 3)
	for i := range out.Pix {
		out.Pix[i] = m.Pix[i/3]
	}
	return picture(out)
}

func runImageColorToMask(c *Call) ([]any, error) {
	m, colour := c.Image("image"), c.Int("color")
	out := raster.New(m.N, m.H, m.W, 1)
	part := func(v float32) int { return raster.Round(float64(float32(min(max(v, 0), 1) * 255))) }
	for i := range out.Pix {
		px := m.Pix[i*m.C:]
		if part(px[0])<<16+part(px[1])<<8+part(px[2]) == colour {
			out.Pix[i] = 1
		}
	}
	return one(Mask{out})
}

func runJoinImageWithAlpha(c *Call) ([]any, error) {
	m, alpha := c.Image("image"), c.Mask("alpha")
	scaled, err := c.scaled(alpha, m.W, m.H, raster.Bilinear, false)
	if err != nil {
		return nil, err
	}
	n := min(m.N, scaled.N)
	m, scaled = m.Frames(0, n), scaled.Frames(0, n)
	out := m.WithChannels(3, 1).WithChannels(4, 1)
	for i, v := range scaled.Pix {
		out.Pix[i*4+3] = 1 - v
	}
	return picture(out)
}

func runSplitImageWithAlpha(c *Call) ([]any, error) {
	m := c.Image("image")
	mask := raster.New(m.N, m.H, m.W, 1)
	if m.C > 3 {
		mask = m.Channel(3).Map(func(v float32) float32 { return 1 - v })
	}
	return []any{Pictures{m.WithChannels(3, 1)}, Mask{mask}}, nil
}

func runSolidMask(c *Call) ([]any, error) {
	h, w := c.Int("height"), c.Int("width")
	if err := c.room(1, h, w, 1); err != nil {
		return nil, err
	}
	return one(Mask{raster.Filled(1, h, w, float32(c.Float("value")))})
}

func runInvertMask(c *Call) ([]any, error) {
	return one(Mask{c.Mask("mask").Map(func(v float32) float32 { return 1 - v })})
}

func runThresholdMask(c *Call) ([]any, error) {
	limit := float32(c.Float("value"))
	return one(Mask{c.Mask("mask").Map(func(v float32) float32 {
		if v > limit {
			return 1
		}
		return 0
	})})
}

func runCropMask(c *Call) ([]any, error) {
	return one(Mask{c.Mask("mask").Crop(c.Int("x"), c.Int("y"), c.Int("width"), c.Int("height"))})
}

// truth is a mask value rounded to yes or no.
func truth(v float32) bool { return math.RoundToEven(float64(v)) != 0 }

func number(b bool) float32 {
	if b {
		return 1
	}
	return 0
}

// maskOperations are the ways to put one mask over another.
var maskOperations = map[string]func(d, s float32) float32{
	"multiply": func(d, s float32) float32 { return d * s },
	"add":      func(d, s float32) float32 { return d + s },
	"subtract": func(d, s float32) float32 { return d - s },
	"and":      func(d, s float32) float32 { return number(truth(d) && truth(s)) },
	"or":       func(d, s float32) float32 { return number(truth(d) || truth(s)) },
	"xor":      func(d, s float32) float32 { return number(truth(d) != truth(s)) },
}

func runMaskComposite(c *Call) ([]any, error) {
	destination, source := c.Mask("destination"), c.Mask("source")
	x, y := c.Int("x"), c.Int("y")
	combine, ok := maskOperations[c.Text("operation")]
	if !ok {
		return nil, Raise("ValueError", "Unsupported operation: %s", c.Text("operation"))
	}
	destination, source, err := sameBatch(destination, source)
	if err != nil {
		return nil, err
	}
	out := destination.Clone()
	for n := range out.N {
		for r := range max(0, min(source.H, out.H-y)) {
			for k := range max(0, min(source.W, out.W-x)) {
				d := &out.Pix[(n*out.H+y+r)*out.W+x+k]
				*d = combine(*d, source.Pix[(n*source.H+r)*source.W+k])
			}
		}
	}
	return one(Mask{out.Clamp()})
}

func runFeatherMask(c *Call) ([]any, error) {
	out := c.Mask("mask").Clone()
	column := func(x int, rate float32) {
		for i := range out.N * out.H {
			out.Pix[i*out.W+x] *= rate
		}
	}
	row := func(y int, rate float32) {
		for n := range out.N {
			for x := range out.W {
				out.Pix[(n*out.H+y)*out.W+x] *= rate
			}
		}
	}
	fade := func(width, size int, fromEnd bool, apply func(at int, rate float32)) {
		width = min(width, size)
		for i := range width {
			at := i
			if fromEnd {
				at = (size - i) % size // counted from the end, the zeroth from there is the first
			}
			apply(at, float32(float64(i+1)/float64(width)))
		}
	}
	fade(c.Int("left"), out.W, false, column)
	fade(c.Int("right"), out.W, true, column)
	fade(c.Int("top"), out.H, false, row)
	fade(c.Int("bottom"), out.H, true, row)
	return one(Mask{out})
}

func runGrowMask(c *Call) ([]any, error) {
	m, expand := c.Mask("mask"), c.Int("expand")
	wider := func(a, b float32) float32 { return max(a, b) }
	if expand < 0 {
		expand, wider = -expand, func(a, b float32) float32 { return min(a, b) }
	}
	expand = min(expand, m.W+m.H) // after that nothing changes any more
	corners := !c.Bool("tapered_corners")
	for range expand {
		next := m.Clone()
		for n := range m.N {
			for y := range m.H {
				for x := range m.W {
					v := m.Pix[(n*m.H+y)*m.W+x]
					for dy := -1; dy <= 1; dy++ {
						for dx := -1; dx <= 1; dx++ {
							if !corners && dx != 0 && dy != 0 {
								continue
							}
							ny, nx := y+dy, x+dx
							if ny >= 0 && ny < m.H && nx >= 0 && nx < m.W {
								v = wider(v, m.Pix[(n*m.H+ny)*m.W+nx])
							}
						}
					}
					next.Pix[(n*m.H+y)*m.W+x] = v
				}
			}
		}
		if slices.Equal(m.Pix, next.Pix) {
			break
		}
		m = next
	}
	return one(Mask{m})
}
