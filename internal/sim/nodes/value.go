package nodes

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/media"
	"github.com/ahelme/comfyume/internal/sim/raster"
)

// Values that travel along links. Text is string, truth bool, numbers pyjson.Num, anything else that was written
// in a graph json.RawMessage, nothing nil; the rest are the types below. None is changed after it was returned.
type (
	// Pictures are an IMAGE.
	Pictures struct{ *raster.Image }
	// Mask is a MASK: a batch with one channel.
	Mask struct{ *raster.Image }
	// Sounds are an AUDIO: a batch of pieces of equal length.
	Sounds []*media.Sound
	// Latent is what a real sampler keeps in latent space. Here it is a picture eight times as large.
	Latent struct {
		Width, Height, Batch int           // in pixels
		Picture              *raster.Image // nil: empty
		NoiseMask            *raster.Image // nil: none
		Seconds              float64       // of audio; 0: pictures
	}
	// Model, CLIP and VAE are what loaders give. Name is the file, Patches what was done to it.
	Model struct{ Name, Patches string }
	// CLIP is a text encoder.
	CLIP struct{ Name, Patches string }
	// VAE translates between pixels and latents.
	VAE struct{ Name string }
	// Net is any other network: control nets, upscalers.
	Net struct{ Kind, Name string }
	// Conditioning is what prompts become.
	Conditioning struct {
		Text    string
		Details string
	}
	// Sampler, Sigmas, Noise and Guider are the parts of the custom samplers.
	Sampler struct{ Name string }
	// Sigmas are the steps of a schedule.
	Sigmas struct {
		Scheduler string
		Steps     int
		Denoise   float64
	}
	// Noise is the seed of a picture.
	Noise struct{ Seed uint64 }
	// Guider holds a model and what it is to follow.
	Guider struct {
		Model              *Model
		Positive, Negative *Conditioning
		CFG                float64
	}
)

// Literal is the value of an input that was written in a graph.
func Literal(raw json.RawMessage) any {
	switch pyjson.KindOf(raw) {
	case pyjson.String:
		return pyjson.TextOf(raw)
	case pyjson.Bool:
		return pyjson.Truthy(raw)
	case pyjson.Number:
		n, _ := pyjson.ParseNum(raw)
		return n
	case pyjson.Null, pyjson.None:
		return nil
	default:
		return raw
	}
}

// fits reports whether a value may stand in an input of that type. Words of types this package does not know, and
// choices, take everything.
func fits(typ string, v any) bool {
	ok := true
	switch typ {
	case "INT", "FLOAT":
		_, ok = v.(pyjson.Num)
		if b, isBool := v.(bool); isBool {
			_ = b
			ok = true // as in Python, where truth is a number
		}
	case "STRING":
		_, ok = v.(string)
	case "IMAGE":
		_, ok = v.(Pictures)
	case "MASK":
		_, ok = v.(Mask)
	case "LATENT":
		_, ok = v.(*Latent)
	case "AUDIO":
		_, ok = v.(Sounds)
	case "MODEL":
		_, ok = v.(*Model)
	case "CLIP":
		_, ok = v.(*CLIP)
	case "VAE":
		_, ok = v.(*VAE)
	case "CONDITIONING":
		_, ok = v.(*Conditioning)
	case "SAMPLER":
		_, ok = v.(*Sampler)
	case "SIGMAS":
		_, ok = v.(*Sigmas)
	case "NOISE":
		_, ok = v.(*Noise)
	case "GUIDER":
		_, ok = v.(*Guider)
	case "CONTROL_NET", "UPSCALE_MODEL":
		_, ok = v.(*Net)
	}
	return ok
}

// Format appends a value as an error report shows inputs: plain values as JSON, the rest as the text Python
// would print.
func Format(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case string:
		return pyjson.AppendString(dst, v)
	case bool:
		return appendBool(dst, v)
	case pyjson.Num:
		return append(dst, v.JSON()...)
	default:
		return pyjson.AppendString(dst, show(v))
	}
}

func show(v any) string {
	switch v := v.(type) {
	case json.RawMessage:
		return pyjson.Repr(v)
	case Pictures:
		return tensorText(v.Pix, v.N, v.H, v.W, v.C)
	case Mask:
		return tensorText(v.Pix, v.N, v.H, v.W)
	case *Latent:
		return "{'samples': <simulated latent of " + strconv.Itoa(v.Width) + " x " + strconv.Itoa(v.Height) + " pixels>}"
	case *Model:
		return "<simulated model " + v.Name + ">"
	case *CLIP:
		return "<simulated CLIP " + v.Name + ">"
	case *VAE:
		return "<simulated VAE " + v.Name + ">"
	case *Conditioning:
		return "<simulated conditioning>"
	default:
		return "<simulated object>"
	}
}

// tensorText prints numbers as tensors are printed: four decimals, and only the edges of what is large.
func tensorText(values []float32, dims ...int) string {
	total := 1
	for _, d := range dims {
		total *= d
	}
	edge := 0
	if total > 1000 {
		edge = 3
	}
	p := tensorPrinter{values: values, dims: dims, edge: edge}
	p.measure(0, 0)
	p.out.WriteString("tensor(")
	p.write(0, 0, len("tensor("))
	p.out.WriteString(")")
	return p.out.String()
}

type tensorPrinter struct {
	values []float32
	dims   []int
	edge   int
	width  int
	whole  bool // all shown numbers are whole
	out    strings.Builder
}

func (p *tensorPrinter) text(v float32) string {
	if p.whole {
		return strconv.FormatFloat(float64(v), 'f', 0, 32) + "."
	}
	return strconv.FormatFloat(float64(v), 'f', 4, 32)
}

// each calls f for the positions along a dimension that are shown; gap is true before what is left out.
func (p *tensorPrinter) each(dim int, f func(i int, gap bool)) {
	n := p.dims[dim]
	for i := range n {
		if p.edge > 0 && n > 2*p.edge && i >= p.edge && i < n-p.edge {
			if i == p.edge {
				f(i, true)
			}
			continue
		}
		f(i, false)
	}
}

func (p *tensorPrinter) measure(dim, at int) {
	if dim == 0 {
		p.whole = true
		p.shown(0, 0, func(v float32) { p.whole = p.whole && v == float32(math.Trunc(float64(v))) })
	}
	p.shown(dim, at, func(v float32) { p.width = max(p.width, len(p.text(v))) })
}

func (p *tensorPrinter) shown(dim, at int, f func(float32)) {
	p.each(dim, func(i int, gap bool) {
		switch {
		case gap:
		case dim == len(p.dims)-1:
			f(p.values[at*p.dims[dim]+i])
		default:
			p.shown(dim+1, at*p.dims[dim]+i, f)
		}
	})
}

func (p *tensorPrinter) write(dim, at, indent int) {
	p.out.WriteByte('[')
	last := dim == len(p.dims)-1
	first := true
	p.each(dim, func(i int, gap bool) {
		if !first {
			p.out.WriteByte(',')
			if last {
				p.out.WriteByte(' ')
			} else {
				p.out.WriteString(strings.Repeat("\n", len(p.dims)-1-dim))
				p.out.WriteString(strings.Repeat(" ", indent+1))
			}
		}
		first = false
		switch {
		case gap && last:
			p.out.WriteString(" ...")
		case gap:
			p.out.WriteString("...")
		case last:
			s := p.text(p.values[at*p.dims[dim]+i])
			p.out.WriteString(strings.Repeat(" ", p.width-len(s)) + s)
		default:
			p.write(dim+1, at*p.dims[dim]+i, indent+1)
		}
	})
	p.out.WriteByte(']')
}
