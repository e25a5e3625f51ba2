package catalog

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/file"
)

// class is one node class of object_info.
type class struct {
	name    string
	raw     json.RawMessage
	module  string // python_module
	output  bool   // output_node
	api     bool   // spends a person's credits
	inputs  []input
	results []string // type names; a choice counts as COMBO
}

// input is a declared input of a class. Hidden ones are left out: they take no value from a graph.
type input struct {
	name     string
	required bool
	typ      string          // type name; empty for a list of choices in the old form
	choices  json.RawMessage // list; nil when there is none
	config   json.RawMessage // [type, options], as error bodies show it
	options  json.RawMessage // object; nil when there is none
	min, max json.RawMessage
	reads    reading
	dynamic  bool // the browser or the node decides what goes in; nothing is certain
	multi    bool // takes several choices
}

// reading says which of a person's files an input reads.
type reading struct {
	kind fileKind
	typ  string // type of a value without annotation
}

// fileKind is what sort of files an input offers.
type fileKind uint8

const (
	noFile fileKind = iota
	imageFile
	videoFile
	audioFile
	solidFile
	latentFile
	textFile
	anyFile
	inputFolder
	fileObject // an object whose text members name files
)

// core reports whether the class ships with ComfyUI, so that its description says all there is to check.
func (c *class) core() bool {
	return c.module == "nodes" || strings.HasPrefix(c.module, "comfy_extras.") || strings.HasPrefix(c.module, "comfy_api_nodes.")
}

// ownChecks are inputs of core classes that the class checks itself, so that ranges and choices of the description do not
// hold for them. The list follows ComfyUI 0.3.64; the description does not tell.
var ownChecks = map[string][]string{
	"LoadLatent": {"latent"}, "LoadImage": {"image"}, "LoadImageMask": {"image"}, "LoadImageOutput": {"image"},
	"LoadAudio": {"audio"}, "LoadVideo": {"file"}, "LoadImageSetNode": {"images", "resize_method"}, "WebcamCapture": {"image"},
	"FluxProUltraImageNode": {"aspect_ratio"},
	"KlingCameraControls":   {"horizontal_movement", "vertical_movement", "pan", "tilt", "roll", "zoom"},
	"TripoConversionNode":   {inputTypes},
}

// inputTypes is among a class's own checks where it looks at the types of what it is linked to by itself.
const inputTypes = "input_types"

func (c *class) checksItself(in string) bool { return slices.Contains(ownChecks[c.name], in) }

// folderInputs are inputs of core classes that read whole folders of the input directory.
var folderInputs = map[string]string{
	"LoadImageSetFromFolderNode": "folder", "LoadImageTextSetFromFolderNode": "folder",
	"LoadImageDataSetFromFolder": "folder", "LoadImageTextDataSetFromFolder": "folder", // their later names
}

// inputFiles are inputs of core classes that list text files of the input directory and do not say so.
var inputFiles = map[string]string{"OpenAIInputFiles": "file", "GeminiInputFiles": "file"}

// parseClass reads one class. Parts of another form than ComfyUI's are left out: such a class is never refused.
func parseClass(name string, raw json.RawMessage) class {
	c := class{name: name, raw: raw}
	fields, err := pyjson.Members(raw)
	if err != nil {
		return c
	}
	for _, f := range fields {
		switch f.Key {
		case "python_module":
			c.module = pyjson.TextOf(f.Value)
		case "output_node":
			c.output = pyjson.Truthy(f.Value)
		case "api_node":
			c.api = pyjson.Truthy(f.Value)
		case "output":
			c.results = typeNames(f.Value)
		case "input":
			c.parseInputs(f.Value)
		}
	}
	c.api = c.api || strings.HasPrefix(c.module, "comfy_api_nodes")
	return c
}

func typeNames(raw json.RawMessage) []string {
	list, err := pyjson.Elements(raw)
	if err != nil {
		return nil
	}
	names := make([]string, len(list))
	for i, e := range list {
		var ok bool
		if names[i], ok = pyjson.Text(e); !ok {
			names[i] = "COMBO"
		}
	}
	return names
}

func (c *class) parseInputs(raw json.RawMessage) {
	for _, group := range []string{"required", "optional"} {
		members, ok := pyjson.Get(raw, group)
		if !ok {
			continue
		}
		list, err := pyjson.Members(members)
		if err != nil {
			continue
		}
		for _, m := range list {
			c.inputs = append(c.inputs, c.parseInput(m, group == "required"))
		}
	}
}

func (c *class) parseInput(m pyjson.Member, required bool) input {
	in := input{name: m.Key, required: required, dynamic: true, config: m.Value}
	parts, err := pyjson.Elements(m.Value)
	if err != nil || len(parts) == 0 {
		return in
	}
	in.dynamic = false
	if len(parts) > 1 && pyjson.KindOf(parts[1]) == pyjson.Object {
		in.options = parts[1]
	} else {
		in.config = append(append(append([]byte("["), parts[0]...), ", {}"...), ']')
	}
	if pyjson.KindOf(parts[0]) == pyjson.Array {
		in.choices = parts[0]
	} else {
		in.typ = pyjson.TextOf(parts[0])
	}
	option := func(name string) json.RawMessage { v, _ := pyjson.Get(in.options, name); return v }
	if in.typ == "COMBO" {
		in.choices = option("options")
	}
	in.min, in.max = option("min"), option("max")
	in.multi = pyjson.Truthy(option("multiselect")) || pyjson.KindOf(option("multi_select")) == pyjson.Object
	in.reads = c.reading(in, option)
	_, remote := pyjson.Get(in.options, "remote")
	in.dynamic = remote || in.typ == "" && in.choices == nil || strings.HasPrefix(in.typ, "COMFY_") || strings.Contains(in.typ, "*")
	return in
}

// reading finds out whether an input reads files of the person.
func (c *class) reading(in input, option func(string) json.RawMessage) reading {
	folder := pyjson.TextOf(option("image_folder"))
	if remote := pyjson.TextOf(must(pyjson.Get(in.options, "remote", "route"))); folder == "" && strings.HasPrefix(remote, "/internal/files/") {
		folder = strings.TrimPrefix(remote, "/internal/files/")
	}
	typ := file.Input
	if folder == file.Output || folder == file.Temp {
		typ = folder
	}
	upload := func(name string) bool { return pyjson.Truthy(option(name)) }
	switch {
	case folderInputs[c.name] == in.name:
		return reading{inputFolder, typ}
	case in.typ == "LOAD_3D" || in.typ == "LOAD_3D_ANIMATION":
		return reading{fileObject, typ}
	case upload("video_upload"):
		return reading{videoFile, typ}
	case upload("audio_upload"), in.typ == "AUDIO_RECORD":
		return reading{audioFile, typ}
	case upload("image_upload"), upload("animated_image_upload"), in.typ == "WEBCAM", folder != "":
		return reading{imageFile, typ}
	case inputFiles[c.name] == in.name:
		return reading{textFile, typ}
	case c.name == "LoadLatent" && in.name == "latent":
		return reading{latentFile, typ}
	case upload("file_upload") && in.name == "model_file":
		return reading{solidFile, typ}
	case upload("file_upload"):
		return reading{anyFile, typ}
	}
	return reading{}
}

func must(raw json.RawMessage, _ bool) json.RawMessage { return raw }

// input returns the declared input of this name.
func (c *class) input(name string) (*input, bool) {
	for i := range c.inputs {
		if c.inputs[i].name == name {
			return &c.inputs[i], true
		}
	}
	return nil, false
}
