package catalog_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/file"
)

const numbers = `{
"Num": {"input": {"required": {"i": ["INT", {"min": 1, "max": 9}]}, "optional": {"f": ["FLOAT", {"min": 0.5, "max": 10}], "s": ["STRING", {}], "b": ["BOOLEAN", {}], "c": [["a", 2, true, null, 1.5], {}]}}, "output": ["X"], "python_module": "nodes"},
"KlingCameraControls": {"input": {"required": {"pan": ["FLOAT", {"min": 0, "max": 1}], "i": ["INT", {"min": 0}]}}, "output": ["X"], "python_module": "comfy_api_nodes.k"},
"TripoConversionNode": {"input": {"required": {"id": ["A,B", {}]}}, "output": ["X"], "python_module": "comfy_api_nodes.t"},
"Empty": {"input": {"required": {}}, "output": ["X"], "python_module": "nodes"},
"Show": {"input": {"required": {"source": ["*", {}]}}, "output": [], "output_node": true, "python_module": "nodes"}
}`

// refusal is what an error body tells of node 1, or of the graph, one line an error: type, details, exception.
func refusal(t *testing.T, body json.RawMessage) string {
	t.Helper()
	if len(body) == 0 {
		return ""
	}
	var b struct {
		Error struct{ Type, Message, Details string }
		Nodes map[string]struct {
			Errors []struct {
				Type, Message, Details string
				Extra                  map[string]json.RawMessage `json:"extra_info"`
			}
			Class   string   `json:"class_type"`
			Outputs []string `json:"dependent_outputs"`
		} `json:"node_errors"`
	}
	if err := json.Unmarshal(body, &b); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if len(b.Nodes) == 0 {
		return b.Error.Message
	}
	var lines []string
	for _, e := range b.Nodes["1"].Errors {
		line := e.Type + ": " + e.Details
		if strings.HasPrefix(e.Type, "value_") && e.Type != "value_not_in_list" {
			line = e.Message + ", " + string(e.Extra["received_value"])
		}
		if x, ok := e.Extra["exception_type"]; ok {
			line += " (" + strings.Trim(string(x), `"`) + ")"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// The words are those of ComfyUI 0.3.64, noted down from its validate_prompt for these values.
func TestRefusalsReadLikeComfyUIs(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, memory{}, "a")
	update(t, c, "a", numbers)
	num := func(inputs string) string { return `{"class_type": "Num", "inputs": {"i": 1, ` + inputs + `}}` }
	inner := func(words string) string { return "exception_during_inner_validation: " + words }
	long := strings.Repeat("1", 4301)
	for name, tc := range map[string]struct{ node, want string }{
		"an integer is a float":      {num(`"f": 500`), `Value 500.0 bigger than max of 10, 500.0`},
		"text is a float":            {num(`"f": " -1_0.5 "`), `Value -10.5 smaller than min of 0.5, -10.5`},
		"a truth is a float":         {num(`"f": false`), `Value 0.0 smaller than min of 0.5, 0.0`},
		"an endless text":            {num(`"f": "-1e400"`), `Value -inf smaller than min of 0.5, "-Infinity"`},
		"no number":                  {num(`"f": "nan"`), ``},
		"hexadecimal is no float":    {num(`"f": "0x1p3"`), `invalid_input_type: f, 0x1p3, could not convert string to float: '0x1p3'`},
		"two underscores":            {num(`"f": "1__0"`), `invalid_input_type: f, 1__0, could not convert string to float: '1__0'`},
		"an integer too large":       {num(`"f": 1` + strings.Repeat("0", 400)), `invalid_input_type: f, 1` + strings.Repeat("0", 400) + `, int too large to convert to float`},
		"a list is no float":         {num(`"f": {"__value__": [1]}`), `invalid_input_type: f, [1], float() argument must be a string or a real number, not 'list'`},
		"a fraction is cut":          {num(`"i": 9.9`), ``},
		"text is an integer":         {num(`"i": " 1_0 "`), `Value 10 bigger than max of 9, 10`},
		"digits of another script":   {num(`"i": "\u0663"`), ``},
		"a text that is no integer":  {num(`"i": "1.0"`), `invalid_input_type: i, 1.0, invalid literal for int() with base 10: '1.0'`},
		"another text":               {num(`"i": "é☃"`), `invalid_input_type: i, é☃, invalid literal for int() with base 10: 'é☃'`},
		"a text of too many digits":  {num(`"i": "` + long + `"`), `invalid_input_type: i, ` + long + `, Exceeds the limit (4300 digits) for integer string conversion: value has 4301 digits; use sys.set_int_max_str_digits() to increase the limit`},
		"nothing is no integer":      {num(`"i": null`), `invalid_input_type: i, None, int() argument must be a string, a bytes-like object or a real number, not 'NoneType'`},
		"NaN is no integer":          {num(`"i": NaN`), `invalid_input_type: i, nan, cannot convert float NaN to integer`},
		"infinity is no integer":     {num(`"i": -Infinity`), `invalid_input_type: i, -inf, cannot convert float infinity to integer`},
		"everything is a text":       {num(`"s": {"a": [1]}, "b": "x"`), ``},
		"a choice":                   {num(`"c": 1.5`), ``},
		"not a choice":               {num(`"c": {"k": "v"}`), `value_not_in_list: c: '{'k': 'v'}' not in ['a', 2, True, None, 1.5]`},
		"own checks":                 {`{"class_type": "KlingCameraControls", "inputs": {"pan": 5, "i": -1}}`, `Value -1 smaller than min of 0, -1`},
		"own checks of types":        {`{"class_type": "TripoConversionNode", "inputs": {"id": ["9", 0]}}`, ``},
		"a node by its number":       {num(`"f": [9, 0]`), inner("9 (KeyError)")},
		"a node by a list":           {num(`"f": [["9"], 0]`), inner("unhashable type: 'list' (TypeError)")},
		"an output by a fraction":    {num(`"f": ["9", 0.0]`), inner("tuple indices must be integers or slices, not float (TypeError)")},
		"an output by nothing":       {num(`"f": ["9", null]`), inner("tuple indices must be integers or slices, not NoneType (TypeError)")},
		"an output far away":         {num(`"f": ["9", 99999999999999999999]`), inner("cannot fit 'int' into an index-sized integer (IndexError)")},
		"an output by a truth":       {num(`"f": ["9", true]`), inner("tuple index out of range (IndexError)")},
		"an output before the first": {num(`"f": ["9", -2]`), inner("tuple index out of range (IndexError)")},
		"the last output":            {num(`"f": ["9", -1]`), `return_type_mismatch: f, received_type(X) mismatch input_type(FLOAT)`},
		"no inputs":                  {`{"class_type": "Empty"}`, inner("'inputs' (KeyError)")},
		"inputs that are nothing":    {`{"class_type": "Num", "inputs": null}`, inner("argument of type 'NoneType' is not iterable (TypeError)")},
		"inputs that are a list":     {`{"class_type": "Num", "inputs": []}`, `required_input_missing: i`},
		"no class":                   {`{"inputs": {}}`, `Cannot execute because a node is missing the class_type property.`},
		"nothing for a class":        {`{"class_type": null}`, `Cannot execute because node None does not exist.`},
		"a number for a class":       {`{"class_type": 5}`, `Cannot execute because node 5 does not exist.`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, err := comfy.ParseGraph(json.RawMessage(`{"1": ` + tc.node + `, "9": {"class_type": "Empty", "inputs": {}}, "2": {"class_type": "Show", "inputs": {"source": ["1", 0]}}}`))
			if err != nil {
				t.Fatal(err)
			}
			body := c.For("").Validate(g, nil, func(file.Ref) bool { return true }).Refusal
			quoted := strings.NewReplacer(": -Infinity", `: "-Infinity"`, ": NaN", `: "NaN"`).Replace(string(body))
			if diff := cmp.Diff(tc.want, refusal(t, json.RawMessage(quoted))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A large graph takes as long as it has nodes, whatever its shape.
func TestLargeGraphsAreCheckedOnce(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, memory{}, "a")
	update(t, c, "a", `{"N": {"input": {"required": {"x": ["T", {}], "y": ["T", {}]}}, "output": ["T"], "python_module": "nodes", "output_node": true},
		"S": {"input": {"required": {}}, "output": ["T"], "python_module": "nodes"}}`)
	const n = 10_000
	for shape, inputs := range map[string]func(i int) (x, y int){
		"a ladder":  func(i int) (int, int) { return i + 1, min(i+2, n) }, // 2^n paths
		"a star":    func(int) (int, int) { return n, n },
		"a cycle":   func(i int) (int, int) { return (i + 1) % n, i },
		"all wrong": func(i int) (int, int) { return n + 1, i },
	} {
		var b strings.Builder
		b.WriteString(`{"` + itoa(n) + `": {"class_type": "S", "inputs": {}}`)
		for i := range n {
			x, y := inputs(i)
			b.WriteString(`, "` + itoa(i) + `": {"class_type": "N", "inputs": {"x": ["` + itoa(x) + `", 0], "y": ["` + itoa(y) + `", 0]}}`)
		}
		b.WriteString("}")
		g, err := comfy.ParseGraph(json.RawMessage(b.String()))
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		v := c.For("").Validate(g, nil, nil)
		if ok := v.Refusal == nil; ok != (shape == "a ladder" || shape == "a star") {
			t.Errorf("%s: %.200s", shape, v.Refusal)
		}
		if d := time.Since(begin); d > time.Minute || len(v.Refusal) > 32<<20 {
			t.Errorf("%s took %v and %d MB", shape, d, len(v.Refusal)>>20)
		}
	}
}
