package pyjson

import (
	"bytes"
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Num is a number as Python reads it: an integer of any length, or a double. The zero value is the integer 0.
type Num struct {
	big   *big.Int // set for integers beyond int64
	i     int64
	f     float64
	float bool
}

// IntNum returns the integer i.
func IntNum(i int64) Num { return Num{i: i} }

// BigNum returns the integer i of any length.
func BigNum(i *big.Int) Num {
	if i.IsInt64() {
		return Num{i: i.Int64()}
	}
	return Num{big: i}
}

// FloatNum returns the double f.
func FloatNum(f float64) Num { return Num{f: f, float: true} }

// ParseNum reads a number value, NaN and the infinities included. ok is false for anything else.
func ParseNum(raw json.RawMessage) (n Num, ok bool) {
	raw = bytes.TrimSpace(raw)
	if KindOf(raw) != Number {
		return Num{}, false
	}
	switch string(raw) {
	case "NaN":
		return FloatNum(math.NaN()), true
	case "Infinity":
		return FloatNum(math.Inf(1)), true
	case "-Infinity":
		return FloatNum(math.Inf(-1)), true
	}
	if end, err := scanNumber(raw, 0); err != nil || end != len(raw) {
		return Num{}, false
	}
	text := string(raw)
	if strings.ContainsAny(text, ".eE") {
		f, _ := strconv.ParseFloat(text, 64) // out of range gives ±Inf, as in Python
		return FloatNum(f), true
	}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return IntNum(i), true
	}
	i, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return Num{}, false
	}
	return BigNum(i), true
}

// IsFloat reports whether n is a double.
func (n Num) IsFloat() bool { return n.float }

// Int64 returns n when it is an integer that fits.
func (n Num) Int64() (i int64, ok bool) { return n.i, !n.float && n.big == nil }

// Float returns n as a double. An integer beyond a double's range gives an infinity.
func (n Num) Float() float64 {
	switch {
	case n.float:
		return n.f
	case n.big != nil:
		f, _ := new(big.Float).SetInt(n.big).Float64()
		return f
	default:
		return float64(n.i)
	}
}

// Truncate returns n without its fraction. ok is false for NaN and the infinities.
func (n Num) Truncate() (whole Num, ok bool) {
	if !n.float {
		return n, true
	}
	if math.IsNaN(n.f) || math.IsInf(n.f, 0) {
		return Num{}, false
	}
	i, _ := new(big.Float).SetFloat64(n.f).Int(nil)
	return BigNum(i), true
}

// Less reports whether n < m, exactly, also between an integer and a double. NaN is less than nothing.
func (n Num) Less(m Num) bool {
	if !n.float && !m.float && n.big == nil && m.big == nil {
		return n.i < m.i
	}
	if n.float && m.float {
		return n.f < m.f
	}
	if n.float && math.IsNaN(n.f) || m.float && math.IsNaN(m.f) {
		return false
	}
	return n.exact().Cmp(m.exact()) < 0
}

func (n Num) exact() *big.Float {
	switch {
	case n.float:
		return new(big.Float).SetFloat64(n.f)
	case n.big != nil:
		return new(big.Float).SetInt(n.big)
	default:
		return new(big.Float).SetInt64(n.i)
	}
}

// String returns n as Python prints it: 5, 5.0, 1e-05, inf.
func (n Num) String() string {
	switch {
	case n.float:
		return floatRepr(n.f)
	case n.big != nil:
		return n.big.String()
	default:
		return strconv.FormatInt(n.i, 10)
	}
}

// JSON returns n as Python writes it.
func (n Num) JSON() json.RawMessage {
	if n.float {
		switch {
		case math.IsNaN(n.f):
			return json.RawMessage("NaN")
		case math.IsInf(n.f, 1):
			return json.RawMessage("Infinity")
		case math.IsInf(n.f, -1):
			return json.RawMessage("-Infinity")
		}
	}
	return json.RawMessage(n.String())
}

// floatRepr prints a double as Python does: shortest, exponents outside 1e-4…1e16, always with a point or exponent.
func floatRepr(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	exp, err := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	if err != nil || exp < -4 || exp >= 16 {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if strings.IndexByte(s, '.') < 0 {
		s += ".0"
	}
	return s
}

// PlainNumber returns a text that is to be read as a number without what Python's int and float overlook in it: space
// around it, and an underscore between two digits.
func PlainNumber(text string) string {
	text = strings.TrimSpace(text)
	digit := func(i int) bool { return i >= 0 && i < len(text) && '0' <= text[i] && text[i] <= '9' }
	b := make([]byte, 0, len(text))
	for i := range len(text) {
		if text[i] != '_' || !digit(i-1) || !digit(i+1) {
			b = append(b, text[i])
		}
	}
	return string(b)
}
