package nodes

import (
	"math"

	"github.com/ahelme/comfyume/internal/sim/media"
	"github.com/ahelme/comfyume/internal/sim/raster"
)

// grid is how many pixels one step in latent space covers.
const grid = 8

func runEmptyLatentImage(c *Call) ([]any, error) {
	w, h, n := c.Int("width")/grid*grid, c.Int("height")/grid*grid, c.Int("batch_size")
	if err := c.room(n, h, w, 3); err != nil {
		return nil, err
	}
	return one(&Latent{Width: w, Height: h, Batch: n})
}

var runEmptySD3LatentImage = runEmptyLatentImage

// gray is what an empty latent looks like.
const gray = 0.5

// pixels returns the picture of a latent.
func (l *Latent) pixels() *raster.Image {
	if l.Picture != nil {
		return l.Picture
	}
	return raster.Filled(l.Batch, l.Height, l.Width, gray, gray, gray)
}

// with returns the latent with another picture, its size taken from it.
func (l *Latent) with(m *raster.Image) *Latent {
	return &Latent{Width: m.W, Height: m.H, Batch: m.N, Picture: m, NoiseMask: l.NoiseMask}
}

func runVAEDecode(c *Call) ([]any, error) {
	l := arg[*Latent](c, "samples")
	if l.Seconds > 0 {
		return nil, Raise("RuntimeError", "Given groups=1, expected input to have 4 dimensions, but got an audio latent")
	}
	return picture(l.pixels())
}

var runVAEDecodeTiled = runVAEDecode

// encoded is a picture as a latent, its sides cut to the grid around the middle.
func encoded(c *Call, m *raster.Image) (*Latent, error) {
	w, h := m.W/grid*grid, m.H/grid*grid
	if w == 0 || h == 0 {
		return nil, Raise("RuntimeError", "the picture is smaller than %d pixels a side", grid)
	}
	m = m.Crop(m.W%grid/2, m.H%grid/2, w, h).WithChannels(3, 1)
	return &Latent{Width: w, Height: h, Batch: m.N, Picture: m}, nil
}

func runVAEEncode(c *Call) ([]any, error) {
	l, err := encoded(c, c.Image("pixels"))
	if err != nil {
		return nil, err
	}
	return one(l)
}

var runVAEEncodeTiled = runVAEEncode

func runVAEEncodeForInpaint(c *Call) ([]any, error) {
	l, err := encoded(c, c.Image("pixels"))
	if err != nil {
		return nil, err
	}
	if l.NoiseMask, err = c.scaled(c.Mask("mask"), l.Width, l.Height, raster.Bilinear, false); err != nil {
		return nil, err
	}
	return one(l)
}

func (c *Call) latentTo(l *Latent, w, h int, center bool) ([]any, error) {
	w, h = max(grid, w/grid*grid), max(grid, h/grid*grid)
	if err := c.room(l.Batch, h, w, 3); err != nil {
		return nil, err
	}
	if l.Picture == nil {
		return one(&Latent{Width: w, Height: h, Batch: l.Batch})
	}
	return one(l.with(l.Picture.Scale(w, h, c.Text("upscale_method"), center)))
}

func runLatentUpscale(c *Call) ([]any, error) {
	l, w, h := arg[*Latent](c, "samples"), c.Int("width"), c.Int("height")
	switch {
	case w == 0 && h == 0:
		return one(l)
	case w == 0:
		w = max(64, raster.Round(float64(l.Width)*float64(h)/float64(l.Height)))
	case h == 0:
		h = max(64, raster.Round(float64(l.Height)*float64(w)/float64(l.Width)))
	}
	return c.latentTo(l, w, h, c.Text("crop") == "center")
}

func runLatentUpscaleBy(c *Call) ([]any, error) {
	l, by := arg[*Latent](c, "samples"), c.Float("scale_by")
	side := func(n int) int { return raster.Round(float64(n/grid)*by) * grid }
	return c.latentTo(l, side(l.Width), side(l.Height), false)
}

func runLatentFromBatch(c *Call) ([]any, error) {
	l := arg[*Latent](c, "samples")
	first := min(l.Batch-1, c.Int("batch_index"))
	n := min(l.Batch-first, c.Int("length"))
	if l.Picture == nil {
		return one(&Latent{Width: l.Width, Height: l.Height, Batch: n, NoiseMask: l.NoiseMask, Seconds: l.Seconds})
	}
	return one(l.with(l.Picture.Frames(first, first+n)))
}

func runRepeatLatentBatch(c *Call) ([]any, error) {
	l := arg[*Latent](c, "samples")
	n := l.Batch * c.Int("amount")
	if err := c.room(n, l.Height, l.Width, 3); err != nil {
		return nil, err
	}
	if l.Picture == nil {
		return one(&Latent{Width: l.Width, Height: l.Height, Batch: n, NoiseMask: l.NoiseMask, Seconds: l.Seconds})
	}
	return one(l.with(l.Picture.RepeatTo(n)))
}

func runLatentBatch(c *Call) ([]any, error) {
	a, b := arg[*Latent](c, "samples1"), arg[*Latent](c, "samples2")
	if err := c.room(a.Batch+b.Batch, a.Height, a.Width, 3); err != nil {
		return nil, err
	}
	if a.Picture == nil && b.Picture == nil {
		return one(&Latent{Width: a.Width, Height: a.Height, Batch: a.Batch + b.Batch})
	}
	second := b.pixels()
	if b.Width != a.Width || b.Height != a.Height {
		second = second.Scale(a.Width, a.Height, raster.Bilinear, true)
	}
	return one(a.with(raster.Concat(a.pixels(), second)))
}

func runSetLatentNoiseMask(c *Call) ([]any, error) {
	l := *arg[*Latent](c, "samples")
	mask, err := c.scaled(c.Mask("mask"), l.Width, l.Height, raster.Bilinear, false)
	if err != nil {
		return nil, err
	}
	l.NoiseMask = mask
	return one(&l)
}

func runLatentFlip(c *Call) ([]any, error) {
	l := arg[*Latent](c, "samples")
	if c.Text("flip_method") == "x-axis: vertically" {
		return one(l.with(l.pixels().FlipY()))
	}
	return one(l.with(l.pixels().FlipX()))
}

func runLatentRotate(c *Call) ([]any, error) {
	l := arg[*Latent](c, "samples")
	turns := map[string]int{"90 degrees": 1, "180 degrees": 2, "270 degrees": 3}[c.Text("rotation")]
	return one(l.with(l.pixels().Rotate(turns)))
}

func runLatentCrop(c *Call) ([]any, error) {
	l := arg[*Latent](c, "samples")
	on := func(v int) int { return v / grid * grid }
	x, y := min(on(c.Int("x")), l.Width-grid), min(on(c.Int("y")), l.Height-grid)
	return one(l.with(l.pixels().Crop(x, y, on(c.Int("width")), on(c.Int("height")))))
}

func runLatentComposite(c *Call) ([]any, error) {
	to, from := arg[*Latent](c, "samples_to"), arg[*Latent](c, "samples_from")
	x, y, f := c.Int("x")/grid*grid, c.Int("y")/grid*grid, c.Int("feather")/grid*grid
	source := from.pixels()
	var mask *raster.Image
	if f > 0 {
		mask = raster.Filled(1, source.H, source.W, 1)
		for r := range source.H {
			for k := range source.W {
				d := min(r+1, k+1, source.H-r, source.W-k)
				mask.Pix[r*source.W+k] = float32(math.Min(1, float64(d)/float64(f)))
			}
		}
	}
	return one(to.with(raster.Composite(to.pixels(), source, x, y, mask, false)))
}

func runLatentBlend(c *Call) ([]any, error) {
	a, b := arg[*Latent](c, "samples1"), arg[*Latent](c, "samples2")
	second := b.pixels()
	if b.Width != a.Width || b.Height != a.Height {
		second = second.Scale(a.Width, a.Height, raster.Bicubic, true)
	}
	first, second, err := sameBatch(a.pixels(), second)
	if err != nil {
		return nil, err
	}
	out, err := raster.Blend(second, first, c.Float("blend_factor"), "normal")
	if err != nil {
		return nil, err
	}
	return one(a.with(out))
}

func runEmptyLatentAudio(c *Call) ([]any, error) {
	n, seconds := c.Int("batch_size"), c.Float("seconds")
	if err := c.room(n, 2, int(seconds*44100), 1); err != nil {
		return nil, err
	}
	return one(&Latent{Batch: n, Seconds: seconds})
}

// runVAEDecodeAudio makes a chord: simulated audio is heard to be simulated.
func runVAEDecodeAudio(c *Call) ([]any, error) {
	l := arg[*Latent](c, "samples")
	if l.Seconds <= 0 {
		return nil, Raise("RuntimeError", "the latent is no audio latent")
	}
	const rate = 44100
	length := int(l.Seconds * rate)
	sounds := make(Sounds, l.Batch)
	for i := range sounds {
		samples := make([]float32, length)
		for t := range samples {
			at := 2 * math.Pi * float64(t) / rate
			fade := math.Min(1, math.Min(float64(t), float64(length-t))/(rate/20))
			samples[t] = float32(0.2 * fade * (math.Sin(220*at) + math.Sin(277.18*at) + math.Sin(329.63*at)))
		}
		sounds[i] = &media.Sound{Rate: rate, Channels: [][]float32{samples, samples}}
	}
	return one(sounds)
}
