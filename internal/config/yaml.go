package config

import (
	"errors"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ahelme/comfyume/internal/near"
)

// yamlLine finds the line in the parser's own complaints.
var yamlLine = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(.*)$`)

// yaml reads a settings file. It walks the tree itself, so that every wrong line is named and not only the first.
func (l *loader) yaml(text []byte, name string) {
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) { // an empty file changes nothing
			l.syntax(err, string(text), name)
		}
		return
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		l.problem(Origin{File: name, Line: max(1, second.Line)}, "", "there is more than one document in the file")
	}
	r := reader{loader: l, name: name}
	r.section(doc.Content[0], reflect.ValueOf(&l.out.Config).Elem(), "")
}

// syntax notes what the parser says, in our words where its own help nobody.
func (l *loader) syntax(err error, text, name string) {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		l.problem(Origin{File: name, Line: 1}, "", "%s", err)
		return
	}
	line, convErr := strconv.Atoi(m[1])
	if convErr != nil {
		line = 1
	}
	complaint := m[2]
	if at, found := tabbed(text); found {
		line, complaint = at, "a tab at the start of the line; use spaces"
	} else if strings.Contains(complaint, "not allowed in this context") || strings.Contains(complaint, "did not find expected key") {
		complaint += "; is a line near it further in or out than its neighbours?"
	}
	l.problem(Origin{File: name, Line: line}, "", "is not YAML: %s", complaint)
}

// tabbed finds the first line that is moved in by a tab.
func tabbed(text string) (line int, found bool) {
	for s := range strings.Lines(text) {
		line++
		if rest := strings.TrimLeft(s, " "); strings.HasPrefix(rest, "\t") && strings.TrimSpace(rest) != "" {
			return line, true
		}
	}
	return 0, false
}

// reader fills settings from the nodes of one file.
type reader struct {
	*loader
	name string
}

func (r reader) at(n *yaml.Node) Origin { return Origin{File: r.name, Line: n.Line} }

// section fills a struct from a mapping.
func (r reader) section(n *yaml.Node, v reflect.Value, prefix string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.problem(r.at(n), strings.TrimSuffix(prefix, "."), "is not a list of settings (KEY: VALUE)")
		return
	}
	index, names := map[string]int{}, []string{}
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("yaml")
		index[key], names = i, append(names, key)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field, known := index[key.Value]
		switch {
		case !known:
			r.problem(r.at(key), prefix+key.Value, "there is no such setting%s", maybe(near.Best(key.Value, names)))
		case seen[key.Value]:
			r.problem(r.at(key), prefix+key.Value, "is there twice")
		default:
			seen[key.Value] = true
			r.value(value, v.Field(field), prefix+key.Value)
		}
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// value fills one setting: a section, a list or a single value.
func (r reader) value(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case isSection(v):
		r.out.origin[path] = r.at(n)
		r.section(n, v, path+".")
	case v.Kind() == reflect.Slice:
		r.list(n, v, path)
	case v.Kind() == reflect.Map:
		r.table(n, v, path)
	case isNull(n): // "key:" with nothing behind it leaves the default
	case n.Kind != yaml.ScalarNode:
		r.problem(r.at(n), path, "is a single value")
	default:
		if err := set(v, n.Value); err != nil {
			r.problem(r.at(n), path, "%s", err)
			return
		}
		r.out.origin[path] = r.at(n)
	}
}

func (r reader) list(n *yaml.Node, v reflect.Value, path string) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.problem(r.at(n), path, "is a list")
		return
	}
	r.out.origin[path] = r.at(n)
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		r.out.origin[at] = r.at(item)
		r.value(item, list.Index(i), at)
	}
	v.Set(list)
}

// table reads values by name.
func (r reader) table(n *yaml.Node, v reflect.Value, path string) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.problem(r.at(n), path, "is a list of names (NAME: VALUE)")
		return
	}
	r.out.origin[path] = r.at(n)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, item := n.Content[i], reflect.New(v.Type().Elem()).Elem()
		at := path + "." + key.Value
		if seen[key.Value] {
			r.problem(r.at(key), at, "is there twice")
			continue
		}
		seen[key.Value], r.out.origin[at] = true, r.at(key)
		before := len(r.problems)
		r.value(n.Content[i+1], item, at)
		if len(r.problems) > before {
			continue
		}
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	}
}
