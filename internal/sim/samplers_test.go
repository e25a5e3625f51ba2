package sim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/sim"
	"github.com/ahelme/comfyume/internal/sim/media"
)

// checkpointGraph is what the editors 1.27 and 1.40 open with, diffusionGraph what 1.58 opens with, in the form in
// which they send it.
const (
	checkpointGraph = `{"3": {"inputs": {"seed": SEED, "steps": 20, "cfg": 8, "sampler_name": "euler", "scheduler": "normal", "denoise": 1, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}, "class_type": "KSampler"},
 "4": {"inputs": {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"}, "class_type": "CheckpointLoaderSimple"},
 "5": {"inputs": {"width": 512, "height": 512, "batch_size": 1}, "class_type": "EmptyLatentImage"},
 "6": {"inputs": {"text": "PROMPT", "clip": ["4", 1]}, "class_type": "CLIPTextEncode"},
 "7": {"inputs": {"text": "text, watermark", "clip": ["4", 1]}, "class_type": "CLIPTextEncode"},
 "8": {"inputs": {"samples": ["3", 0], "vae": ["4", 2]}, "class_type": "VAEDecode"},
 "9": {"inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}, "class_type": "SaveImage"}}`
	diffusionGraph = `{"9": {"inputs": {"filename_prefix": "ComfyUI", "images": ["65", 0]}, "class_type": "SaveImage"},
 "62": {"inputs": {"clip_name": "qwen_3_4b.safetensors", "type": "lumina2", "device": "default"}, "class_type": "CLIPLoader"},
 "63": {"inputs": {"vae_name": "ae.safetensors"}, "class_type": "VAELoader"},
 "65": {"inputs": {"samples": ["70", 0], "vae": ["63", 0]}, "class_type": "VAEDecode"},
 "66": {"inputs": {"unet_name": "z_image_turbo_bf16.safetensors", "weight_dtype": "default"}, "class_type": "UNETLoader"},
 "67": {"inputs": {"text": "PROMPT", "clip": ["62", 0]}, "class_type": "CLIPTextEncode"},
 "68": {"inputs": {"width": 1024, "height": 1024, "batch_size": 1}, "class_type": "EmptySD3LatentImage"},
 "69": {"inputs": {"shift": 3, "model": ["66", 0]}, "class_type": "ModelSamplingAuraFlow"},
 "70": {"inputs": {"seed": SEED, "steps": 8, "cfg": 1, "sampler_name": "res_multistep", "scheduler": "simple", "denoise": 1, "model": ["69", 0], "positive": ["67", 0], "negative": ["71", 0], "latent_image": ["68", 0]}, "class_type": "KSampler"},
 "71": {"inputs": {"text": "low quality", "clip": ["62", 0]}, "class_type": "CLIPTextEncode"}}`
)

func sampled(graph string, seed int, prompt string) string {
	return strings.NewReplacer("SEED", fmt.Sprint(seed), "PROMPT", prompt).Replace(graph)
}

// result runs a graph and returns its saved file, and how many frames of which kind came.
func result(t *testing.T, base string, c *client, graph string) (file []byte, frames map[string]int) {
	t.Helper()
	id := submit(t, base, `{"client_id": "prepare", "prompt": `+graph+`}`)
	frames = map[string]int{}
	for {
		f := c.next(t)
		if f.binary {
			frames[fmt.Sprint("binary ", f.body[3])]++
			continue
		}
		var m struct{ Type string }
		if err := json.Unmarshal(f.body, &m); err != nil {
			t.Fatal(err)
		}
		frames[m.Type]++
		if strings.Contains(string(f.body), `"executing", "data": {"node": null, "prompt_id": "`+id) {
			break
		}
	}
	var history map[string]struct {
		Outputs map[string]struct {
			Images []struct{ Filename string }
		}
	}
	fetch(t, base+"/history/"+id, &history)
	if len(history[id].Outputs["9"].Images) != 1 {
		t.Fatalf("no picture: %v", history)
	}
	response, err := http.Get(base + "/view?filename=" + history[id].Outputs["9"].Images[0].Filename)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if file, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return file, frames
}

// TestFirstGraphs runs the graphs the editors open with.
func TestFirstGraphs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		graph       string
		steps, side int
	}{"checkpoint": {checkpointGraph, 20, 512}, "diffusion": {diffusionGraph, 8, 1024}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, base := start(t, sim.Options{})
			socket := dial(t, base, "prepare")
			socket.next(t)
			file, frames := result(t, base, socket, sampled(c.graph, 7, "a glass bottle"))
			if frames["progress"] != c.steps || frames["binary 1"] != c.steps {
				t.Errorf("frames %v, want %d steps", frames, c.steps)
			}
			m, err := png.Decode(bytes.NewReader(file))
			if err != nil || m.Bounds().Dx() != c.side {
				t.Fatalf("%v %v", m.Bounds(), err)
			}
			texts := map[string]string{}
			for _, text := range media.Texts(file) {
				texts[text.Key] = text.Value
			}
			if !strings.Contains(texts["simulated"], "no model was run") || !strings.Contains(texts["prompt"], "a glass bottle") {
				t.Errorf("texts %v", texts)
			}
			forget(t, base)
			again, _ := result(t, base, socket, sampled(c.graph, 7, "a glass bottle"))
			other, _ := result(t, base, socket, sampled(c.graph, 8, "a glass bottle"))
			else_, _ := result(t, base, socket, sampled(c.graph, 7, "a tin can"))
			if !bytes.Equal(pixels(t, file), pixels(t, again)) {
				t.Error("the same graph makes another picture")
			}
			if bytes.Equal(pixels(t, file), pixels(t, other)) || bytes.Equal(pixels(t, file), pixels(t, else_)) {
				t.Error("the picture does not depend on seed and prompt")
			}
		})
	}
}

// forget empties the server's cache.
func forget(t *testing.T, base string) {
	t.Helper()
	response, err := http.Post(base+"/free", "application/json", strings.NewReader(`{"free_memory": true}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

func pixels(t *testing.T, file []byte) []byte {
	t.Helper()
	m, err := png.Decode(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for y := range m.Bounds().Dy() {
		for x := range m.Bounds().Dx() {
			r, g, b, _ := m.At(x, y).RGBA()
			out.Write([]byte{byte(r >> 8), byte(g >> 8), byte(b >> 8)})
		}
	}
	return out.Bytes()
}

// TestLoadedPictureIsNotMarked sees to it that only what was simulated says so.
func TestLoadedPictureIsNotMarked(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{})
	c := dial(t, base, "prepare")
	c.next(t)
	file, _ := result(t, base, c, `{"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 3}}, "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}}`)
	for _, text := range media.Texts(file) {
		if text.Key == "simulated" {
			t.Error("a real picture is marked as simulated")
		}
	}
}

// TestManyNodes runs at least one graph with each family of simulated nodes, as templates combine them.
func TestManyNodes(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{NoPreviews: true})
	c := dial(t, base, "prepare")
	c.next(t)
	send(t, base, "in.png", testPicture(70, 50, true))
	const common = `"m": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dreamshaper_8.safetensors"}},
 "p": {"class_type": "CLIPTextEncode", "inputs": {"text": "x", "clip": ["m", 1]}}, "n": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["m", 1]}},
 "e": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}}, "in": {"class_type": "LoadImage", "inputs": {"image": "in.png"}}, `
	sampler := func(model, latent, denoise string) string {
		return `"k": {"class_type": "KSampler", "inputs": {"model": ` + model + `, "seed": 18446744073709551615, "steps": 3, "cfg": 7.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "positive": ["p", 0], "negative": ["n", 0], "latent_image": ` + latent + `, "denoise": ` + denoise + `}}, `
	}
	const decode = `"d": {"class_type": "VAEDecode", "inputs": {"samples": ["k", 0], "vae": ["m", 2]}}, "9": {"class_type": "PreviewImage", "inputs": {"images": ["d", 0]}}`
	for name, graph := range map[string]string{
		"batch":   sampler(`["m", 0]`, `["e", 0]`, "1") + decode,
		"lora":    `"l": {"class_type": "LoraLoader", "inputs": {"model": ["m", 0], "clip": ["m", 1], "lora_name": "MoXinV1.safetensors", "strength_model": 1, "strength_clip": 0.5}}, ` + sampler(`["l", 0]`, `["e", 0]`, "1") + decode,
		"image":   `"v": {"class_type": "VAEEncode", "inputs": {"pixels": ["in", 0], "vae": ["m", 2]}}, ` + sampler(`["m", 0]`, `["v", 0]`, "0.5") + decode,
		"inpaint": `"v": {"class_type": "VAEEncodeForInpaint", "inputs": {"pixels": ["in", 0], "vae": ["m", 2], "mask": ["in", 1], "grow_mask_by": 6}}, ` + sampler(`["m", 0]`, `["v", 0]`, "1") + decode,
		"hires":   `"u": {"class_type": "LatentUpscale", "inputs": {"samples": ["e", 0], "upscale_method": "nearest-exact", "width": 128, "height": 96, "crop": "disabled"}}, ` + sampler(`["m", 0]`, `["u", 0]`, "1") + decode,
		"upscale": `"um": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "RealESRGAN_x4plus.safetensors"}}, "9": {"class_type": "PreviewImage", "inputs": {"images": ["d", 0]}}, "d": {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["um", 0], "image": ["in", 0]}}`,
		"custom": `"s": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}, "g": {"class_type": "BasicScheduler", "inputs": {"model": ["m", 0], "scheduler": "simple", "steps": 4, "denoise": 1}}, "r": {"class_type": "RandomNoise", "inputs": {"noise_seed": 3}},
 "c": {"class_type": "CFGGuider", "inputs": {"model": ["m", 0], "positive": ["p", 0], "negative": ["n", 0], "cfg": 3}}, "k": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["r", 0], "guider": ["c", 0], "sampler": ["s", 0], "sigmas": ["g", 0], "latent_image": ["e", 0]}}, ` + decode,
		"control": `"cn": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "control_v11p_sd15_scribble_fp16.safetensors"}}, "ca": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["p", 0], "negative": ["n", 0], "control_net": ["cn", 0], "image": ["in", 0], "strength": 1, "start_percent": 0, "end_percent": 1}},
 "k": {"class_type": "KSamplerAdvanced", "inputs": {"model": ["m", 0], "add_noise": "enable", "noise_seed": 5, "steps": 6, "cfg": 8, "sampler_name": "euler", "scheduler": "normal", "positive": ["ca", 0], "negative": ["ca", 1], "latent_image": ["e", 0], "start_at_step": 2, "end_at_step": 5, "return_with_leftover_noise": "disable"}}, ` + decode,
		"conditioning": `"p2": {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["p", 0], "conditioning_2": ["n", 0]}}, "p3": {"class_type": "ConditioningSetArea", "inputs": {"conditioning": ["p2", 0], "width": 64, "height": 64, "x": 0, "y": 0, "strength": 1}},
 "p4": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["p3", 0], "guidance": 3.5}}, "p5": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["p4", 0]}}, "k": {"class_type": "KSampler", "inputs": {"model": ["m", 0], "seed": 1, "steps": 1, "cfg": 1, "sampler_name": "euler", "scheduler": "simple", "positive": ["p4", 0], "negative": ["p5", 0], "latent_image": ["e", 0], "denoise": 1}}, ` + decode,
		"audio": `"ea": {"class_type": "EmptyLatentAudio", "inputs": {"seconds": 1, "batch_size": 1}}, ` + sampler(`["m", 0]`, `["ea", 0]`, "1") + `"d": {"class_type": "VAEDecodeAudio", "inputs": {"samples": ["k", 0], "vae": ["m", 2]}}, "9": {"class_type": "SaveAudio", "inputs": {"audio": ["d", 0], "filename_prefix": "audio/x"}}`,
	} {
		_, entry := run(t, base, c, "{"+common+graph+"}")
		if entry == nil || entry["status"].(map[string]any)["status_str"] != "success" {
			t.Errorf("%s: %v", name, entry["status"])
		}
	}
}
