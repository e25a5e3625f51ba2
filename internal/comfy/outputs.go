package comfy

import (
	"encoding/json"
	"fmt"

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
