package comfy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfy"
)

func TestSummarize(t *testing.T) {
	t.Parallel()
	const ok = `[["execution_start", {"prompt_id": "P", "timestamp": 100}], ["execution_success", {"prompt_id": "P", "timestamp": 250}]]`
	for name, c := range map[string]struct{ outputs, messages, want, line string }{
		"a saved picture goes before a temporary one": {
			`{"1": {"images": [{"filename": "t.png", "subfolder": "", "type": "temp"}]}, "2": {"images": [{"filename": "a.png", "subfolder": "s", "type": "output"}], "animated": [true]}}`, ok,
			`{"execution_start_time": 100, "execution_end_time": 250, "outputs_count": 2, "previewable_outputs_count": 2, "preview_output": {"filename": "a.png", "subfolder": "s", "type": "output", "nodeId": "2", "mediaType": "images"}}`, "",
		},
		"text alone": {
			`{"2": {"text": ["hello"]}}`, ok,
			`{"execution_start_time": 100, "execution_end_time": 250, "outputs_count": 0, "previewable_outputs_count": 0, "preview_output": {"content": "hello", "nodeId": "2", "mediaType": "text"}}`, "",
		},
		"a name of a 3D file": {
			`{"7": {"result": ["mesh.glb", null]}}`, ok,
			`{"execution_start_time": 100, "execution_end_time": 250, "outputs_count": 1, "previewable_outputs_count": 1, "preview_output": {"filename": "mesh.glb", "type": "output", "subfolder": "", "nodeId": "7", "mediaType": "3d"}}`, "",
		},
		"an error that lacks fields": {
			`{}`, `[["execution_error", {"node_id": 3, "node_type": "KSampler", "exception_message": "boom\nmore", "timestamp": 9}]]`,
			`{"execution_end_time": 9, "outputs_count": 0, "previewable_outputs_count": 0, "execution_error": {"node_id": "", "node_type": "KSampler", "exception_message": "boom\nmore", "timestamp": 9, "exception_type": "Error", "traceback": []}}`, "KSampler: boom",
		},
		"nothing": {``, ``, `{"outputs_count": 0, "previewable_outputs_count": 0}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, line := comfy.Summarize(json.RawMessage(c.outputs), json.RawMessage(c.messages))
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Error(diff)
			}
			if line != c.line {
				t.Errorf("line %q, want %q", line, c.line)
			}
		})
	}
}

func TestGraphKeepsEveryByte(t *testing.T) {
	t.Parallel()
	const raw = `{"9": {"class_type":"A", "inputs": {"seed": 18446744073709551615, "x":NaN}, "_meta": {"title": "ä"}}, "1":{"class_type": "B","inputs":{"l": ["9", 0]}}}`
	g, err := comfy.ParseGraph(json.RawMessage(raw))
	if err != nil {
		t.Fatal(err)
	}
	if !g.Set("1", "extra", json.RawMessage(`"v"`)) || !g.Set("1", "l", json.RawMessage(`["9", 1]`)) || !g.Drop("1", "extra") || !g.Set("1", "l", json.RawMessage(`["9", 0]`)) {
		t.Fatal("an input could not be set")
	}
	const want = `{"9": {"class_type":"A", "inputs": {"seed": 18446744073709551615, "x":NaN}, "_meta": {"title": "ä"}}, "1": {"class_type": "B", "inputs": {"l": ["9", 0]}}}`
	if diff := cmp.Diff(want, string(g.JSON())); diff != "" {
		t.Error(diff)
	}
}

func TestRewriteOutputsFindsNestedFiles(t *testing.T) {
	t.Parallel()
	const raw = `{"1": {"images": [{"filename": "a.png", "subfolder": "", "type": "output", "k": 1.50}], "deep": [[{"in": {"filename": "b.mp4", "type": "temp"}}]], "text": ["a.png"]}, "2": null}`
	var seen []comfy.FileSite
	got, err := comfy.RewriteOutputs(json.RawMessage(raw), func(s comfy.FileSite, f comfy.FileEntry) (comfy.FileEntry, error) {
		seen = append(seen, s)
		f.Filename = "mine-" + f.Filename
		return f, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(`"filename": "a.png"`, `"filename": "mine-a.png"`, `"b.mp4"`, `"mine-b.mp4"`).Replace(raw)
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]comfy.FileSite{{Node: "1", Key: "images"}, {Node: "1", Key: "deep"}}, seen); diff != "" {
		t.Error(diff)
	}
}

func TestAddFiles(t *testing.T) {
	t.Parallel()
	at := func(node, key, name string) comfy.Placed {
		return comfy.Placed{FileSite: comfy.FileSite{Node: node, Key: key}, FileEntry: comfy.FileEntry{Filename: name, Type: "output"}}
	}
	entry := func(name string) string {
		return `{"filename": "` + name + `", "subfolder": "", "type": "output"}`
	}
	for name, c := range map[string]struct {
		outputs string
		add     []comfy.Placed
		want    string
	}{
		"to nothing": {``, []comfy.Placed{at("9", "images", "a"), at("9", "images", "b")}, `{"9": {"images": [` + entry("a") + `, ` + entry("b") + `]}}`},
		"nothing":    {`{"9": {"text": ["x"]}}`, nil, `{"9": {"text": ["x"]}}`},
		"what is named": {
			`{"9": {"images": [` + entry("a") + `]}}`,
			[]comfy.Placed{at("9", "images", "a"), at("9", "images", "b")},
			`{"9": {"images": [` + entry("a") + `, ` + entry("b") + `]}}`,
		},
		"beside another node": {`{"8": {"text": []}}`, []comfy.Placed{at("9", "gifs", "a")}, `{"8": {"text": []}, "9": {"gifs": [` + entry("a") + `]}}`},
		"where no list is":    {`{"9": {"3d": {"k": 1}}}`, []comfy.Placed{at("9", "3d", "a")}, `{"9": {"3d": {"k": 1}, "images": [` + entry("a") + `]}}`},
	} {
		got, err := comfy.AddFiles(json.RawMessage(c.outputs), c.add)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, c.want)
		}
	}
}

func FuzzDecodeBinary(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x01jpeg"))
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x02{}png"))
	f.Add([]byte("\x00\x00\x00\x03\x00\x00\x00\x017text"))
	f.Add([]byte("\x00\x00\x00\x0arest"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := comfy.DecodeBinary(raw)
		if err != nil {
			return
		}
		if diff := cmp.Diff(raw, b.Encode()); diff != "" {
			t.Error(diff)
		}
	})
}
