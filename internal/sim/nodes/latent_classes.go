package nodes

// latentClasses describes the latent nodes.
var latentClasses = []*Class{
	{
		Name: "EmptyLatentImage", Display: "Empty Latent Image", Category: "latent", Module: "nodes",
		Inputs: []Input{
			{Name: "width", Type: "INT", Opts: `{"default": 512, "min": 16, "max": 16384, "step": 8}`},
			{Name: "height", Type: "INT", Opts: `{"default": 512, "min": 16, "max": 16384, "step": 8}`},
			{Name: "batch_size", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 4096}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runEmptyLatentImage,
	},
	{
		Name: "EmptySD3LatentImage", Schema: true, Category: "latent/sd3", Module: "comfy_extras.nodes_sd3",
		Inputs: []Input{
			{Name: "width", Type: "INT", Opts: `{"default": 1024, "min": 16, "max": 16384, "step": 16}`},
			{Name: "height", Type: "INT", Opts: `{"default": 1024, "min": 16, "max": 16384, "step": 16}`},
			{Name: "batch_size", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 4096}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runEmptySD3LatentImage,
	},
	{
		Name: "VAEDecode", Display: "VAE Decode", Category: "latent", Module: "nodes",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT", Opts: `{}`},
			{Name: "vae", Type: "VAE", Opts: `{}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runVAEDecode,
	},
	{
		Name: "VAEDecodeTiled", Display: "VAE Decode (Tiled)", Category: "_for_testing", Module: "nodes",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT"},
			{Name: "vae", Type: "VAE"},
			{Name: "tile_size", Type: "INT", Opts: `{"default": 512, "min": 64, "max": 4096, "step": 32}`},
			{Name: "overlap", Type: "INT", Opts: `{"default": 64, "min": 0, "max": 4096, "step": 32}`},
			{Name: "temporal_size", Type: "INT", Opts: `{"default": 64, "min": 8, "max": 4096, "step": 4}`},
			{Name: "temporal_overlap", Type: "INT", Opts: `{"default": 8, "min": 4, "max": 4096, "step": 4}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runVAEDecodeTiled,
	},
	{
		Name: "VAEEncode", Display: "VAE Encode", Category: "latent", Module: "nodes",
		Inputs: []Input{
			{Name: "pixels", Type: "IMAGE"},
			{Name: "vae", Type: "VAE"},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runVAEEncode,
	},
	{
		Name: "VAEEncodeTiled", Display: "VAE Encode (Tiled)", Category: "_for_testing", Module: "nodes",
		Inputs: []Input{
			{Name: "pixels", Type: "IMAGE"},
			{Name: "vae", Type: "VAE"},
			{Name: "tile_size", Type: "INT", Opts: `{"default": 512, "min": 64, "max": 4096, "step": 64}`},
			{Name: "overlap", Type: "INT", Opts: `{"default": 64, "min": 0, "max": 4096, "step": 32}`},
			{Name: "temporal_size", Type: "INT", Opts: `{"default": 64, "min": 8, "max": 4096, "step": 4}`},
			{Name: "temporal_overlap", Type: "INT", Opts: `{"default": 8, "min": 4, "max": 4096, "step": 4}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runVAEEncodeTiled,
	},
	{
		Name: "VAEEncodeForInpaint", Display: "VAE Encode (for Inpainting)", Category: "latent/inpaint", Module: "nodes",
		Inputs: []Input{
			{Name: "pixels", Type: "IMAGE"},
			{Name: "vae", Type: "VAE"},
			{Name: "mask", Type: "MASK"},
			{Name: "grow_mask_by", Type: "INT", Opts: `{"default": 6, "min": 0, "max": 64, "step": 1}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runVAEEncodeForInpaint,
	},
	{
		Name: "LatentUpscale", Display: "Upscale Latent", Category: "latent", Module: "nodes",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT"},
			{Name: "upscale_method", Options: latentMethods},
			{Name: "width", Type: "INT", Opts: `{"default": 512, "min": 0, "max": 16384, "step": 8}`},
			{Name: "height", Type: "INT", Opts: `{"default": 512, "min": 0, "max": 16384, "step": 8}`},
			{Name: "crop", Options: cropMethods},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runLatentUpscale,
	},
	{
		Name: "LatentUpscaleBy", Display: "Upscale Latent By", Category: "latent", Module: "nodes",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT"},
			{Name: "upscale_method", Options: latentMethods},
			{Name: "scale_by", Type: "FLOAT", Opts: `{"default": 1.5, "min": 0.01, "max": 8.0, "step": 0.01}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runLatentUpscaleBy,
	},
	{
		Name: "LatentFromBatch", Display: "Latent From Batch", Category: "latent/batch", Module: "nodes",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT"},
			{Name: "batch_index", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 63}`},
			{Name: "length", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 64}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runLatentFromBatch,
	},
	{
		Name: "RepeatLatentBatch", Display: "Repeat Latent Batch", Category: "latent/batch", Module: "nodes",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT"},
			{Name: "amount", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 64}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runRepeatLatentBatch,
	},
	{
		Name: "LatentBatch", Schema: true, Category: "latent/batch", Module: "comfy_extras.nodes_latent",
		Inputs: []Input{
			{Name: "samples1", Type: "LATENT"},
			{Name: "samples2", Type: "LATENT"},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runLatentBatch,
	},
	{
		Name: "SetLatentNoiseMask", Display: "Set Latent Noise Mask", Category: "latent/inpaint", Module: "nodes",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT"},
			{Name: "mask", Type: "MASK"},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runSetLatentNoiseMask,
	},
	{
		Name: "LatentFlip", Display: "Flip Latent", Category: "latent/transform", Module: "nodes",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT"},
			{Name: "flip_method", Options: []string{"x-axis: vertically", "y-axis: horizontally"}},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runLatentFlip,
	},
	{
		Name: "LatentRotate", Display: "Rotate Latent", Category: "latent/transform", Module: "nodes",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT"},
			{Name: "rotation", Options: []string{"none", "90 degrees", "180 degrees", "270 degrees"}},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runLatentRotate,
	},
	{
		Name: "LatentCrop", Display: "Crop Latent", Category: "latent/transform", Module: "nodes",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT"},
			{Name: "width", Type: "INT", Opts: `{"default": 512, "min": 64, "max": 16384, "step": 8}`},
			{Name: "height", Type: "INT", Opts: `{"default": 512, "min": 64, "max": 16384, "step": 8}`},
			{Name: "x", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
			{Name: "y", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runLatentCrop,
	},
	{
		Name: "LatentComposite", Display: "Latent Composite", Category: "latent", Module: "nodes",
		Inputs: []Input{
			{Name: "samples_to", Type: "LATENT"},
			{Name: "samples_from", Type: "LATENT"},
			{Name: "x", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
			{Name: "y", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
			{Name: "feather", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runLatentComposite,
	},
	{
		Name: "LatentBlend", Display: "Latent Blend", Category: "_for_testing", Module: "nodes",
		Inputs: []Input{
			{Name: "samples1", Type: "LATENT"},
			{Name: "samples2", Type: "LATENT"},
			{Name: "blend_factor", Type: "FLOAT", Opts: `{"default": 0.5, "min": 0, "max": 1, "step": 0.01}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runLatentBlend,
	},
	{
		Name: "EmptyLatentAudio", Display: "Empty Latent Audio", Category: "latent/audio", Module: "comfy_extras.nodes_audio",
		Inputs: []Input{
			{Name: "seconds", Type: "FLOAT", Opts: `{"default": 47.6, "min": 1.0, "max": 1000.0, "step": 0.1}`},
			{Name: "batch_size", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 4096}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runEmptyLatentAudio,
	},
	{
		Name: "VAEDecodeAudio", Display: "VAE Decode Audio", Category: "latent/audio", Module: "comfy_extras.nodes_audio",
		Inputs: []Input{
			{Name: "samples", Type: "LATENT"},
			{Name: "vae", Type: "VAE"},
		},
		Outputs: []Output{{"AUDIO", ""}},
		Run:     runVAEDecodeAudio, Simulated: true,
	},
}
