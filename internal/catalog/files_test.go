package catalog_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/file"
)

const readers = `{
"LoadImage": {"input": {"required": {"image": [["z.png"], {"image_upload": true}]}}, "output": ["IMAGE"], "python_module": "nodes"},
"Load3D": {"input": {"required": {"image": ["LOAD_3D", {}]}}, "output": ["IMAGE"], "python_module": "comfy_extras.nodes_load_3d"},
"LoadImageSetFromFolderNode": {"input": {"required": {"folder": [["f"], {}]}}, "output": ["IMAGE"], "python_module": "comfy_extras.nodes_train"},
"LoadImageDataSetFromFolder": {"input": {"required": {"folder": ["COMBO", {"options": ["f"]}]}}, "output": ["IMAGE"], "python_module": "comfy_extras.nodes_dataset"},
"OpenAIInputFiles": {"input": {"required": {"file": ["COMBO", {"options": ["theirs.txt"]}]}}, "output": ["X"], "python_module": "comfy_api_nodes.nodes_openai", "api_node": true},
"LoadTrainingDataset": {"input": {"required": {"folder_name": ["STRING", {}]}}, "output": ["X"], "python_module": "comfy_extras.nodes_dataset"},
"Any": {"input": {"required": {"v": ["STRING", {}]}}, "output": ["*"], "python_module": "custom_nodes.any"},
"Dynamic": {"input": {"required": {"mode": ["COMFY_DYNAMICCOMBO_V3", {}], "text": ["STRING", {}]}}, "output": ["IMAGE"], "python_module": "nodes"}
}`

// Whatever a back end takes for the name of a file is either one that FileInputs finds, and that becomes the person's
// own, or makes the node one that may not run.
func TestEveryFileIsNamedOrRefused(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, memory{}, "a")
	update(t, c, "a", readers)
	one := func(value string, more ...string) []comfy.FileInput {
		f := comfy.FileInput{Node: "1", Input: "image", Type: file.Input, Value: value}
		if len(more) > 0 {
			f.Member = more[0]
		}
		return []comfy.FileInput{f}
	}
	for name, tc := range map[string]struct {
		node    string
		found   []comfy.FileInput
		unnamed bool
	}{
		"text":                       {`"LoadImage", "inputs": {"image": "x.png"}`, one("x.png"), false},
		"nothing":                    {`"LoadImage", "inputs": {}`, nil, false},
		"wrapped text":               {`"LoadImage", "inputs": {"image": {"__value__": "x.png [output]"}}`, one("x.png [output]"), false},
		"wrapped text, escaped":      {`"LoadImage", "inputs": {"image": {"\u005f_value__": "x.png"}}`, one("x.png"), false},
		"the last of two counts":     {`"LoadImage", "inputs": {"image": "mine.png", "image": "x.png"}`, one("x.png"), false},
		"wrapped twice":              {`"LoadImage", "inputs": {"image": {"__value__": {"__value__": "x.png"}}}`, nil, true},
		"link":                       {`"LoadImage", "inputs": {"image": ["2", 0]}`, nil, true},
		"list":                       {`"LoadImage", "inputs": {"image": {"__value__": ["x.png"]}}`, nil, true},
		"object":                     {`"LoadImage", "inputs": {"image": {"filename": "x.png"}}`, nil, true},
		"number":                     {`"LoadImage", "inputs": {"image": 5}`, nil, true},
		"object of files":            {`"Load3D", "inputs": {"image": {"image": "x.png", "camera": {"fov": 1}}}`, one("x.png", "image"), false},
		"wrapped object of files":    {`"Load3D", "inputs": {"image": {"__value__": {"image": "x.png"}}}`, one("x.png", "image"), false},
		"link to an object of files": {`"Load3D", "inputs": {"image": ["2", 0]}`, nil, true},
		"text for an object":         {`"Load3D", "inputs": {"image": "x.png"}`, nil, true},
		"folder of all":              {`"LoadImageSetFromFolderNode", "inputs": {"folder": ""}`, nil, true},
		"folder, later name":         {`"LoadImageDataSetFromFolder", "inputs": {"folder": ["2", 0]}`, nil, true},
		"text file":                  {`"OpenAIInputFiles", "inputs": {"file": "x.txt"}`, []comfy.FileInput{{Node: "1", Input: "file", Type: file.Input, Value: "x.txt"}}, false},
		"dynamic, text":              {`"Dynamic", "inputs": {"mode": "file", "text": "a [output]"}`, nil, false},
		"dynamic, file":              {`"Dynamic", "inputs": {"mode": "file", "mode.image": "x.png [output]"}`, nil, true},
		"dynamic, wrapped file":      {`"Dynamic", "inputs": {"mode": {"__value__": "x.png [temp]"}}`, nil, true},
		"not a reader":               {`"Any", "inputs": {"v": ["2", 0]}`, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, err := comfy.ParseGraph(json.RawMessage(`{"1": {"class_type": ` + tc.node + `}, "2": {"class_type": "Any", "inputs": {"v": "x.png [output]"}}}`))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.found, c.For("").FileInputs(g)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if got := len(c.For("").Unnamed(g)) > 0; got != tc.unnamed {
				t.Errorf("unnamed %v, want %v", got, tc.unnamed)
			}
		})
	}
}

func TestListsOfFilesShowNobodyElses(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, memory{}, "a")
	update(t, c, "a", readers)
	info := string(c.For("").ObjectInfo([]string{"mine.txt", "mine.png"}).JSON)
	if strings.Contains(info, "theirs.txt") || strings.Count(info, "mine.txt") != 1 {
		t.Errorf("object_info shows other files than the person's: %s", info)
	}
	g, err := comfy.ParseGraph(json.RawMessage(`{"1": {"class_type": "LoadTrainingDataset", "inputs": {"folder_name": "x"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.For("").FreePath(g)) != 1 {
		t.Error("a core class that reads a folder of results by any name may run")
	}
}
