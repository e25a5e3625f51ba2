package pyjson_test

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	digits := strings.Repeat("1", pyjson.MaxDigits)
	for _, c := range []struct {
		raw string
		at  int // where it stops being JSON; -1: it is all JSON
	}{
		{` {"a" : [ 1 , -0.5e+7 , true,false , null ], "b":"\u0000\ud800\/\"é"} ` + "\n", -1},
		{`NaN`, -1},
		{`[Infinity, -Infinity]`, -1},
		{`""`, -1},
		{deep(1000), -1},
		{digits, -1},
		{"-" + digits, -1},
		{digits + "1.5", -1}, // a double may be of any length
		{digits + "1e5", -1},
		{deep(1002), 1001},
		{digits + "1", 0},
		{"[-" + digits + "1]", 1},
		{``, 0},
		{`  `, 2},
		{"\ufeff{}", 0}, // a byte order mark
		{`-NaN`, 0},
		{`+1`, 0},
		{`01`, 1},
		{`1.`, 2},
		{`1.e5`, 2},
		{`1e`, 2},
		{`.5`, 0},
		{`tru`, 0},
		{`nul`, 0},
		{`-Inf`, 1},
		{`{"a":1,}`, 7},
		{`[1,]`, 3},
		{`[1 2]`, 3},
		{`{"a" 1}`, 5},
		{`{a:1}`, 1},
		{`{'a':1}`, 1},
		{`{} {}`, 3},
		{`"\x41"`, 2},
		{`"\u12g4"`, 2},
		{`"\u123`, 2},
		{`"a`, 0},
		{`"\`, 0},
		{"\"a\nb\"", 2},
		{"[\"\x1f\"]", 2},
		{"[\"é\xff\"]", 4},
		{"{\"\xed\xa0\x80\": 1}", 2}, // a half surrogate as bytes
		{`{"a":1`, 6},
		{`[`, 1},
	} {
		err := pyjson.Check([]byte(c.raw))
		var syntax *pyjson.SyntaxError
		switch {
		case c.at < 0 && err != nil:
			t.Errorf("%.40q: %v", c.raw, err)
		case c.at >= 0 && !errors.As(err, &syntax):
			t.Errorf("%.40q is taken for JSON", c.raw)
		case c.at >= 0 && syntax.Offset != c.at:
			t.Errorf("%.40q: %v, want byte %d", c.raw, err, c.at)
		}
	}
}

// TestStringsEndWhereTheyEnd: strings are read eight bytes at a time, and what counts may be any of them.
func TestStringsEndWhereTheyEnd(t *testing.T) {
	t.Parallel()
	pieces := []string{"\x00", "\x1f", " ", "!", `"`, "#", "[", `\`, `\\`, `\"`, `\u00e9`, "]", "a", "\x7f", "é", "字", "😀"}
	for before := range 18 {
		for _, one := range pieces {
			for _, two := range pieces {
				for _, after := range []int{0, 3, 9} {
					raw := []byte(`"` + strings.Repeat("x", before) + one + two + strings.Repeat("y", after) + `"`)
					if got, want := pyjson.Valid(raw), json.Valid(raw); got != want {
						t.Fatalf("%q: valid is %v, want %v", raw, got, want)
					}
				}
			}
		}
	}
}

// BenchmarkMembers reads the objects of a graph's size: short keys and words, and a longer text.
func BenchmarkMembers(b *testing.B) {
	raw := []byte(`{"inputs": {"value": "` + strings.Repeat("a lighthouse, ", 40) + `", "seed": 18446744073709551615, "clip": ["4", 1]}, "class_type": "CLIPTextEncode", "_meta": {"title": "CLIP Text Encode (Prompt)"}}`)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := pyjson.Members(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func TestMembersAreThoseOfADict(t *testing.T) {
	t.Parallel()
	many := `{"k0": 0`
	want := []pyjson.Member{{Key: "k0", Value: json.RawMessage(`"last"`)}}
	for i := range 40 {
		key := "k" + strconv.Itoa(i+1)
		many += `, "` + key + `": 1`
		want = append(want, pyjson.Member{Key: key, Value: json.RawMessage(`2`)})
	}
	for i := range 40 {
		many += `, "` + "k" + strconv.Itoa(i+1) + `": 2`
	}
	for raw, want := range map[string][]pyjson.Member{
		`{}`: nil,
		` {"b" : 1.50 , "a": [NaN], "b":  {"x" :2} , "\u0061": null}`: {
			{Key: "b", Value: json.RawMessage(`{"x" :2}`)}, {Key: "a", Value: json.RawMessage(`null`)},
		},
		many + `, "k0": "last"}`: want,
	} {
		got, err := pyjson.Members(json.RawMessage(raw))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", raw, diff)
		}
		for i := range got { // nobody writes into a neighbour by appending
			got[i].Value = append(got[i].Value, "#####"...)
		}
		if again, err := pyjson.Members(json.RawMessage(raw)); err != nil || len(want) > 0 && cmp.Diff(want, again) != "" {
			t.Errorf("%s: %v, %v", raw, again, err)
		}
	}
	for _, raw := range []string{``, `[]`, `{"a":1} x`, `"{}"`} {
		if _, err := pyjson.Members(json.RawMessage(raw)); err == nil {
			t.Errorf("%q has members", raw)
		}
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	const raw = `{"a": {"b": 1, "\u0062": {"c": "x"}}, "l": [1], "n": null}`
	for path, want := range map[string]string{
		"a.b.c": `"x"`, "n": `null`, "a.b": `{"c": "x"}`, "a.x": "", "l.0": "", "n.x": "", "a.b.c.d": "", "": "",
	} {
		got, ok := pyjson.Get(json.RawMessage(raw), strings.Split(path, ".")...)
		if string(got) != want || ok != (want != "") {
			t.Errorf("%s: %q, %v, want %q", path, got, ok, want)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ raw, want, written string }{
		{`"plain"`, "plain", `"plain"`},
		{`"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t", `"\"\\/\b\f\n\r\t"`},
		{`"\u0000\u001f\u007f\u0080"`, "\x00\x1f\x7f\u0080", `"\u0000\u001f\u007f\u0080"`},
		{`"é日\u65e5"`, "é日日", `"\u00e9\u65e5\u65e5"`},
		{`"😀\ud83d\ude00"`, "😀😀", `"\ud83d\ude00\ud83d\ude00"`},
		{`"\ud83d"`, "\ufffd", `"\ufffd"`},
		{`"\ude00\ud83d"`, "\ufffd\ufffd", `"\ufffd\ufffd"`},
		{`"\ud83d\ud83d\ude00"`, "\ufffd😀", `"\ufffd\ud83d\ude00"`},
		{`"\ud83d\n"`, "\ufffd\n", `"\ufffd\n"`},
		{"\"a\xff\"", "a\ufffd", `"a\ufffd"`},
		{"\"\\n\xff\"", "\n\ufffd", `"\n\ufffd"`},
	} {
		got, ok := pyjson.Text(json.RawMessage(c.raw))
		if got != c.want || !ok {
			t.Errorf("%s says %q, want %q", c.raw, got, c.want)
		}
		if w := string(pyjson.Quote(got)); w != c.written {
			t.Errorf("%q is written %s, want %s", got, w, c.written)
		}
	}
	for _, raw := range []string{``, `"`, `1`, `"a" "b"`, `"a`, `["a"]`, `"\q"`} {
		if s, ok := pyjson.Text(json.RawMessage(raw)); ok {
			t.Errorf("%q says %q", raw, s)
		}
	}
}

// What Python prints for a value is recorded by hand from python3: str, repr, type and bool.
func TestPythonsWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw, str, repr, typ string
		truthy              bool
	}{
		{`null`, `None`, `None`, "NoneType", false},
		{`true`, `True`, `True`, "bool", true},
		{`false`, `False`, `False`, "bool", false},
		{`0`, `0`, `0`, "int", false},
		{`-0`, `0`, `0`, "int", false},
		{`-0.0`, `-0.0`, `-0.0`, "float", false},
		{`NaN`, `nan`, `nan`, "float", true},
		{`-Infinity`, `-inf`, `-inf`, "float", true},
		{`1e400`, `inf`, `inf`, "float", true},
		{`1.50`, `1.5`, `1.5`, "float", true},
		{`1E2`, `100.0`, `100.0`, "float", true},
		{`1e16`, `1e+16`, `1e+16`, "float", true},
		{`9999999999999998.0`, `9999999999999998.0`, `9999999999999998.0`, "float", true},
		{`0.0001`, `0.0001`, `0.0001`, "float", true},
		{`0.00001`, `1e-05`, `1e-05`, "float", true},
		{`9007199254740993`, `9007199254740993`, `9007199254740993`, "int", true},
		{`18446744073709551615`, `18446744073709551615`, `18446744073709551615`, "int", true},
		{`""`, ``, `''`, "str", false},
		{`"it's"`, `it's`, `"it's"`, "str", true},
		{`"it's \"so\""`, `it's "so"`, `'it\'s "so"'`, "str", true},
		{`"a\\\n\t\r\u0000\u007f\u0085\u00a0\u00e9"`, "a\\\n\t\r\x00\x7f\u0085\u00a0é", `'a\\\n\t\r\x00\x7f\x85\xa0é'`, "str", true},
		{`"\u200b\u2028\ud83d\ude00\udbff\udfff"`, "\u200b\u2028😀\U0010ffff", `'\u200b\u2028😀\U0010ffff'`, "str", true},
		{` [ ] `, `[]`, `[]`, "list", false},
		{`{ }`, `{}`, `{}`, "dict", false},
		{`[[], 1 ,"a",{"k" : [ null]}]`, `[[], 1, 'a', {'k': [None]}]`, `[[], 1, 'a', {'k': [None]}]`, "list", true},
		{`{"a":1,"b":2,"a":[3],"c":4}`, `{'a': [3], 'b': 2, 'c': 4}`, `{'a': [3], 'b': 2, 'c': 4}`, "dict", true},
		{`{"x": {"a": 1, "a": {"b": 1, "b": 2}}}`, `{'x': {'a': {'b': 2}}}`, `{'x': {'a': {'b': 2}}}`, "dict", true},
		{`{"a" : {"x":1,"x":2} , "b": 1, "\u0061": [] ,"b":2, "a": {"y": 1, "y":[{"z":1, "z":0}] } }`, `{'a': {'y': [{'z': 0}]}, 'b': 2}`, `{'a': {'y': [{'z': 0}]}, 'b': 2}`, "dict", true},
		{`not JSON`, ``, ``, "NoneType", false},
	} {
		raw := json.RawMessage(c.raw)
		if got := pyjson.Str(raw); got != c.str {
			t.Errorf("str of %s is %s, want %s", c.raw, got, c.str)
		}
		if got := pyjson.Repr(raw); got != c.repr {
			t.Errorf("repr of %s is %s, want %s", c.raw, got, c.repr)
		}
		if got := pyjson.TypeName(raw); got != c.typ {
			t.Errorf("the type of %s is %s, want %s", c.raw, got, c.typ)
		}
		if got := pyjson.Truthy(raw); got != c.truthy {
			t.Errorf("the truth of %s is %v", c.raw, got)
		}
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	parse := func(raw string) pyjson.Num {
		n, ok := pyjson.ParseNum(json.RawMessage(raw))
		if !ok {
			t.Fatalf("%s is no number", raw)
		}
		return n
	}
	// Each is less than the next one, although many have the same nearest double.
	order := []string{
		"-Infinity", "-1e308", "-9223372036854775809", "-9223372036854775808", "-1.5", "-1", "0", "5e-324", "1",
		"9007199254740992", "9007199254740993", "9223372036854775807", "9223372036854775808.0", "9223372036854775809",
		"18446744073709551615", "18446744073709551616", "1e308", "1" + strings.Repeat("0", 400), "Infinity",
	}
	for i, a := range order {
		for j, b := range order {
			if got := parse(a).Less(parse(b)); got != (i < j) {
				t.Errorf("%s < %s is %v", a, b, got)
			}
		}
		if parse(a).Less(parse("NaN")) || parse("NaN").Less(parse(a)) {
			t.Errorf("%s and NaN have an order", a)
		}
	}
	for raw, want := range map[string]string{
		"1.9": "1", "-1.9": "-1", "1e20": "100000000000000000000", "18446744073709551615": "18446744073709551615", "-0.5": "0",
	} {
		if whole, ok := parse(raw).Truncate(); !ok || string(whole.JSON()) != want {
			t.Errorf("%s without its fraction is %s, want %s", raw, whole.JSON(), want)
		}
	}
	for _, raw := range []string{"NaN", "Infinity", "-Infinity"} {
		if _, ok := parse(raw).Truncate(); ok {
			t.Errorf("%s is whole", raw)
		}
		if got := string(parse(raw).JSON()); got != raw {
			t.Errorf("%s is written %s", raw, got)
		}
	}
	if i, ok := parse("9223372036854775807").Int64(); !ok || i != math.MaxInt64 {
		t.Errorf("the largest int64 is %d, %v", i, ok)
	}
	if _, ok := parse("9223372036854775808").Int64(); ok {
		t.Error("2^63 fits into an int64")
	}
	for _, raw := range []string{"", "x", `"1"`, "true", "1 2", "1.", "-", "- 1", "Inf"} {
		if n, ok := pyjson.ParseNum(json.RawMessage(raw)); ok {
			t.Errorf("%q is the number %v", raw, n)
		}
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`{"a": 1}`:                           `{"a": 1}`,
		`[NaN, -Infinity,Infinity, 1.50]`:    `[null, null,null, 1.50]`,
		`{"NaN": "-Infinity \" NaN"}`:        `{"NaN": "-Infinity \" NaN"}`,
		`{"NaN": NaN, "x": "\\", "y": -NaN}`: `{"NaN": null, "x": "\\", "y": -null}`,
		`["\"\"\"\"NaN`:                      `["\"\"\"\"NaN`,
	} {
		if got := string(pyjson.Clean([]byte(raw))); got != want {
			t.Errorf("%s became %s, want %s", raw, got, want)
		}
	}
	if got := string(pyjson.CleanNumbers([]byte(`[-Infinity, Infinity, NaN]`))); got != `[-1e308, 1e308, null]` {
		t.Errorf("numbers became %s", got)
	}
}

func TestMapStrings(t *testing.T) {
	t.Parallel()
	got, err := pyjson.MapStrings([]byte(`{"a" :[1.0,"\u0061", {"a":"b"} ],"a":NaN}`), func(s string) string { return strings.ReplaceAll(s, "a", `"é`) })
	if want := `{"\"\u00e9" :[1.0,"\"\u00e9", {"\"\u00e9":"b"} ],"\"\u00e9":NaN}`; err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	if _, err := pyjson.MapStrings([]byte(`["a`), strings.ToUpper); err == nil {
		t.Error("half a string is mapped")
	}
}

func TestDrop(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`{"k": 1}`: `{}`,
		` {"a":1.50 , "k":{"k":[ ]}, "b":[{"\u006b":1, "c" : "k"},[ ],NaN, {} ], "k":2 } `: `{"a": 1.50, "b": [{"c": "k"}, [], NaN, {}]}`,
		`{"k": 1, "a": {"k": 1, "x": 2, "k": 3}}`:                                          `{"a": {"x": 2}}`,
		`"k"`: `"k"`,
	} {
		if got, err := pyjson.Drop(json.RawMessage(raw), "k"); err != nil || string(got) != want {
			t.Errorf("%s became %s, %v, want %s", raw, got, err, want)
		}
	}
	if got, err := pyjson.Drop(json.RawMessage(`{"k": 1`), "k"); err == nil {
		t.Errorf("half an object became %s", got)
	}
}

// What somebody sends to make the studio slow takes time as its length, not more.
func TestHostileTextsAreReadInOnePass(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	pad := `"` + strings.Repeat("x", size) + `"`
	deepList := strings.Repeat("[", 900) + pad + strings.Repeat("]", 900)
	deepObject := strings.Repeat(`{"k":`, 900) + pad + strings.Repeat("}", 900)
	var wide strings.Builder
	wide.WriteString(`{"k": 0`)
	for i := range 200_000 {
		wide.WriteString(`, "` + string(pyjson.IntNum(int64(i)).JSON()) + `": 1`)
	}
	wide.WriteString("}")
	quotes := `["NaN` + strings.Repeat(`\"`, size/2)
	begin := time.Now()
	for what, do := range map[string]func(){
		"a deep list shown":     func() { pyjson.Repr(json.RawMessage(deepList)) },
		"a deep object shown":   func() { pyjson.Repr(json.RawMessage(deepObject)) },
		"a deep object thinned": func() { _, _ = pyjson.Drop(json.RawMessage(deepObject), "x") },
		"a wide object read":    func() { _, _ = pyjson.Members(json.RawMessage(wide.String())) },
		"twins inside twins": func() {
			pyjson.Repr(json.RawMessage(strings.Repeat(`{"k": 0, "k":`, 900) + pad + strings.Repeat("}", 900)))
		},
		"a wide object shown":     func() { pyjson.Repr(json.RawMessage(wide.String())) },
		"quotes without an end":   func() { pyjson.Clean([]byte(quotes)) },
		"digits without an end":   func() { pyjson.ParseNum(json.RawMessage(strings.Repeat("9", size))) },
		"a double of many digits": func() { pyjson.ParseNum(json.RawMessage(strings.Repeat("9", size) + ".5")) },
	} {
		do()
		// Reading each a thousand times, or each byte for each other, would take minutes.
		if d := time.Since(begin); d > 20*time.Second {
			t.Fatalf("%s: %v", what, d)
		}
	}
}

func TestPlainNumber(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		" 1_000\n": "1000", "1_2_3": "123", "-1_0.5_0": "-10.50", "1__0": "1__0", "_1": "_1", "1_": "1_", "1_.5": "1_.5", "": "", "a_1": "a_1",
	} {
		if got := pyjson.PlainNumber(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
