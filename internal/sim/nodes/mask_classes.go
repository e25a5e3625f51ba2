package nodes

// maskClasses describes the mask nodes.
var maskClasses = []*Class{
	{
		Name: "SolidMask", Category: "mask", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "value", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}`},
			{Name: "width", Type: "INT", Opts: `{"default": 512, "min": 1, "max": 16384, "step": 1}`},
			{Name: "height", Type: "INT", Opts: `{"default": 512, "min": 1, "max": 16384, "step": 1}`},
		},
		Outputs: []Output{{"MASK", ""}},
		Run:     runSolidMask,
	},
	{
		Name: "InvertMask", Category: "mask", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "mask", Type: "MASK"},
		},
		Outputs: []Output{{"MASK", ""}},
		Run:     runInvertMask,
	},
	{
		Name: "CropMask", Category: "mask", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "mask", Type: "MASK"},
			{Name: "x", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
			{Name: "y", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
			{Name: "width", Type: "INT", Opts: `{"default": 512, "min": 1, "max": 16384, "step": 1}`},
			{Name: "height", Type: "INT", Opts: `{"default": 512, "min": 1, "max": 16384, "step": 1}`},
		},
		Outputs: []Output{{"MASK", ""}},
		Run:     runCropMask,
	},
	{
		Name: "MaskComposite", Category: "mask", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "destination", Type: "MASK"},
			{Name: "source", Type: "MASK"},
			{Name: "x", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
			{Name: "y", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
			{Name: "operation", Options: []string{"multiply", "add", "subtract", "and", "or", "xor"}},
		},
		Outputs: []Output{{"MASK", ""}},
		Run:     runMaskComposite,
	},
	{
		Name: "FeatherMask", Category: "mask", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "mask", Type: "MASK"},
			{Name: "left", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
			{Name: "top", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
			{Name: "right", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
			{Name: "bottom", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 16384, "step": 1}`},
		},
		Outputs: []Output{{"MASK", ""}},
		Run:     runFeatherMask,
	},
	{
		Name: "GrowMask", Category: "mask", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "mask", Type: "MASK"},
			{Name: "expand", Type: "INT", Opts: `{"default": 0, "min": -16384, "max": 16384, "step": 1}`},
			{Name: "tapered_corners", Type: "BOOLEAN", Opts: `{"default": true}`},
		},
		Outputs: []Output{{"MASK", ""}},
		Run:     runGrowMask,
	},
	{
		Name: "ThresholdMask", Category: "mask", Module: "comfy_extras.nodes_mask",
		Inputs: []Input{
			{Name: "mask", Type: "MASK"},
			{Name: "value", Type: "FLOAT", Opts: `{"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}`},
		},
		Outputs: []Output{{"MASK", ""}},
		Run:     runThresholdMask,
	},
}
