// Package pyjson reads and writes JSON the way Python's json module does: objects keep their order and their last
// duplicate, NaN, Infinity and -Infinity are numbers, integers have any length, and text is escaped to ASCII.
// Values stay raw: nothing here turns a number into a float64 on its way through, so what is passed on is what
// came in, byte for byte.
package pyjson

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// MaxDepth is how deep values may be nested. It is about where Python's own reader gives up.
const MaxDepth = 1000

// MaxDigits is how long an integer may be. Python's own reader takes no more, because reading longer ones takes time
// that grows with the square of their length.
const MaxDigits = 4300

// SyntaxError says where a text stops being JSON.
type SyntaxError struct {
	Offset int
	Reason string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("not JSON at byte %d: %s", e.Offset, e.Reason)
}

// Kind is the sort of a value.
type Kind uint8

// The kinds of values. The zero value stands for an empty or absent text.
const (
	None Kind = iota
	Null
	Bool
	Number // NaN and the infinities too
	String
	Array
	Object
)

// KindOf tells the sort of a value from its first byte; the rest is not looked at.
func KindOf(raw json.RawMessage) Kind {
	i := skipSpace(raw, 0)
	if i == len(raw) {
		return None
	}
	switch c := raw[i]; c {
	case '{':
		return Object
	case '[':
		return Array
	case '"':
		return String
	case 't', 'f':
		return Bool
	case 'n':
		return Null
	default:
		if c == '-' || c == 'N' || c == 'I' || '0' <= c && c <= '9' {
			return Number
		}
		return None
	}
}

// Check returns nil when raw is exactly one value in UTF-8, space around it allowed, and the place where it is not
// otherwise.
func Check(raw []byte) error {
	if _, _, err := whole(raw); err != nil {
		return err
	}
	if !utf8.Valid(raw) {
		at := 0
		for r, size := rune(0), 0; r != utf8.RuneError || size != 1; at += size {
			r, size = utf8.DecodeRune(raw[at:])
		}
		return &SyntaxError{at - 1, "a byte that is not UTF-8"}
	}
	return nil
}

// Valid reports whether raw is exactly one value.
func Valid(raw []byte) bool { return Check(raw) == nil }

// whole returns the bounds of the one value in raw.
func whole(raw []byte) (start, end int, err error) {
	start = skipSpace(raw, 0)
	if end, err = scanValue(raw, start, 0); err != nil {
		return 0, 0, err
	}
	if rest := skipSpace(raw, end); rest != len(raw) {
		return 0, 0, &SyntaxError{rest, "more after the value"}
	}
	return start, end, nil
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// scanValue returns the end of the value that begins at i.
func scanValue(b []byte, i, depth int) (int, error) {
	if i >= len(b) {
		return 0, &SyntaxError{i, "the text ends where a value is expected"}
	}
	if depth > MaxDepth {
		return 0, &SyntaxError{i, "nested too deeply"}
	}
	switch b[i] {
	case '{':
		return scanObject(b, i, depth, nil)
	case '[':
		return scanArray(b, i, depth, nil)
	case '"':
		return scanString(b, i)
	case 't':
		return scanWord(b, i, "true")
	case 'f':
		return scanWord(b, i, "false")
	case 'n':
		return scanWord(b, i, "null")
	case 'N':
		return scanWord(b, i, "NaN")
	case 'I':
		return scanWord(b, i, "Infinity")
	default:
		return scanNumber(b, i)
	}
}

// scanObject returns the end of the object at i. each, when given, gets the bounds of every key (with its quotes)
// and value.
func scanObject(b []byte, i, depth int, each func(keyStart, keyEnd, start, end int) error) (int, error) {
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return 0, &SyntaxError{i, "a key in quotes is expected"}
		}
		keyStart := i
		keyEnd, err := scanString(b, i)
		if err != nil {
			return 0, err
		}
		i = skipSpace(b, keyEnd)
		if i >= len(b) || b[i] != ':' {
			return 0, &SyntaxError{i, "a colon is expected"}
		}
		start := skipSpace(b, i+1)
		end, err := scanValue(b, start, depth+1)
		if err != nil {
			return 0, err
		}
		if each != nil {
			if err := each(keyStart, keyEnd, start, end); err != nil {
				return 0, err
			}
		}
		i = skipSpace(b, end)
		switch {
		case i < len(b) && b[i] == ',':
			i = skipSpace(b, i+1)
		case i < len(b) && b[i] == '}':
			return i + 1, nil
		default:
			return 0, &SyntaxError{i, "a comma or the object's end is expected"}
		}
	}
}

// scanArray returns the end of the array at i. each, when given, gets the bounds of every element.
func scanArray(b []byte, i, depth int, each func(start, end int) error) (int, error) {
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for {
		start := i
		end, err := scanValue(b, start, depth+1)
		if err != nil {
			return 0, err
		}
		if each != nil {
			if err := each(start, end); err != nil {
				return 0, err
			}
		}
		i = skipSpace(b, end)
		switch {
		case i < len(b) && b[i] == ',':
			i = skipSpace(b, i+1)
		case i < len(b) && b[i] == ']':
			return i + 1, nil
		default:
			return 0, &SyntaxError{i, "a comma or the list's end is expected"}
		}
	}
}

func scanString(b []byte, i int) (int, error) {
	start := i
	for i = plainEnd(b, i+1); i < len(b); i = plainEnd(b, i+1) {
		switch c := b[i]; {
		case c == '"':
			return i + 1, nil
		case c < 0x20:
			return 0, &SyntaxError{i, "a control character in a string"}
		case c == '\\':
			i++
			if i >= len(b) {
				break
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if i+4 >= len(b) || !isHex(b[i+1]) || !isHex(b[i+2]) || !isHex(b[i+3]) || !isHex(b[i+4]) {
					return 0, &SyntaxError{i, "four hex digits are expected"}
				}
				i += 4
			default:
				return 0, &SyntaxError{i, "an unknown escape"}
			}
		}
	}
	return 0, &SyntaxError{start, "a string without an end"}
}

// plainEnd returns where the next byte of a string at or after i is that is not just a part of it: its end, an escape or
// a control character. It looks at eight bytes at a time: most of what is read are strings.
func plainEnd(b []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(b)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, escape := w^ones*'"', w^ones*'\\'
		// The top bit of a byte tells that it is zero, or less than a space; bits above the lowest one may be wrong.
		found := (quote-ones)&^quote | (escape-ones)&^escape | (w-ones*' ')&^w
		if found &= tops; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c == '"' || c == '\\' || c < ' ' {
			break
		}
	}
	return i
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func scanWord(b []byte, i int, word string) (int, error) {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return 0, &SyntaxError{i, "an unknown word"}
	}
	return i + len(word), nil
}

func scanNumber(b []byte, i int) (int, error) {
	start := i
	if b[i] == '-' {
		i++
		if i < len(b) && b[i] == 'I' {
			return scanWord(b, i, "Infinity")
		}
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case i < len(b) && '1' <= b[i] && b[i] <= '9':
		i = skipDigits(b, i)
	default:
		return 0, &SyntaxError{start, "a value is expected"}
	}
	if i-start > MaxDigits+1 || i-start == MaxDigits+1 && b[start] != '-' {
		if i == len(b) || b[i] != '.' && b[i] != 'e' && b[i] != 'E' {
			return 0, &SyntaxError{start, "an integer of more than 4300 digits"}
		}
	}
	if i < len(b) && b[i] == '.' {
		end := skipDigits(b, i+1)
		if end == i+1 {
			return 0, &SyntaxError{end, "a digit is expected"}
		}
		i = end
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		end := skipDigits(b, i)
		if end == i {
			return 0, &SyntaxError{end, "a digit is expected"}
		}
		i = end
	}
	return i, nil
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	return i
}
