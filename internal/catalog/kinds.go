package catalog

import (
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// freePathClasses read or write paths of their own choice although their inputs' names do not tell.
var freePathClasses = []string{
	"Image Load", "Load Image Batch", "Image Save", "Load Text File", "Save Text File", "Text Load Line From File",
	"LoadTrainingDataset",
}

// pathNames are names of text inputs by which custom nodes take a path.
var pathNames = []string{"path", "filepath", "filename_path", "directory", "dir", "folder"}

// FreePath lists the nodes of the graph that read or write paths of their own choice. Core nodes keep to ComfyUI's
// folders; of custom nodes it is told by text inputs that are named like a path.
func (v *View) FreePath(g *comfy.Graph) []comfy.Node {
	m := v.merged
	var list []comfy.Node
	for _, n := range g.Nodes() {
		if k := m.classes[n.ClassType]; k != nil && k.freePath() {
			list = append(list, n)
		}
	}
	return list
}

func (c *class) freePath() bool {
	if slices.Contains(freePathClasses, c.name) {
		return true
	}
	if c.core() {
		return false
	}
	return slices.ContainsFunc(c.inputs, func(in input) bool {
		return in.typ == "STRING" && in.reads.kind == noFile && namesPath(in.name)
	})
}

func namesPath(name string) bool {
	name = strings.ToLower(name)
	return slices.Contains(pathNames, name) || strings.HasSuffix(name, "_path") || strings.HasSuffix(name, "_dir") ||
		strings.HasSuffix(name, "_directory") || strings.HasSuffix(name, "_folder")
}

// Core reports whether all nodes of the graph are of classes that are known to ship with ComfyUI.
func (v *View) Core(g *comfy.Graph) bool {
	m := v.merged
	for _, n := range g.Nodes() {
		if k := m.classes[n.ClassType]; k == nil || !k.core() {
			return false
		}
	}
	return true
}

// Paid lists the nodes of the graph that spend a person's own credits.
func (v *View) Paid(g *comfy.Graph) []comfy.Node {
	m := v.merged
	var paid []comfy.Node
	for _, n := range g.Nodes() {
		if k := m.classes[n.ClassType]; k != nil && k.api {
			paid = append(paid, n)
		}
	}
	return paid
}

// Choices lists what an input of a class can be set to. Nil: no such class or input, or it takes no choice.
func (v *View) Choices(class, input string) []string {
	k := v.merged.classes[class]
	if k == nil {
		return nil
	}
	in, ok := k.input(input)
	if !ok {
		return nil
	}
	list, _ := pyjson.Strings(in.choices)
	return list
}
