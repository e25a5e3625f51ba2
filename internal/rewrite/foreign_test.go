package rewrite_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/backend"
	catalogs "github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/policy"
	"github.com/ahelme/comfyume/internal/rewrite"
)

// people are the files of each person.
type people map[string][]file.Info

func (p people) Stat(_ context.Context, user string, ref file.Ref) (file.Info, error) {
	for _, f := range p[user] {
		if f.Ref == ref {
			return f, nil
		}
	}
	return file.Info{}, fault.New(fault.Missing, "no such file")
}

func (p people) Open(ctx context.Context, user string, ref file.Ref) (file.Info, io.ReadSeekCloser, error) {
	info, err := p.Stat(ctx, user, ref)
	return info, nil, err
}

func (p people) List(_ context.Context, user, typ string) ([]file.Info, error) {
	return slices.DeleteFunc(slices.Clone(p[user]), func(f file.Info) bool { return f.Type != typ }), nil
}

// annsFiles and bobsFiles have nothing in common but one name.
func annsFiles() (list []file.Info) {
	for _, typ := range []string{file.Input, file.Output, file.Temp} {
		for _, at := range []string{"ann.png", "both.png", "sub/ann.png", "clipspace/ann.png", "3d/ann.glb", "ann.latent"} {
			dir, name := path.Split(at)
			list = append(list, file.Info{Ref: file.Ref{Type: typ, Subfolder: strings.TrimSuffix(dir, "/"), Name: name}, Hash: "ann" + typ + at})
		}
	}
	return list
}

func bobsFiles() []file.Info {
	return []file.Info{
		{Ref: file.Ref{Type: file.Input, Name: "both.png"}, Hash: "bob1"},
		{Ref: file.Ref{Type: file.Output, Name: "both.png"}, Hash: "bob2"},
		{Ref: file.Ref{Type: file.Input, Subfolder: "set", Name: "b.png"}, Hash: "bob3"},
	}
}

// spellings are values by which bob may try to reach ann's files, and two that mean his own. Node 8 is a text with the
// name of one.
var spellings = []string{
	`"ann.png"`, `"ann.png [input]"`, `"ann.png [output]"`, `"ann.png[output]"`, `"ann.png [temp]"`, `"ann.png [output] [input]"`, `" ann.png"`,
	`"sub/ann.png"`, `"./sub//ann.png"`, `"sub/../ann.png"`, `"../ann/ann.png"`, `"../../ann/input/ann.png [output]"`, `"..\\ann\\ann.png"`,
	`"/data/users/ann/ann.png"`, `"//ann.png"`, `"C:\\ann\\ann.png"`, `"c:/ann.png"`, `"file:///ann.png"`, `"~ann/ann.png"`,
	`"clipspace/ann.png [input]"`, `"3d/ann.glb"`, `"ann.latent"`, `"sub"`, `"clipspace"`, `"sub/"`, `"."`, `".."`, `"/"`, `""`,
	`"%61nn.png"`, `"..%2fann%2fann.png"`, `"%2e%2e/ann.png"`, `"\u0061nn.png"`, `"sub\u2215ann.png"`, `"sub\uff0fann.png"`,
	`"\uff41nn.png"`, `"\u2024\u2024/ann.png"`, `"ann.png\u0000"`, `"\u0000ann.png"`, `"ann.png\u0000.jpg [output]"`, `"\ud800/ann.png"`, `"ann.png\n"`,
	`{"__value__": "ann.png"}`, `{"__value__": "ann.png [output]"}`, `{"\u005f_value__": "sub/ann.png"}`, `{"__value__": {"__value__": "ann.png"}}`,
	`{"__value__": ["ann.png"]}`, `{"__value__": ["8", 0]}`, `["ann.png"]`, `["8", 0]`, `["8", "0"]`, `[["8", 0]]`, `5`, `true`, `null`,
	`{"image": "ann.png", "mask": "", "recording": "sub/ann.png [temp]"}`, `{"image": ["8", 0]}`, `{"image": {"image": "ann.png"}}`,
	`{"__value__": {"image": "ann.png [output]"}}`, `{"image": "both.png", "image": "ann.png"}`, `{"filename": "ann.png", "type": "output"}`,
	`"both.png"`, `"both.png [output]"`, `"set"`,
}

// readersOfSource are the inputs by which the source of ComfyUI 0.3.64 and its later names reads what lies in the
// folders of inputs and outputs.
var readersOfSource = []string{
	"LoadLatent.latent", "LoadImage.image", "LoadImageMask.image", "LoadImageOutput.image", "LoadVideo.file", "LoadAudio.audio",
	"RecordAudio.audio", "WebcamCapture.image", "Load3D.image", "Load3D.model_file", "Load3DAnimation.image",
	"Load3DAnimation.model_file", "LoadImageSetFromFolderNode.folder", "LoadImageTextSetFromFolderNode.folder",
	"OpenAIInputFiles.file", "GeminiInputFiles.file", "LoadImageDataSetFromFolder.folder", "LoadTrainingDataset.folder_name",
}

// later are classes that the recorded description lacks.
const later = `{
"OpenAIInputFiles": {"input": {"required": {"file": ["COMBO", {"options": ["a.txt"]}]}}, "output": ["X"], "python_module": "comfy_api_nodes.nodes_openai"},
"GeminiInputFiles": {"input": {"required": {"file": ["COMBO", {"options": ["a.txt"]}]}}, "output": ["X"], "python_module": "comfy_api_nodes.nodes_gemini"},
"LoadImageDataSetFromFolder": {"input": {"required": {"folder": ["COMBO", {"options": ["f"]}]}}, "output": ["IMAGE"], "python_module": "comfy_extras.nodes_dataset"},
"LoadTrainingDataset": {"input": {"required": {"folder_name": ["STRING", {}]}}, "output": ["X"], "python_module": "comfy_extras.nodes_dataset"},
"PackLoader": {"input": {"required": {"clip": [["a.mp4"], {"video_upload": true}]}, "optional": {"still": ["COMBO", {"remote": {"route": "/internal/files/temp"}}]}}, "output": ["IMAGE"], "python_module": "custom_nodes.pack"},
"PackPath": {"input": {"required": {"video_path": ["STRING", {}]}}, "output": ["IMAGE"], "python_module": "custom_nodes.pack"}
}`

// described returns the back end's description and which inputs read files, told by other signs than the catalog's: what
// the source reads, what lists the names that the input folder had, and any word of files among an input's options.
func described(t *testing.T) (info json.RawMessage, names []string, reads map[string]bool) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "comfyui", "object_info.json"))
	if os.IsNotExist(err) {
		t.Skip("../shared is not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	classes, err := pyjson.Members(raw)
	if err != nil {
		t.Fatal(err)
	}
	more, err := pyjson.Members(json.RawMessage(later))
	if err != nil {
		t.Fatal(err)
	}
	classes = append(classes, more...)
	lying := []string{"example.png", "3d", "clipspace", "pasted"}
	reads = map[string]bool{"PackPath.video_path": true}
	for _, c := range classes {
		for _, group := range []string{"required", "optional"} {
			list, _ := pyjson.Get(c.Value, "input", group)
			inputs, _ := pyjson.Members(list)
			for _, in := range inputs {
				name := c.Key + "." + in.Key
				names = append(names, name)
				parts, err := pyjson.Elements(in.Value)
				if err != nil || len(parts) == 0 {
					t.Fatalf("%s: %s", name, in.Value)
				}
				listed, _ := pyjson.Strings(parts[0])
				options := ""
				if len(parts) > 1 {
					tip, _ := pyjson.Get(parts[1], "tooltip")
					options = strings.ReplaceAll(string(parts[1]), string(tip), "")
				}
				reads[name] = reads[name] || slices.Contains(readersOfSource, name) ||
					slices.ContainsFunc(lying, func(f string) bool { return slices.Contains(listed, f) }) ||
					strings.Contains(options, "_upload") || strings.Contains(options, "/files/") || strings.Contains(options, "_folder")
			}
		}
	}
	return pyjson.AppendObject(nil, classes), names, reads
}

type snapshots struct{}

func (snapshots) SaveSnapshot(context.Context, string, []byte) error       { return nil }
func (snapshots) LoadSnapshots(context.Context) (map[string][]byte, error) { return nil, nil }

// Every input that reads files is given every spelling, alone and after another value, which then does not count. It is
// refused, or reads what is bob's.
func TestNoGraphReachesAnotherPersonsFiles(t *testing.T) {
	t.Parallel()
	info, names, reads := described(t)
	all, err := catalogs.New(t.Context(), snapshots{}, catalogs.Options{Members: []catalogs.Member{{Name: "gpu"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := all.Update("gpu", backend.Snapshot{ObjectInfo: info}); err != nil {
		t.Fatal(err)
	}
	cat := all.For("")
	files := people{"ann": annsFiles(), "bob": bobsFiles()}
	rules := policy.Rules{Paid: true} // else it would hide what API nodes read
	r := rewrite.New(always(cat), files, []byte("key"), rewrite.Options{Allowed: func(_ string, g *comfy.Graph) error {
		return rules.Check(policy.Graph{Nodes: g.Nodes(), Paid: cat.Paid(g), Unnamed: cat.Unnamed(g), FreePath: cat.FreePath(g)})
	}})
	seen, own := 0, 0
	for _, name := range names {
		if !reads[name] {
			continue
		}
		seen++
		class, input, _ := strings.Cut(name, ".")
		for _, value := range spellings {
			key := string(pyjson.Quote(input))
			for _, inputs := range []string{key + ": " + value, key + `: "both.png", ` + `"\u00` + hex(input[0]) + key[2:] + ": " + value} {
				graph := `{"1": {"class_type": ` + string(pyjson.Quote(class)) + `, "inputs": {` + inputs + `}}, "8": {"class_type": "PrimitiveString", "inputs": {"value": "ann.png [output]"}}}`
				e := job.Entry{Job: job.Job{User: "bob"}, Request: job.Request{Prompt: json.RawMessage(graph)}}
				tr, err := r.Out(t.Context(), e, nil)
				if err == nil && reachesOnlyOwn(t, files, task(tr), input, graph) > 0 {
					own++
				}
			}
		}
	}
	if seen < len(readersOfSource) || own < seen {
		t.Errorf("%d inputs read files, and %d graphs ran with bob's own", seen, own)
	}
}

func hex(c byte) string { return string("0123456789abcdef"[c>>4]) + string("0123456789abcdef"[c&15]) }

// reachesOnlyOwn holds what goes to the back end for bob: every text in the input is the name of an upload, and every
// upload is a file of his. It returns how many there are.
func reachesOnlyOwn(t *testing.T, files people, sent backend.Task, input, graph string) int {
	t.Helper()
	var known []string
	for _, u := range sent.Uploads {
		known = append(known, u.Name, u.Subfolder)
		if _, err := u.Open(); err != nil { // it is opened as bob's
			t.Errorf("%s: upload %s: %v", graph, u.Name, err)
		}
	}
	g, err := comfy.ParseGraph(sent.Prompt)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := g.Node("1")
	value, _ := n.Input(input)
	value = comfy.Literal(value)
	if kind := pyjson.KindOf(value); kind != pyjson.String && kind != pyjson.Object && kind != pyjson.None {
		t.Errorf("%s: the back end gets %s", graph, sent.Prompt)
	}
	texts, err := pyjson.Members(value)
	if err != nil {
		texts = []pyjson.Member{{Value: value}}
	}
	for _, m := range texts {
		text, ok := pyjson.Text(m.Value)
		if ok && text != "" && !slices.Contains(known, text) || strings.Contains(text, "ann") {
			t.Errorf("%s: the back end gets %s", graph, sent.Prompt)
		}
	}
	return len(sent.Uploads)
}
