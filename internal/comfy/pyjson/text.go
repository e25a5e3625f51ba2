package pyjson

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Text returns what a string value says. ok is false when raw is not a string. Half surrogates, which Python
// lets through, become U+FFFD.
func Text(raw json.RawMessage) (s string, ok bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	if end, err := scanString(raw, 0); err != nil || end != len(raw) {
		return "", false
	}
	return unquote(raw), true
}

// TextOf returns what a string value says, and "" for anything else.
func TextOf(raw json.RawMessage) string {
	s, _ := Text(raw)
	return s
}

// unquote decodes a scanned string with its quotes.
func unquote(q []byte) string {
	body := q[1 : len(q)-1]
	if bytes.IndexByte(body, '\\') < 0 {
		if utf8.Valid(body) {
			return string(body)
		}
		return string(bytes.ToValidUTF8(body, []byte("\uFFFD")))
	}
	out := make([]byte, 0, len(body))
	for i := 0; i < len(body); {
		c := body[i]
		if c != '\\' {
			out = append(out, c)
			i++
			continue
		}
		i += 2
		switch body[i-1] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(body[i:])
			i += 4
			if utf16.IsSurrogate(r) {
				pair := rune(utf8.RuneError)
				if i+6 <= len(body) && body[i] == '\\' && body[i+1] == 'u' {
					pair = utf16.DecodeRune(r, hex4(body[i+2:]))
				}
				if pair != utf8.RuneError {
					i += 6
				}
				r = pair
			}
			out = utf8.AppendRune(out, r)
		default: // quote, backslash, slash
			out = append(out, body[i-1])
		}
	}
	if !utf8.Valid(out) {
		out = bytes.ToValidUTF8(out, []byte("\uFFFD"))
	}
	return string(out)
}

func hex4(b []byte) rune {
	n, err := strconv.ParseUint(string(b[:4]), 16, 32)
	if err != nil {
		return utf8.RuneError // the scanner has seen to it that these are digits
	}
	return rune(n)
}

// quotedIs reports whether a scanned string with its quotes says s.
func quotedIs(q []byte, s string) bool {
	body := q[1 : len(q)-1]
	if bytes.IndexByte(body, '\\') < 0 {
		return string(body) == s
	}
	return unquote(q) == s
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a string value, escaped to ASCII as Python writes it.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[from:i]...)
		r, size := utf8.DecodeRuneInString(s[i:])
		i += size
		from = i
		switch r {
		case '"', '\\':
			dst = append(dst, '\\', byte(r))
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			if r >= 0x10000 {
				hi, lo := utf16.EncodeRune(r)
				dst = appendUnit(dst, hi)
				r = lo
			}
			dst = appendUnit(dst, r)
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

func appendUnit(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// Quote returns s as a string value.
func Quote(s string) json.RawMessage { return AppendString(make([]byte, 0, len(s)+2), s) }

// MapStrings puts every string in raw, keys as well, through f. Everything else stays byte for byte.
func MapStrings(raw []byte, f func(string) string) ([]byte, error) {
	out := make([]byte, 0, len(raw))
	from := 0
	for i := 0; i < len(raw); {
		if raw[i] != '"' {
			i++
			continue
		}
		end, err := scanString(raw, i)
		if err != nil {
			return nil, err
		}
		out = AppendString(append(out, raw[from:i]...), f(unquote(raw[i:end])))
		i, from = end, end
	}
	return append(out, raw[from:]...), nil
}

// Clean returns raw as JSON that every reader takes: NaN and the infinities become null. It works on tokens, so
// everything else stays byte for byte, and it returns raw itself when there is nothing to do.
func Clean(raw []byte) []byte { return clean(raw, "null", "null") }

// CleanNumbers is Clean for places where a number is needed, such as an input's max: the infinities become ±1e308.
func CleanNumbers(raw []byte) []byte { return clean(raw, "1e308", "-1e308") }

func clean(raw []byte, plus, minus string) []byte {
	if !bytes.Contains(raw, []byte("NaN")) && !bytes.Contains(raw, []byte("Infinity")) {
		return raw
	}
	var out []byte
	from := 0
	replace := func(start, end int, with string) {
		out = append(append(out, raw[from:start]...), with...)
		from = end
	}
	for i := 0; i < len(raw); {
		switch c := raw[i]; {
		case c == '"':
			end, err := scanString(raw, i)
			if err != nil {
				return raw // not JSON: the reader will say so
			}
			i = end
		case c == 'N' && bytes.HasPrefix(raw[i:], []byte("NaN")):
			replace(i, i+3, "null")
			i += 3
		case c == '-' && bytes.HasPrefix(raw[i:], []byte("-Infinity")):
			replace(i, i+9, minus)
			i += 9
		case c == 'I' && bytes.HasPrefix(raw[i:], []byte("Infinity")):
			replace(i, i+8, plus)
			i += 8
		default:
			i++
		}
	}
	if from == 0 {
		return raw
	}
	return append(out, raw[from:]...)
}
