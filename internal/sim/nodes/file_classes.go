package nodes

// fileClasses describes the file nodes.
var fileClasses = []*Class{
	{
		Name: "LoadImage", Display: "Load Image", Category: "image", Module: "nodes",
		Inputs: []Input{
			{Name: "image", Files: "image", Opts: `{"image_upload": true}`},
		},
		Outputs: []Output{{"IMAGE", ""}, {"MASK", ""}},
		Run:     runLoadImage, Changed: contentHash("image"), File: "image", Missing: "Invalid image file: ",
	},
	{
		Name: "LoadImageMask", Display: "Load Image (as Mask)", Category: "mask", Module: "nodes",
		Inputs: []Input{
			{Name: "image", Files: "*", Opts: `{"image_upload": true}`},
			{Name: "channel", Options: []string{"alpha", "red", "green", "blue"}},
		},
		Outputs: []Output{{"MASK", ""}},
		Run:     runLoadImageMask, Changed: contentHash("image"), File: "image", Missing: "Invalid image file: ",
	},
	{
		Name: "LoadImageOutput", Display: "Load Image (from Outputs)", Category: "image", Module: "nodes", Experimental: true,
		Inputs: []Input{
			{Name: "image", Type: "COMBO", Opts: `{"image_folder": "output", "image_upload": true, "remote": {"control_after_refresh": "first", "refresh_button": true, "route": "/internal/files/output"}}`},
		},
		Outputs: []Output{{"IMAGE", ""}, {"MASK", ""}},
		Run:     runLoadImageOutput, Changed: contentHash("image"), File: "image", Missing: "Invalid image file: ",
	},
	{
		Name: "SaveImage", Display: "Save Image", Category: "image", Module: "nodes", OutputNode: true,
		Inputs: []Input{
			{Name: "images", Type: "IMAGE", Opts: `{}`},
			{Name: "filename_prefix", Type: "STRING", Opts: `{"default": "ComfyUI"}`},
			{Name: "prompt", Group: hidden, Type: "PROMPT"},
			{Name: "extra_pnginfo", Group: hidden, Type: "EXTRA_PNGINFO"},
		},
		Run: runSaveImage,
	},
	{
		Name: "PreviewImage", Display: "Preview Image", Category: "image", Module: "nodes", OutputNode: true,
		Inputs: []Input{
			{Name: "images", Type: "IMAGE"},
			{Name: "prompt", Group: hidden, Type: "PROMPT"},
			{Name: "extra_pnginfo", Group: hidden, Type: "EXTRA_PNGINFO"},
		},
		Run: runPreviewImage,
	},
	{
		Name: "MaskPreview", Category: "mask", Module: "comfy_extras.nodes_mask", OutputNode: true,
		Inputs: []Input{
			{Name: "mask", Type: "MASK"},
			{Name: "prompt", Group: hidden, Type: "PROMPT"},
			{Name: "extra_pnginfo", Group: hidden, Type: "EXTRA_PNGINFO"},
		},
		Run: runMaskPreview,
	},
	{
		Name: "SaveAnimatedWEBP", Category: "image/animation", Module: "comfy_extras.nodes_images", OutputNode: true,
		Inputs: []Input{
			{Name: "images", Type: "IMAGE"},
			{Name: "filename_prefix", Type: "STRING", Opts: `{"default": "ComfyUI"}`},
			{Name: "fps", Type: "FLOAT", Opts: `{"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}`},
			{Name: "lossless", Type: "BOOLEAN", Opts: `{"default": true}`},
			{Name: "quality", Type: "INT", Opts: `{"default": 80, "min": 0, "max": 100}`},
			{Name: "method", Options: []string{"default", "fastest", "slowest"}},
			{Name: "prompt", Group: hidden, Type: "PROMPT"},
			{Name: "extra_pnginfo", Group: hidden, Type: "EXTRA_PNGINFO"},
		},
		Run: runSaveAnimatedWEBP,
	},
	{
		Name: "SaveAnimatedPNG", Category: "image/animation", Module: "comfy_extras.nodes_images", OutputNode: true,
		Inputs: []Input{
			{Name: "images", Type: "IMAGE"},
			{Name: "filename_prefix", Type: "STRING", Opts: `{"default": "ComfyUI"}`},
			{Name: "fps", Type: "FLOAT", Opts: `{"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}`},
			{Name: "compress_level", Type: "INT", Opts: `{"default": 4, "min": 0, "max": 9}`},
			{Name: "prompt", Group: hidden, Type: "PROMPT"},
			{Name: "extra_pnginfo", Group: hidden, Type: "EXTRA_PNGINFO"},
		},
		Run: runSaveAnimatedPNG,
	},
	{
		Name: "SaveImageWebsocket", Category: "api/image", Module: "custom_nodes.websocket_image_save", OutputNode: true,
		Inputs: []Input{
			{Name: "images", Type: "IMAGE"},
		},
		Run: runSaveImageWebsocket, Changed: timeStamp,
	},
	{
		Name: "EmptyAudio", Display: "Empty Audio", Category: "audio", Module: "comfy_extras.nodes_audio",
		Inputs: []Input{
			{Name: "duration", Type: "FLOAT", Opts: `{"default": 60.0, "min": 0.0, "max": 18446744073709551615, "step": 0.01}`},
			{Name: "sample_rate", Type: "INT", Opts: `{"default": 44100}`},
			{Name: "channels", Type: "INT", Opts: `{"default": 2, "min": 1, "max": 2}`},
		},
		Outputs: []Output{{"AUDIO", ""}},
		Run:     runEmptyAudio,
	},
	{
		Name: "LoadAudio", Display: "Load Audio", Category: "audio", Module: "comfy_extras.nodes_audio",
		Inputs: []Input{
			{Name: "audio", Files: "audio,video", Opts: `{"audio_upload": true}`},
		},
		Outputs: []Output{{"AUDIO", ""}},
		Run:     runLoadAudio, Changed: contentHash("audio"), File: "audio", Missing: "Invalid audio file: ",
	},
	{
		Name: "SaveAudio", Display: "Save Audio (FLAC)", Category: "audio", Module: "comfy_extras.nodes_audio", OutputNode: true,
		Inputs: []Input{
			{Name: "audio", Type: "AUDIO"},
			{Name: "filename_prefix", Type: "STRING", Opts: `{"default": "audio/ComfyUI"}`},
			{Name: "prompt", Group: hidden, Type: "PROMPT"},
			{Name: "extra_pnginfo", Group: hidden, Type: "EXTRA_PNGINFO"},
		},
		Run: runSaveAudio,
	},
	{
		Name: "PreviewAudio", Display: "Preview Audio", Category: "audio", Module: "comfy_extras.nodes_audio", OutputNode: true,
		Inputs: []Input{
			{Name: "audio", Type: "AUDIO"},
			{Name: "prompt", Group: hidden, Type: "PROMPT"},
			{Name: "extra_pnginfo", Group: hidden, Type: "EXTRA_PNGINFO"},
		},
		Run: runPreviewAudio,
	},
}
