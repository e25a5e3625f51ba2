package nodes

import (
	"encoding/json"
	"strings"
	"unicode"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// runValue passes a primitive on.
func runValue(c *Call) ([]any, error) { return one(c.Args["value"]) }

// runPrimitive… are the same node for several types.
var (
	runPrimitiveString          = runValue
	runPrimitiveStringMultiline = runValue
	runPrimitiveInt             = runValue
	runPrimitiveFloat           = runValue
	runPrimitiveBoolean         = runValue
)

func runPreviewAny(c *Call) ([]any, error) {
	c.UI = uiText(plainText(c.Args["source"]))
	return nil, nil
}

// plainText is a value as PreviewAny shows it.
func plainText(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case string:
		return v
	case bool:
		if v {
			return "True"
		}
		return "False"
	case pyjson.Num:
		return v.String()
	case json.RawMessage:
		return string(Dump(nil, v))
	default:
		return show(v)
	}
}

// uiText is what a node shows that has one line of text.
func uiText(s string) json.RawMessage {
	return append(pyjson.AppendString(append(make([]byte, 0, len(s)+16), `{"text": [`...), s), "]}"...)
}

func runStringConcatenate(c *Call) ([]any, error) {
	return one(c.Text("string_a") + c.Text("delimiter") + c.Text("string_b"))
}

func runStringReplace(c *Call) ([]any, error) {
	return one(strings.ReplaceAll(c.Text("string"), c.Text("find"), c.Text("replace")))
}

func runStringTrim(c *Call) ([]any, error) {
	s := c.Text("string")
	switch c.Text("mode") {
	case "Left":
		s = strings.TrimLeftFunc(s, unicode.IsSpace)
	case "Right":
		s = strings.TrimRightFunc(s, unicode.IsSpace)
	default:
		s = strings.TrimSpace(s)
	}
	return one(s)
}

func runStringLength(c *Call) ([]any, error) {
	return one(pyjson.IntNum(int64(len([]rune(c.Text("string"))))))
}

func runStringSubstring(c *Call) ([]any, error) {
	runes := []rune(c.Text("string"))
	at := func(i int) int { // as slices count: from the end when negative
		if i < 0 {
			i += len(runes)
		}
		return max(0, min(i, len(runes)))
	}
	from, to := at(c.Int("start")), at(c.Int("end"))
	return one(string(runes[from:max(from, to)]))
}

func runStringContains(c *Call) ([]any, error) {
	s, part := c.Text("string"), c.Text("substring")
	if !c.Bool("case_sensitive") {
		s, part = strings.ToLower(s), strings.ToLower(part)
	}
	return one(strings.Contains(s, part))
}

func runCaseConverter(c *Call) ([]any, error) {
	s := c.Text("string")
	switch c.Text("mode") {
	case "UPPERCASE":
		s = strings.ToUpper(s)
	case "lowercase":
		s = strings.ToLower(s)
	case "Capitalize":
		if runes := []rune(s); len(runes) > 0 {
			s = string(unicode.ToUpper(runes[0])) + strings.ToLower(string(runes[1:]))
		}
	case "Title Case":
		s = titleCase(s)
	}
	return one(s)
}

// titleCase raises the first letter of every run of letters and lowers the others.
func titleCase(s string) string {
	inside := false
	return strings.Map(func(r rune) rune {
		was := inside
		inside = unicode.IsLetter(r)
		if was {
			return unicode.ToLower(r)
		}
		return unicode.ToTitle(r)
	}, s)
}
