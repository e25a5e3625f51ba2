package nodes

// modelClasses describes the model nodes.
var modelClasses = []*Class{
	{
		Name: "CheckpointLoaderSimple", Display: "Load Checkpoint", Category: "loaders", Module: "nodes",
		Inputs: []Input{
			{Name: "ckpt_name", Folder: "checkpoints", Opts: `{}`},
		},
		Outputs: []Output{{"MODEL", ""}, {"CLIP", ""}, {"VAE", ""}},
		Run:     runCheckpointLoaderSimple,
	},
	{
		Name: "UNETLoader", Display: "Load Diffusion Model", Category: "advanced/loaders", Module: "nodes",
		Inputs: []Input{
			{Name: "unet_name", Folder: "diffusion_models"},
			{Name: "weight_dtype", Options: []string{"default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"}},
		},
		Outputs: []Output{{"MODEL", ""}},
		Run:     runUNETLoader,
	},
	{
		Name: "VAELoader", Display: "Load VAE", Category: "loaders", Module: "nodes",
		Inputs: []Input{
			{Name: "vae_name", Folder: "vae", Options: []string{"pixel_space"}},
		},
		Outputs: []Output{{"VAE", ""}},
		Run:     runVAELoader,
	},
	{
		Name: "CLIPLoader", Display: "Load CLIP", Category: "advanced/loaders", Module: "nodes",
		Inputs: []Input{
			{Name: "clip_name", Folder: "text_encoders"},
			{Name: "type", Options: []string{"stable_diffusion", "stable_cascade", "sd3", "stable_audio", "mochi", "ltxv", "pixart", "cosmos", "lumina2", "wan", "hidream", "chroma", "ace", "omnigen2", "qwen_image", "hunyuan_image"}},
			{Name: "device", Group: optional, Options: []string{"default", "cpu"}, Opts: `{"advanced": true}`},
		},
		Outputs: []Output{{"CLIP", ""}},
		Run:     runCLIPLoader,
	},
	{
		Name: "DualCLIPLoader", Category: "advanced/loaders", Module: "nodes",
		Inputs: []Input{
			{Name: "clip_name1", Folder: "text_encoders"},
			{Name: "clip_name2", Folder: "text_encoders"},
			{Name: "type", Options: []string{"sdxl", "sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image"}},
			{Name: "device", Group: optional, Options: []string{"default", "cpu"}, Opts: `{"advanced": true}`},
		},
		Outputs: []Output{{"CLIP", ""}},
		Run:     runDualCLIPLoader,
	},
	{
		Name: "TripleCLIPLoader", Schema: true, Category: "advanced/loaders", Module: "comfy_extras.nodes_sd3",
		Inputs: []Input{
			{Name: "clip_name1", Type: "COMBO", Folder: "text_encoders", Opts: `{"multiselect": false}`},
			{Name: "clip_name2", Type: "COMBO", Folder: "text_encoders", Opts: `{"multiselect": false}`},
			{Name: "clip_name3", Type: "COMBO", Folder: "text_encoders", Opts: `{"multiselect": false}`},
		},
		Outputs: []Output{{"CLIP", ""}},
		Run:     runTripleCLIPLoader,
	},
	{
		Name: "QuadrupleCLIPLoader", Schema: true, Category: "advanced/loaders", Module: "comfy_extras.nodes_hidream",
		Inputs: []Input{
			{Name: "clip_name1", Type: "COMBO", Folder: "text_encoders", Opts: `{"multiselect": false}`},
			{Name: "clip_name2", Type: "COMBO", Folder: "text_encoders", Opts: `{"multiselect": false}`},
			{Name: "clip_name3", Type: "COMBO", Folder: "text_encoders", Opts: `{"multiselect": false}`},
			{Name: "clip_name4", Type: "COMBO", Folder: "text_encoders", Opts: `{"multiselect": false}`},
		},
		Outputs: []Output{{"CLIP", ""}},
		Run:     runQuadrupleCLIPLoader,
	},
	{
		Name: "LoraLoader", Display: "Load LoRA", Category: "loaders", Module: "nodes",
		Inputs: []Input{
			{Name: "model", Type: "MODEL", Opts: `{}`},
			{Name: "clip", Type: "CLIP", Opts: `{}`},
			{Name: "lora_name", Folder: "loras", Opts: `{}`},
			{Name: "strength_model", Type: "FLOAT", Opts: `{"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}`},
			{Name: "strength_clip", Type: "FLOAT", Opts: `{"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}`},
		},
		Outputs: []Output{{"MODEL", ""}, {"CLIP", ""}},
		Run:     runLoraLoader,
	},
	{
		Name: "LoraLoaderModelOnly", Category: "loaders", Module: "nodes",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "lora_name", Folder: "loras"},
			{Name: "strength_model", Type: "FLOAT", Opts: `{"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}`},
		},
		Outputs: []Output{{"MODEL", ""}},
		Run:     runLoraLoaderModelOnly,
	},
	{
		Name: "ControlNetLoader", Display: "Load ControlNet Model", Category: "loaders", Module: "nodes",
		Inputs: []Input{
			{Name: "control_net_name", Folder: "controlnet"},
		},
		Outputs: []Output{{"CONTROL_NET", ""}},
		Run:     runControlNetLoader,
	},
	{
		Name: "ImageOnlyCheckpointLoader", Display: "Image Only Checkpoint Loader (img2vid model)", Category: "loaders/video_models",
		Module: "comfy_extras.nodes_video_model",
		Inputs: []Input{
			{Name: "ckpt_name", Folder: "checkpoints"},
		},
		Outputs: []Output{{"MODEL", ""}, {"CLIP_VISION", ""}, {"VAE", ""}},
		Run:     runImageOnlyCheckpointLoader,
	},
	{
		Name: "StyleModelLoader", Display: "Load Style Model", Category: "loaders", Module: "nodes",
		Inputs: []Input{
			{Name: "style_model_name", Folder: "style_models"},
		},
		Outputs: []Output{{"STYLE_MODEL", ""}},
		Run:     runStyleModelLoader,
	},
	{
		Name: "GLIGENLoader", Category: "loaders", Module: "nodes",
		Inputs: []Input{
			{Name: "gligen_name", Folder: "gligen"},
		},
		Outputs: []Output{{"GLIGEN", ""}},
		Run:     runGLIGENLoader,
	},
	{
		Name: "UpscaleModelLoader", Display: "Load Upscale Model", Schema: true, Category: "loaders", Module: "comfy_extras.nodes_upscale_model",
		Inputs: []Input{
			{Name: "model_name", Type: "COMBO", Folder: "upscale_models", Opts: `{"multiselect": false}`},
		},
		Outputs: []Output{{"UPSCALE_MODEL", ""}},
		Run:     runUpscaleModelLoader,
	},
	{
		Name: "CLIPSetLastLayer", Display: "CLIP Set Last Layer", Category: "conditioning", Module: "nodes",
		Inputs: []Input{
			{Name: "clip", Type: "CLIP"},
			{Name: "stop_at_clip_layer", Type: "INT", Opts: `{"default": -1, "min": -24, "max": -1, "step": 1}`},
		},
		Outputs: []Output{{"CLIP", ""}},
		Run:     runCLIPSetLastLayer,
	},
	{
		Name: "ModelSamplingAuraFlow", Category: "advanced/model", Module: "comfy_extras.nodes_model_advanced",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "shift", Type: "FLOAT", Opts: `{"default": 1.73, "min": 0.0, "max": 100.0, "step": 0.01}`},
		},
		Outputs: []Output{{"MODEL", ""}},
		Run:     runModelSamplingAuraFlow,
	},
	{
		Name: "ModelSamplingSD3", Category: "advanced/model", Module: "comfy_extras.nodes_model_advanced",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "shift", Type: "FLOAT", Opts: `{"default": 3.0, "min": 0.0, "max": 100.0, "step": 0.01}`},
		},
		Outputs: []Output{{"MODEL", ""}},
		Run:     runModelSamplingSD3,
	},
	{
		Name: "ModelSamplingFlux", Category: "advanced/model", Module: "comfy_extras.nodes_model_advanced",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "max_shift", Type: "FLOAT", Opts: `{"default": 1.15, "min": 0.0, "max": 100.0, "step": 0.01}`},
			{Name: "base_shift", Type: "FLOAT", Opts: `{"default": 0.5, "min": 0.0, "max": 100.0, "step": 0.01}`},
			{Name: "width", Type: "INT", Opts: `{"default": 1024, "min": 16, "max": 16384, "step": 8}`},
			{Name: "height", Type: "INT", Opts: `{"default": 1024, "min": 16, "max": 16384, "step": 8}`},
		},
		Outputs: []Output{{"MODEL", ""}},
		Run:     runModelSamplingFlux,
	},
	{
		Name: "ModelSamplingDiscrete", Category: "advanced/model", Module: "comfy_extras.nodes_model_advanced",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "sampling", Options: []string{"eps", "v_prediction", "lcm", "x0", "img_to_img"}},
			{Name: "zsnr", Type: "BOOLEAN", Opts: `{"default": false}`},
		},
		Outputs: []Output{{"MODEL", ""}},
		Run:     runModelSamplingDiscrete,
	},
	{
		Name: "DifferentialDiffusion", Display: "Differential Diffusion", Schema: true, Category: "_for_testing", Module: "comfy_extras.nodes_differential_diffusion", Experimental: true,
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "strength", Group: optional, Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}`},
		},
		Outputs: []Output{{"MODEL", ""}},
		Run:     runDifferentialDiffusion,
	},
	{
		Name: "RescaleCFG", Category: "advanced/model", Module: "comfy_extras.nodes_model_advanced",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "multiplier", Type: "FLOAT", Opts: `{"default": 0.7, "min": 0.0, "max": 1.0, "step": 0.01}`},
		},
		Outputs: []Output{{"MODEL", ""}},
		Run:     runRescaleCFG,
	},
	{
		Name: "FreeU_V2", Category: "model_patches/unet", Module: "comfy_extras.nodes_freelunch",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "b1", Type: "FLOAT", Opts: `{"default": 1.3, "min": 0.0, "max": 10.0, "step": 0.01}`},
			{Name: "b2", Type: "FLOAT", Opts: `{"default": 1.4, "min": 0.0, "max": 10.0, "step": 0.01}`},
			{Name: "s1", Type: "FLOAT", Opts: `{"default": 0.9, "min": 0.0, "max": 10.0, "step": 0.01}`},
			{Name: "s2", Type: "FLOAT", Opts: `{"default": 0.2, "min": 0.0, "max": 10.0, "step": 0.01}`},
		},
		Outputs: []Output{{"MODEL", ""}},
		Run:     runFreeU_V2,
	},
	{
		Name: "CFGNorm", Schema: true, Category: "advanced/guidance", Module: "comfy_extras.nodes_cfg", Experimental: true,
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "strength", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.01}`},
		},
		Outputs: []Output{{"MODEL", "patched_model"}},
		Run:     runCFGNorm,
	},
	{
		Name: "T5TokenizerOptions", Schema: true, Category: "_for_testing/conditioning", Module: "comfy_extras.nodes_cond", Experimental: true,
		Inputs: []Input{
			{Name: "clip", Type: "CLIP"},
			{Name: "min_padding", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 10000, "step": 1}`},
			{Name: "min_length", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 10000, "step": 1}`},
		},
		Outputs: []Output{{"CLIP", ""}},
		Run:     runT5TokenizerOptions,
	},
}
