package catalog_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/comfy"
)

// withModels is a back end with a loader of checkpoints, a node that saves, and perhaps one more.
func withModels(more string, files ...string) backend.Snapshot {
	list, err := json.Marshal(files)
	if err != nil {
		panic(err)
	}
	return backend.Snapshot{
		ObjectInfo: json.RawMessage(fmt.Sprintf(`{%s
			"CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [%s]}}, "output": ["MODEL"], "python_module": "nodes", "output_node": false},
			"Save": {"input": {"required": {"model": ["*"]}}, "output": [], "python_module": "nodes", "output_node": true}}`, more, list)),
		Models: map[string][]string{"checkpoints": files, "all": append([]string{"other.safetensors", "third.ckpt"}, files...)},
	}
}

const extra = `"Extra": {"input": {"required": {}}, "output": ["MODEL"], "python_module": "custom_nodes.x", "output_node": false},`

func graph(t *testing.T, text string) *comfy.Graph {
	t.Helper()
	g, err := comfy.ParseGraph([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func loads(t *testing.T, file string) *comfy.Graph {
	t.Helper()
	return graph(t, fmt.Sprintf(`{"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": %q}}, "2": {"class_type": "Save", "inputs": {"model": ["1", 0]}}}`, file))
}

func grouped(t *testing.T) *catalog.Catalog {
	t.Helper()
	c, err := catalog.New(t.Context(), memory{}, catalog.Options{Members: []catalog.Member{
		{Name: "ours"}, {Name: "red1", Groups: []string{"red"}}, {Name: "both", Groups: []string{"red", "blue"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, snap := range map[string]backend.Snapshot{
		"ours": withModels("", "a.safetensors"), "red1": withModels(extra, "b.safetensors"), "both": withModels("", "c.safetensors"),
	} {
		if _, err := c.Update(name, snap); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// TestGroupsSeeTheirOwnBackEnds: nodes, models and what is refused are those of the group, and nobody else's.
func TestGroupsSeeTheirOwnBackEnds(t *testing.T) {
	t.Parallel()
	c := grouped(t)
	for group, want := range map[string]struct {
		backEnds, models []string
		extra            bool
	}{
		"":      {[]string{"ours"}, []string{"a.safetensors"}, false},
		"green": {[]string{"ours"}, []string{"a.safetensors"}, false},
		"blue":  {[]string{"ours", "both"}, []string{"a.safetensors", "c.safetensors"}, false},
		"red":   {[]string{"ours", "red1", "both"}, []string{"a.safetensors", "b.safetensors", "c.safetensors"}, true},
	} {
		v := c.For(group)
		models, _ := v.Models("checkpoints")
		if diff := cmp.Diff(want.models, models); diff != "" {
			t.Errorf("%q: models (-want +got):\n%s", group, diff)
		}
		if got := v.BackEnds(); !slices.Equal(got, want.backEnds) {
			t.Errorf("%q: back ends %v, want %v", group, got, want.backEnds)
		}
		info := string(v.ObjectInfo(nil).JSON)
		if strings.Contains(info, "Extra") != want.extra || v.Class("Extra", nil) != nil != want.extra {
			t.Errorf("%q: the node of red1: %t, want %t", group, !want.extra, want.extra)
		}
		for _, file := range []string{"a.safetensors", "b.safetensors", "c.safetensors"} {
			refused := v.Validate(loads(t, file), nil, nil).Refusal != nil
			if refused == slices.Contains(want.models, file) {
				t.Errorf("%q: %s is refused: %t", group, file, refused)
			}
			if strings.Contains(info, file) != slices.Contains(want.models, file) {
				t.Errorf("%q: %s is listed: %t", group, file, strings.Contains(info, file))
			}
		}
	}
	c.Arrange([]catalog.Member{{Name: "red1", Groups: []string{"red"}}})
	if v := c.For("green").Validate(loads(t, "a.safetensors"), nil, nil); !strings.Contains(string(v.Refusal), "No GPU runs jobs of your group") {
		t.Errorf("of a group that no back end serves: %s", v.Refusal)
	}
	c.Arrange(nil)
	if v := c.For("green").Validate(loads(t, "a.safetensors"), nil, nil); v.Refusal != nil {
		t.Errorf("of a studio without back ends: %s", v.Refusal)
	}
	if c.For("") != c.For("green") {
		t.Error("groups with the same back ends have descriptions of their own")
	}
}

// TestArrange: back ends come, go and change whom they serve while people work.
func TestArrange(t *testing.T) {
	t.Parallel()
	c := grouped(t)
	if c.Arrange([]catalog.Member{{Name: "ours"}, {Name: "red1", Groups: []string{"red"}}, {Name: "both", Groups: []string{"red", "blue"}}}) {
		t.Error("the same order is news")
	}
	if !c.Arrange([]catalog.Member{{Name: "red1"}, {Name: "new"}}) {
		t.Error("another order is no news")
	}
	v := c.For("green")
	if got := v.BackEnds(); !slices.Equal(got, []string{"red1", "new"}) || v.Class("Extra", nil) == nil {
		t.Errorf("back ends %v", got)
	}
	if _, err := c.Update("gone", withModels("", "z.safetensors")); err != nil {
		t.Fatal(err)
	}
	if c.For("").Has(catalog.Want{Kind: catalog.WantModel, Name: "z.safetensors"}) {
		t.Error("a back end that is not configured is among them")
	}
}

// TestNowhere: each part can be run, but not all on one back end. The answer names what lacks where, at its node.
func TestNowhere(t *testing.T) {
	t.Parallel()
	c := grouped(t)
	g := graph(t, `{"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "c.safetensors"}}, "3": {"class_type": "Extra", "inputs": {}},
		"2": {"class_type": "Save", "inputs": {"model": ["1", 0]}}, "4": {"class_type": "Save", "inputs": {"model": ["3", 0]}}}`)
	v := c.For("red").Validate(g, nil, nil)
	var body struct {
		Error struct {
			Type, Message, Details string
			ExtraInfo              map[string]any `json:"extra_info"`
		}
		NodeErrors map[string]struct {
			Errors []struct {
				Type, Message, Details string
				ExtraInfo              map[string]any `json:"extra_info"`
			}
			DependentOutputs []string `json:"dependent_outputs"`
			ClassType        string   `json:"class_type"`
		} `json:"node_errors"`
	}
	if err := json.Unmarshal(v.Refusal, &body); err != nil {
		t.Fatalf("%v: %s", err, v.Refusal)
	}
	want := "ours has no c.safetensors (CheckpointLoaderSimple.ckpt_name), Extra; red1 has no c.safetensors (CheckpointLoaderSimple.ckpt_name); both has no Extra"
	if body.Error.Type != "no_back_end" || body.Error.Details != want || body.Error.ExtraInfo == nil {
		t.Errorf("error %+v", body.Error)
	}
	at, ok := body.NodeErrors["1"]
	if !ok || len(body.NodeErrors) != 1 || at.ClassType != "CheckpointLoaderSimple" || at.Errors[0].ExtraInfo["input_name"] != "ckpt_name" || len(at.DependentOutputs) != 2 {
		t.Errorf("node errors %s", v.Refusal)
	}
	for name, text := range map[string]string{"one of them": `"ckpt_name": "b.safetensors"`, "the other": `"ckpt_name": "c.safetensors"`} {
		only := graph(t, `{"1": {"class_type": "CheckpointLoaderSimple", "inputs": {`+text+`}}, "2": {"class_type": "Save", "inputs": {"model": ["1", 0]}}}`)
		if v := c.For("red").Validate(only, nil, nil); v.Refusal != nil {
			t.Errorf("%s: %s", name, v.Refusal)
		}
	}
	// A back end that was never asked may have it all.
	c.Arrange([]catalog.Member{{Name: "ours"}, {Name: "red1"}, {Name: "both"}, {Name: "dark"}})
	if v := c.For("red").Validate(g, nil, nil); v.Refusal != nil {
		t.Errorf("with one that was never asked: %s", v.Refusal)
	}
}

// TestWants: what lacks is named with its folder; what is no model, or a person's own, is not.
func TestWants(t *testing.T) {
	t.Parallel()
	c := grouped(t)
	for name, c2 := range map[string]struct {
		graph *comfy.Graph
		want  []catalog.Want
	}{
		"there":   {loads(t, "a.safetensors"), nil},
		"a model": {loads(t, "new.safetensors"), []catalog.Want{{catalog.WantModel, "checkpoints", "new.safetensors"}}},
		"no file": {loads(t, "please send me money"), nil},
		"a node":  {graph(t, `{"1": {"class_type": "Nobody's", "inputs": {"image": "my.png"}}}`), []catalog.Want{{Kind: catalog.WantNode, Name: "Nobody's"}}},
		"long":    {loads(t, strings.Repeat("x", 300)+".safetensors"), nil},
		"control": {loads(t, "x\n.safetensors"), nil},
	} {
		if diff := cmp.Diff(c2.want, c.For("").Wants(c2.graph)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	files := newCatalog(t, memory{}, "a")
	update(t, files, "a", small)
	g := graph(t, `{"1": {"class_type": "LoadImage", "inputs": {"image": "private.safetensors"}}}`)
	if got := files.For("").Wants(g); len(got) != 0 {
		t.Errorf("a person's file is wanted: %v", got)
	}
}

// BenchmarkFleet is a studio's start: 64 machines with ComfyUI's own nodes tell what they can run, for two groups.
func BenchmarkFleet(b *testing.B) {
	info := shared(b, "comfyui/object_info.json")
	var members []catalog.Member
	for i := range 64 {
		members = append(members, catalog.Member{Name: fmt.Sprint("gpu", i), Groups: []string{[]string{"red", "blue"}[i%2]}})
	}
	for b.Loop() {
		c, err := catalog.New(b.Context(), memory{}, catalog.Options{Members: members})
		if err != nil {
			b.Fatal(err)
		}
		for _, m := range members {
			if _, err := c.Update(m.Name, backend.Snapshot{ObjectInfo: info, Models: map[string][]string{"loras": {m.Name}}}); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// TestToldAgain: after a start of the studio every back end tells all of it again, with other figures of free memory.
// Nothing is merged or written for that.
func TestToldAgain(t *testing.T) {
	t.Parallel()
	store := memory{}
	told := withModels("", "a.safetensors")
	told.System = json.RawMessage(`{"system": {"comfyui_version": "1", "ram_free": 5}, "devices": [{"vram_free": 7}]}`)
	if changed, err := newCatalog(t, store, "a").Update("a", told); err != nil || !changed {
		t.Fatal(changed, err)
	}
	again := newCatalog(t, store, "a")
	clear(store)
	told.System = json.RawMessage(`{"system": {"comfyui_version": "1", "ram_free": 6}, "devices": [{"vram_free": 99}]}`)
	if changed, err := again.Update("a", told); err != nil || changed || len(store) != 0 {
		t.Errorf("told again: changed %t, %v, %d written", changed, err, len(store))
	}
	told.System = json.RawMessage(`{"system": {"comfyui_version": "2", "ram_free": 6}, "devices": []}`)
	if changed, err := again.Update("a", told); err != nil || !changed || len(store) != 1 {
		t.Errorf("another version: changed %t, %v, %d written", changed, err, len(store))
	}
}
