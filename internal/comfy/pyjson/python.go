package pyjson

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode"
)

// TypeName returns the name of the Python type a value becomes.
func TypeName(raw json.RawMessage) string {
	switch KindOf(raw) {
	case Null:
		return "NoneType"
	case Bool:
		return "bool"
	case String:
		return "str"
	case Array:
		return "list"
	case Object:
		return "dict"
	case Number:
		if n, ok := ParseNum(raw); ok && n.IsFloat() {
			return "float"
		}
		return "int"
	default:
		return "object"
	}
}

// Str returns a value as Python's str prints it: text bare, everything else as Repr.
func Str(raw json.RawMessage) string {
	if s, ok := Text(raw); ok {
		return s
	}
	return Repr(raw)
}

// Repr returns a value as Python's repr prints it: 'text', True, None, ['a', 1.0], {'k': 2}. What is no JSON gives "".
func Repr(raw json.RawMessage) string {
	start, _, err := whole(raw)
	if err != nil {
		return ""
	}
	dst, _ := appendRepr(make([]byte, 0, len(raw)), raw, start)
	return string(dst)
}

// Truthy reports whether Python takes a value for true.
func Truthy(raw json.RawMessage) bool {
	switch KindOf(raw) {
	case Bool:
		return bytes.TrimSpace(raw)[0] == 't'
	case Number:
		n, _ := ParseNum(raw)
		return n.Float() != 0
	case String:
		return TextOf(raw) != ""
	case Array, Object:
		next := skipSpace(raw, skipSpace(raw, 0)+1)
		return next < len(raw) && raw[next] != ']' && raw[next] != '}'
	default:
		return false
	}
}

// appendRepr appends the checked value that begins at i and returns where it ends. It reads each byte once, however
// deep it lies.
func appendRepr(dst, b []byte, i int) ([]byte, int) {
	switch b[i] {
	case '[':
		return appendReprArray(dst, b, i)
	case '{':
		return appendReprObject(dst, b, i)
	}
	end, err := scanValue(b, i, 0)
	if err != nil { // the whole was checked before
		return dst, len(b)
	}
	switch raw := b[i:end]; KindOf(raw) {
	case String:
		dst = AppendRepr(dst, unquote(raw))
	case Number:
		n, _ := ParseNum(raw)
		dst = append(dst, n.String()...)
	case Bool:
		if raw[0] == 't' {
			dst = append(dst, "True"...)
		} else {
			dst = append(dst, "False"...)
		}
	default:
		dst = append(dst, "None"...)
	}
	return dst, end
}

func appendReprArray(dst, b []byte, i int) ([]byte, int) {
	dst = append(dst, '[')
	for i = skipSpace(b, i+1); b[i] != ']'; {
		dst, i = appendRepr(dst, b, i)
		if i = skipSpace(b, i); b[i] == ',' {
			dst = append(dst, ", "...)
			i = skipSpace(b, i+1)
		}
	}
	return append(dst, ']'), i + 1
}

// appendReprObject appends an object. Of members that came twice it shows the first place and the last value.
func appendReprObject(dst, b []byte, i int) ([]byte, int) {
	type span struct{ from, to int } // of a member in dst
	var spans []span
	places, twice := map[string]int{}, false
	start := len(dst)
	dst = append(dst, '{')
	for i = skipSpace(b, i+1); b[i] != '}'; {
		end, err := scanString(b, i)
		if err != nil { // the whole was checked before
			return dst, len(b)
		}
		if len(spans) > 0 {
			dst = append(dst, ", "...)
		}
		key, from := unquote(b[i:end]), len(dst)
		dst = append(AppendRepr(dst, key), ": "...)
		dst, i = appendRepr(dst, b, skipSpace(b, skipSpace(b, end)+1))
		if place, ok := places[key]; ok {
			spans[place], twice = span{from, len(dst)}, true
		} else {
			places[key] = len(spans)
			spans = append(spans, span{from, len(dst)})
		}
		if i = skipSpace(b, i); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	if !twice {
		return append(dst, '}'), i + 1
	}
	all := bytes.Clone(dst[start:])
	dst = append(dst[:start], '{')
	for j, s := range spans {
		if j > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(dst, all[s.from-start:s.to-start]...)
	}
	return append(dst, '}'), i + 1
}

// AppendRepr appends s as Python's repr prints a string.
func AppendRepr(dst []byte, s string) []byte {
	quote := byte('\'')
	if bytes.IndexByte([]byte(s), '\'') >= 0 && bytes.IndexByte([]byte(s), '"') < 0 {
		quote = '"'
	}
	dst = append(dst, quote)
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\r':
			dst = append(dst, `\r`...)
		case r == '\t':
			dst = append(dst, `\t`...)
		case unicode.IsPrint(r):
			dst = append(dst, string(r)...)
		case r < 0x100:
			dst = append(dst, '\\', 'x', hexDigits[r>>4&15], hexDigits[r&15])
		case r < 0x10000:
			dst = appendUnit(dst, r)
		default:
			dst = append(dst, `\U`...)
			digits := strconv.FormatInt(int64(r), 16)
			for range 8 - len(digits) {
				dst = append(dst, '0')
			}
			dst = append(dst, digits...)
		}
	}
	return append(dst, quote)
}
