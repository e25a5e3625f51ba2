package nodes

import "strconv"

func runCheckpointLoaderSimple(c *Call) ([]any, error) {
	name := c.Text("ckpt_name")
	if err := c.Host.Load(c.Ctx, name); err != nil {
		return nil, err
	}
	return []any{&Model{Name: name}, &CLIP{Name: name}, &VAE{Name: name}}, nil
}

func runUNETLoader(c *Call) ([]any, error) {
	name := c.Text("unet_name")
	if err := c.Host.Load(c.Ctx, name); err != nil {
		return nil, err
	}
	return one(&Model{Name: name, Patches: c.Text("weight_dtype")})
}

func runVAELoader(c *Call) ([]any, error) {
	return one(&VAE{Name: c.Text("vae_name")})
}

// loadCLIP loads the text encoders named by the given inputs as one.
func loadCLIP(c *Call, inputs ...string) ([]any, error) {
	clip := &CLIP{Patches: c.Text("type")}
	for i, in := range inputs {
		name := c.Text(in)
		if err := c.Host.Load(c.Ctx, name); err != nil {
			return nil, err
		}
		if i > 0 {
			clip.Name += "+"
		}
		clip.Name += name
	}
	return one(clip)
}

func runCLIPLoader(c *Call) ([]any, error)     { return loadCLIP(c, "clip_name") }
func runDualCLIPLoader(c *Call) ([]any, error) { return loadCLIP(c, "clip_name1", "clip_name2") }
func runTripleCLIPLoader(c *Call) ([]any, error) {
	return loadCLIP(c, "clip_name1", "clip_name2", "clip_name3")
}

func runQuadrupleCLIPLoader(c *Call) ([]any, error) {
	return loadCLIP(c, "clip_name1", "clip_name2", "clip_name3", "clip_name4")
}

// patched returns the model with something done to it.
func patched(m *Model, how string) *Model {
	return &Model{Name: m.Name, Patches: m.Patches + " " + how}
}

func strength(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func runLoraLoader(c *Call) ([]any, error) {
	m, clip, name := arg[*Model](c, "model"), arg[*CLIP](c, "clip"), c.Text("lora_name")
	sm, sc := c.Float("strength_model"), c.Float("strength_clip")
	if sm == 0 && sc == 0 {
		return []any{m, clip}, nil
	}
	return []any{
		patched(m, name+" "+strength(sm)),
		&CLIP{Name: clip.Name, Patches: clip.Patches + " " + name + " " + strength(sc)},
	}, nil
}

func runLoraLoaderModelOnly(c *Call) ([]any, error) {
	m := arg[*Model](c, "model")
	if s := c.Float("strength_model"); s != 0 {
		m = patched(m, c.Text("lora_name")+" "+strength(s))
	}
	return one(m)
}

func runImageOnlyCheckpointLoader(c *Call) ([]any, error) {
	name := c.Text("ckpt_name")
	if err := c.Host.Load(c.Ctx, name); err != nil {
		return nil, err
	}
	return []any{&Model{Name: name}, &Net{Kind: "clip_vision", Name: name}, &VAE{Name: name}}, nil
}

func runStyleModelLoader(c *Call) ([]any, error) {
	return one(&Net{Kind: "style", Name: c.Text("style_model_name")})
}

func runGLIGENLoader(c *Call) ([]any, error) {
	return one(&Net{Kind: "gligen", Name: c.Text("gligen_name")})
}

func runControlNetLoader(c *Call) ([]any, error) {
	return one(&Net{Kind: "control", Name: c.Text("control_net_name")})
}

func runUpscaleModelLoader(c *Call) ([]any, error) {
	return one(&Net{Kind: "upscale", Name: c.Text("model_name")})
}

func runCLIPSetLastLayer(c *Call) ([]any, error) {
	clip := arg[*CLIP](c, "clip")
	return one(&CLIP{Name: clip.Name, Patches: clip.Patches + " layer " + c.Num("stop_at_clip_layer").String()})
}

func runT5TokenizerOptions(c *Call) ([]any, error) {
	clip := arg[*CLIP](c, "clip")
	return one(&CLIP{Name: clip.Name, Patches: clip.Patches + " " + c.Num("min_padding").String() + " " + c.Num("min_length").String()})
}

// runPatch stands for every node that only changes how a model is sampled: what it was given is part of the
// picture, and that is all.
func runPatch(c *Call) ([]any, error) {
	how := c.Class.Name
	for _, in := range c.Class.Inputs {
		if v, ok := c.Args[in.Name]; ok && in.Type != "MODEL" {
			how += " " + plainText(v)
		}
	}
	return one(patched(arg[*Model](c, "model"), how))
}

// run… of the nodes that only change a model.
var (
	runModelSamplingAuraFlow = runPatch
	runModelSamplingSD3      = runPatch
	runModelSamplingFlux     = runPatch
	runModelSamplingDiscrete = runPatch
	runDifferentialDiffusion = runPatch
	runRescaleCFG            = runPatch
	runFreeU_V2              = runPatch
	runCFGNorm               = runPatch
)
