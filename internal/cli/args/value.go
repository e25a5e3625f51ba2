package args

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// decode reads one occurrence of the value into target. What may be repeated is added to.
func (v *Value) decode(words *Words, target reflect.Value) error {
	if d, ok := target.Addr().Interface().(Decoder); ok {
		return d.Decode(words, v.tag)
	}
	switch target.Kind() {
	case reflect.Pointer:
		target.Set(reflect.New(target.Type().Elem()))
		return v.decode(words, target.Elem())
	case reflect.Slice:
		return v.decodeSlice(words, target)
	case reflect.Map:
		return v.decodeMap(words, target)
	case reflect.Bool:
		text, given := words.Attached()
		is, err := true, error(nil)
		if given {
			is, err = parseBool(text)
		}
		target.SetBool(is)
		return err
	}
	return decodeWord(words, target)
}

// decodeWord reads a value that is one word.
func decodeWord(words *Words, target reflect.Value) error {
	what := target.Kind().String()
	switch {
	case target.Type() == reflect.TypeFor[time.Duration]():
		what = "duration"
	case target.CanUint():
		what = "uint"
	case target.CanFloat():
		what = "float"
	}
	text, err := words.value(what)
	if err != nil {
		return err
	}
	switch bits := target.Type().Bits; what {
	case "string":
		target.SetString(string([]rune(text))) // which is text, whatever was typed
	case "duration":
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("expected duration but got %q: %w", text, err)
		}
		target.SetInt(int64(d))
	case "int":
		n, err := strconv.ParseInt(text, 0, bits())
		if err != nil {
			return fmt.Errorf("expected a valid %d bit int but got %q", bits(), text)
		}
		target.SetInt(n)
	case "uint":
		n, err := strconv.ParseUint(text, 0, bits())
		if err != nil {
			return fmt.Errorf("expected a valid %d bit uint but got %q", bits(), text)
		}
		target.SetUint(n)
	case "float":
		n, err := strconv.ParseFloat(text, bits())
		if err != nil {
			return fmt.Errorf("expected a float but got %q (string)", text)
		}
		target.SetFloat(n)
	}
	return nil
}

func parseBool(text string) (bool, error) {
	switch text = strings.ToLower(text); text {
	case "true", "1", "yes":
		return true, nil
	case "false", "0", "no":
		return false, nil
	}
	return false, fmt.Errorf("bool value must be true, 1, yes, false, 0 or no but got %q", text)
}

// separator returns at what a flag's value is cut, or "".
func (v *Value) separator() string {
	switch {
	case v.target.Kind() == reflect.Map:
		return ";"
	case v.target.Kind() == reflect.Slice && v.tag.Get("sep") != "none":
		return ","
	}
	return ""
}

// parts takes the words that belong to one occurrence: those that follow an argument, or the parts of a flag's value.
func (v *Value) parts(words *Words, form string) (*Words, error) {
	parts := &Words{}
	if !v.flag {
		for words.peek().isValue() {
			parts.left = append(parts.left, words.pop())
		}
		return parts, nil
	}
	w := words.pop()
	if w.kind == end {
		return nil, fmt.Errorf("missing value, expecting %q", form)
	}
	for _, text := range split(w.String(), v.separator()) {
		parts.left = append(parts.left, word{text, w.kind})
	}
	return parts, nil
}

func (v *Value) decodeSlice(words *Words, target reflect.Value) error {
	tail := v.separator()
	if tail != "" {
		tail += "..."
	}
	parts, err := v.parts(words, "<arg>"+tail)
	for err == nil && len(parts.left) > 0 {
		one := reflect.New(target.Type().Elem()).Elem()
		if err = v.decode(parts, one); err == nil {
			target.Set(reflect.Append(target, one))
		}
	}
	return err
}

func (v *Value) decodeMap(words *Words, target reflect.Value) error {
	if target.IsNil() {
		target.Set(reflect.ValueOf(map[string]string{}))
	}
	parts, err := v.parts(words, "<key>=<value>;...")
	for err == nil && len(parts.left) > 0 {
		var text string
		if text, err = parts.value("map"); err != nil {
			break
		}
		key, value, ok := strings.Cut(string([]rune(text)), "=")
		if !ok {
			return fmt.Errorf("expected \"<key>=<value>\" but got %q", text)
		}
		target.SetMapIndex(reflect.ValueOf(key), reflect.ValueOf(value))
	}
	return err
}

// split cuts a text at a separator that no backslash stands before.
func split(text, separator string) []string {
	if separator == "" {
		return []string{text}
	}
	var parts []string
	var part strings.Builder
	escaped := false
	for i, r := range text {
		switch is := string(r) == separator; {
		case escaped:
			if !is {
				part.WriteByte('\\')
			}
			part.WriteRune(r)
			escaped = false
		case r == '\\' && i < len(text)-1:
			escaped = true
		case is:
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteRune(r)
		}
	}
	if part.Len() > 0 {
		parts = append(parts, part.String())
	}
	return parts
}

// allowed checks a value that may be some words only.
func (v *Value) allowed() error {
	got := v.target.String()
	if slices.Contains(v.enum, got) {
		return nil
	}
	quoted := make([]string, len(v.enum))
	for i, w := range v.enum {
		quoted[i] = strconv.Quote(w)
	}
	return fmt.Errorf("%s must be one of %s but got %q", v, strings.Join(quoted, ","), got)
}
