package nodes

import "github.com/ahelme/comfyume/internal/sim/raster"

// encode makes conditioning of a text, or fails as the real encoder does when the checkpoint has none.
func encode(c *Call, text string) ([]any, error) {
	clip := arg[*CLIP](c, "clip")
	return one(&Conditioning{Text: text, Details: clip.Name + " " + clip.Patches})
}

func runCLIPTextEncode(c *Call) ([]any, error) { return encode(c, c.Text("text")) }

func runCLIPTextEncodeFlux(c *Call) ([]any, error) {
	text := c.Text("t5xxl")
	if l := c.Text("clip_l"); l != text {
		text = l + " " + text
	}
	out, err := encode(c, text)
	return detail(out, err, "guidance "+c.Num("guidance").String())
}

func runCLIPTextEncodeSDXL(c *Call) ([]any, error) {
	text := c.Text("text_g")
	if l := c.Text("text_l"); l != text {
		text += " " + l
	}
	return encode(c, text)
}

func runCLIPTextEncodeSD3(c *Call) ([]any, error) {
	text := c.Text("clip_l")
	for _, name := range []string{"clip_g", "t5xxl"} {
		if t := c.Text(name); t != text && t != "" {
			text += " " + t
		}
	}
	return encode(c, text)
}

// detail adds to the only result what else shapes the picture.
func detail(out []any, err error, how string) ([]any, error) {
	if err != nil {
		return nil, err
	}
	was, ok := out[0].(*Conditioning)
	if !ok {
		return out, nil
	}
	return one(&Conditioning{Text: was.Text, Details: was.Details + "; " + how})
}

// joined makes conditioning that follows both texts.
func joined(a, b *Conditioning, how string) *Conditioning {
	return &Conditioning{Text: a.Text + " / " + b.Text, Details: a.Details + "; " + b.Details + "; " + how}
}

func runConditioningCombine(c *Call) ([]any, error) {
	return one(joined(arg[*Conditioning](c, "conditioning_1"), arg[*Conditioning](c, "conditioning_2"), "combine"))
}

func runConditioningConcat(c *Call) ([]any, error) {
	return one(joined(arg[*Conditioning](c, "conditioning_to"), arg[*Conditioning](c, "conditioning_from"), "concat"))
}

func runConditioningAverage(c *Call) ([]any, error) {
	return one(joined(arg[*Conditioning](c, "conditioning_to"), arg[*Conditioning](c, "conditioning_from"),
		"average "+c.Num("conditioning_to_strength").String()))
}

func runConditioningZeroOut(c *Call) ([]any, error) {
	was := arg[*Conditioning](c, "conditioning")
	return one(&Conditioning{Details: was.Details + "; zero"})
}

// runCondition stands for nodes that add settings to one conditioning.
func runCondition(c *Call) ([]any, error) {
	how := c.Class.Name
	var was *Conditioning
	for _, in := range c.Class.Inputs {
		switch v := c.Args[in.Name].(type) {
		case *Conditioning:
			was = v
		case nil:
		default:
			how += " " + plainText(v)
		}
	}
	return one(&Conditioning{Text: was.Text, Details: was.Details + "; " + how})
}

// run… of the nodes that add settings.
var (
	runConditioningSetArea           = runCondition
	runConditioningSetAreaPercentage = runCondition
	runConditioningSetAreaStrength   = runCondition
	runConditioningSetMask           = runCondition
	runConditioningSetTimestepRange  = runCondition
	runFluxGuidance                  = runCondition
	runFluxDisableGuidance           = runCondition
	runReferenceLatent               = runCondition
	runControlNetApply               = runCondition
)

func runControlNetApplyAdvanced(c *Call) ([]any, error) {
	net := arg[*Net](c, "control_net")
	how := "control " + net.Name + " " + c.Num("strength").String()
	out := make([]any, 2)
	for i, name := range []string{"positive", "negative"} {
		was := arg[*Conditioning](c, name)
		out[i] = &Conditioning{Text: was.Text, Details: was.Details + "; " + how}
	}
	return out, nil
}

func runInpaintModelConditioning(c *Call) ([]any, error) {
	latent, err := encoded(c, c.Image("pixels"))
	if err != nil {
		return nil, err
	}
	mask, err := c.scaled(c.Mask("mask"), latent.Width, latent.Height, raster.Bilinear, false)
	if err != nil {
		return nil, err
	}
	if c.Bool("noise_mask") {
		latent.NoiseMask = mask
	}
	return []any{arg[*Conditioning](c, "positive"), arg[*Conditioning](c, "negative"), latent}, nil
}
