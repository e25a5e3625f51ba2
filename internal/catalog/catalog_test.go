package catalog_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/file"
)

// memory keeps snapshots for one test.
type memory map[string][]byte

func (m memory) SaveSnapshot(_ context.Context, name string, blob []byte) error {
	m[name] = blob
	return nil
}

func (m memory) LoadSnapshots(context.Context) (map[string][]byte, error) { return m, nil }

func members(order []string) (list []catalog.Member) {
	for _, name := range order {
		list = append(list, catalog.Member{Name: name})
	}
	return list
}

func newCatalog(t testing.TB, store memory, order ...string) *catalog.Catalog {
	t.Helper()
	c, err := catalog.New(t.Context(), store, catalog.Options{Members: members(order)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func update(t testing.TB, c *catalog.Catalog, name, info string) {
	t.Helper()
	if _, err := c.Update(name, backend.Snapshot{ObjectInfo: json.RawMessage(info)}); err != nil {
		t.Fatal(err)
	}
}

// shared opens a file of the folder that lies beside the checkout.
func shared(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", name))
	if os.IsNotExist(err) {
		t.Skip("../shared is not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const small = `{
"LoadImage": {"input": {"required": {"image": [["z.png"], {"image_upload": true}]}}, "output": ["IMAGE", "MASK"], "python_module": "nodes", "output_node": false},
"Pick": {"input": {"required": {"how": [["a", "b"], {"default": "a"}], "new": ["COMBO", {"options": ["x"]}], "n": ["INT", {"min": 1, "max": 18446744073709551615}]}}, "output": ["IMAGE"], "python_module": "nodes", "output_node": false},
"Custom": {"input": {"required": {"how": [["a"]], "n": ["INT", {"max": 3}], "img": ["IMAGE"]}, "optional": {"o": ["FLOAT", {}]}}, "output": ["*"], "python_module": "custom_nodes.pack", "output_node": false},
"Save": {"input": {"required": {"images": ["IMAGE", {}]}, "hidden": {"prompt": "PROMPT"}}, "output": [], "python_module": "nodes", "output_node": true},
"Paid": {"input": {"required": {}}, "output": ["IMAGE"], "python_module": "comfy_api_nodes.x", "output_node": false, "api_node": true}
}`

func TestObjectInfoShowsEachPersonTheirOwnFiles(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, memory{}, "a")
	if got := string(c.For("").ObjectInfo(nil).JSON); got != "{}" {
		t.Errorf("before the first back end: %s, want {}", got)
	}
	update(t, c, "a", small)
	e := c.For("").ObjectInfo([]string{"mine.png", "notes.txt", "sub/deep.png"})
	for word, want := range map[string]bool{"mine.png": true, "z.png": false, "notes.txt": false, "deep.png": false} {
		if got := bytes.Contains(e.JSON, []byte(word)); got != want {
			t.Errorf("%s is in the answer: %v, want %v", word, got, want)
		}
	}
	if !json.Valid(e.JSON) {
		t.Errorf("no JSON: %s", e.JSON)
	}
	r, err := gzip.NewReader(bytes.NewReader(e.Gzip))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(plain, e.JSON) {
		t.Errorf("the compressed form is another one (%v)", err)
	}
	if other := c.For("").ObjectInfo(nil); other.ETag == e.ETag {
		t.Error("another person's answer has the same ETag")
	}
	if got := string(c.For("").Class("LoadImage", nil)); !strings.Contains(got, `[[], {"image_upload": true}]`) {
		t.Errorf("class: %s", got)
	}
}

func TestMergeJoinsChoicesAndSurvives(t *testing.T) {
	t.Parallel()
	store := memory{}
	c := newCatalog(t, store, "first", "second")
	update(t, c, "second", strings.Replace(small, `["a", "b"]`, `["b", "c"]`, 1))
	update(t, c, "first", strings.Replace(small, `"Paid"`, `"OnlyFirst"`, 1))
	again := newCatalog(t, store, "first", "second")
	for name, c := range map[string]*catalog.Catalog{"updated": c, "reopened": again} {
		if got := string(c.For("").Class("Pick", nil)); !strings.Contains(got, `["a", "b", "c"]`) || !strings.Contains(got, "18446744073709551615") {
			t.Errorf("%s: %s", name, got)
		}
		if n := c.For("").Classes(); n != 6 {
			t.Errorf("%s: %d classes, want 6", name, n)
		}
		if diff := cmp.Diff([]string{"Paid"}, c.Missing("first", []string{"Save", "Paid"})); diff != "" {
			t.Error(name, diff)
		}
	}
	g, err := comfy.ParseGraph(json.RawMessage(`{"1": {"class_type": "Pick", "inputs": {"how": "c", "new": "x", "n": 1}}, "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	needs := c.For("").Needs(g)
	if diff := cmp.Diff([]string{"Pick", "c (Pick.how)", "x (Pick.new)", "Save"}, needs); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"c (Pick.how)"}, c.Missing("first", needs)); diff != "" {
		t.Error(diff)
	}
	if missing := c.Missing("second", needs); missing != nil {
		t.Errorf("the second back end lacks %q", missing)
	}
	if n := newCatalog(t, store, "second").For("").Classes(); n != 5 {
		t.Errorf("a back end that is not configured any more still counts: %d classes", n)
	}
}

func TestCertainRefusesOnlyWhatIsCertain(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, memory{}, "a")
	update(t, c, "a", small)
	has := func(r file.Ref) bool { return r == file.Ref{Type: file.Temp, Subfolder: "s", Name: "own.png"} }
	for name, tc := range map[string]struct{ node, want string }{
		"own file":            {`{"class_type": "LoadImage", "inputs": {"image": "s/own.png [temp]"}}`, ""},
		"file of nobody":      {`{"class_type": "LoadImage", "inputs": {"image": "z.png"}}`, "custom_validation_failed"},
		"climbing":            {`{"class_type": "LoadImage", "inputs": {"image": "../z.png"}}`, "custom_validation_failed"},
		"no text for a file":  {`{"class_type": "LoadImage", "inputs": {"image": 5}}`, "custom_validation_failed"},
		"core choice":         {`{"class_type": "Pick", "inputs": {"how": "q", "new": "x", "n": 1}}`, "value_not_in_list"},
		"core new choice":     {`{"class_type": "Pick", "inputs": {"how": "a", "new": "q", "n": 1}}`, "value_not_in_list"},
		"core range":          {`{"class_type": "Pick", "inputs": {"how": "a", "new": "x", "n": 0}}`, "value_smaller_than_min"},
		"biggest seed":        {`{"class_type": "Pick", "inputs": {"how": "a", "new": "x", "n": 18446744073709551615}}`, ""},
		"a seed too big":      {`{"class_type": "Pick", "inputs": {"how": "a", "new": "x", "n": 18446744073709551616}}`, "value_bigger_than_max"},
		"text for a number":   {`{"class_type": "Pick", "inputs": {"how": "a", "new": "x", "n": "many"}}`, "invalid_input_type"},
		"custom passes":       {`{"class_type": "Custom", "inputs": {"how": "q", "n": 99, "img": ["9", 0]}}`, ""},
		"custom lacks one":    {`{"class_type": "Custom", "inputs": {"how": "q", "n": 99}}`, "required_input_missing"},
		"link of one":         {`{"class_type": "Custom", "inputs": {"how": "q", "n": 1, "img": ["9"]}}`, "bad_linked_input"},
		"link to nothing":     {`{"class_type": "Custom", "inputs": {"how": "q", "n": 1, "img": ["77", 0]}}`, "exception_during_inner_validation"},
		"link to itself":      {`{"class_type": "Custom", "inputs": {"how": "q", "n": 1, "img": ["1", 0]}}`, "dependency_cycle"},
		"slot that is not":    {`{"class_type": "Custom", "inputs": {"how": "q", "n": 1, "img": ["9", 7]}}`, "exception_during_inner_validation"},
		"unknown class":       {`{"class_type": "Nope", "inputs": {}}`, "invalid_prompt"},
		"class of another":    {`{"inputs": {}}`, "invalid_prompt"},
		"wrong type for core": {`{"class_type": "Pick", "inputs": {"how": ["9", 1], "new": "x", "n": 1}}`, "return_type_mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw := `{"1": ` + tc.node + `, "9": {"class_type": "LoadImage", "inputs": {"image": "s/own.png [temp]"}}, "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}}}`
			g, err := comfy.ParseGraph(json.RawMessage(raw))
			if err != nil {
				t.Fatal(err)
			}
			v := c.For("").Validate(g, nil, has)
			if tc.want == "" {
				if v.Refusal != nil || !slices.Equal(v.Outputs, []string{"2"}) {
					t.Errorf("refused: %s", v.Refusal)
				}
				return
			}
			if !json.Valid(v.Refusal) || !bytes.Contains(v.Refusal, []byte(`"type": "`+tc.want+`"`)) {
				t.Errorf("%s, want %s", v.Refusal, tc.want)
			}
		})
	}
}

// uncertain are refusals of a real server that only it can make.
var uncertain = map[string]string{
	"invalid_value_too_big.jsonl":   "ranges of custom nodes: the node may check them by itself",
	"invalid_value_too_small.jsonl": "the same",
}

// TestRecordedRefusals holds validation against what a real server answered.
func TestRecordedRefusals(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, memory{}, "a")
	update(t, c, "a", string(shared(t, "comfyui/object_info.json")))
	names, err := filepath.Glob(filepath.Join("..", "..", "..", "shared", "comfyui", "recordings", "invalid_*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, name := range names {
		lines := bufio.NewScanner(bytes.NewReader(shared(t, filepath.Join("comfyui", "recordings", filepath.Base(name)))))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e struct {
				Request struct {
					JSON struct{ Prompt json.RawMessage }
				}
				Response struct {
					Status int
					JSON   json.RawMessage
				}
			}
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatal(err)
			}
			if e.Response.Status != 400 || e.Request.JSON.Prompt == nil {
				continue
			}
			if why := uncertain[filepath.Base(name)]; why != "" {
				continue
			}
			checked++
			g, err := comfy.ParseGraph(e.Request.JSON.Prompt)
			if err != nil {
				t.Fatal(err)
			}
			got := c.For("").Validate(g, nil, func(file.Ref) bool { return false }).Refusal
			if diff := cmp.Diff(comparable(t, e.Response.JSON), comparable(t, got)); diff != "" {
				t.Errorf("%s: %s", filepath.Base(name), diff)
			}
		}
	}
	if checked < 9 {
		t.Errorf("only %d recordings were checked", checked)
	}
}

// comparable decodes a refusal without what differs from run to run: the traceback's paths.
func comparable(t *testing.T, raw json.RawMessage) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	var strip func(any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			delete(v, "traceback")
			for _, e := range v {
				strip(e)
			}
		case []any:
			for _, e := range v {
				strip(e)
			}
		}
	}
	strip(v)
	return v
}

func TestDeepGraph(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, memory{}, "a")
	update(t, c, "a", `{"N": {"input": {"required": {"x": ["T", {}]}}, "output": ["T"], "python_module": "nodes", "output_node": true}}`)
	var b strings.Builder
	const n = 10_000
	for i := range n {
		sep := ", "
		if i == 0 {
			sep = "{"
		}
		b.WriteString(sep + `"` + itoa(i) + `": {"class_type": "N", "inputs": {"x": ["` + itoa((i+1)%n) + `", 0]}}`)
	}
	b.WriteString("}")
	g, err := comfy.ParseGraph(json.RawMessage(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	v := c.For("").Validate(g, []string{"0"}, nil)
	if !bytes.Contains(v.Refusal, []byte("dependency_cycle")) {
		t.Errorf("a cycle of %d nodes: %.200s", n, v.Refusal)
	}
}

func itoa(i int) string {
	b, _ := json.Marshal(i)
	return string(b)
}

func BenchmarkValidate(b *testing.B) {
	c := newCatalog(b, memory{}, "a")
	update(b, c, "a", small)
	raw := json.RawMessage(`{"1": {"class_type": "Pick", "inputs": {"how": "a", "new": "x", "n": 5}}, "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}}}`)
	b.ReportAllocs()
	for b.Loop() {
		g, err := comfy.ParseGraph(raw)
		if err != nil {
			b.Fatal(err)
		}
		if v := c.For("").Validate(g, nil, nil); v.Refusal != nil {
			b.Fatal(string(v.Refusal))
		}
	}
}

func BenchmarkObjectInfo(b *testing.B) {
	c := newCatalog(b, memory{}, "a")
	update(b, c, "a", string(shared(b, "comfyui/object_info.json")))
	var inputs []string
	for i := range 50 {
		inputs = append(inputs, itoa(i)+".png")
	}
	b.ReportAllocs()
	for b.Loop() {
		if len(c.For("").ObjectInfo(inputs).JSON) == 0 {
			b.Fatal("empty")
		}
	}
}
