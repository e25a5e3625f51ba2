package config

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// Write prints the settings as YAML, each with where it came from. Secrets show as the reference they are.
func (l *Loaded) Write(w io.Writer) error {
	p := &printer{w: w, origin: l.Origin}
	p.section(reflect.ValueOf(l.Config), "", "")
	return p.err
}

// WriteReference prints a settings file that holds every setting with its default and what it does.
func WriteReference(w io.Writer) error {
	p := &printer{w: w, reference: true}
	p.line("# Settings of a ComfyuME studio. Everything here is optional; what is shown is the default.")
	p.line("# In the environment a path is joined by _ (%sQUEUE_MODE); lists are in the file only.", Prefix)
	p.line("# Relative paths in this file start at the file's folder.")
	p.section(reflect.ValueOf(Default()), "", "")
	return p.err
}

// printer writes settings as YAML and remembers the first error.
type printer struct {
	w         io.Writer
	err       error
	reference bool
	origin    func(path string) Origin
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) section(v reflect.Value, prefix, indent string) {
	for i := range v.NumField() {
		f, tag := v.Field(i), v.Type().Field(i).Tag
		key := tag.Get("yaml")
		switch {
		case isSection(f):
			p.line("%s%s:%s", indent, key, p.remark(tag, ""))
			p.section(f, prefix+key+".", indent+"  ")
		case f.Kind() == reflect.Slice:
			p.list(f, prefix+key, indent, tag)
		case f.Kind() == reflect.Map:
			p.table(f, prefix+key, indent, tag)
		default:
			p.line("%s%s: %s%s", indent, key, scalar(f), p.remark(tag, prefix+key))
		}
	}
}

// remark is the comment behind a value: what it does, or where it came from.
func (p *printer) remark(tag reflect.StructTag, path string) string {
	switch {
	case p.reference && tag.Get("yet") != "":
		return "  # " + tag.Get("doc") + " (" + tag.Get("yet") + " in this version)"
	case p.reference:
		return "  # " + tag.Get("doc")
	case path != "" && p.origin(path) != (Origin{}):
		return "  # " + p.origin(path).String()
	default:
		return ""
	}
}

func (p *printer) list(v reflect.Value, path, indent string, tag reflect.StructTag) {
	if v.Len() == 0 {
		p.line("%s%s: []%s", indent, tag.Get("yaml"), p.remark(tag, path))
		if p.reference && v.Type().Elem().Kind() == reflect.Struct {
			p.example(v.Type().Elem(), indent)
		}
		return
	}
	p.line("%s%s:%s", indent, tag.Get("yaml"), p.remark(tag, path))
	for i := range v.Len() {
		if v.Index(i).Kind() != reflect.Struct {
			p.line("%s  - %s", indent, scalar(v.Index(i)))
			continue
		}
		p.line("%s  - %s", indent, inline(v.Index(i)))
	}
}

// inline is a group of settings in one line.
func inline(v reflect.Value) string {
	var parts []string
	for i := range v.NumField() {
		_, clock := v.Field(i).Interface().(Clock) // midnight is said
		if clock || !v.Field(i).IsZero() {
			parts = append(parts, v.Type().Field(i).Tag.Get("yaml")+": "+flow(v.Field(i)))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// flow is a value of any kind in one line.
func flow(v reflect.Value) string {
	var parts []string
	switch {
	case isSection(v):
		return inline(v)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			parts = append(parts, flow(v.Index(i)))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case v.Kind() == reflect.Map:
		for _, name := range sorted(v) {
			parts = append(parts, quote(name.String())+": "+flow(v.MapIndex(name)))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	default:
		return scalar(v)
	}
}

// sorted returns the names of a map in order.
func sorted(v reflect.Value) []reflect.Value {
	names := v.MapKeys()
	slices.SortFunc(names, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	return names
}

// table prints values by name.
func (p *printer) table(v reflect.Value, path, indent string, tag reflect.StructTag) {
	item := v.Type().Elem()
	if v.Len() == 0 {
		p.line("%s%s: {}%s", indent, tag.Get("yaml"), p.remark(tag, path))
		if p.reference && item.Kind() == reflect.Struct {
			p.line("%s#  NAME:", indent)
			for f := range fields(reflect.New(item).Elem(), "") {
				p.line("%s#    %s:%s", indent, f.path, p.remark(f.tag, ""))
			}
		}
		return
	}
	p.line("%s%s:%s", indent, tag.Get("yaml"), p.remark(tag, path))
	for _, name := range sorted(v) {
		p.line("%s  %s: %s", indent, quote(name.String()), flow(v.MapIndex(name)))
	}
}

// example shows the keys of a list's items, commented out.
func (p *printer) example(item reflect.Type, indent string) {
	first := "- "
	for f := range fields(reflect.New(item).Elem(), "") {
		p.line("%s#  %s%s:%s", indent, first, f.path, p.remark(f.tag, ""))
		first = "  "
	}
}

// scalar returns a value as YAML.
func scalar(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case Secret:
		return quote(x.Reference())
	case string:
		return quote(x)
	case Address:
		return quote(x.String())
	case Clock:
		return quote(x.String())
	case Days:
		return quote(x.String())
	default:
		return fmt.Sprint(x)
	}
}

// quote returns text as a YAML scalar that reads back as the same text.
func quote(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return r > 126 || r <= ' ' || strings.ContainsRune(`:#{}[],&*!|>'"%@`+"`", r)
	}) < 0
	switch s {
	case "true", "false", "yes", "no", "on", "off", "null", "~", "-", "?":
		plain = false
	}
	if plain {
		return s
	}
	return fmt.Sprintf("%q", s)
}

// Value is one setting in effect. Secrets show as the reference they are.
type Value struct{ Path, Value string }

// Values returns the settings that hold a single value, in the order of the reference.
func (l *Loaded) Values() []Value {
	var all []Value
	for f := range fields(reflect.ValueOf(&l.Config).Elem(), "") {
		if !isList(f.value) {
			all = append(all, Value{f.path, fmt.Sprint(f.value.Interface())})
		}
	}
	return all
}
