package catalog

import (
	"path"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/file"
)

// endings are the file name endings by which inputs of each kind choose what they offer.
var endings = map[fileKind][]string{
	imageFile:  {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".svg", ".apng", ".ppm", ".pgm", ".jfif"},
	videoFile:  {".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".gif", ".mpeg", ".mpg", ".ogv", ".wmv"},
	audioFile:  {".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".aiff", ".wma", ".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v"},
	solidFile:  {".gltf", ".glb", ".obj", ".fbx", ".stl", ".usdz"},
	latentFile: {".latent"},
	textFile:   {".txt", ".pdf"},
}

// offered returns which of a person's inputs an input of this kind lists. inputs are paths below the input folder.
// ComfyUI lists files directly in that folder; 3D models lie in its folder 3d.
func offered(kind fileKind, inputs []string) []string {
	list := []string{}
	for _, name := range inputs {
		dir := path.Dir(name)
		switch kind {
		case inputFolder:
			if dir != "." && !slices.Contains(list, dir) {
				list = append(list, dir)
			}
			continue
		case solidFile:
			if dir != "3d" {
				continue
			}
		default:
			if dir != "." {
				continue
			}
		}
		if kind == anyFile || slices.Contains(endings[kind], strings.ToLower(path.Ext(name))) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// FileInputs lists every input of the graph that reads files of the person by a name that is written in the graph.
// Nodes with others are those of Unnamed.
func (v *View) FileInputs(g *comfy.Graph) []comfy.FileInput {
	m := v.merged
	var list []comfy.FileInput
	for _, n := range g.Nodes() {
		k := m.classes[n.ClassType]
		if k == nil {
			continue
		}
		for i := range k.inputs {
			list = k.inputs[i].files(list, &n)
		}
	}
	return list
}

// files appends the files that an input of node n reads.
func (in *input) files(list []comfy.FileInput, n *comfy.Node) []comfy.FileInput {
	if in.reads.kind == noFile {
		return list
	}
	value, ok := n.Input(in.name)
	if !ok {
		return list
	}
	value = comfy.Literal(value)
	f := comfy.FileInput{Node: n.ID, Input: in.name, Type: in.reads.typ, Folder: in.reads.kind == inputFolder}
	if in.reads.kind == fileObject {
		members, err := pyjson.Members(value)
		if err != nil {
			return list
		}
		for _, m := range members {
			if text, ok := pyjson.Text(m.Value); ok && text != "" {
				f.Member, f.Value = m.Key, text
				list = append(list, f)
			}
		}
		return list
	}
	text, ok := pyjson.Text(value)
	if !ok || text == "" || in.reads.kind == solidFile && text == "none" {
		return list
	}
	f.Value = text
	return append(list, f)
}

// Unnamed lists the nodes of the graph that read files whose names are not written in it as plain text, so that they
// can't be kept to the person's own: a name that another node makes up while the graph runs could be anybody's.
func (v *View) Unnamed(g *comfy.Graph) []comfy.Node {
	m := v.merged
	var list []comfy.Node
	for _, n := range g.Nodes() {
		if k := m.classes[n.ClassType]; k != nil && k.unnamed(&n) {
			list = append(list, n)
		}
	}
	return list
}

func (c *class) unnamed(n *comfy.Node) bool {
	if slices.ContainsFunc(c.inputs, func(in input) bool { return in.reads.kind != noFile && !in.named(n) }) {
		return true
	}
	if !slices.ContainsFunc(c.inputs, func(in input) bool { return in.dynamic }) {
		return false
	}
	// What a dynamic input takes, and which further ones it brings, is not known here.
	for _, m := range n.Inputs {
		in, declared := c.input(m.Key)
		if declared && (!in.dynamic || in.reads.kind != noFile) {
			continue
		}
		if text, ok := pyjson.Text(comfy.Literal(m.Value)); ok && annotated(text) {
			return true
		}
	}
	return false
}

// named reports whether the value of a file input is one that files reads, or none.
func (in *input) named(n *comfy.Node) bool {
	value, ok := n.Input(in.name)
	if !ok {
		return true
	}
	value = comfy.Literal(value)
	switch in.reads.kind {
	case fileObject:
		return pyjson.KindOf(value) == pyjson.Object
	case inputFolder:
		return pyjson.TextOf(value) != "" // no name is the folder of all
	default:
		return pyjson.KindOf(value) == pyjson.String
	}
}

// annotated reports whether a text names the folder of a file the way back ends read it.
func annotated(text string) bool {
	return strings.HasSuffix(text, "["+file.Input+"]") || strings.HasSuffix(text, "["+file.Output+"]") ||
		strings.HasSuffix(text, "["+file.Temp+"]")
}

// OutputNodes lists the nodes of the graph that make outputs.
func (v *View) OutputNodes(g *comfy.Graph) []string {
	m := v.merged
	var ids []string
	for _, n := range g.Nodes() {
		if k := m.classes[n.ClassType]; k != nil && k.output {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// owns reports whether the value of a file input names a file, or folder, that has reports as the person's.
func (r reading) owns(value string, has func(file.Ref) bool) bool {
	if r.kind == inputFolder {
		_, err := file.CleanPath("folder", value)
		return err == nil && value != "" // whether it has files is seen when the job is prepared
	}
	ref, ok := file.ParseAnnotated(value, r.typ)
	return ok && has(ref)
}
