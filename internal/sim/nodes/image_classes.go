package nodes

// imageClasses describes the image nodes.
var imageClasses = []*Class{
	{
		Name: "EmptyImage", Category: "image", Module: "nodes",
		Inputs: []Input{
			{Name: "width", Type: "INT", Opts: `{"default": 512, "min": 1, "max": 16384, "step": 1}`},
			{Name: "height", Type: "INT", Opts: `{"default": 512, "min": 1, "max": 16384, "step": 1}`},
			{Name: "batch_size", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 4096}`},
			{Name: "color", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16777215, "step": 1, "display": "color"}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runEmptyImage,
	},
	{
		Name: "ImageScale", Display: "Upscale Image", Category: "image/upscaling", Module: "nodes",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "upscale_method", Options: upscaleMethods},
			{Name: "width", Type: "INT", Opts: `{"default": 512, "min": 0, "max": 16384, "step": 1}`},
			{Name: "height", Type: "INT", Opts: `{"default": 512, "min": 0, "max": 16384, "step": 1}`},
			{Name: "crop", Options: cropMethods},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageScale,
	},
	{
		Name: "ImageScaleBy", Display: "Upscale Image By", Category: "image/upscaling", Module: "nodes",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "upscale_method", Options: upscaleMethods},
			{Name: "scale_by", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageScaleBy,
	},
	{
		Name: "ImageScaleToTotalPixels", Schema: true, Category: "image/upscaling", Module: "comfy_extras.nodes_post_processing",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "upscale_method", Type: "COMBO", Options: upscaleMethods, Opts: `{"multiselect": false}`},
			{Name: "megapixels", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.01, "max": 16.0, "step": 0.01}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageScaleToTotalPixels,
	},
	{
		Name: "ImageScaleToMaxDimension", Category: "image/upscaling", Module: "comfy_extras.nodes_images",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "upscale_method", Options: []string{"area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"}},
			{Name: "largest_size", Type: "INT", Opts: `{"default": 512, "min": 0, "max": 16384, "step": 1}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageScaleToMaxDimension,
	},
	{
		Name: "ImageCrop", Display: "Image Crop", Category: "image/transform", Module: "comfy_extras.nodes_images",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "width", Type: "INT", Opts: `{"default": 512, "min": 1, "max": 16384, "step": 1}`},
			{Name: "height", Type: "INT", Opts: `{"default": 512, "min": 1, "max": 16384, "step": 1}`},
			{Name: "x", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
			{Name: "y", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageCrop,
	},
	{
		Name: "ImageInvert", Display: "Invert Image", Category: "image", Module: "nodes",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageInvert,
	},
	{
		Name: "ImageBlend", Schema: true, Category: "image/postprocessing", Module: "comfy_extras.nodes_post_processing",
		Inputs: []Input{
			{Name: "image1", Type: "IMAGE"},
			{Name: "image2", Type: "IMAGE"},
			{Name: "blend_factor", Type: "FLOAT", Opts: `{"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}`},
			{Name: "blend_mode", Type: "COMBO", Options: []string{"normal", "multiply", "screen", "overlay", "soft_light", "difference"}, Opts: `{"multiselect": false}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageBlend,
	},
	{
		Name: "ImageBatch", Display: "Batch Images", Category: "image", Module: "nodes",
		Inputs: []Input{
			{Name: "image1", Type: "IMAGE"},
			{Name: "image2", Type: "IMAGE"},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageBatch,
	},
	{
		Name: "ImageBlur", Schema: true, Category: "image/postprocessing", Module: "comfy_extras.nodes_post_processing",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "blur_radius", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 31, "step": 1}`},
			{Name: "sigma", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.1, "max": 10.0, "step": 0.1}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageBlur,
	},
	{
		Name: "ImageSharpen", Schema: true, Category: "image/postprocessing", Module: "comfy_extras.nodes_post_processing",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "sharpen_radius", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 31, "step": 1}`},
			{Name: "sigma", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.1, "max": 10.0, "step": 0.01}`},
			{Name: "alpha", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 5.0, "step": 0.01}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageSharpen,
	},
	{
		Name: "ImagePadForOutpaint", Display: "Pad Image for Outpainting", Category: "image", Module: "nodes",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "left", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
			{Name: "top", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
			{Name: "right", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
			{Name: "bottom", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 8}`},
			{Name: "feathering", Type: "INT", Opts: `{"default": 40, "min": 0, "max": 16384, "step": 1}`},
		},
		Outputs: []Output{{"IMAGE", ""}, {"MASK", ""}},
		Run:     runImagePadForOutpaint,
	},
	{
		Name: "ImageCompositeMasked", Category: "image", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "destination", Type: "IMAGE"},
			{Name: "source", Type: "IMAGE"},
			{Name: "x", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
			{Name: "y", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
			{Name: "resize_source", Type: "BOOLEAN", Opts: `{"default": false}`},
			{Name: "mask", Group: optional, Type: "MASK"},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageCompositeMasked,
	},
	{
		Name: "RepeatImageBatch", Category: "image/batch", Module: "comfy_extras.nodes_images",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "amount", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 4096}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runRepeatImageBatch,
	},
	{
		Name: "ImageFromBatch", Category: "image/batch", Module: "comfy_extras.nodes_images",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "batch_index", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 4095}`},
			{Name: "length", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 4096}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageFromBatch,
	},
	{
		Name: "ImageRotate", Category: "image/transform", Module: "comfy_extras.nodes_images",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "rotation", Options: []string{"none", "90 degrees", "180 degrees", "270 degrees"}},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageRotate,
	},
	{
		Name: "ImageFlip", Category: "image/transform", Module: "comfy_extras.nodes_images",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "flip_method", Options: []string{"x-axis: vertically", "y-axis: horizontally"}},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageFlip,
	},
	{
		Name: "ResizeAndPadImage", Category: "image/transform", Module: "comfy_extras.nodes_images",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "target_width", Type: "INT", Opts: `{"default": 512, "min": 1, "max": 16384, "step": 1}`},
			{Name: "target_height", Type: "INT", Opts: `{"default": 512, "min": 1, "max": 16384, "step": 1}`},
			{Name: "padding_color", Options: []string{"white", "black"}},
			{Name: "interpolation", Options: []string{"area", "bicubic", "nearest-exact", "bilinear", "lanczos"}},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runResizeAndPadImage,
	},
	{
		Name: "GetImageSize", Display: "Get Image Size", Category: "image", Module: "comfy_extras.nodes_images",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "unique_id", Group: hidden, Type: "UNIQUE_ID"},
		},
		Outputs: []Output{{"INT", "width"}, {"INT", "height"}, {"INT", "batch_size"}},
		Run:     runGetImageSize,
	},
	{
		Name: "ImageToMask", Display: "Convert Image to Mask", Category: "mask", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "channel", Options: []string{"red", "green", "blue", "alpha"}},
		},
		Outputs: []Output{{"MASK", ""}},
		Run:     runImageToMask,
	},
	{
		Name: "MaskToImage", Display: "Convert Mask to Image", Category: "mask", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "mask", Type: "MASK"},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runMaskToImage,
	},
	{
		Name: "ImageColorToMask", Category: "mask", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "color", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16777215, "step": 1, "display": "color"}`},
		},
		Outputs: []Output{{"MASK", ""}},
		Run:     runImageColorToMask,
	},
	{
		Name: "JoinImageWithAlpha", Display: "Join Image with Alpha", Schema: true, Category: "mask/compositing", Module: "comfy_extras.nodes_compositing",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "alpha", Type: "MASK"},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runJoinImageWithAlpha,
	},
	{
		Name: "SplitImageWithAlpha", Display: "Split Image with Alpha", Schema: true, Category: "mask/compositing", Module: "comfy_extras.nodes_compositing",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
		},
		Outputs: []Output{{"IMAGE", ""}, {"MASK", ""}},
		Run:     runSplitImageWithAlpha,
	},
	{
		Name: "FluxKontextImageScale", Schema: true, Category: "advanced/conditioning/flux", Module: "comfy_extras.nodes_flux",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runFluxKontextImageScale,
	},
	{
		Name: "ImageUpscaleWithModel", Display: "Upscale Image (using Model)", Schema: true, Category: "image/upscaling", Module: "comfy_extras.nodes_upscale_model",
		Inputs: []Input{
			{Name: "upscale_model", Type: "UPSCALE_MODEL"},
			{Name: "image", Type: "IMAGE"},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runImageUpscaleWithModel, Simulated: true,
	},
}
