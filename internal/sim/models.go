package sim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// modelFolders are the keys of the folder table in its order, each with the folders it stands for.
var modelFolders = []struct {
	key     string
	folders []string
}{
	{"checkpoints", []string{"checkpoints"}},
	{"configs", []string{"configs"}},
	{"loras", []string{"loras"}},
	{"vae", []string{"vae"}},
	{"text_encoders", []string{"text_encoders", "clip"}},
	{"diffusion_models", []string{"unet", "diffusion_models"}},
	{"clip_vision", []string{"clip_vision"}},
	{"style_models", []string{"style_models"}},
	{"embeddings", []string{"embeddings"}},
	{"diffusers", []string{"diffusers"}},
	{"vae_approx", []string{"vae_approx"}},
	{"controlnet", []string{"controlnet", "t2i_adapter"}},
	{"gligen", []string{"gligen"}},
	{"upscale_models", []string{"upscale_models"}},
	{"custom_nodes", nil},
	{"hypernetworks", []string{"hypernetworks"}},
	{"photomaker", []string{"photomaker"}},
	{"classifiers", []string{"classifiers"}},
	{"model_patches", []string{"model_patches"}},
	{"audio_encoders", []string{"audio_encoders"}},
}

// outputModels are the model folders that are also looked for below the output folder.
var outputModels = map[string]string{
	"checkpoints": "checkpoints", "loras": "loras", "vae": "vae", "text_encoders": "clip",
	"diffusion_models": "diffusion_models",
}

// DefaultModels are the models a simulated server has: those that the graphs ask for with which the editors open,
// and those of their basic templates.
func DefaultModels() map[string][]string {
	return map[string][]string{
		"checkpoints": {
			"512-inpainting-ema.safetensors", "DreamShaper_8_pruned.safetensors",
			"NetaYumev35_pretrained_all_in_one.safetensors", "dreamshaper_8.safetensors", "flux1-dev-fp8.safetensors",
			"flux1-schnell-fp8.safetensors", "sd3.5_large_fp8_scaled.safetensors", "sd_xl_base_1.0.safetensors",
			"sd_xl_refiner_1.0.safetensors", "sd_xl_turbo_1.0_fp16.safetensors", "v1-5-pruned-emaonly-fp16.safetensors",
			"v1-5-pruned-emaonly.safetensors", "v2-1_768-ema-pruned.safetensors",
		},
		"diffusion_models": {
			"Chroma1-HD-fp8_scaled_rev2.safetensors", "flux1-dev-kontext_fp8_scaled.safetensors",
			"flux1-dev.safetensors", "flux1-fill-dev.safetensors", "flux1-krea-dev_fp8_scaled.safetensors",
			"flux1-schnell.safetensors", "qwen_image_fp8_e4m3fn.safetensors", "z_image_turbo_bf16.safetensors",
		},
		"text_encoders": {
			"clip_g.safetensors", "clip_l.safetensors", "qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_3_4b.safetensors",
			"t5xxl_fp16.safetensors", "t5xxl_fp8_e4m3fn_scaled.safetensors",
		},
		"vae": {"ae.safetensors", "qwen_image_vae.safetensors", "vae-ft-mse-840000-ema-pruned.safetensors"},
		"loras": {
			"MoXinV1.safetensors", "Qwen-Image-Lightning-8steps-V1.0.safetensors", "blindbox_v1_mix.safetensors",
		},
		"controlnet": {
			"control_v11f1p_sd15_depth_fp16.safetensors", "control_v11p_sd15_openpose_fp16.safetensors",
			"control_v11p_sd15_scribble_fp16.safetensors",
		},
		"upscale_models": {"RealESRGAN_x4plus.safetensors"},
		"embeddings":     {"easynegative.safetensors"},
	}
}

// modelSize guesses how large a model is, in bytes. Nothing depends on its being right.
func modelSize(name string) int64 {
	lower := strings.ToLower(name)
	for _, c := range []struct {
		part string
		gib  float64
	}{
		{"flux1", 12},
		{"qwen_image_fp8", 20},
		{"z_image", 12},
		{"chroma", 9},
		{"qwen_2.5", 9},
		{"qwen_3", 8},
		{"t5xxl_fp16", 9},
		{"t5xxl", 5},
		{"sd3.5_large", 14},
		{"xl", 6.5},
		{"clip", 1},
		{"ae.", 0.3},
		{"vae", 0.3},
		{"lora", 0.2},
		{"control", 0.7},
		{"esrgan", 0.1},
	} {
		if strings.Contains(lower, c.part) {
			return int64(c.gib * (1 << 30))
		}
	}
	return 2 << 30
}

// modelExtensions are the endings of model files.
var modelExtensions = []string{".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}

// readModels lists the names of models in a folder of folders. Nothing of them is opened.
func readModels(root string) (map[string][]string, error) {
	if _, err := os.Stat(root); err != nil {
		return nil, err
	}
	models := map[string][]string{}
	for _, m := range modelFolders {
		for _, dir := range m.folders {
			base := filepath.Join(root, dir)
			err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				if err != nil {
					return err
				}
				if d.IsDir() || !slices.Contains(modelExtensions, strings.ToLower(filepath.Ext(path))) {
					return nil
				}
				name, err := filepath.Rel(base, path)
				if err != nil {
					return err
				}
				models[m.key] = append(models[m.key], filepath.ToSlash(name))
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
		slices.Sort(models[m.key])
		models[m.key] = slices.Compact(models[m.key])
	}
	return models, nil
}

// hasJobs reports whether ComfyUI of that version has /api/jobs.
func hasJobs(version string) bool {
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	number := func(i int) int {
		if i >= len(parts) {
			return 0
		}
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return 0
		}
		return n
	}
	return number(0) > 0 || number(1) >= 4
}
