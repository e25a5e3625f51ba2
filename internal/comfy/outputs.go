package comfy

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// FileSite says where in the outputs of a run a file is named.
type FileSite struct {
	Node  string
	Key   string // list name such as images, audio, 3d
	Index int    // counts the files below the key, from 0
}

// FileEntry is a file as outputs name it.
type FileEntry struct {
	Filename  string
	Subfolder string
	Type      string // output, temp, input
}

// RewriteOutputs puts every file that the outputs of a run name through f and returns the outputs with the entries
// that f gives back. Entries are found at any depth; everything else, and every other key of an entry, stays as it
// is. outputs is an object by node id; empty and null are returned as they are.
func RewriteOutputs(outputs json.RawMessage, f func(FileSite, FileEntry) (FileEntry, error)) (json.RawMessage, error) {
	if pyjson.KindOf(outputs) != pyjson.Object {
		return outputs, nil
	}
	nodes, err := pyjson.Members(outputs)
	if err != nil {
		return nil, fmt.Errorf("outputs: %w", err)
	}
	for i, n := range nodes {
		if nodes[i].Value, err = RewriteOutput(n.Key, n.Value, f); err != nil {
			return nil, err
		}
	}
	return pyjson.AppendObject(make([]byte, 0, len(outputs)+64), nodes), nil
}

// Placed is a file and where outputs are to name it.
type Placed struct {
	FileSite
	FileEntry
}

// AddFiles returns outputs with those of the files that they do not name yet, in the order given, each behind what its
// node and key list already. Where something else than a list stands under the key, the file goes into the node's images. outputs is an object by node id; empty and null are one without
// nodes.
func AddFiles(outputs json.RawMessage, files []Placed) (json.RawMessage, error) {
	named := map[string]map[FileEntry]bool{} // by node
	_, err := RewriteOutputs(outputs, func(s FileSite, f FileEntry) (FileEntry, error) {
		if named[s.Node] == nil {
			named[s.Node] = map[FileEntry]bool{}
		}
		named[s.Node][f] = true
		return f, nil
	})
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if named[f.Node][f.FileEntry] {
			continue
		}
		if outputs, err = addFile(outputs, f); err != nil {
			return nil, err
		}
	}
	return outputs, nil
}

func addFile(outputs json.RawMessage, f Placed) (json.RawMessage, error) {
	node, _ := pyjson.Get(outputs, f.Node)
	key := f.Key
	list, there := pyjson.Get(node, key)
	if there && pyjson.KindOf(list) != pyjson.Array {
		key = "images"
		list, _ = pyjson.Get(node, key)
	}
	entries, err := elements(list)
	if err != nil {
		return nil, fmt.Errorf("output of node %q: %w", f.Node, err)
	}
	entries = append(entries, pyjson.AppendObject(nil, []pyjson.Member{
		{Key: "filename", Value: pyjson.Quote(f.Filename)},
		{Key: "subfolder", Value: pyjson.Quote(f.Subfolder)},
		{Key: "type", Value: pyjson.Quote(f.Type)},
	}))
	joined := []byte{'['}
	for i, e := range entries {
		if i > 0 {
			joined = append(joined, ", "...)
		}
		joined = append(joined, e...)
	}
	if node, err = with(node, key, append(joined, ']')); err != nil {
		return nil, err
	}
	return with(outputs, f.Node, node)
}

// elements are those of a list; what is none has none.
func elements(list json.RawMessage) ([]json.RawMessage, error) {
	if pyjson.KindOf(list) != pyjson.Array {
		return nil, nil
	}
	return pyjson.Elements(list)
}

// with returns an object with a member set; what is no object becomes one.
func with(object json.RawMessage, key string, value json.RawMessage) (json.RawMessage, error) {
	var members []pyjson.Member
	if pyjson.KindOf(object) == pyjson.Object {
		var err error
		if members, err = pyjson.Members(object); err != nil {
			return nil, err
		}
	}
	if i := slices.IndexFunc(members, func(m pyjson.Member) bool { return m.Key == key }); i >= 0 {
		members[i].Value = value
	} else {
		members = append(members, pyjson.Member{Key: key, Value: value})
	}
	return pyjson.AppendObject(nil, members), nil
}

// RewriteOutput is RewriteOutputs for the output of one node.
func RewriteOutput(node string, output json.RawMessage, f func(FileSite, FileEntry) (FileEntry, error)) (json.RawMessage, error) {
	if pyjson.KindOf(output) != pyjson.Object {
		return output, nil
	}
	keys, err := pyjson.Members(output)
	if err != nil {
		return nil, fmt.Errorf("output of node %q: %w", node, err)
	}
	for i, k := range keys {
		w := walk{site: FileSite{Node: node, Key: k.Key}, f: f}
		if keys[i].Value, err = w.value(k.Value); err != nil {
			return nil, err
		}
	}
	return pyjson.AppendObject(make([]byte, 0, len(output)+64), keys), nil
}

// walk visits the entries below one key.
type walk struct {
	site FileSite
	f    func(FileSite, FileEntry) (FileEntry, error)
}

func (w *walk) value(raw json.RawMessage) (json.RawMessage, error) {
	switch pyjson.KindOf(raw) {
	case pyjson.Array:
		list, err := pyjson.Elements(raw)
		if err != nil {
			return nil, err
		}
		out := append(make([]byte, 0, len(raw)+64), '[')
		for i, e := range list {
			if e, err = w.value(e); err != nil {
				return nil, err
			}
			if i > 0 {
				out = append(out, ", "...)
			}
			out = append(out, e...)
		}
		return append(out, ']'), nil
	case pyjson.Object:
		return w.object(raw)
	default:
		return raw, nil
	}
}

func (w *walk) object(raw json.RawMessage) (json.RawMessage, error) {
	members, err := pyjson.Members(raw)
	if err != nil {
		return nil, err
	}
	entry, ok := fileEntry(members)
	if !ok {
		for i := range members {
			if members[i].Value, err = w.value(members[i].Value); err != nil {
				return nil, err
			}
		}
		return pyjson.AppendObject(nil, members), nil
	}
	changed, err := w.f(w.site, entry)
	if err != nil {
		return nil, err
	}
	w.site.Index++
	if changed == entry {
		return raw, nil
	}
	placed := changed.Subfolder == "" // an entry that names no subfolder gets one only where it needs one
	for i := range members {
		switch members[i].Key {
		case "filename":
			members[i].Value = pyjson.Quote(changed.Filename)
		case "subfolder":
			members[i].Value, placed = pyjson.Quote(changed.Subfolder), true
		case "type":
			members[i].Value = pyjson.Quote(changed.Type)
		}
	}
	if !placed {
		members = append(members, pyjson.Member{Key: "subfolder", Value: pyjson.Quote(changed.Subfolder)})
	}
	return pyjson.AppendObject(nil, members), nil
}

// fileEntry reads an object as a file: it has a file name and a type of ComfyUI's folders.
func fileEntry(members []pyjson.Member) (e FileEntry, ok bool) {
	named := false
	for _, m := range members {
		text, isText := pyjson.Text(m.Value)
		if !isText {
			continue
		}
		switch m.Key {
		case "filename":
			e.Filename, named = text, text != ""
		case "subfolder":
			e.Subfolder = text
		case "type":
			e.Type = text
		}
	}
	return e, named && (e.Type == "output" || e.Type == "temp" || e.Type == "input")
}
