package catalog

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// nowhere refuses a graph whose parts can be run, but not all on one back end. A back end that was never asked may be
// able to: then nothing is certain. Nil: some back end can run it.
func (v *View) nowhere(g *comfy.Graph, outputs []string) json.RawMessage {
	if len(v.asked) < 2 || len(v.dark) > 0 {
		return nil // of one back end, whatever it lacks was told already
	}
	needs := v.Needs(g)
	var told []string
	var least []string // what the back end lacks that lacks least
	best := ""
	for _, name := range v.asked {
		lacks := missing(v.merged.has[name], needs)
		if len(lacks) == 0 {
			return nil
		}
		if told = append(told, name+" has no "+strings.Join(lacks, ", ")); least == nil || len(lacks) < len(least) {
			least, best = lacks, name
		}
	}
	errors := newNodeErrors(g)
	for _, n := range g.Nodes() {
		r := &result{}
		for _, lack := range least {
			if lack == n.ClassType {
				r.add(noBackEnd, "No GPU has all that this graph needs", best+" has no node "+lack)
			}
			for _, value := range n.Inputs {
				if text, ok := pyjson.Text(value.Value); ok && lack == need(n.ClassType, value.Key, text) {
					r.add(noBackEnd, "No GPU has all that this graph needs", value.Key+": "+best+" has no "+text,
						pyjson.Member{Key: "input_name", Value: pyjson.Quote(value.Key)},
						pyjson.Member{Key: "received_value", Value: value.Value})
				}
			}
		}
		for _, output := range outputs {
			if len(r.errors) > 0 {
				errors.add(n.ID, r, output)
			}
		}
	}
	return refuse(noBackEnd, "No GPU has all that this graph needs", strings.Join(told, "; "), errors.json())
}

// noBackEnd is the type of an error that no ComfyUI gives: one server has what it has.
const noBackEnd = "no_back_end"

// Want is what a graph asks for and no back end of the group has: a model file or a node class.
type Want struct {
	Kind   string // model or node
	Folder string // of a model, as far as it can be told from the input
	Name   string
}

// The kinds of a Want.
const (
	WantModel = "model"
	WantNode  = "node"
)

// modelEndings are those of model files. Other choices, such as a sampler's name, are nothing to bring.
var modelEndings = []string{".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx"}

// Limits of what is taken for a name, so that nobody fills a list with texts of their own.
const (
	maxWants = 20 // of one graph
	maxName  = 200
)

// Wants lists the models and node classes that the graph asks for and none of the group's back ends has. Names of
// people's files are never among them: what reads those is left out.
func (v *View) Wants(g *comfy.Graph) []Want {
	if len(v.asked) == 0 {
		return nil
	}
	var list []Want
	add := func(w Want) {
		if len(list) < maxWants && plain(w.Name) && !slices.Contains(list, w) {
			list = append(list, w)
		}
	}
	for _, n := range g.Nodes() {
		k := v.merged.classes[n.ClassType]
		if k == nil {
			add(Want{Kind: WantNode, Name: n.ClassType})
			continue
		}
		for i := range k.inputs {
			in := &k.inputs[i]
			value, ok := n.Input(in.name)
			if !ok || in.choices == nil || in.dynamic || in.reads.kind != noFile || k.checksItself(in.name) {
				continue
			}
			name, ok := pyjson.Text(comfy.Literal(value))
			if !ok || !modelFile(name) {
				continue
			}
			if choices, ok := pyjson.Strings(in.choices); ok && !slices.Contains(choices, name) {
				add(Want{WantModel, v.folder(in, choices), name})
			}
		}
	}
	return list
}

func plain(name string) bool {
	return name != "" && len(name) <= maxName && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}

func modelFile(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(modelEndings, func(e string) bool { return strings.HasSuffix(name, e) })
}

// inputFolders says where the models of an input are when none is there yet. The names are those of ComfyUI's own
// nodes.
var inputFolders = map[string]string{
	"ckpt_name": "checkpoints", "lora_name": "loras", "vae_name": "vae", "unet_name": "diffusion_models", "clip_name": "text_encoders",
	"clip_name1": "text_encoders", "clip_name2": "text_encoders", "clip_name3": "text_encoders", "control_net_name": "controlnet",
	"style_model_name": "style_models", "gligen_name": "gligen", "hypernetwork_name": "hypernetworks", "photomaker_model_name": "photomaker",
	"clip_vision": "clip_vision",
}

// folder finds the model folder whose files an input offers: the smallest that has all of them.
func (v *View) folder(in *input, choices []string) string {
	best := ""
	files := slices.DeleteFunc(slices.Clone(choices), func(c string) bool { return !modelFile(c) })
	for _, folder := range v.merged.folders {
		list := v.merged.models[folder]
		if len(files) == 0 || slices.ContainsFunc(files, func(f string) bool { return !slices.Contains(list, f) }) {
			continue
		}
		if best == "" || len(list) < len(v.merged.models[best]) {
			best = folder
		}
	}
	if best == "" {
		best = inputFolders[in.name]
	}
	return best
}

// Has reports whether some back end of the group has what was wanted.
func (v *View) Has(w Want) bool {
	if w.Kind == WantNode {
		return v.merged.classes[w.Name] != nil
	}
	for folder, files := range v.merged.models {
		if (w.Folder == "" || folder == w.Folder) && slices.Contains(files, w.Name) {
			return true
		}
	}
	return false
}
