package nodes

import (
	"fmt"
	"image"
	"math"
	"strconv"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/media"
	"github.com/ahelme/comfyume/internal/sim/raster"
)

// sampling is one run of a sampler.
type sampling struct {
	model              *Model
	positive, negative *Conditioning
	latent             *Latent
	seed               uint64
	settings           string
	steps, from, to    int     // of steps, only from…to are done
	denoise            float64 // how much of the picture is new
}

// unsigned is a seed's 64 bits.
func unsigned(n pyjson.Num) uint64 {
	u, err := strconv.ParseUint(n.String(), 10, 64)
	if err != nil {
		i, _ := n.Int64()
		return uint64(i)
	}
	return u
}

func runKSampler(c *Call) ([]any, error) {
	steps := c.Int("steps")
	return c.sample(sampling{
		model: arg[*Model](c, "model"), positive: arg[*Conditioning](c, "positive"),
		negative: arg[*Conditioning](c, "negative"), latent: arg[*Latent](c, "latent_image"),
		seed: unsigned(c.Num("seed")), steps: steps, to: steps, denoise: c.Float("denoise"),
		settings: c.Num("cfg").String() + " " + c.Text("sampler_name") + " " + c.Text("scheduler"),
	})
}

func runKSamplerAdvanced(c *Call) ([]any, error) {
	steps := c.Int("steps")
	s := sampling{
		model: arg[*Model](c, "model"), positive: arg[*Conditioning](c, "positive"),
		negative: arg[*Conditioning](c, "negative"), latent: arg[*Latent](c, "latent_image"),
		seed: unsigned(c.Num("noise_seed")), steps: steps, from: min(c.Int("start_at_step"), steps),
		to: min(c.Int("end_at_step"), steps), denoise: 1,
		settings: c.Num("cfg").String() + " " + c.Text("sampler_name") + " " + c.Text("scheduler"),
	}
	if s.from > 0 || c.Text("add_noise") == "disable" {
		s.denoise = 1 - float64(s.from)/float64(steps)
	}
	return c.sample(s)
}

func runSamplerCustom(c *Call) ([]any, error) {
	sigmas := arg[*Sigmas](c, "sigmas")
	out, err := c.sample(sampling{
		model: arg[*Model](c, "model"), positive: arg[*Conditioning](c, "positive"),
		negative: arg[*Conditioning](c, "negative"), latent: arg[*Latent](c, "latent_image"),
		seed: unsigned(c.Num("noise_seed")), steps: sigmas.Steps, to: sigmas.Steps, denoise: sigmas.Denoise,
		settings: c.Num("cfg").String() + " " + arg[*Sampler](c, "sampler").Name + " " + sigmas.Scheduler,
	})
	return twice(out), err
}

func runSamplerCustomAdvanced(c *Call) ([]any, error) {
	sigmas, guider := arg[*Sigmas](c, "sigmas"), arg[*Guider](c, "guider")
	out, err := c.sample(sampling{
		model: guider.Model, positive: guider.Positive, negative: guider.Negative,
		latent: arg[*Latent](c, "latent_image"), seed: arg[*Noise](c, "noise").Seed,
		steps: sigmas.Steps, to: sigmas.Steps, denoise: sigmas.Denoise,
		settings: strength(guider.CFG) + " " + arg[*Sampler](c, "sampler").Name + " " + sigmas.Scheduler,
	})
	return twice(out), err
}

// twice gives the only result for both outputs.
func twice(out []any) []any {
	if len(out) == 0 {
		return nil
	}
	return []any{out[0], out[0]}
}

func runKSamplerSelect(c *Call) ([]any, error) { return one(&Sampler{Name: c.Text("sampler_name")}) }

func runBasicScheduler(c *Call) ([]any, error) {
	denoise := c.Float("denoise")
	return one(&Sigmas{Scheduler: c.Text("scheduler"), Steps: c.Int("steps"), Denoise: denoise})
}

func runKarrasScheduler(c *Call) ([]any, error) {
	return one(&Sigmas{Scheduler: "karras", Steps: c.Int("steps"), Denoise: 1})
}

func runSDTurboScheduler(c *Call) ([]any, error) {
	return one(&Sigmas{Scheduler: "turbo", Steps: c.Int("steps"), Denoise: c.Float("denoise")})
}

func runRandomNoise(c *Call) ([]any, error) { return one(&Noise{Seed: unsigned(c.Num("noise_seed"))}) }

func runDisableNoise(*Call) ([]any, error) { return one(&Noise{}) }

func runBasicGuider(c *Call) ([]any, error) {
	return one(&Guider{
		Model: arg[*Model](c, "model"), Positive: arg[*Conditioning](c, "conditioning"),
		Negative: &Conditioning{}, CFG: 1,
	})
}

func runCFGGuider(c *Call) ([]any, error) {
	return one(&Guider{
		Model: arg[*Model](c, "model"), Positive: arg[*Conditioning](c, "positive"),
		Negative: arg[*Conditioning](c, "negative"), CFG: c.Float("cfg"),
	})
}

// sample takes the steps and paints the picture.
func (c *Call) sample(s sampling) ([]any, error) {
	l := s.latent
	if err := c.Host.Load(c.Ctx, s.model.Name); err != nil {
		return nil, err
	}
	if l.Seconds > 0 {
		if err := c.steps(s.to-s.from, nil); err != nil {
			return nil, err
		}
		return one(l)
	}
	// Half-precision activations of a network of some hundred channels, as a rule of thumb.
	if err := c.Host.Fits(raster.Size(l.Batch, l.Height/grid, l.Width/grid, 320*2*16)); err != nil {
		return nil, err
	}
	details := fmt.Sprint(s.model.Name, s.model.Patches, s.positive.Details, s.negative.Text, s.negative.Details, s.settings, s.steps)
	art := raster.New(0, l.Height, l.Width, 3)
	for i := range l.Batch {
		art = raster.Concat(art, paint(l.Width, l.Height, s.seed+uint64(i), s.positive.Text, details))
	}
	out := art
	if l.Picture != nil {
		mask := raster.Filled(1, l.Height, l.Width, float32(math.Max(0, math.Min(1, s.denoise))))
		if l.NoiseMask != nil {
			for i := range mask.Pix {
				mask.Pix[i] *= l.NoiseMask.Pix[i]
			}
		}
		out = raster.Composite(l.Picture, art, 0, 0, mask, false)
	}
	if err := c.steps(s.to-s.from, out.Frames(0, 1)); err != nil {
		return nil, err
	}
	for i := range out.N {
		sign(out.Frames(i, i+1), s.positive.Text, s.seed+uint64(i))
	}
	return one(l.with(out))
}

// previewSide is the side previews are brought to.
const previewSide = 512

// steps takes n steps. With a picture it shows it coming out of noise.
func (c *Call) steps(n int, picture *raster.Image) error {
	var small *raster.Image
	if picture != nil && c.Host.Previews() {
		small = picture.Scale(max(1, picture.W/grid), max(1, picture.H/grid), raster.Area, false)
	}
	for i := range n {
		if err := c.Host.Sleep(c.Ctx, c.Host.StepTime()); err != nil {
			return err
		}
		var p *Preview
		if small != nil {
			p = &Preview{Max: previewSide}
			if c.Host.Watched() {
				p.Picture = emerging(small, float64(i+1)/float64(n), uint64(i))
			}
		}
		if err := c.Host.Progress(c.Node, i+1, n, p); err != nil {
			return err
		}
	}
	return nil
}

// emerging mixes a picture with noise.
func emerging(m *raster.Image, done float64, seed uint64) image.Image {
	h := hashed(seed)
	keep := float32(done)
	return media.RGBA8(m.Map(func(v float32) float32 {
		h = hashed(h)
		return float32(v*keep) + float32(float32(h>>40)/(1<<24)*(1-keep))
	}), 0)
}
