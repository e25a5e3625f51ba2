package catalog

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// merged is the description of all back ends together. It does not change once it is sealed.
type merged struct {
	classes    map[string]*class
	order      []string // of classes
	pieces     map[string]template
	whole      template
	sum        [32]byte // of all that people see
	models     map[string][]string
	folders    []string
	embeddings []string
	extensions map[string][]string
	webTexts   map[string]json.RawMessage
	stats      json.RawMessage
	has        map[string]map[string]bool // needs that each back end can meet
	choices    map[string]bool            // needs that are choices
	nodes      map[[32]byte]bool          // digests of descriptions that are in it
}

func newMerged() *merged {
	return &merged{
		classes: map[string]*class{}, pieces: map[string]template{}, models: map[string][]string{},
		folders: []string{}, embeddings: []string{}, extensions: map[string][]string{},
		webTexts: map[string]json.RawMessage{}, has: map[string]map[string]bool{}, choices: map[string]bool{},
		nodes: map[[32]byte]bool{},
	}
}

// add takes in a back end. Back ends come in the order of the configuration: what is there stays.
func (m *merged) add(name string, k *known, log *slog.Logger) {
	m.has[name] = k.has
	if !m.nodes[k.nodes] { // most machines of a studio are alike
		m.nodes[k.nodes] = true
		for i := range k.classes {
			m.addClass(name, &k.classes[i], log)
		}
	}
	for _, folder := range sortedKeys(k.Models) {
		if _, ok := m.models[folder]; !ok {
			m.folders = append(m.folders, folder)
			m.models[folder] = []string{}
		}
		m.models[folder] = union(m.models[folder], k.Models[folder])
	}
	m.embeddings = union(m.embeddings, k.Embeddings)
	m.extensions[name] = k.Extensions
	for route, text := range k.WebTexts {
		if old, ok := m.webTexts[route]; ok {
			text = mergeObjects(old, text)
		}
		m.webTexts[route] = text
	}
	if m.stats == nil {
		m.stats = harmless(k.System)
	}
}

func (m *merged) addClass(backEnd string, add *class, log *slog.Logger) {
	have, ok := m.classes[add.name]
	if !ok {
		m.order = append(m.order, add.name)
		m.classes[add.name] = add
		return
	}
	if have.module != add.module {
		log.Warn("two back ends have different nodes of one name; the first one counts", "class", add.name, "backend", backEnd)
		return
	}
	joined := *have
	joined.inputs = slices.Clone(have.inputs)
	changed := false
	for i := range joined.inputs {
		in := &joined.inputs[i]
		other, ok := add.input(in.name)
		if !ok || in.choices == nil || other.choices == nil || in.reads.kind != noFile {
			continue
		}
		if more, grown := joinLists(in.choices, other.choices); grown {
			in.choices, changed = more, true
			in.config = withChoices(in.config, in.typ, more)
		}
	}
	if changed {
		joined.raw = joined.render(func(in *input) json.RawMessage { return in.config })
		m.classes[add.name] = &joined
	}
}

// seal makes the templates that people's answers are filled from.
func (m *merged) seal() {
	all := []byte{'{'}
	for i, name := range m.order {
		c := m.classes[name]
		c.eachChoice(func(in *input, choice string) { m.choices[need(name, in.name, choice)] = true })
		raw := c.raw
		if c.readsFiles() {
			raw = c.render(func(in *input) json.RawMessage {
				if in.reads.kind == noFile || in.reads.kind == fileObject || in.choices == nil {
					return in.config
				}
				return withChoices(in.config, in.typ, in.reads.kind.mark())
			})
		}
		m.pieces[name] = newTemplate(raw)
		if i > 0 {
			all = append(all, ", "...)
		}
		all = append(append(pyjson.AppendString(all, name), ": "...), raw...)
	}
	all = append(all, '}')
	m.whole = newTemplate(all)
	h := sha256.New()
	h.Write(all)
	rest, err := json.Marshal([]any{m.models, m.embeddings, m.extensions, m.webTexts, m.stats, m.order})
	if err != nil {
		rest = fmt.Append(nil, err) // raw JSON of a back end that is none: it counts as a change
	}
	h.Write(rest)
	h.Sum(m.sum[:0])
}

func (c *class) readsFiles() bool {
	return slices.ContainsFunc(c.inputs, func(in input) bool { return in.reads.kind != noFile })
}

// render returns the class with its inputs' descriptions as given.
func (c *class) render(config func(*input) json.RawMessage) json.RawMessage {
	fields, err := pyjson.Members(c.raw)
	if err != nil {
		return c.raw
	}
	for i := range fields {
		if fields[i].Key == "input" {
			fields[i].Value = c.renderInputs(fields[i].Value, config)
		}
	}
	return pyjson.AppendObject(nil, fields)
}

func (c *class) renderInputs(raw json.RawMessage, config func(*input) json.RawMessage) json.RawMessage {
	groups, err := pyjson.Members(raw)
	if err != nil {
		return raw
	}
	for i := range groups {
		if groups[i].Key != "required" && groups[i].Key != "optional" {
			continue
		}
		list, err := pyjson.Members(groups[i].Value)
		if err != nil {
			continue
		}
		for j := range list {
			if in, ok := c.input(list[j].Key); ok {
				list[j].Value = config(in)
			}
		}
		groups[i].Value = pyjson.AppendObject(nil, list)
	}
	return pyjson.AppendObject(nil, groups)
}

// withChoices returns the description of an input with other choices.
func withChoices(config json.RawMessage, typ string, choices json.RawMessage) json.RawMessage {
	parts, err := pyjson.Elements(config)
	if err != nil || len(parts) < 2 {
		return config
	}
	if typ == "" {
		return append(append(append(append([]byte{'['}, choices...), ", "...), parts[1]...), ']')
	}
	options, err := pyjson.Members(parts[1])
	if err != nil {
		return config
	}
	for i := range options {
		if options[i].Key == "options" {
			options[i].Value = choices
		}
	}
	b := append(append([]byte{'['}, parts[0]...), ", "...)
	return append(pyjson.AppendObject(b, options), ']')
}

// joinLists returns list with the elements of more that it lacks.
func joinLists(list, more json.RawMessage) (joined json.RawMessage, grown bool) {
	a, err := pyjson.Elements(list)
	if err != nil {
		return list, false
	}
	b, err := pyjson.Elements(more)
	if err != nil {
		return list, false
	}
	seen := make(map[string]bool, len(a))
	for _, e := range a {
		seen[string(e)] = true
	}
	for _, e := range b {
		if !seen[string(e)] {
			seen[string(e)], grown = true, true
			a = append(a, e)
		}
	}
	if !grown {
		return list, false
	}
	joined = []byte{'['}
	for i, e := range a {
		if i > 0 {
			joined = append(joined, ", "...)
		}
		joined = append(joined, e...)
	}
	return append(joined, ']'), true
}

// mergeObjects returns a with the members of b that it lacks. What is no object stays as it is.
func mergeObjects(a, b json.RawMessage) json.RawMessage {
	have, err := pyjson.Members(a)
	if err != nil {
		return a
	}
	more, err := pyjson.Members(b)
	if err != nil {
		return a
	}
	for _, m := range more {
		if !slices.ContainsFunc(have, func(h pyjson.Member) bool { return h.Key == m.Key }) {
			have = append(have, m)
		}
	}
	return pyjson.AppendObject(nil, have)
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	slices.Sort(a)
	return a
}

func sortedKeys(m map[string][]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// harmless returns /system_stats without what is the operator's own: arguments may hold paths and secrets.
func harmless(system json.RawMessage) json.RawMessage {
	top, err := pyjson.Members(system)
	if err != nil {
		return nil
	}
	for i := range top {
		if top[i].Key != "system" {
			continue
		}
		fields, err := pyjson.Members(top[i].Value)
		if err != nil {
			return nil
		}
		for j := range fields {
			if fields[j].Key == "argv" {
				fields[j].Value = json.RawMessage(`["main.py"]`)
			}
		}
		top[i].Value = pyjson.AppendObject(nil, fields)
	}
	return pyjson.Clean(pyjson.AppendObject(nil, top))
}
