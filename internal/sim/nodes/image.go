package nodes

import (
	"fmt"
	"math"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/raster"
)

func runEmptyImage(c *Call) ([]any, error) {
	n, h, w, colour := c.Int("batch_size"), c.Int("height"), c.Int("width"), c.Int("color")
	if err := c.room(n, h, w, 3); err != nil {
		return nil, err
	}
	part := func(shift int) float32 { return float32(float64(colour>>shift&0xff) / 255) }
	return picture(raster.Filled(n, h, w, part(16), part(8), part(0)))
}

// scaled returns m at w × h, or the failure of sizes nobody can scale to.
func (c *Call) scaled(m *raster.Image, w, h int, method string, center bool) (*raster.Image, error) {
	if w < 1 || h < 1 || m.W < 1 || m.H < 1 {
		return nil, Raise("RuntimeError", "Input and output sizes should be greater than 0, but got input (H: %d, W: %d) output (H: %d, W: %d)",
			m.H, m.W, h, w)
	}
	if err := c.room(m.N, h, w, m.C); err != nil {
		return nil, err
	}
	return m.Scale(w, h, method, center), nil
}

func (c *Call) scaleTo(m *raster.Image, w, h int, method string, center bool) ([]any, error) {
	out, err := c.scaled(m, w, h, method, center)
	if err != nil {
		return nil, err
	}
	return picture(out)
}

func runImageScale(c *Call) ([]any, error) {
	m, w, h := c.Image("image"), c.Int("width"), c.Int("height")
	switch {
	case w == 0 && h == 0:
		return picture(m)
	case w == 0:
		w = max(1, raster.Round(float64(m.W)*float64(h)/float64(m.H)))
	case h == 0:
		h = max(1, raster.Round(float64(m.H)*float64(w)/float64(m.W)))
	}
	return c.scaleTo(m, w, h, c.Text("upscale_method"), c.Text("crop") == "center")
}

func runImageScaleBy(c *Call) ([]any, error) {
	m, by := c.Image("image"), c.Float("scale_by")
	return c.scaleTo(m, raster.Round(float64(m.W)*by), raster.Round(float64(m.H)*by), c.Text("upscale_method"), false)
}

func runImageScaleToTotalPixels(c *Call) ([]any, error) {
	m := c.Image("image")
	total := math.Trunc(c.Float("megapixels") * 1024 * 1024)
	by := math.Sqrt(total / float64(m.W*m.H))
	return c.scaleTo(m, raster.Round(float64(m.W)*by), raster.Round(float64(m.H)*by), c.Text("upscale_method"), false)
}

func runImageScaleToMaxDimension(c *Call) ([]any, error) {
	m, largest := c.Image("image"), c.Int("largest_size")
	w, h := largest, largest
	switch {
	case m.H > m.W:
		w = raster.Round(float64(m.W) / float64(m.H) * float64(largest))
	case m.W > m.H:
		h = raster.Round(float64(m.H) / float64(m.W) * float64(largest))
	}
	return c.scaleTo(m, w, h, c.Text("upscale_method"), false)
}

// kontextSizes are the sizes the Kontext model was trained on.
var kontextSizes = [][2]int{
	{672, 1568},
	{688, 1504},
	{720, 1456},
	{752, 1392},
	{800, 1328},
	{832, 1248},
	{880, 1184},
	{944, 1104},
	{1024, 1024},
	{1104, 944},
	{1184, 880},
	{1248, 832},
	{1328, 800},
	{1392, 752},
	{1456, 720},
	{1504, 688},
	{1568, 672},
}

func runFluxKontextImageScale(c *Call) ([]any, error) {
	m := c.Image("image")
	aspect := float64(m.W) / float64(m.H)
	best := kontextSizes[0]
	for _, s := range kontextSizes {
		if math.Abs(aspect-float64(s[0])/float64(s[1])) < math.Abs(aspect-float64(best[0])/float64(best[1])) {
			best = s
		}
	}
	return c.scaleTo(m, best[0], best[1], raster.Lanczos, true)
}

func runImageUpscaleWithModel(c *Call) ([]any, error) {
	net, m := arg[*Net](c, "upscale_model"), c.Image("image")
	if err := c.Host.Load(c.Ctx, net.Name); err != nil {
		return nil, err
	}
	if err := c.steps(1, nil); err != nil {
		return nil, err
	}
	return c.scaleTo(m, 4*m.W, 4*m.H, raster.Bicubic, false)
}

func runImageCrop(c *Call) ([]any, error) {
	m := c.Image("image")
	return picture(m.Crop(min(c.Int("x"), m.W-1), min(c.Int("y"), m.H-1), c.Int("width"), c.Int("height")))
}

func runImageInvert(c *Call) ([]any, error) {
	return picture(c.Image("image").Map(func(v float32) float32 { return 1 - v }))
}

// sameChannels drops the alpha channel of the second picture when the first has none. The other way round the
// real nodes fail, and so do these.
func sameChannels(a, b *raster.Image) (*raster.Image, *raster.Image, error) {
	if a.C > b.C {
		return nil, nil, Raise("RuntimeError",
			"The size of tensor a (%d) must match the size of tensor b (%d) at non-singleton dimension 3", a.C+1, b.C)
	}
	return a, b.WithChannels(a.C, 1), nil
}

func runImageBlend(c *Call) ([]any, error) {
	a, b, err := sameChannels(c.Image("image1"), c.Image("image2"))
	if err != nil {
		return nil, err
	}
	if !a.SameShape(b) {
		scaled, err := c.scaled(b, a.W, a.H, raster.Bicubic, true)
		if err != nil {
			return nil, err
		}
		b = scaled
	}
	if a, b, err = sameBatch(a, b); err != nil {
		return nil, err
	}
	out, err := raster.Blend(a, b, c.Float("blend_factor"), c.Text("blend_mode"))
	if err != nil {
		return nil, Raise("ValueError", "Unsupported blend mode: %s", c.Text("blend_mode"))
	}
	return picture(out)
}

// sameBatch repeats a single picture to go with a batch; other unequal batches do not fit each other.
func sameBatch(a, b *raster.Image) (*raster.Image, *raster.Image, error) {
	switch {
	case a.N == b.N:
	case a.N == 1:
		a = a.RepeatTo(b.N)
	case b.N == 1:
		b = b.RepeatTo(a.N)
	default:
		return nil, nil, Raise("RuntimeError",
			"The size of tensor a (%d) must match the size of tensor b (%d) at non-singleton dimension 0", a.N, b.N)
	}
	return a, b, nil
}

func runImageBatch(c *Call) ([]any, error) {
	a, b := c.Image("image1"), c.Image("image2")
	if a.W != b.W || a.H != b.H || a.C != b.C {
		scaled, err := c.scaled(b, a.W, a.H, raster.Bilinear, true)
		if err != nil {
			return nil, err
		}
		b = scaled
	}
	if a.C != b.C {
		return nil, Raise("RuntimeError", "Sizes of tensors must match except in dimension 0. Expected size %d but got size %d for tensor number 1 in the list.", a.C, b.C)
	}
	if err := c.room(a.N+b.N, a.H, a.W, a.C); err != nil {
		return nil, err
	}
	return picture(raster.Concat(a, b))
}

// convolved applies a kernel; pictures that are not larger than its radius can't be mirrored at their edges.
func convolved(m *raster.Image, kernel []float32, radius int) (*raster.Image, error) {
	if m.W <= radius || m.H <= radius {
		return nil, Raise("RuntimeError", "Argument #4: Padding size should be less than the corresponding input dimension, but got: padding (%d, %d) at dimension 3 of input [%d, %d, %d, %d]",
			radius, radius, m.N, m.C, m.H, m.W)
	}
	return m.Convolve(kernel, radius), nil
}

func runImageBlur(c *Call) ([]any, error) {
	radius := c.Int("blur_radius")
	out, err := convolved(c.Image("image"), raster.GaussianKernel(radius, c.Float("sigma")), radius)
	if err != nil {
		return nil, err
	}
	return picture(out)
}

func runImageSharpen(c *Call) ([]any, error) {
	radius := c.Int("sharpen_radius")
	out, err := convolved(c.Image("image"), raster.SharpenKernel(radius, c.Float("sigma"), c.Float("alpha")), radius)
	if err != nil {
		return nil, err
	}
	return picture(out.Clamp())
}

func runImagePadForOutpaint(c *Call) ([]any, error) {
	m := c.Image("image")
	left, top, right, bottom := c.Int("left"), c.Int("top"), c.Int("right"), c.Int("bottom")
	w, h := m.W+left+right, m.H+top+bottom
	if err := c.room(m.N, h, w, m.C); err != nil {
		return nil, err
	}
	out := raster.New(m.N, h, w, m.C).Map(func(float32) float32 { return 0.5 })
	out.Paste(m, left, top)
	mask := raster.Filled(1, h, w, 1)
	inner := raster.New(1, m.H, m.W, 1)
	if f := c.Int("feathering"); f > 0 && f*2 < m.H && f*2 < m.W {
		far := max(m.W, m.H)
		dist := func(at, size, before, after int) int {
			d := far
			if before != 0 {
				d = min(d, at)
			}
			if after != 0 {
				d = min(d, size-at)
			}
			return d
		}
		for y := range m.H {
			dy := dist(y, m.H, top, bottom)
			for x := range m.W {
				if d := min(dy, dist(x, m.W, left, right), m.W, m.H); d < f {
					v := float64(f-d) / float64(f)
					inner.Pix[y*m.W+x] = float32(v * v)
				}
			}
		}
	}
	mask.Paste(inner, left, top)
	return []any{Pictures{out}, Mask{mask}}, nil
}

func runImageCompositeMasked(c *Call) ([]any, error) {
	destination, source, err := sameChannels(c.Image("destination"), c.Image("source"))
	if err != nil {
		return nil, err
	}
	return picture(raster.Composite(destination, source, c.Int("x"), c.Int("y"), c.Mask("mask"), c.Bool("resize_source")))
}

func runRepeatImageBatch(c *Call) ([]any, error) {
	m := c.Image("image")
	if err := c.room(m.N*c.Int("amount"), m.H, m.W, m.C); err != nil {
		return nil, err
	}
	return picture(m.RepeatTo(m.N * c.Int("amount")))
}

func runImageFromBatch(c *Call) ([]any, error) {
	m := c.Image("image")
	first := min(m.N-1, c.Int("batch_index"))
	return picture(m.Frames(first, first+min(m.N-first, c.Int("length"))))
}

func runImageRotate(c *Call) ([]any, error) {
	turns := map[string]int{"90 degrees": 1, "180 degrees": 2, "270 degrees": 3}[c.Text("rotation")]
	return picture(c.Image("image").Rotate(turns))
}

func runImageFlip(c *Call) ([]any, error) {
	if c.Text("flip_method") == "x-axis: vertically" {
		return picture(c.Image("image").FlipY())
	}
	return picture(c.Image("image").FlipX())
}

func runResizeAndPadImage(c *Call) ([]any, error) {
	m, w, h := c.Image("image"), c.Int("target_width"), c.Int("target_height")
	by := min(float64(w)/float64(m.W), float64(h)/float64(m.H))
	inner, err := c.scaled(m, int(float64(m.W)*by), int(float64(m.H)*by), c.Text("interpolation"), false)
	if err != nil {
		return nil, err
	}
	if err := c.room(m.N, h, w, m.C); err != nil {
		return nil, err
	}
	out := raster.New(m.N, h, w, m.C)
	if c.Text("padding_color") == "white" {
		out = out.Map(func(float32) float32 { return 1 })
	}
	out.Paste(inner, (w-inner.W)/2, (h-inner.H)/2)
	return picture(out)
}

func runGetImageSize(c *Call) ([]any, error) {
	m := c.Image("image")
	c.Host.SendText(c.Node, fmt.Sprintf("width: %d, height: %d\n batch size: %d", m.W, m.H, m.N))
	return []any{pyjson.IntNum(int64(m.W)), pyjson.IntNum(int64(m.H)), pyjson.IntNum(int64(m.N))}, nil
}
