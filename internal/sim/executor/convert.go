package executor

import (
	"encoding/json"
	"errors"
	"math/big"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// linkOf reads a value that is a link: the id of a node and the number of one of its outputs.
func linkOf(raw json.RawMessage) (from string, slot pyjson.Num, ok bool) {
	if pyjson.KindOf(raw) != pyjson.Array {
		return "", pyjson.Num{}, false
	}
	pair, err := pyjson.Elements(raw)
	if err != nil || len(pair) != 2 || pyjson.KindOf(pair[0]) != pyjson.String {
		return "", pyjson.Num{}, false
	}
	slot, ok = slotOf(pair[1])
	return pyjson.TextOf(pair[0]), slot, ok
}

// slotOf reads the number of an output. In Python truth is a number.
func slotOf(raw json.RawMessage) (slot pyjson.Num, ok bool) {
	switch pyjson.KindOf(raw) {
	case pyjson.Number, pyjson.Bool:
		return toNumber(raw, "")
	}
	return pyjson.Num{}, false
}

// convertValue is what Python's int, float, str or bool make of a value. What they refuse stays as it is;
// validation has reported it.
func convertValue(typ string, raw json.RawMessage) json.RawMessage {
	if inner, ok := pyjson.Get(raw, "__value__"); ok {
		raw = inner
	}
	switch typ {
	case "INT":
		if n, ok := toNumber(raw, typ); ok {
			if whole, ok := n.Truncate(); ok {
				return keep(raw, whole)
			}
		}
	case "FLOAT":
		if n, ok := Float(raw); ok {
			return keep(raw, n)
		}
	case "STRING":
		if pyjson.KindOf(raw) != pyjson.String {
			return pyjson.Quote(pyjson.Str(raw))
		}
	case "BOOLEAN":
		if pyjson.KindOf(raw) != pyjson.Bool {
			return json.RawMessage(strconv.FormatBool(pyjson.Truthy(raw)))
		}
	}
	return raw
}

// keep returns raw itself when it already says n.
func keep(raw json.RawMessage, n pyjson.Num) json.RawMessage {
	if string(raw) == string(n.JSON()) {
		return raw
	}
	return n.JSON()
}

// Float is what Python's float makes of a value.
func Float(raw json.RawMessage) (n pyjson.Num, ok bool) {
	n, ok = toNumber(raw, "FLOAT")
	return pyjson.FloatNum(n.Float()), ok
}

// toNumber is what Python's int and float read a value as, before int drops the fraction of a number.
func toNumber(raw json.RawMessage, typ string) (pyjson.Num, bool) {
	switch pyjson.KindOf(raw) {
	case pyjson.Number:
		return pyjson.ParseNum(raw)
	case pyjson.Bool:
		if pyjson.Truthy(raw) {
			return pyjson.IntNum(1), true
		}
		return pyjson.IntNum(0), true
	case pyjson.String:
		return parseText(pyjson.TextOf(raw), typ)
	}
	return pyjson.Num{}, false
}

// parseText reads a number written in a text, as Python's int and float do: space around it, a sign, underscores
// between digits, zeros in front; for float also inf and nan.
func parseText(text, typ string) (pyjson.Num, bool) {
	text = pyjson.PlainNumber(text)
	if typ == "INT" {
		n, ok := new(big.Int).SetString(text, 10)
		if !ok {
			return pyjson.Num{}, false
		}
		return pyjson.BigNum(n), true
	}
	if strings.ContainsAny(text, "xXpP_") { // Go's own notations
		return pyjson.Num{}, false
	}
	f, err := strconv.ParseFloat(text, 64)
	return pyjson.FloatNum(f), err == nil || errors.Is(err, strconv.ErrRange) // too large is infinite
}

// conversionProblem is what Python says when a value can't become the declared type; empty when it can.
func conversionProblem(typ string, raw json.RawMessage) string {
	if typ != "INT" && typ != "FLOAT" {
		return ""
	}
	n, ok := toNumber(raw, typ)
	kind := pyjson.KindOf(raw)
	if kind == pyjson.String {
		if typ == "INT" && !ok {
			return "invalid literal for int() with base 10: " + pyjson.Repr(raw)
		}
		if !ok {
			return "could not convert string to float: " + pyjson.Repr(raw)
		}
		return ""
	}
	if !ok {
		if typ == "INT" {
			return "int() argument must be a string, a bytes-like object or a real number, not '" + pyjson.TypeName(raw) + "'"
		}
		return "float() argument must be a string or a real number, not '" + pyjson.TypeName(raw) + "'"
	}
	if _, whole := n.Truncate(); typ == "INT" && !whole {
		if f := n.Float(); f != f {
			return "cannot convert float NaN to integer"
		}
		return "cannot convert float infinity to integer"
	}
	return ""
}
