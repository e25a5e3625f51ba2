package catalog

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

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

// Request is what graphs of a group asked for, and how often.
type Request struct {
	Want
	Group       string // empty: of people without one
	Count       int
	First, Last time.Time
}

// RequestStore counts what was asked for. Every change is durable when the call returns. It is safe for concurrent use.
type RequestStore interface {
	// AddRequest counts one more.
	AddRequest(ctx context.Context, w Want, group string, at time.Time) error
	// DropRequest forgets what was asked for, of all groups; what is not kept is no error.
	DropRequest(ctx context.Context, w Want) error
	// Requests lists all, by kind, folder, name and group.
	Requests(ctx context.Context) ([]Request, error)
}
