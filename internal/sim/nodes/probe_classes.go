package nodes

// probeClasses describes the probe nodes.
var probeClasses = []*Class{
	{
		Name: "ProbeSlow", Category: "probe", Module: "custom_nodes.probe_nodes",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "steps", Type: "INT", Opts: `{"default": 5, "min": 1, "max": 1000}`},
			{Name: "seconds", Type: "FLOAT", Opts: `{"default": 0.2, "min": 0.0, "max": 60.0}`},
			{Name: "preview", Type: "BOOLEAN", Opts: `{"default": false}`},
			{Name: "unique_id", Group: hidden, Type: "UNIQUE_ID"},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runProbeSlow,
	},
	{
		Name: "ProbeFail", Category: "probe", Module: "custom_nodes.probe_nodes",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
			{Name: "message", Type: "STRING", Opts: `{"default": "boom"}`},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runProbeFail,
	},
	{
		Name: "ProbeOOM", Category: "probe", Module: "custom_nodes.probe_nodes",
		Inputs: []Input{
			{Name: "image", Type: "IMAGE"},
		},
		Outputs: []Output{{"IMAGE", ""}},
		Run:     runProbeOOM,
	},
	{
		Name: "ProbeText", Category: "probe", Module: "custom_nodes.probe_nodes", OutputNode: true,
		Inputs: []Input{
			{Name: "text", Type: "STRING", Opts: `{"default": "hello", "multiline": true}`},
		},
		Outputs: []Output{{"STRING", ""}},
		Run:     runProbeText,
	},
}
