package nodes

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/folders"
)

// Lists are the choices that depend on what lies in the folders.
type Lists struct {
	Models func(folder string) []string
	Files  []string // files directly in the input folder
}

// Describe returns all classes the way /object_info lists them.
func (r *Registry) Describe(l Lists) json.RawMessage { return describe(r.list, l) }

// DescribeOne returns one class as /object_info/NAME does: an object with it, or an empty one.
func (r *Registry) DescribeOne(name string, l Lists) json.RawMessage {
	if c := r.byName[name]; c != nil {
		return describe([]*Class{c}, l)
	}
	return json.RawMessage("{}")
}

func describe(classes []*Class, l Lists) json.RawMessage {
	out := []byte{'{'}
	for i, c := range classes {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = pyjson.AppendString(out, c.Name)
		out = append(out, ": "...)
		out = c.appendInfo(out, l)
	}
	return append(out, '}')
}

var groupNames = [...]string{required: "required", optional: "optional", hidden: "hidden"}

func (c *Class) appendInfo(out []byte, l Lists) []byte {
	out = append(out, `{"input": {`...)
	c.eachGroup(func(i int, g Group, inputs []Input) {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = append(append(append(out, '"'), groupNames[g]...), `": {`...)
		for i, in := range inputs {
			if i > 0 {
				out = append(out, ", "...)
			}
			out = append(pyjson.AppendString(out, in.Name), ": "...)
			out = in.appendSpec(out, c.Schema, l)
		}
		out = append(out, '}')
	})
	out = append(out, `}, "input_order": {`...)
	c.eachGroup(func(i int, g Group, inputs []Input) {
		if i > 0 {
			out = append(out, ", "...)
		}
		names := make([]string, len(inputs))
		for i, in := range inputs {
			names[i] = in.Name
		}
		out = append(append(append(out, '"'), groupNames[g]...), `": `...)
		out = pyjson.AppendStrings(out, names)
	})
	types, names := make([]string, len(c.Outputs)), make([]string, len(c.Outputs))
	for i, o := range c.Outputs {
		types[i], names[i] = o.Type, o.Name
		if o.Name == "" {
			names[i] = o.Type
		}
	}
	out = pyjson.AppendStrings(append(out, `}, "output": `...), types)
	out = append(out, `, "output_is_list": [`...)
	out = append(out, strings.Join(slices.Repeat([]string{"false"}, len(types)), ", ")...)
	out = pyjson.AppendStrings(append(out, `], "output_name": `...), names)
	out = pyjson.AppendString(append(out, `, "name": `...), c.Name)
	out = append(out, `, "display_name": `...)
	switch {
	case c.Display != "":
		out = pyjson.AppendString(out, c.Display)
	case c.Schema:
		out = append(out, "null"...)
	default:
		out = pyjson.AppendString(out, c.Name)
	}
	out = pyjson.AppendString(append(out, `, "description": "", "python_module": `...), c.Module)
	out = pyjson.AppendString(append(out, `, "category": `...), c.Category)
	out = appendBool(append(out, `, "output_node": `...), c.OutputNode)
	if c.Schema {
		out = append(out, `, "output_tooltips": [`...)
		out = append(out, strings.Join(slices.Repeat([]string{"null"}, len(types)), ", ")...)
		out = append(out, `], "deprecated": false, "experimental": `...)
		out = append(appendBool(out, c.Experimental), `, "api_node": false`...)
		return append(out, '}')
	}
	if c.Deprecated {
		out = append(out, `, "deprecated": true`...)
	}
	if c.Experimental {
		out = append(out, `, "experimental": true`...)
	}
	return append(out, '}')
}

// eachGroup calls f for the groups of inputs a class has; the required ones are always there, if only empty.
func (c *Class) eachGroup(f func(i int, g Group, inputs []Input)) {
	n := 0
	for _, g := range []Group{required, optional, hidden} {
		var of []Input
		for _, in := range c.Inputs {
			if in.Group == g {
				of = append(of, in)
			}
		}
		if len(of) > 0 || g == required {
			f(n, g, of)
			n++
		}
	}
}

func (in Input) appendSpec(out []byte, schema bool, l Lists) []byte {
	if in.Group == hidden {
		if schema {
			return append(pyjson.AppendString(append(out, '['), in.Type), ']')
		}
		return pyjson.AppendString(out, in.Type)
	}
	opts := in.Opts
	if opts == "" && schema {
		opts = "{}"
	}
	out = append(out, '[')
	switch {
	case in.Type == "": // a choice
		out = pyjson.AppendStrings(out, in.Choices(l))
	default:
		out = pyjson.AppendString(out, in.Type)
		if in.Type == "COMBO" && (len(in.Options) > 0 || in.Folder != "") {
			opts = strings.TrimSuffix(opts, "}")
			if opts != "{" {
				opts += ", "
			}
			opts += `"options": ` + string(pyjson.AppendStrings(nil, in.Choices(l))) + "}"
		}
	}
	if opts != "" {
		out = append(append(out, ", "...), opts...)
	}
	return append(out, ']')
}

// Choices are the values a choice offers now.
func (in Input) Choices(l Lists) []string {
	switch {
	case in.Folder != "":
		return slices.Concat(l.Models(in.Folder), in.Options)
	case in.Files == "*":
		return l.Files
	case in.Files != "":
		kinds := strings.Split(in.Files, ",")
		return slices.DeleteFunc(slices.Clone(l.Files), func(name string) bool {
			return !slices.Contains(kinds, folders.Kind(name))
		})
	}
	return in.Options
}

func appendBool(out []byte, b bool) []byte {
	if b {
		return append(out, "true"...)
	}
	return append(out, "false"...)
}
