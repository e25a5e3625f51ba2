package nodes_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/sim/nodes"
)

// shared returns a file of the folder beside the checkout, or skips the test where it is not there.
func shared(t testing.TB, name string) []byte {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	file, err := os.ReadFile(filepath.Join(dir, "..", "shared", filepath.FromSlash(name)))
	if err != nil {
		t.Log("../shared is not here: ", err)
		t.Skip("../shared is not here")
	}
	return file
}

// TestDescriptions holds our classes to what a real server says of them: names, types, order, defaults, ranges,
// choices, module, category. Texts for people are its own.
func TestDescriptions(t *testing.T) {
	t.Parallel()
	var real map[string]any
	if err := json.Unmarshal(shared(t, "comfyui/object_info.json"), &real); err != nil {
		t.Fatal(err)
	}
	r := nodes.NewRegistry(true)
	var ours map[string]any
	if err := json.Unmarshal(r.Describe(nodes.Lists{Models: func(string) []string { return nil }}), &ours); err != nil {
		t.Fatal(err)
	}
	if len(ours) != r.Len() || r.Len() < 70 {
		t.Fatalf("%d classes, %d described", r.Len(), len(ours))
	}
	for name, info := range ours {
		want, ok := real[name].(map[string]any)
		if !ok {
			t.Errorf("%s: a real server has no such class", name)
			continue
		}
		strip(want)
		if name == "LoadImage" || name == "LoadImageMask" {
			choices := want["input"].(map[string]any)["required"].(map[string]any)["image"].([]any)
			choices[0] = []any{} // the files of the recorded server
		}
		if diff := cmp.Diff(want, info); diff != "" {
			t.Errorf("%s (-real +ours):\n%s", name, diff)
		}
	}
}

// strip takes away the texts that are the real server's own.
func strip(v any) {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "tooltip")
		if _, ok := v["description"]; ok {
			v["description"] = ""
		}
		if tips, ok := v["output_tooltips"].([]any); ok {
			if _, schema := v["api_node"]; !schema {
				delete(v, "output_tooltips")
			}
			for i := range tips {
				tips[i] = nil
			}
		}
		for _, e := range v {
			strip(e)
		}
	case []any:
		for _, e := range v {
			strip(e)
		}
	}
}

func TestDescribeOne(t *testing.T) {
	t.Parallel()
	r := nodes.NewRegistry(false)
	l := nodes.Lists{
		Models: func(folder string) []string { return []string{folder + ".safetensors"} },
		Files:  []string{"a.png", "b.wav", "c.txt"},
	}
	for name, want := range map[string]string{
		"CheckpointLoaderSimple": `[["checkpoints.safetensors"], {}]`,
		"VAELoader":              `[["vae.safetensors", "pixel_space"]]`,
		"LoadImage":              `[["a.png"], {"image_upload": true}]`,
		"LoadImageMask":          `[["a.png", "b.wav", "c.txt"], {"image_upload": true}]`,
		"LoadAudio":              `[["b.wav"], {"audio_upload": true}]`,
	} {
		if got := string(r.DescribeOne(name, l)); !strings.Contains(got, want) {
			t.Errorf("%s: %s has no %s", name, got, want)
		}
	}
	if got := string(r.DescribeOne("ProbeSlow", l)); got != "{}" {
		t.Errorf("a class that is not there: %s", got)
	}
}
