// Package apart keeps the outputs of runs apart on ComfyUI servers that write to one folder. ComfyUI numbers its files by
// what lies in the folder: two servers choose the same name, and one person gets what another made. So each saving node
// of each run gets a folder of its own, and what comes back is told as if it had none.
package apart

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// prefixInput is how saving nodes call the beginning of their files' names.
const prefixInput = "filename_prefix"

// saving are the classes of nodes that save what a node of a preview shows, in the same form.
var saving = map[string]string{"PreviewImage": "SaveImage", "PreviewAudio": "SaveAudio"}

// Names knows which file of a run is which. It is safe for concurrent use.
type Names struct {
	runID   string
	nodes   []string        // that save, in the order of their folders
	preview map[string]bool // those that stand for a preview

	mu    sync.Mutex
	given map[backend.FileRef]backend.FileRef // how files were told, by what they are
	is    map[backend.FileRef]backend.FileRef // the other way
}

// Strict gives each saving node of a prompt its folder, for servers that can't be told apart. Previews are saved like
// pictures: the temporary folder of a server is out of reach once another one answers. A prompt of which a file could
// not be found again is refused.
func Strict(t backend.Task) (*Names, backend.Task, error) { return own(t, true) }

func own(t backend.Task, strict bool) (*Names, backend.Task, error) {
	n := &Names{
		runID: t.Attempt.RunID, preview: map[string]bool{},
		given: map[backend.FileRef]backend.FileRef{}, is: map[backend.FileRef]backend.FileRef{},
	}
	g, err := comfy.ParseGraph(t.Prompt)
	if err != nil {
		return nil, t, refused("", "", "The graph can't be read.")
	}
	members, err := pyjson.Members(t.Prompt)
	if err != nil {
		return nil, t, refused("", "", "The graph can't be read.")
	}
	for _, node := range g.Nodes() {
		value, ok := node.Input(prefixInput)
		prefix, text := pyjson.Text(comfy.Literal(value))
		switch {
		case strict && saving[node.ClassType] != "":
			prefix = "ComfyUI_temp"
			n.preview[node.ID] = true
			at := slices.IndexFunc(members, func(m pyjson.Member) bool { return m.Key == node.ID })
			if members[at].Value, err = withMember(members[at].Value, "class_type", pyjson.Quote(saving[node.ClassType])); err != nil {
				return nil, t, refused(node.ID, node.ClassType, "The node can't be read.")
			}
		case !ok, !strict && !text:
			continue
		case !text:
			return nil, t, refused(node.ID, node.ClassType, "filename_prefix is computed by another node. This GPU source can only find files whose prefix is a text.")
		case leaves(prefix):
			return nil, t, refused(node.ID, node.ClassType, "filename_prefix leads out of the folder of outputs.")
		}
		folder := backend.RunFolder(n.runID, len(n.nodes))
		n.nodes = append(n.nodes, node.ID)
		at := slices.IndexFunc(members, func(m pyjson.Member) bool { return m.Key == node.ID })
		inputs, _ := pyjson.Get(members[at].Value, "inputs")
		if inputs, err = withMember(inputs, prefixInput, pyjson.Quote(folder+"/"+strings.TrimLeft(prefix, "/"))); err == nil {
			members[at].Value, err = withMember(members[at].Value, "inputs", inputs)
		}
		if err != nil {
			return nil, t, refused(node.ID, node.ClassType, "The node can't be read.")
		}
	}
	t.Prompt = pyjson.AppendObject(nil, members)
	return n, t, nil
}

// leaves reports whether a prefix may lead out of its folder.
func leaves(prefix string) bool {
	return slices.Contains(strings.FieldsFunc(prefix, func(r rune) bool { return r == '/' || r == '\\' }), "..")
}

// withMember returns an object with one member set, in the place that it had: graphs are written into pictures as they are.
func withMember(object []byte, key string, value []byte) ([]byte, error) {
	members, err := pyjson.Members(object)
	if err != nil {
		return nil, err
	}
	is := func(m pyjson.Member) bool { return m.Key == key }
	at := slices.IndexFunc(members, is)
	if at < 0 {
		return pyjson.AppendObject(nil, append(members, pyjson.Member{Key: key, Value: value})), nil
	}
	members[at].Value = value
	rest := slices.DeleteFunc(members[at+1:], is)
	return pyjson.AppendObject(nil, members[:at+1+len(rest)]), nil
}

// refused is a refusal in a server's own form.
func refused(node, class, message string) error {
	body := fmt.Appendf(nil, `{"error": {"type": "comfyume_balanced", "message": %s, "details": "", "extra_info": {}}, "node_errors": {`, pyjson.Quote(message))
	if node != "" {
		body = fmt.Appendf(body, `%s: {"class_type": %s, "dependent_outputs": [], "errors": [{"type": "comfyume_balanced", "message": %s, "details": "", "extra_info": {}}]}`,
			pyjson.Quote(node), pyjson.Quote(class), pyjson.Quote(message))
	}
	return &backend.Refused{Body: append(body, "}}"...)}
}

// Nodes are those that save, in the order of their folders.
func (n *Names) Nodes() []string { return n.nodes }

// Place returns the place of the node in whose folder a file is.
func (n *Names) Place(f backend.FileRef) (place int, ok bool) {
	if f.Type != "output" {
		return 0, false
	}
	first, _, _ := strings.Cut(strings.ReplaceAll(f.Subfolder, `\`, "/"), "/")
	for place = range n.nodes {
		if first == backend.RunFolder(n.runID, place) {
			return place, true
		}
	}
	return 0, false
}

// tell returns how a file of a run is told: as if its node had saved it where it was asked to. A file that is not in a
// folder of the run stays as it is, and can't be fetched.
func (n *Names) tell(f backend.FileRef) backend.FileRef {
	place, ok := n.Place(f)
	if !ok {
		return f
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if told, ok := n.given[f]; ok {
		return told
	}
	_, rest, _ := strings.Cut(strings.ReplaceAll(f.Subfolder, `\`, "/"), "/")
	told := backend.FileRef{Filename: f.Filename, Subfolder: rest, Type: f.Type}
	if n.preview[n.nodes[place]] {
		told.Type = "temp"
	}
	for i := 2; ; i++ { // two nodes with one prefix both count from 1
		if _, taken := n.is[told]; !taken {
			break
		}
		ext := path.Ext(f.Filename)
		told.Filename = fmt.Sprintf("%s_%d%s", strings.TrimSuffix(f.Filename, ext), i, ext)
	}
	n.given[f], n.is[told] = told, f
	return told
}

// Actual returns the file that was told so.
func (n *Names) Actual(told backend.FileRef) (backend.FileRef, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f, ok := n.is[told]
	return f, ok
}

func (n *Names) entry(_ comfy.FileSite, e comfy.FileEntry) (comfy.FileEntry, error) {
	return comfy.FileEntry(n.tell(backend.FileRef(e))), nil
}

// Result puts a result into the words of the prompt as it came.
func (n *Names) Result(r backend.Result) (backend.Result, error) {
	outputs, err := comfy.RewriteOutputs(r.Outputs, n.entry)
	if err != nil {
		return r, fmt.Errorf("%w: outputs that can't be read: %w", backend.ErrLost, err)
	}
	r.Outputs = outputs
	return r, nil
}

// Update does so with a frame.
func (n *Names) Update(u backend.Update) backend.Update {
	if u.Type != "executed" || u.Binary != nil {
		return u
	}
	output, ok := pyjson.Get(u.Data, "output")
	if !ok {
		return u
	}
	output, err := comfy.RewriteOutput(u.Node, output, n.entry)
	if err != nil {
		return u
	}
	if data, err := withMember(u.Data, "output", output); err == nil {
		u.Data = data
	}
	return u
}
