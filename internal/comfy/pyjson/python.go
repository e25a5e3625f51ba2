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
