package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// longList is how many choices an error body lists at most.
const longList = 20

// literal checks an input that holds a value of its own.
func (v *validation) literal(r *result, k *class, in *input, value json.RawMessage) {
	value, problem := convert(in.typ, comfy.Literal(value))
	if problem != "" {
		r.add("invalid_input_type", "Failed to convert an input value to a "+in.typ+" value", in.name+", "+pyjson.Str(value)+", "+problem,
			append(in.extra(value), pyjson.Member{Key: "exception_message", Value: pyjson.Quote(problem)})...)
		return
	}
	if in.reads.kind != noFile {
		v.file(r, in, value)
		return
	}
	if !k.core() || in.dynamic || k.checksItself(in.name) {
		return
	}
	if in.inRange(r, value) {
		in.inChoices(r, value)
	}
}

// fileWords are how core classes call the file that is not there.
var fileWords = map[fileKind]string{imageFile: "image", videoFile: "video", audioFile: "audio", latentFile: "latent"}

// file checks a value that names a file, or an object of such.
func (v *validation) file(r *result, in *input, value json.RawMessage) {
	var names []string
	switch pyjson.KindOf(value) {
	case pyjson.String:
		names = []string{pyjson.TextOf(value)}
	case pyjson.Object:
		members, err := pyjson.Members(value)
		if err != nil {
			return
		}
		for _, m := range members {
			if text, ok := pyjson.Text(m.Value); ok && text != "" {
				names = append(names, text)
			}
		}
	default:
		names = []string{pyjson.Str(value)}
	}
	for _, name := range names {
		if name == "none" && in.reads.kind == solidFile || name == "" && !in.required {
			continue
		}
		if v.has != nil && in.reads.owns(name, v.has) {
			continue
		}
		word := fileWords[in.reads.kind]
		if word != "" {
			word += " "
		}
		r.add("custom_validation_failed", "Custom validation failed for node", in.name+" - Invalid "+word+"file: "+name,
			pyjson.Member{Key: "input_name", Value: pyjson.Quote(in.name)})
		return
	}
}

// convert turns a value into the type of its input as Python's int, float, str and bool do. problem is what Python
// says when it can't be.
func convert(typ string, value json.RawMessage) (converted json.RawMessage, problem string) {
	switch typ {
	case "INT":
		return toInt(value)
	case "FLOAT":
		return toFloat(value)
	case "STRING":
		if pyjson.KindOf(value) != pyjson.String {
			return pyjson.Quote(pyjson.Str(value)), ""
		}
	case "BOOLEAN":
		if pyjson.Truthy(value) {
			return json.RawMessage("true"), ""
		}
		return json.RawMessage("false"), ""
	}
	return value, ""
}

func toInt(value json.RawMessage) (json.RawMessage, string) {
	switch pyjson.KindOf(value) {
	case pyjson.Number:
		n, _ := pyjson.ParseNum(value)
		whole, ok := n.Truncate()
		if !ok {
			if math.IsNaN(n.Float()) {
				return value, "cannot convert float NaN to integer"
			}
			return value, "cannot convert float infinity to integer"
		}
		return whole.JSON(), ""
	case pyjson.Bool:
		if pyjson.Truthy(value) {
			return json.RawMessage("1"), ""
		}
		return json.RawMessage("0"), ""
	case pyjson.String:
		text, ok := plainNumber(pyjson.TextOf(value))
		if !ok {
			return value, ""
		}
		if digits := strings.TrimLeft(text, "+-"); len(digits) > pyjson.MaxDigits && strings.Trim(digits, "0123456789") == "" {
			return value, fmt.Sprintf("Exceeds the limit (%d digits) for integer string conversion: value has %d digits; use sys.set_int_max_str_digits() to increase the limit",
				pyjson.MaxDigits, len(digits))
		}
		if i, ok := new(big.Int).SetString(text, 10); ok {
			return json.RawMessage(i.String()), ""
		}
		return value, "invalid literal for int() with base 10: " + pyjson.Repr(value)
	default:
		return value, "int() argument must be a string, a bytes-like object or a real number, not '" + pyjson.TypeName(value) + "'"
	}
}

func toFloat(value json.RawMessage) (json.RawMessage, string) {
	switch pyjson.KindOf(value) {
	case pyjson.Number:
		n, _ := pyjson.ParseNum(value)
		if !n.IsFloat() && math.IsInf(n.Float(), 0) {
			return value, "int too large to convert to float"
		}
		return pyjson.FloatNum(n.Float()).JSON(), ""
	case pyjson.Bool:
		if pyjson.Truthy(value) {
			return json.RawMessage("1.0"), ""
		}
		return json.RawMessage("0.0"), ""
	case pyjson.String:
		text, ok := plainNumber(pyjson.TextOf(value))
		if !ok {
			return value, ""
		}
		if strings.EqualFold(strings.TrimLeft(text, "+-"), "nan") {
			return json.RawMessage("NaN"), ""
		}
		f, err := strconv.ParseFloat(text, 64)
		if errors.Is(err, strconv.ErrSyntax) || strings.ContainsAny(text, "xX") {
			return value, "could not convert string to float: " + pyjson.Repr(value)
		}
		return pyjson.FloatNum(f).JSON(), "" // out of range is infinite
	default:
		return value, "float() argument must be a string or a real number, not '" + pyjson.TypeName(value) + "'"
	}
}

// plainNumber readies a text for being read as a number. certain is false for digits of other scripts, which Python
// takes too.
func plainNumber(text string) (plain string, certain bool) {
	if strings.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf && unicode.IsDigit(r) }) {
		return "", false
	}
	return pyjson.PlainNumber(text), true
}

// inRange checks min and max. Values that have no order pass: ComfyUI does not get that far with them.
func (in *input) inRange(r *result, value json.RawMessage) bool {
	n, ok := pyjson.ParseNum(value)
	if !ok || pyjson.KindOf(value) != pyjson.Number {
		return true
	}
	if least, ok := pyjson.ParseNum(in.min); ok && n.Less(least) {
		r.add("value_smaller_than_min", "Value "+n.String()+" smaller than min of "+least.String(), in.name, in.extra(value)...)
		return false
	}
	if most, ok := pyjson.ParseNum(in.max); ok && most.Less(n) {
		r.add("value_bigger_than_max", "Value "+n.String()+" bigger than max of "+most.String(), in.name, in.extra(value)...)
		return false
	}
	return true
}

// inChoices checks membership in a list of choices. Of the newer form with type COMBO 0.3.64 checks nothing and newer
// servers do; the node fails with another value in either.
func (in *input) inChoices(r *result, value json.RawMessage) {
	if in.choices == nil || in.multi {
		return
	}
	choices, err := pyjson.Elements(in.choices)
	if err != nil {
		return
	}
	want := pyjson.Repr(value)
	for _, c := range choices {
		if pyjson.Repr(c) == want {
			return
		}
	}
	config, listed := in.config, pyjson.Repr(in.choices)
	if len(choices) > longList {
		config, listed = json.RawMessage("null"), "(list of length "+strconv.Itoa(len(choices))+")"
	}
	r.add("value_not_in_list", "Value not in list", in.name+": '"+pyjson.Str(value)+"' not in "+listed,
		pyjson.Member{Key: "input_name", Value: pyjson.Quote(in.name)},
		pyjson.Member{Key: "input_config", Value: config},
		pyjson.Member{Key: "received_value", Value: value})
}

// typeName is the input's type as links compare it.
func (in *input) typeName() string {
	if in.typ == "" {
		return "COMBO"
	}
	return in.typ
}

// typeText is the input's type as error texts show it.
func (in *input) typeText() string {
	if in.typ == "" {
		return pyjson.Repr(in.choices)
	}
	return in.typ
}

// typesFit reports whether an output may go into an input: equal types, a wildcard on either side, or unions by
// comma of which one side is part of the other.
func typesFit(got, want string) bool {
	if got == want || got == "*" || want == "*" {
		return true
	}
	have := strings.Split(got, ",")
	for _, g := range have {
		for w := range strings.SplitSeq(want, ",") {
			if strings.TrimSpace(g) == strings.TrimSpace(w) {
				return true
			}
		}
	}
	return false
}
