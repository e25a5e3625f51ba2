package nodes

// samplerClasses describes the sampler nodes.
var samplerClasses = []*Class{
	{
		Name: "KSampler", Category: "sampling", Module: "nodes",
		Inputs: []Input{
			{Name: "model", Type: "MODEL", Opts: `{}`},
			{Name: "seed", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 18446744073709551615, "control_after_generate": true}`},
			{Name: "steps", Type: "INT", Opts: `{"default": 20, "min": 1, "max": 10000}`},
			{Name: "cfg", Type: "FLOAT", Opts: `{"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}`},
			{Name: "sampler_name", Options: samplers, Opts: `{}`},
			{Name: "scheduler", Options: schedulers, Opts: `{}`},
			{Name: "positive", Type: "CONDITIONING", Opts: `{}`},
			{Name: "negative", Type: "CONDITIONING", Opts: `{}`},
			{Name: "latent_image", Type: "LATENT", Opts: `{}`},
			{Name: "denoise", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}`},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runKSampler, Simulated: true,
	},
	{
		Name: "KSamplerAdvanced", Display: "KSampler (Advanced)", Category: "sampling", Module: "nodes",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "add_noise", Options: onOff},
			{Name: "noise_seed", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 18446744073709551615, "control_after_generate": true}`},
			{Name: "steps", Type: "INT", Opts: `{"default": 20, "min": 1, "max": 10000}`},
			{Name: "cfg", Type: "FLOAT", Opts: `{"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}`},
			{Name: "sampler_name", Options: samplers},
			{Name: "scheduler", Options: schedulers},
			{Name: "positive", Type: "CONDITIONING"},
			{Name: "negative", Type: "CONDITIONING"},
			{Name: "latent_image", Type: "LATENT"},
			{Name: "start_at_step", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 10000}`},
			{Name: "end_at_step", Type: "INT", Opts: `{"default": 10000, "min": 0, "max": 10000}`},
			{Name: "return_with_leftover_noise", Options: []string{"disable", "enable"}},
		},
		Outputs: []Output{{"LATENT", ""}},
		Run:     runKSamplerAdvanced, Simulated: true,
	},
	{
		Name: "SamplerCustom", Category: "sampling/custom_sampling", Module: "comfy_extras.nodes_custom_sampler",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "add_noise", Type: "BOOLEAN", Opts: `{"default": true}`},
			{Name: "noise_seed", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 18446744073709551615, "control_after_generate": true}`},
			{Name: "cfg", Type: "FLOAT", Opts: `{"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}`},
			{Name: "positive", Type: "CONDITIONING"},
			{Name: "negative", Type: "CONDITIONING"},
			{Name: "sampler", Type: "SAMPLER"},
			{Name: "sigmas", Type: "SIGMAS"},
			{Name: "latent_image", Type: "LATENT"},
		},
		Outputs: []Output{{"LATENT", "output"}, {"LATENT", "denoised_output"}},
		Run:     runSamplerCustom, Simulated: true,
	},
	{
		Name: "SamplerCustomAdvanced", Category: "sampling/custom_sampling", Module: "comfy_extras.nodes_custom_sampler",
		Inputs: []Input{
			{Name: "noise", Type: "NOISE"},
			{Name: "guider", Type: "GUIDER"},
			{Name: "sampler", Type: "SAMPLER"},
			{Name: "sigmas", Type: "SIGMAS"},
			{Name: "latent_image", Type: "LATENT"},
		},
		Outputs: []Output{{"LATENT", "output"}, {"LATENT", "denoised_output"}},
		Run:     runSamplerCustomAdvanced, Simulated: true,
	},
	{
		Name: "KSamplerSelect", Category: "sampling/custom_sampling/samplers", Module: "comfy_extras.nodes_custom_sampler",
		Inputs: []Input{
			{Name: "sampler_name", Options: samplers},
		},
		Outputs: []Output{{"SAMPLER", ""}},
		Run:     runKSamplerSelect,
	},
	{
		Name: "BasicScheduler", Category: "sampling/custom_sampling/schedulers", Module: "comfy_extras.nodes_custom_sampler",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "scheduler", Options: schedulers},
			{Name: "steps", Type: "INT", Opts: `{"default": 20, "min": 1, "max": 10000}`},
			{Name: "denoise", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}`},
		},
		Outputs: []Output{{"SIGMAS", ""}},
		Run:     runBasicScheduler,
	},
	{
		Name: "KarrasScheduler", Category: "sampling/custom_sampling/schedulers", Module: "comfy_extras.nodes_custom_sampler",
		Inputs: []Input{
			{Name: "steps", Type: "INT", Opts: `{"default": 20, "min": 1, "max": 10000}`},
			{Name: "sigma_max", Type: "FLOAT", Opts: `{"default": 14.614642, "min": 0.0, "max": 5000.0, "step": 0.01, "round": false}`},
			{Name: "sigma_min", Type: "FLOAT", Opts: `{"default": 0.0291675, "min": 0.0, "max": 5000.0, "step": 0.01, "round": false}`},
			{Name: "rho", Type: "FLOAT", Opts: `{"default": 7.0, "min": 0.0, "max": 100.0, "step": 0.01, "round": false}`},
		},
		Outputs: []Output{{"SIGMAS", ""}},
		Run:     runKarrasScheduler,
	},
	{
		Name: "SDTurboScheduler", Category: "sampling/custom_sampling/schedulers", Module: "comfy_extras.nodes_custom_sampler",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "steps", Type: "INT", Opts: `{"default": 1, "min": 1, "max": 10}`},
			{Name: "denoise", Type: "FLOAT", Opts: `{"default": 1.0, "min": 0, "max": 1.0, "step": 0.01}`},
		},
		Outputs: []Output{{"SIGMAS", ""}},
		Run:     runSDTurboScheduler,
	},
	{
		Name: "RandomNoise", Category: "sampling/custom_sampling/noise", Module: "comfy_extras.nodes_custom_sampler",
		Inputs: []Input{
			{Name: "noise_seed", Type: "INT", Opts: `{"default": 0, "min": 0, "max": 18446744073709551615, "control_after_generate": true}`},
		},
		Outputs: []Output{{"NOISE", ""}},
		Run:     runRandomNoise,
	},
	{
		Name: "DisableNoise", Category: "sampling/custom_sampling/noise", Module: "comfy_extras.nodes_custom_sampler",
		Outputs: []Output{{"NOISE", ""}},
		Run:     runDisableNoise,
	},
	{
		Name: "BasicGuider", Category: "sampling/custom_sampling/guiders", Module: "comfy_extras.nodes_custom_sampler",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "conditioning", Type: "CONDITIONING"},
		},
		Outputs: []Output{{"GUIDER", ""}},
		Run:     runBasicGuider,
	},
	{
		Name: "CFGGuider", Category: "sampling/custom_sampling/guiders", Module: "comfy_extras.nodes_custom_sampler",
		Inputs: []Input{
			{Name: "model", Type: "MODEL"},
			{Name: "positive", Type: "CONDITIONING"},
			{Name: "negative", Type: "CONDITIONING"},
			{Name: "cfg", Type: "FLOAT", Opts: `{"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}`},
		},
		Outputs: []Output{{"GUIDER", ""}},
		Run:     runCFGGuider,
	},
}
