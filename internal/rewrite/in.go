package rewrite

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/file"
)

// Translation is one attempt's two ways between a person's words and a back end's. It is for one goroutine at a
// time.
type Translation struct {
	runID, salt      string
	folders          []byte // how the folders begin that a driver may have given the run's nodes
	needs            []string
	targets, outputs []string
	core             bool
	prompt, extra    json.RawMessage
	uploads          []backend.Upload
	names            []rename
	secrets          []string // credentials of the run
	marked           map[string]bool
}

// rename is a name of ours on the back end, or the run's id, and what the person calls it, quoted for JSON strings.
type rename struct{ theirs, mine []byte }

// Found is a file that a report names: the Index-th below outputs[Node][Key].
type Found struct {
	comfy.FileSite
	Ref    backend.FileRef
	Marked bool // the node carries its owner's salt
}

// Names gives the person's name of a file that a node reported. ok is false when it could not be brought home;
// then the entry stays away from the person: its name on the back end is nobody's business.
type Names func(node string, f backend.FileRef) (ref file.Ref, ok bool)

func (t *Translation) upload(u backend.Upload) {
	same := func(o backend.Upload) bool { return o.Name == u.Name && o.Subfolder == u.Subfolder }
	if !slices.ContainsFunc(t.uploads, same) {
		t.uploads = append(t.uploads, u)
	}
}

func (t *Translation) rename(theirs, mine string) {
	if theirs != "" && !slices.ContainsFunc(t.names, func(r rename) bool { return string(r.theirs) == theirs }) {
		quoted := pyjson.Quote(mine)
		t.names = append(t.names, rename{[]byte(theirs), quoted[1 : len(quoted)-1]})
	}
}

// Task fills in what a driver needs.
func (t *Translation) Task(task *backend.Task) {
	task.Prompt, task.ExtraData, task.Uploads = t.prompt, t.extra, t.uploads
	task.Targets, task.Outputs, task.Core = t.targets, t.outputs, t.core
}

// Needs is what a back end must have for the graph.
func (t *Translation) Needs() []string { return t.needs }

// Files lists the files that an executed frame names.
func (t *Translation) Files(u backend.Update) []Found {
	if u.Type != "executed" {
		return nil
	}
	output, _ := pyjson.Get(u.Data, "output")
	var found []Found
	_, err := comfy.RewriteOutput(u.Node, output, t.collect(&found))
	if err != nil {
		return nil // In reports it
	}
	return found
}

// ResultFiles lists the files that a result names.
func (t *Translation) ResultFiles(r backend.Result) []Found {
	var found []Found
	if _, err := comfy.RewriteOutputs(r.Outputs, t.collect(&found)); err != nil {
		return nil // Result reports it
	}
	return found
}

func (t *Translation) collect(found *[]Found) func(comfy.FileSite, comfy.FileEntry) (comfy.FileEntry, error) {
	return func(s comfy.FileSite, f comfy.FileEntry) (comfy.FileEntry, error) {
		*found = append(*found, Found{FileSite: s, Ref: backend.FileRef(f), Marked: t.marked[s.Node]})
		return f, nil
	}
}

// In returns a frame in the person's ids and names.
func (t *Translation) In(u backend.Update, names Names) (backend.Update, error) {
	if u.Binary != nil {
		u.Binary = t.binary(u.Binary)
		return u, nil
	}
	if u.Type == "executed" {
		data, err := t.executed(u, names)
		if err != nil {
			return u, err
		}
		u.Data = data
	}
	u.Data = t.text(u.Data)
	return u, nil
}

func (t *Translation) executed(u backend.Update, names Names) (json.RawMessage, error) {
	members, err := pyjson.Members(u.Data)
	if err != nil {
		return nil, err
	}
	for i := range members {
		if members[i].Key != "output" {
			continue
		}
		if members[i].Value, err = comfy.RewriteOutput(u.Node, members[i].Value, theirs(names)); err != nil {
			return nil, err
		}
	}
	return pyjson.AppendObject(nil, members), nil
}

// Result returns a result in the person's ids and names.
func (t *Translation) Result(r backend.Result, names Names) (backend.Result, error) {
	outputs, err := comfy.RewriteOutputs(r.Outputs, theirs(names))
	if err != nil {
		return r, err
	}
	r.Outputs, r.Messages, r.Meta = t.text(outputs), t.text(r.Messages), t.text(r.Meta)
	return r, nil
}

func theirs(names Names) func(comfy.FileSite, comfy.FileEntry) (comfy.FileEntry, error) {
	return func(s comfy.FileSite, f comfy.FileEntry) (comfy.FileEntry, error) {
		ref, ok := names(s.Node, backend.FileRef(f))
		if !ok {
			return comfy.FileEntry{Filename: "not-delivered", Type: f.Type}, nil
		}
		return comfy.FileEntry{Filename: ref.Name, Subfolder: ref.Subfolder, Type: ref.Type}, nil
	}
}

// Refused returns the body of a refusal in the person's ids and names.
func (t *Translation) Refused(body json.RawMessage) json.RawMessage { return t.text(body) }

// binary puts the person's prompt id into the metadata of a preview.
func (t *Translation) binary(raw []byte) []byte {
	f, err := comfy.DecodeBinary(raw)
	if err == nil && f.Event == comfy.EventText { // it ends in the text
		for _, secret := range t.secrets {
			raw = bytes.ReplaceAll(raw, []byte(secret), []byte(hidden))
		}
	}
	if err != nil || f.Event != comfy.EventPreviewMetadata || !bytes.Contains(f.Metadata, []byte(t.runID)) {
		return raw // the rest names no run
	}
	f.Metadata = t.text(f.Metadata)
	return f.Encode()
}

// text replaces, anywhere in a JSON text, what only exists on the back end: the run's id, our file names and the
// salt. All three are long random words, so that finding them as bytes can't hit anything else.
func (t *Translation) text(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return raw
	}
	if bytes.Contains(raw, []byte(t.salt)) || bytes.Contains(raw, []byte(SaltInput)) {
		raw = t.unsalt(raw)
	}
	raw = unfold(raw, t.folders)
	for _, n := range t.names {
		raw = n.in(raw)
	}
	for _, secret := range t.secrets {
		raw = hide(raw, secret)
	}
	return raw
}

// unfold takes folders that a driver gave the run's nodes out of every path in raw: a number follows, and a slash.
func unfold(raw, folders []byte) []byte {
	for from := 0; ; {
		at := bytes.Index(raw[from:], folders)
		if at < 0 {
			return raw
		}
		at += from
		end := at + len(folders)
		for end < len(raw) && raw[end] >= '0' && raw[end] <= '9' {
			end++
		}
		switch {
		case bytes.HasPrefix(raw[end:], []byte("/")):
			end++
		case bytes.HasPrefix(raw[end:], []byte(`\\`)): // of Windows, in JSON
			end += 2
		}
		raw = append(bytes.Clone(raw[:at]), raw[end:]...)
		from = at
	}
}

// hidden stands where a credential was.
const hidden = "(hidden)"

// hide takes a credential out of every string in raw: when a node fails, back ends show all its inputs, and some nodes
// take credentials for inputs. A person chooses what they send as one, so that only strings are touched.
func hide(raw json.RawMessage, secret string) json.RawMessage {
	quoted := pyjson.Quote(secret)
	if !bytes.Contains(raw, quoted[1:len(quoted)-1]) && !bytes.Contains(raw, []byte(secret)) {
		return raw
	}
	out, err := pyjson.MapStrings(raw, func(s string) string { return strings.ReplaceAll(s, secret, hidden) })
	if err != nil {
		return json.RawMessage("null") // what can't be read can't be shown
	}
	return out
}

// in returns raw with the person's word in place of theirs.
func (n rename) in(raw []byte) []byte {
	at := bytes.Index(raw, n.theirs)
	if at < 0 {
		return raw
	}
	out := make([]byte, 0, len(raw)+max(0, 2*(len(n.mine)-len(n.theirs))))
	for ; at >= 0; at = bytes.Index(raw, n.theirs) {
		out = append(append(out, raw[:at]...), n.mine...)
		raw = raw[at+len(n.theirs):]
	}
	return append(out, raw...)
}

// unsalt drops the salt wherever inputs are listed, as JSON or as Python prints them, and blanks it in other text.
func (t *Translation) unsalt(raw json.RawMessage) json.RawMessage {
	out, err := pyjson.Drop(raw, SaltInput)
	if err != nil {
		out = raw // no JSON: only the words can be blanked
	}
	// Output nodes of the older kind show their whole graph as Python prints it.
	out = bytes.ReplaceAll(out, []byte(", '"+SaltInput+"': '"+t.salt+"'"), nil)
	out = bytes.ReplaceAll(out, []byte("'"+SaltInput+"': '"+t.salt+"'"), nil)
	return bytes.ReplaceAll(out, []byte(t.salt), []byte("owner"))
}

// PNG returns a filter that gives the graph in a PNG back its person's words.
func (t *Translation) PNG() func(io.Reader) io.Reader {
	return func(src io.Reader) io.Reader {
		return NewPNGReader(src, func(keyword string, text []byte) []byte {
			if !strings.EqualFold(keyword, "prompt") {
				return text
			}
			return t.text(text)
		})
	}
}
