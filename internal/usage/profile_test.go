package usage_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/usage"
)

func parse(t testing.TB, text string) *comfy.Graph {
	t.Helper()
	g, err := comfy.ParseGraph(json.RawMessage(text))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// picture is the usual graph with what matters to its work left open.
func picture(steps any, width, height, batch int) string {
	s, _ := json.Marshal(steps)
	return fmt.Sprintf(`{
		"4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
		"5": {"class_type": "EmptyLatentImage", "inputs": {"width": %d, "height": %d, "batch_size": %d}},
		"10": {"class_type": "LoraLoader", "inputs": {"lora_name": "ink.SAFETENSORS", "model": ["4", 0], "clip": ["4", 1]}},
		"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse.safetensors", "clip": ["10", 1]}},
		"3": {"class_type": "KSampler", "inputs": {"seed": 18446744073709551615, "steps": %s, "cfg": 7.5, "sampler_name": "euler",
			"model": ["10", 0], "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["5", 0], "denoise": 1.0}},
		"8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
		"9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "ComfyUI"}}}`, width, height, batch, s)
}

func TestProfileOfThePictureGraph(t *testing.T) {
	t.Parallel()
	got := usage.Profile(parse(t, picture(20, 1024, 1024, 2)))
	want := job.Profile{Like: got.Like, Work: 40, Models: "ink.SAFETENSORS\nv1-5-pruned-emaonly.safetensors"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Like == "" || len(got.Like) > 32 {
		t.Errorf("Like is %q", got.Like)
	}
	if again := usage.Profile(parse(t, picture(50, 512, 512, 1))); again.Like != got.Like || again.Work != 12.5 {
		t.Errorf("with other numbers: %+v", again)
	}
	// Like is a bag of classes: the order and the ids don't count, how many there are of each does.
	a := usage.Profile(parse(t, `{"1": {"class_type": "A"}, "2": {"class_type": "B"}, "3": {"class_type": "A"}}`))
	b := usage.Profile(parse(t, `{"x": {"class_type": "B"}, "y": {"class_type": "A"}, "z": {"class_type": "A"}}`))
	c := usage.Profile(parse(t, `{"x": {"class_type": "B"}, "y": {"class_type": "A"}, "z": {"class_type": "B"}}`))
	if a.Like != b.Like || a.Like == c.Like {
		t.Errorf("Like of AAB %s, ABA %s, ABB %s", a.Like, b.Like, c.Like)
	}
	if got := usage.Profile(parse(t, `{}`)); got != (job.Profile{}) {
		t.Errorf("the empty graph: %+v", got)
	}
}

func TestProfileFollowsWhatItHasTo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, graph string
		work        float64 // megapixel steps
		models      string
	}{
		{"numbers that come along links", `{
			"w": {"class_type": "PrimitiveInt", "inputs": {"value": 2048}},
			"l": {"class_type": "EmptyLatentImage", "inputs": {"width": ["w", 0], "height": 1024, "batch_size": 1}},
			"k": {"class_type": "KSampler", "inputs": {"steps": ["w", 0], "latent_image": ["l", 0]}}}`, 4096, ""},
		{"a second sampler on a larger picture", `{
			"l": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 2}},
			"a": {"class_type": "KSampler", "inputs": {"steps": 10, "latent_image": ["l", 0]}},
			"u": {"class_type": "LatentUpscaleBy", "inputs": {"samples": ["a", 0], "scale_by": 2.0}},
			"b": {"class_type": "KSampler", "inputs": {"steps": 5, "latent_image": ["u", 0]}}}`, 10*2 + 5*2*4, ""},
		{"a scale to a size keeps the batch", `{
			"l": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 3}},
			"u": {"class_type": "LatentUpscale", "inputs": {"samples": ["l", 0], "width": 2048, "height": 1024}},
			"b": {"class_type": "KSampler", "inputs": {"steps": 5, "latent_image": ["u", 0]}}}`, 5 * 2 * 3, ""},
		{"two samplers that share the steps", `{
			"l": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1}},
			"a": {"class_type": "KSamplerAdvanced", "inputs": {"steps": 20, "start_at_step": 0, "end_at_step": 12, "latent_image": ["l", 0]}},
			"b": {"class_type": "KSamplerAdvanced", "inputs": {"steps": 20, "start_at_step": 12, "end_at_step": 10000, "latent_image": ["a", 0]}}}`, 20, ""},
		{
			"a sampler with a schedule, two models", `{
			"m": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors"}},
			"t": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "t5xxl.safetensors", "clip_name2": "clip_l.safetensors", "type": "flux"}},
			"s": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 8, "model": ["m", 0]}},
			"p": {"class_type": "SplitSigmas", "inputs": {"sigmas": ["s", 0], "step": 0}},
			"l": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1}},
			"k": {"class_type": "SamplerCustomAdvanced", "inputs": {"sigmas": ["p", 1], "latent_image": ["l", 0]}}}`, 8,
			"clip_l.safetensors\nflux1-dev.safetensors\nt5xxl.safetensors",
		},
		{"a film", `{
			"l": {"class_type": "WanImageToVideo", "inputs": {"width": 1024, "height": 512, "length": 80, "batch_size": 1}},
			"k": {"class_type": "KSampler", "inputs": {"steps": 4, "latent_image": ["l", 2]}}}`, 4 * 40, ""},
		{"a picture that somebody uploaded", `{
			"i": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
			"e": {"class_type": "VAEEncode", "inputs": {"pixels": ["i", 0]}},
			"k": {"class_type": "KSampler", "inputs": {"steps": 7, "latent_image": ["e", 0]}}}`, 7, ""},
		{"no sampler: steps", `{
			"i": {"class_type": "EmptyImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1, "color": 0}},
			"p": {"class_type": "ProbeSlow", "inputs": {"image": ["i", 0], "steps": 5}}}`, 5, ""},
		{"no sampler: size", `{"i": {"class_type": "EmptyImage", "inputs": {"width": 2048, "height": 1024, "batch_size": 3}}}`, 6, ""},
		{"nothing to measure", `{"i": {"class_type": "PrimitiveString", "inputs": {"value": "x"}}}`, 0, ""},
		{"a circle", `{
			"a": {"class_type": "LatentUpscaleBy", "inputs": {"samples": ["b", 0], "scale_by": 1.0}},
			"b": {"class_type": "LatentUpscaleBy", "inputs": {"samples": ["a", 0], "scale_by": 1.0}},
			"k": {"class_type": "KSampler", "inputs": {"steps": 3, "latent_image": ["a", 0]}}}`, 3, ""},
		{"numbers of no use", `{
			"l": {"class_type": "EmptyLatentImage", "inputs": {"width": NaN, "height": -7, "batch_size": "9"}},
			"k": {"class_type": "KSampler", "inputs": {"steps": 1e400, "latent_image": ["l", 0]}}}`, 1, ""},
	} {
		got := usage.Profile(parse(t, c.graph))
		if got.Work != c.work || got.Models != c.models {
			t.Errorf("%s: work %v models %q, want %v %q", c.name, got.Work, got.Models, c.work, c.models)
		}
	}
}

// TestProfileBelievesNobody sends graphs that are made to cost time or to tell untruths.
func TestProfileBelievesNobody(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`{`)
	for i := range 20_000 { // every sampler's size lies at the end of a long chain of links
		fmt.Fprintf(&b, `"%d": {"class_type": "KSampler", "inputs": {"steps": 1e9, "latent_image": ["%d", 0], "ckpt_name": "%s%d.ckpt"}},`,
			i, i+1, strings.Repeat("m", 100), i)
	}
	b.WriteString(`"x": {"class_type": "X", "inputs": {"a_name": "line\nbreak.ckpt", "b_name": ".ckpt", "c_name": "` + strings.Repeat("x", 5000) + `.ckpt"}}}`)
	got := usage.Profile(parse(t, b.String()))
	if !(got.Work > 0 && got.Work <= 1e15) {
		t.Errorf("work is %v", got.Work)
	}
	if n := len(strings.Split(got.Models, "\n")); n != 16 || len(got.Models) > 16*256 {
		t.Errorf("%d models in %d bytes", n, len(got.Models))
	}
}

// TestProfileGrows holds that more of anything is never less work.
func TestProfileGrows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) (int, int) {
			a := rapid.IntRange(1, 4096).Draw(t, name)
			return a, a + rapid.IntRange(0, 4096).Draw(t, name+" more")
		}
		s1, s2 := draw("steps")
		w1, w2 := draw("width")
		h1, h2 := draw("height")
		b1, b2 := draw("batch")
		g1, err1 := comfy.ParseGraph(json.RawMessage(picture(s1, w1, h1, b1)))
		g2, err2 := comfy.ParseGraph(json.RawMessage(picture(s2, w2, h2, b2)))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if less, more := usage.Profile(g1), usage.Profile(g2); less.Work > more.Work || less.Like != more.Like {
			t.Fatalf("%+v and then %+v", less, more)
		}
	})
}

func FuzzProfile(f *testing.F) {
	f.Add([]byte(picture(20, 512, 512, 1)))
	f.Add([]byte(`{"1": {"class_type": 7, "inputs": {"latent_image": ["1", 0], "steps": ["1", 0], "sigmas": []}}}`))
	f.Add([]byte(`{"\"": {"class_type": "\u0000", "inputs": {"x_name": "\ud800.pt", "width": ["\"", 0], "height": [[[[]]]]}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		g, err := comfy.ParseGraph(raw)
		if err != nil {
			t.Skip()
		}
		p := usage.Profile(g)
		if math.IsNaN(p.Work) || p.Work < 0 || p.Work > 1e15 || len(p.Like) > 32 || len(p.Models) > 16*257 {
			t.Fatalf("%+v", p)
		}
		if again := usage.Profile(g); again != p {
			t.Fatalf("first %+v, then %+v", p, again)
		}
	})
}

func BenchmarkProfile(b *testing.B) {
	var large strings.Builder
	large.WriteString(`{`)
	for i := range 14 {
		var nodes map[string]json.RawMessage
		if err := json.Unmarshal([]byte(picture(20, 512, 512, 1)), &nodes); err != nil {
			b.Fatal(err)
		}
		for id, n := range nodes {
			text := strings.NewReplacer(`["`, fmt.Sprintf(`["%d-`, i)).Replace(string(n))
			fmt.Fprintf(&large, `"%d-%s": %s,`, i, id, text)
		}
	}
	large.WriteString(`"x": {"class_type": "Note"}, "y": {"class_type": "Note"}}`)
	for name, text := range map[string]string{
		"nodes=2": `{"1": {"class_type": "PrimitiveString", "inputs": {"value": "x"}},
			"2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}`,
		"nodes=7":   picture(20, 512, 512, 1),
		"nodes=100": large.String(),
	} {
		b.Run(name, func(b *testing.B) {
			g := parse(b, text)
			b.ReportAllocs()
			for b.Loop() {
				usage.Profile(g)
			}
		})
	}
}
