package sim_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim"
	"github.com/ahelme/comfyume/internal/sim/media"
)

// sequences are requests whose answers, frames, history and files must be those of a real server. Each begins
// with an empty cache. %s in a prefix keeps files apart.
var sequences = map[string][]string{
	"equal nodes are one in the cache": {
		`{"prompt": {"a": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 3}}, "b": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 3}}, "c": {"class_type": "ImageBatch", "inputs": {"image1": ["a", 0], "image2": ["b", 0]}}, "s": {"class_type": "SaveImage", "inputs": {"images": ["c", 0], "filename_prefix": "cm_seq1"}}}}`,
	},
	"a change downstream keeps what is upstream": {
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 5}}, "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}, "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "cm_seq2"}}}}`,
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 5}}, "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}, "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "cm_seq2b"}}}}`,
		`{"prompt": {"x": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 5}}, "y": {"class_type": "ImageInvert", "inputs": {"image": ["x", 0]}}, "z": {"class_type": "SaveImage", "inputs": {"images": ["y", 0], "filename_prefix": "cm_seq2b"}}}}`,
		`{"prompt": {"x": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 5}}, "z": {"class_type": "SaveImage", "inputs": {"images": ["x", 0], "filename_prefix": "cm_seq2b", "_salt": "abc"}}}}`,
		`{"prompt": {"x": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 5}}, "z": {"class_type": "SaveImage", "inputs": {"images": ["x", 0], "filename_prefix": "cm_seq2b", "_salt": "abc"}}}}`,
		`{"prompt": {"x": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 5}}, "z": {"class_type": "SaveImage", "inputs": {"images": ["x", 0], "filename_prefix": "cm_seq2b", "_salt": "abd"}}}}`,
	},
	"order of nodes": {
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 15}}, "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}, "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}}, "6": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 8, "height": 8}}, "7": {"class_type": "MaskToImage", "inputs": {"mask": ["6", 0]}}, "8": {"class_type": "ImageBatch", "inputs": {"image1": ["7", 0], "image2": ["3", 0]}}, "5": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}}}`,
	},
	"partial execution": {
		`{"partial_execution_targets": ["4"], "prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 6}}, "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "cm_seq3"}}, "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}}`,
		`{"partial_execution_targets": [], "prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 6}}, "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}}`,
	},
	"a dangling node may be wrong": {
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 7}}, "9": {"class_type": "ImageInvert", "inputs": {}}, "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}}`,
	},
	"one good output of two": {
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 8}}, "2": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": "tall", "batch_size": 1, "color": 8}}, "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}, "5": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}}`,
	},
	"conversion": {
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": "8", "height": 8.9, "batch_size": true, "color": {"__value__": 9}}}, "2": {"class_type": "SolidMask", "inputs": {"value": 1, "width": 4, "height": 4}}, "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": 17}, "_meta": {"title": "Spëich\u00e4r \ud83d\ude00"}}, "4": {"class_type": "MaskPreview", "inputs": {"mask": ["2", 0]}}}, "extra_data": {"extra_pnginfo": {"workflow": {"id": "w", "x": [1.0, 1e-7, 1e22, null, true]}, "note": "h\u00e9"}, "api_key_comfy_org": "secret"}}`,
	},
	"text": {
		`{"prompt": {"1": {"class_type": "PrimitiveInt", "inputs": {"value": 9007199254740993}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveFloat", "inputs": {"value": 3}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveFloat", "inputs": {"value": 1e-7}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveBoolean", "inputs": {"value": true}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "StringConcatenate", "inputs": {"string_a": "\u00e4", "string_b": "b\n", "delimiter": "-"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "CaseConverter", "inputs": {"string": "it's a dOG's life 1st", "mode": "Title Case"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "CaseConverter", "inputs": {"string": "aBC dEF", "mode": "Capitalize"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "StringSubstring", "inputs": {"string": "abcdef", "start": 1, "end": -1}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "StringLength", "inputs": {"string": "h\u00e4\ud83d\ude00"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "StringReplace", "inputs": {"string": "abcabc", "find": "b", "replace": "X"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "StringTrim", "inputs": {"string": "  a b \n", "mode": "Left"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "StringContains", "inputs": {"string": "ABC", "substring": "b", "case_sensitive": false}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "SolidMask", "inputs": {"value": 0.25, "width": 3, "height": 2}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 20, "height": 30, "batch_size": 2, "color": 255}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"9": {"class_type": "PreviewAny", "inputs": {"source": 5}}}}`,
		`{"prompt": {"9": {"class_type": "PreviewAny", "inputs": {"source": {"a": [1, null]}}}}}`,
	},
	"text on a node": {
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 9, "batch_size": 2, "color": 10}}, "2": {"class_type": "GetImageSize", "inputs": {"image": ["1", 0]}}, "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 1]}}}}`,
	},
	"pictures by socket": {
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 9, "batch_size": 2, "color": 10}}, "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 9, "batch_size": 2, "color": 10}}, "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}}`,
	},
	"moving pictures and sound": {
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 9, "batch_size": 3, "color": 10}}, "2": {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["1", 0], "filename_prefix": "sub/cm_w", "fps": 6, "lossless": true, "quality": 80, "method": "default"}}}}`,
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 9, "batch_size": 1, "color": 10}}, "3": {"class_type": "SaveAnimatedPNG", "inputs": {"images": ["1", 0], "filename_prefix": "cm_p", "fps": 6, "compress_level": 4}}}}`,
		`{"prompt": {"4": {"class_type": "EmptyAudio", "inputs": {"duration": 0.1, "sample_rate": 8000, "channels": 2}}, "5": {"class_type": "SaveAudio", "inputs": {"audio": ["4", 0], "filename_prefix": "audio/cm"}}}}`,
		`{"prompt": {"4": {"class_type": "EmptyAudio", "inputs": {"duration": 0.1, "sample_rate": 8000, "channels": 2}}, "6": {"class_type": "PreviewAudio", "inputs": {"audio": ["4", 0]}}}}`,
	},
	"a loaded file is known by its content": {
		`{"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "comfyume_in.png"}}, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "cm_seq8"}}}}`,
		`{"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "comfyume_in.png [input]"}}, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "cm_seq8"}}}}`,
	},
	"failing late": {
		`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 11}}, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}, "3": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 9, "sigma": 1.0}}, "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}}}`,
	},
	"failing while saving": {
		`{"prompt": {"1": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 2, "height": 2}}, "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}}, "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "../../x", "_salt": "s"}}}}`,
	},
	"ids and numbers": {
		`{"prompt_id": null, "front": true, "prompt": {"1": {"class_type": "PreviewAny", "inputs": {"source": "n"}}}}`,
		`{"prompt_id": 5, "number": 7, "prompt": {"1": {"class_type": "PreviewAny", "inputs": {"source": "m"}}}}`,
	},
	"refused": {
		`{"prompt": {"1": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "seed": -1, "steps": null, "cfg": "x", "sampler_name": "nope", "scheduler": 3, "positive": [1, 0], "negative": ["2", 7], "latent_image": ["2", 0], "denoise": {"a": 1}}}, "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 8, "height": 512}}, "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}}}`,
		`{"prompt": {"3": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}}, "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}, "4": {"class_type": "LoadImage", "inputs": {}}}}`,
		`{"prompt": {"3": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}}, "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}, "4": {"class_type": "LoadImage", "inputs": {"image": "nope.png"}}}}`,
		`{"prompt": {"3": {"class_type": "SaveImage", "inputs": {"images": ["4", 3], "filename_prefix": "x"}}, "4": {"class_type": "LoadImage", "inputs": {"image": "comfyume_in.png"}}}}`,
		`{"prompt": {"3": {"class_type": "SaveImage", "inputs": {"images": ["4", "0"], "filename_prefix": "x"}}, "4": {"class_type": "ImageBlend", "inputs": {}}}}`,
		`{"prompt": {"3": {"inputs": {}}, "4": {"class_type": "ImageBlend", "inputs": {}}}}`,
		`{"prompt": {"3": {"class_type": "PreviewAny", "inputs": {}}, "4": {"class_type": "PreviewAny", "inputs": {"source": [[], 0]}}}}`,
		`{"prompt": {"3": {"class_type": "PreviewAny"}}}`,
		`{"prompt": {"3": {"class_type": "ImageScale", "inputs": {"image": ["4", 0], "upscale_method": ["4", 0], "width": 1e400, "height": 99999, "crop": null}}, "4": {"class_type": "EmptyImage", "inputs": {"width": 5.5, "height": "5.5", "batch_size": "", "color": [1]}}, "5": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}}}`,
	},
	"python": { // what Python makes of what nobody should send
		`{"prompt": {"1": {"class_type": "PrimitiveInt", "inputs": {"value": " 1_000 "}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", -1]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveInt", "inputs": {"value": "+007"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", false]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveInt", "inputs": {"value": "1__0"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveFloat", "inputs": {"value": "nan"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveFloat", "inputs": {"value": "-Infinity"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveFloat", "inputs": {"value": "1_0.5_0e1_0"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveFloat", "inputs": {"value": ".5"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveFloat", "inputs": {"value": "0x10"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveInt", "inputs": {"value": 5}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", true]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveInt", "inputs": []}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveInt", "inputs": null}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveString", "inputs": {"value": "x.png"}}, "2": {"class_type": "LoadImage", "inputs": {"image": ["1", 0]}}, "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}}}}`,
		`{"prompt": {"1": {"class_type": []}}}`,
		`{"prompt": {"1": {"class_type": "PrimitiveInt", "inputs": {"value": 5}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}, "partial_execution_targets": {"2": 1}, "number": "-7"}`,
		`{"prompt": {"1": {"class_type": "PrimitiveInt", "inputs": {"value": 6}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}, "partial_execution_targets": "2", "number": true}`,
	},
	"cycle": { // through an input that nobody declared, and so nobody validated: an error, and yet a success
		`{"prompt": {"1": {"class_type": "PrimitiveInt", "inputs": {"value": 1, "again": ["1", 0]}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`,
	},
}

// dialogue is what came of one request.
type dialogue struct {
	Request string
	Answer  string
	Frames  []string
	History string
	Texts   []string // of saved PNG files
}

const frameFile = "testdata/frames.json.gz"

// TestFrames holds answers, frames, history and metadata to those of a real server.
func TestFrames(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{Probes: true, Models: map[string][]string{}})
	want := map[string][]dialogue{}
	if *real != "" {
		want = converse(t, strings.TrimSuffix(*real, "/"))
		keep(t, frameFile, want)
	} else {
		kept(t, frameFile, &want)
	}
	for name, ours := range converse(t, base) {
		if diff := cmp.Diff(want[name], ours); diff != "" {
			t.Errorf("%s (-real +simulated):\n%s", name, diff)
		}
	}
}

func converse(t *testing.T, base string) map[string][]dialogue {
	t.Helper()
	send(t, base, "comfyume_in.png", testPicture(37, 29, false))
	c := dial(t, base, "prepare")
	c.next(t)
	out := map[string][]dialogue{}
	for name, requests := range sequences {
		response, err := http.Post(base+"/free", "application/json", strings.NewReader(`{"free_memory": true}`))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		run(t, base, c, `{"1": {"class_type": "PreviewAny", "inputs": {"source": "free"}}}`)
		p := &player{t: t, ids: map[string]string{}}
		for _, request := range requests {
			out[name] = append(out[name], p.converse(base, c, request))
		}
	}
	return out
}

func (p *player) converse(base string, c *client, request string) dialogue {
	t := p.t
	t.Helper()
	d := dialogue{Request: request}
	body := strings.Replace(request, "{", `{"client_id": "prepare", `, 1)
	response, err := http.Post(base+"/prompt", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	var reply struct {
		PromptID string `json:"prompt_id"`
	}
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(answer, &reply); err != nil {
			t.Fatal(err)
		}
		p.ids[reply.PromptID] = "ID"
	}
	d.Answer = fmt.Sprint(response.StatusCode, " ", p.anything(answer))
	if response.StatusCode != http.StatusOK {
		return d
	}
	for {
		f := c.next(t)
		if f.binary {
			d.Frames = append(d.Frames, binaryText(f.body))
			continue
		}
		d.Frames = append(d.Frames, p.text(f.body))
		if strings.Contains(string(f.body), `"executing", "data": {"node": null`) {
			break
		}
	}
	response, err = http.Get(base + "/history/" + reply.PromptID)
	if err != nil {
		t.Fatal(err)
	}
	history, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	history = bytes.ReplaceAll(history, []byte("NaN"), []byte("null"))
	d.History = p.text(history)
	d.Texts = p.texts(base, reply.PromptID, history)
	return d
}

// anything is an answer that may be no JSON.
func (p *player) anything(raw []byte) string {
	clean := pyjson.CleanNumbers(raw)
	if !json.Valid(clean) {
		return string(raw)
	}
	return p.text(clean)
}

func binaryText(b []byte) string {
	event, word := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if event == 3 {
		return fmt.Sprintf("binary 3 %q", b[4:])
	}
	return fmt.Sprintf("binary %d %d", event, word)
}

// texts are what saved PNG files say of how they were made.
func (p *player) texts(base, id string, history []byte) []string {
	p.t.Helper()
	var entries map[string]struct {
		Outputs map[string]struct {
			Images []struct{ Filename, Subfolder, Type string }
		}
	}
	if err := json.Unmarshal(history, &entries); err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, node := range []string{"2", "3", "4", "s", "z"} {
		for _, f := range entries[id].Outputs[node].Images {
			if !strings.HasSuffix(f.Filename, ".png") || f.Type != "output" {
				continue
			}
			response, err := http.Get(base + "/view?" + url.Values{"filename": {f.Filename}, "subfolder": {f.Subfolder}, "type": {f.Type}}.Encode())
			if err != nil {
				p.t.Fatal(err)
			}
			file, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil {
				p.t.Fatal(err)
			}
			for _, text := range media.Texts(file) {
				out = append(out, text.Key+": "+text.Value)
			}
		}
	}
	return out
}
