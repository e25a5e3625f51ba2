package comfy_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

func TestParseGraph(t *testing.T) {
	t.Parallel()
	const raw = ` {"b": {"class_type": "Old", "class_type": "A\u0041", "inputs": {"x": 1, "y": ["a", 0], "x": 2}, "_meta": {"title": "T"}},
		"a": {"inputs": [], "_meta": 5}, "b:1": {"class_type": 7, "inputs": null}, "a": {"inputs": {}, "extra": NaN}} `
	g, err := comfy.ParseGraph(json.RawMessage(raw))
	if err != nil {
		t.Fatal(err)
	}
	type node struct {
		ID, Class, Title string
		HasInputs        bool
		Inputs           string
	}
	var got []node
	for _, n := range g.Nodes() {
		got = append(got, node{n.ID, n.ClassType, n.Title, n.HasInputs, string(pyjson.AppendObject(nil, n.Inputs))})
	}
	want := []node{
		{"b", "AA", "T", true, `{"x": 2, "y": ["a", 0]}`},
		{"a", "", "", true, `{}`},
		{"b:1", "", "", false, `{}`},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n, ok := g.Node("b"); !ok || n.ClassType != "AA" {
		t.Errorf("node b is %v", n)
	}
	if _, ok := g.Node("c"); ok || g.Set("c", "x", nil) || g.Drop("c", "x") || g.Drop("b", "z") {
		t.Error("there is something that is not there")
	}
	for _, raw := range []string{``, `[]`, `{"1": []}`, `{"1": null}`, `{"1": {"inputs": {"a": }}}`, `{"1": {}} {}`} {
		if _, err := comfy.ParseGraph(json.RawMessage(raw)); err == nil {
			t.Errorf("%q is a graph", raw)
		}
	}
}

func TestGraphChangesOnlyWhatIsSet(t *testing.T) {
	t.Parallel()
	const raw = `{"1": {"inputs":{"a":1.50}, "class_type":"A"}, "2": {"class_type": "B", "z":NaN}, "é": {"inputs" : {"a":1,"a":2, "b":3}, "inputs": {"c":4}}}`
	g, err := comfy.ParseGraph(json.RawMessage(raw))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := g.Node("é")
	inputs := before.Inputs
	g.Set("2", `new "one"`, json.RawMessage(`true`))
	g.Set("é", "c", json.RawMessage(`5`))
	g.Drop("é", "c")
	g.Set("é", "d", json.RawMessage(`6`))
	const want = `{"1": {"inputs":{"a":1.50}, "class_type":"A"}, "2": {"class_type": "B", "z": NaN, "inputs": {"new \"one\"": true}}, "\u00e9": {"inputs": {"d": 6}}}`
	if diff := cmp.Diff(want, string(g.JSON())); diff != "" {
		t.Error(diff)
	}
	if len(inputs) != 1 || string(inputs[0].Value) != "4" {
		t.Errorf("a change shows in a list that was taken before: %v", inputs)
	}
}

func TestLiteral(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`5`: `5`, `["1", 0]`: `["1", 0]`, `{"a": 1}`: `{"a": 1}`, `{"__value__": [1]}`: `[1]`, `{"a": 1, "\u005f_value__": null}`: `null`,
		`{"__value__": {"__value__": 1}}`: `{"__value__": 1}`, `{"__value__": 1, "__value__": 2}`: `2`,
	} {
		if got := string(comfy.Literal(json.RawMessage(raw))); got != want {
			t.Errorf("%s means %s, want %s", raw, got, want)
		}
	}
}

// recorded calls f with everything of a kind that the recordings hold.
func recorded(f *testing.F, key string, add func(json.RawMessage)) {
	names, err := filepath.Glob(filepath.Join("..", "..", "..", "shared", "comfyui", "recordings", "*.jsonl"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(raw) {
			var find func(json.RawMessage)
			find = func(v json.RawMessage) {
				switch pyjson.KindOf(v) {
				case pyjson.Object:
					members, _ := pyjson.Members(v)
					for _, m := range members {
						if m.Key == key && pyjson.KindOf(m.Value) == pyjson.Object {
							add(m.Value)
						}
						find(m.Value)
					}
				case pyjson.Array:
					list, _ := pyjson.Elements(v)
					for _, e := range list {
						find(e)
					}
				}
			}
			find(bytes.TrimSpace(line))
		}
	}
}

// FuzzGraph: a graph that is read and written is the same graph, and a change of one input changes nothing else.
func FuzzGraph(f *testing.F) {
	f.Add([]byte(`{"1": {"class_type": "A", "inputs": {"x": ["2", 0], "y": {"__value__": []}}}, "2": {"class_type": "B"}}`), "x", "y")
	f.Add([]byte(`{"1": {"inputs": {"\ud800": 1e400, "a": 18446744073709551615}, "inputs": null}, "1": {}}`), "", "é")
	recorded(f, "prompt", func(raw json.RawMessage) { f.Add([]byte(raw), "image", "_owner") })
	f.Fuzz(func(t *testing.T, raw []byte, drop, set string) {
		g, err := comfy.ParseGraph(raw)
		if err != nil || !json.Valid(pyjson.Clean(raw)) {
			return
		}
		if got := pyjson.Repr(g.JSON()); got != pyjson.Repr(raw) {
			t.Fatalf("%q is written %s", raw, got)
		}
		for _, n := range g.Nodes() {
			comfy.Literal(n.Raw)
			for _, in := range n.Inputs {
				comfy.Literal(in.Value)
			}
		}
		if g.Len() == 0 || set != strings.ToValidUTF8(set, "\ufffd") {
			return
		}
		id := g.Nodes()[0].ID
		g.Drop(id, drop)
		g.Set(id, set, json.RawMessage(`"v"`))
		again, err := comfy.ParseGraph(g.JSON())
		if err != nil || again.Len() != g.Len() {
			t.Fatalf("%q became %q: %v", raw, g.JSON(), err)
		}
		for i, n := range again.Nodes() {
			old := g.Nodes()[i]
			if n.ID != old.ID || n.ClassType != old.ClassType || n.Title != old.Title {
				t.Errorf("%q: node %q became %q", raw, old.Raw, n.Raw)
			}
			if i > 0 && !bytes.Equal(n.Raw, old.Raw) {
				t.Errorf("%q: node %q became %q", raw, old.Raw, n.Raw)
			}
		}
		first, _ := again.Node(id)
		if v, ok := first.Input(set); !ok || string(v) != `"v"` {
			t.Errorf("%q: input %q is %q in %q", raw, set, v, first.Raw)
		}
		if _, ok := first.Input(drop); ok && drop != set {
			t.Errorf("%q: input %q is still in %q", raw, drop, first.Raw)
		}
	})
}

// FuzzRewriteOutputs: files that keep their names change nothing, and new names are found where the old ones were.
func FuzzRewriteOutputs(f *testing.F) {
	f.Add([]byte(`{"1": {"images": [{"filename": "a", "subfolder": "", "type": "temp"}], "x": [[{"k": {"filename": "b", "type": "output"}}]]}, "2": null}`))
	f.Add([]byte(`{"1": {"a": {"filename": "a", "type": "output", "type": "input", "filename": "b", "k": NaN}}}`))
	recorded(f, "outputs", func(raw json.RawMessage) { f.Add([]byte(raw)) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		var seen []comfy.FileSite
		same, err := comfy.RewriteOutputs(raw, func(s comfy.FileSite, f comfy.FileEntry) (comfy.FileEntry, error) {
			seen = append(seen, s)
			return f, nil
		})
		if err != nil || !pyjson.Valid(raw) {
			return
		}
		if pyjson.Repr(same) != pyjson.Repr(raw) {
			t.Errorf("%q became %q", raw, same)
		}
		changed, err := comfy.RewriteOutputs(raw, func(s comfy.FileSite, _ comfy.FileEntry) (comfy.FileEntry, error) {
			return comfy.FileEntry{Filename: s.Key + "!", Subfolder: "s", Type: "temp"}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var again []comfy.FileSite
		_, err = comfy.RewriteOutputs(changed, func(s comfy.FileSite, f comfy.FileEntry) (comfy.FileEntry, error) {
			again = append(again, s)
			if want := (comfy.FileEntry{Filename: s.Key + "!", Subfolder: "s", Type: "temp"}); f != want {
				t.Errorf("%q became %q: %+v, want %+v", raw, changed, f, want)
			}
			return f, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(seen, again); diff != "" {
			t.Errorf("%q became %q: %s", raw, changed, diff)
		}
	})
}
