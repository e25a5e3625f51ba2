package nodes

// conditioningClasses describes the conditioning nodes.
var conditioningClasses = []*Class{
	{
		Name: "CLIPTextEncode", Display: "CLIP Text Encode (Prompt)", Category: "conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "text", Type: "STRING", Opts: `{"dynamicPrompts": true, "multiline": true}`},
			{Name: "clip", Type: "CLIP", Opts: `{}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runCLIPTextEncode,
	},
	{
		Name: "CLIPTextEncodeFlux", Schema: true, Category: "advanced/conditioning/flux", Module: "comfy_extras.nodes_flux",
		Inputs: []Input{
			{Name: "clip", Type: "CLIP"},
			{Name: "clip_l", Type: "STRING", Opts: `{"dynamicPrompts": true, "multiline": true}`},
			{Name: "t5xxl", Type: "STRING", Opts: `{"dynamicPrompts": true, "multiline": true}`},
			{Name: "guidance", Type: "FLOAT", Opts: `{"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runCLIPTextEncodeFlux,
	},
	{
		Name: "CLIPTextEncodeSDXL", Schema: true, Category: "advanced/conditioning", Module: "comfy_extras.nodes_clip_sdxl",
		Inputs: []Input{
			{Name: "clip", Type: "CLIP"},
			{Name: "width", Type: "INT", Opts: `{"default": 1024, "min": 0, "max": 16384}`},
			{Name: "height", Type: "INT", Opts: `{"default": 1024, "min": 0, "max": 16384}`},
			{Name: "crop_w", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384}`},
			{Name: "crop_h", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384}`},
			{Name: "target_width", Type: "INT", Opts: `{"default": 1024, "min": 0, "max": 16384}`},
			{Name: "target_height", Type: "INT", Opts: `{"default": 1024, "min": 0, "max": 16384}`},
			{Name: "text_g", Type: "STRING", Opts: `{"dynamicPrompts": true, "multiline": true}`},
			{Name: "text_l", Type: "STRING", Opts: `{"dynamicPrompts": true, "multiline": true}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runCLIPTextEncodeSDXL,
	},
	{
		Name: "CLIPTextEncodeSD3", Schema: true, Category: "advanced/conditioning", Module: "comfy_extras.nodes_sd3",
		Inputs: []Input{
			{Name: "clip", Type: "CLIP"},
			{Name: "clip_l", Type: "STRING", Opts: `{"dynamicPrompts": true, "multiline": true}`},
			{Name: "clip_g", Type: "STRING", Opts: `{"dynamicPrompts": true, "multiline": true}`},
			{Name: "t5xxl", Type: "STRING", Opts: `{"dynamicPrompts": true, "multiline": true}`},
			{Name: "empty_padding", Type: "COMBO", Options: []string{"none", "empty_prompt"}, Opts: `{"multiselect": false}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runCLIPTextEncodeSD3,
	},
	{
		Name: "ConditioningCombine", Display: "Conditioning (Combine)", Category: "conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "conditioning_1", Type: "CONDITIONING"},
			{Name: "conditioning_2", Type: "CONDITIONING"},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runConditioningCombine,
	},
	{
		Name: "ConditioningConcat", Display: "Conditioning (Concat)", Category: "conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "conditioning_to", Type: "CONDITIONING"},
			{Name: "conditioning_from", Type: "CONDITIONING"},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runConditioningConcat,
	},
	{
		Name: "ConditioningAverage", Category: "conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "conditioning_to", Type: "CONDITIONING"},
			{Name: "conditioning_from", Type: "CONDITIONING"},
			{Name: "conditioning_to_strength", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runConditioningAverage,
	},
	{
		Name: "ConditioningSetArea", Display: "Conditioning (Set Area)", Category: "conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "conditioning", Type: "CONDITIONING"},
			{Name: "width", Type: "INT", Opts: `{"default": 64, "min": 64, "max": 16384, "step": 8}`},
			{Name: "height", Type: "INT", Opts: `{"default": 64, "min": 64, "max": 16384, "step": 8}`},
			{Name: "x", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
			{Name: "y", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
			{Name: "strength", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runConditioningSetArea,
	},
	{
		Name: "ConditioningSetAreaPercentage", Display: "Conditioning (Set Area with Percentage)", Category: "conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "conditioning", Type: "CONDITIONING"},
			{Name: "width", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0, "max": 1.0, "step": 0.01}`},
			{Name: "height", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0, "max": 1.0, "step": 0.01}`},
			{Name: "x", Type: "FLOAT", Opts: `{"default": 0, "min": 0, "max": 1.0, "step": 0.01}`},
			{Name: "y", Type: "FLOAT", Opts: `{"default": 0, "min": 0, "max": 1.0, "step": 0.01}`},
			{Name: "strength", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runConditioningSetAreaPercentage,
	},
	{
		Name: "ConditioningSetAreaStrength", Category: "conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "conditioning", Type: "CONDITIONING"},
			{Name: "strength", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runConditioningSetAreaStrength,
	},
	{
		Name: "ConditioningSetMask", Display: "Conditioning (Set Mask)", Category: "conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "conditioning", Type: "CONDITIONING"},
			{Name: "mask", Type: "MASK"},
			{Name: "strength", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}`},
			{Name: "set_cond_area", Options: []string{"default", "mask bounds"}},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runConditioningSetMask,
	},
	{
		Name: "ConditioningSetTimestepRange", Category: "advanced/conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "conditioning", Type: "CONDITIONING"},
			{Name: "start", Type: "FLOAT", Opts: `{"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.001}`},
			{Name: "end", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.001}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runConditioningSetTimestepRange,
	},
	{
		Name: "ConditioningZeroOut", Category: "advanced/conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "conditioning", Type: "CONDITIONING"},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runConditioningZeroOut,
	},
	{
		Name: "FluxGuidance", Schema: true, Category: "advanced/conditioning/flux", Module: "comfy_extras.nodes_flux",
		Inputs: []Input{
			{Name: "conditioning", Type: "CONDITIONING"},
			{Name: "guidance", Type: "FLOAT", Opts: `{"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runFluxGuidance,
	},
	{
		Name: "FluxDisableGuidance", Schema: true, Category: "advanced/conditioning/flux", Module: "comfy_extras.nodes_flux",
		Inputs: []Input{
			{Name: "conditioning", Type: "CONDITIONING"},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runFluxDisableGuidance,
	},
	{
		Name: "ReferenceLatent", Schema: true, Category: "advanced/conditioning/edit_models", Module: "comfy_extras.nodes_edit_model",
		Inputs: []Input{
			{Name: "conditioning", Type: "CONDITIONING"},
			{Name: "latent", Group: optional, Type: "LATENT"},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runReferenceLatent,
	},
	{
		Name: "InpaintModelConditioning", Category: "conditioning/inpaint", Module: "nodes",
		Inputs: []Input{
			{Name: "positive", Type: "CONDITIONING"},
			{Name: "negative", Type: "CONDITIONING"},
			{Name: "vae", Type: "VAE"},
			{Name: "pixels", Type: "IMAGE"},
			{Name: "mask", Type: "MASK"},
			{Name: "noise_mask", Type: "BOOLEAN", Opts: `{"default": true}`},
		},
		Outputs: []Output{{"CONDITIONING", "positive"}, {"CONDITIONING", "negative"}, {"LATENT", "latent"}},
		Run:     runInpaintModelConditioning,
	},
	{
		Name: "ControlNetApply", Display: "Apply ControlNet (OLD)", Category: "conditioning/controlnet", Module: "nodes", Deprecated: true,
		Inputs: []Input{
			{Name: "conditioning", Type: "CONDITIONING"},
			{Name: "control_net", Type: "CONTROL_NET"},
			{Name: "image", Type: "IMAGE"},
			{Name: "strength", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}`},
		},
		Outputs: []Output{{"CONDITIONING", ""}},
		Run:     runControlNetApply,
	},
	{
		Name: "ControlNetApplyAdvanced", Display: "Apply ControlNet", Category: "conditioning/controlnet", Module: "nodes",
		Inputs: []Input{
			{Name: "positive", Type: "CONDITIONING"},
			{Name: "negative", Type: "CONDITIONING"},
			{Name: "control_net", Type: "CONTROL_NET"},
			{Name: "image", Type: "IMAGE"},
			{Name: "strength", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}`},
			{Name: "start_percent", Type: "FLOAT", Opts: `{"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.001}`},
			{Name: "end_percent", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.001}`},
			{Name: "vae", Group: optional, Type: "VAE"},
		},
		Outputs: []Output{{"CONDITIONING", "positive"}, {"CONDITIONING", "negative"}},
		Run:     runControlNetApplyAdvanced,
	},
}
