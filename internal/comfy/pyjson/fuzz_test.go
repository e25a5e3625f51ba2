package pyjson_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// seeds adds values of every kind, and the shorter lines of what a real ComfyUI said where the recordings are here.
func seeds(f *testing.F) {
	for _, s := range []string{
		`{"a": [1, -0.5e+7, true, false, null, NaN, Infinity, -Infinity], "a": "\u0000\ud800\ud83d\ude00é\""}`,
		`18446744073709551615`, `[[[[]]]]`, ` {} `, `{"":{"":[]}}`, `1e400`, `"\`, `[1,]`, `-`, "\"\xff\"", `01`,
	} {
		f.Add([]byte(s))
	}
	names, err := filepath.Glob(filepath.Join("..", "..", "..", "..", "shared", "comfyui", "recordings", "*.jsonl"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(raw) {
			if len(line) < 4096 {
				f.Add(bytes.Clone(line))
			}
		}
	}
}

// FuzzCheck: what is standard JSON is JSON, and what is JSON here is standard but for Python's three numbers.
func FuzzCheck(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		mine := pyjson.Valid(raw)
		if !utf8.Valid(raw) || len(raw) > pyjson.MaxDigits {
			return // encoding/json takes other bytes, longer integers and deeper values
		}
		if clean := pyjson.Clean(raw); mine && !json.Valid(clean) {
			t.Errorf("%q: JSON here, elsewhere not", raw)
		}
		if json.Valid(raw) && !mine && bytes.Count(raw, []byte("["))+bytes.Count(raw, []byte("{")) < pyjson.MaxDepth {
			t.Errorf("%q: JSON elsewhere, here not", raw)
		}
	})
}

// FuzzRead: every reader takes every JSON apart into what encoding/json finds in it, and what is written of the parts
// is the same value again.
func FuzzRead(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		pyjson.Repr(raw) // whatever it is, nothing panics
		pyjson.Truthy(raw)
		pyjson.TypeName(raw)
		pyjson.ParseNum(raw)
		pyjson.Strings(raw)
		pyjson.Get(raw, "a", "b")
		_, _ = pyjson.MapStrings(raw, strings.ToUpper)
		_, _ = pyjson.Drop(raw, "a")
		if !pyjson.Valid(raw) {
			pyjson.Clean(raw)
			return
		}
		again := rebuild(t, raw)
		if before, after := pyjson.Repr(raw), pyjson.Repr(again); before != after {
			t.Errorf("%q became %q: %s is %s", raw, again, before, after)
		}
		if mapped, err := pyjson.MapStrings(raw, func(s string) string { return s }); err != nil || pyjson.Repr(mapped) != pyjson.Repr(raw) {
			t.Errorf("%q became %q, %v, by a map that changes nothing", raw, mapped, err)
		}
		if whole, err := pyjson.Drop(raw, "no such key"); err != nil || pyjson.Repr(whole) != pyjson.Repr(raw) {
			t.Errorf("%q became %q, %v, where nothing was to be dropped", raw, whole, err)
		}
		if pyjson.KindOf(raw) == pyjson.Number || !json.Valid(raw) {
			return
		}
		if diff := cmp.Diff(decode(t, raw), decode(t, again)); diff != "" {
			t.Errorf("%q became %q: %s", raw, again, diff)
		}
	})
}

func decode(t *testing.T, raw []byte) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return v
}

// rebuild takes a value apart and writes it again.
func rebuild(t *testing.T, raw json.RawMessage) json.RawMessage {
	switch pyjson.KindOf(raw) {
	case pyjson.Object:
		members, err := pyjson.Members(raw)
		if err != nil {
			t.Fatal(err)
		}
		for i := range members {
			members[i].Value = rebuild(t, members[i].Value)
		}
		return pyjson.AppendObject(nil, members)
	case pyjson.Array:
		list, err := pyjson.Elements(raw)
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			list[i] = rebuild(t, list[i])
		}
		return append(append([]byte{'['}, bytes.Join(bytesOf(list), []byte(", "))...), ']')
	case pyjson.String:
		text, ok := pyjson.Text(raw)
		if !ok {
			t.Fatalf("%q is no string", raw)
		}
		return pyjson.Quote(text)
	default:
		return raw
	}
}

func bytesOf(list []json.RawMessage) [][]byte {
	out := make([][]byte, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}
