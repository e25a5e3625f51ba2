// Package nodes describes and runs the nodes of a simulated ComfyUI. Nodes that work on pictures, masks, text and
// files do what the real ones do; loaders, conditioning and samplers act as if, and their pictures say so.
package nodes

import (
	"encoding/json"
	"slices"
)

// Class is one kind of node. Classes are immutable after the registry is built.
type Class struct {
	Name         string
	Display      string // name for people; empty: as Name
	Category     string
	Module       string // Python module the real one lives in
	Inputs       []Input
	Outputs      []Output
	OutputNode   bool
	Experimental bool
	Deprecated   bool
	Schema       bool // described by a schema: the description has a slightly different form

	// Run does the work. It returns one value per output. Inputs have been checked against their types.
	Run func(*Call) ([]any, error)
	// Changed tells, as JSON, what besides the inputs a result depends on; nil: nothing. An error makes the
	// node run each time.
	Changed func(*Call) (json.RawMessage, error)
	// Simulated results are marked as such in files made from them.
	Simulated bool
	// File is the input that must name a file that is there; Missing is what is said otherwise.
	File, Missing string

	uniqueID bool // has a hidden input with the node's id, so that equal nodes are not one in the cache
	byName   map[string]int
}

// Group is the sort of an input.
type Group uint8

const (
	required Group = iota
	optional
	hidden
)

// Input is one input of a class.
type Input struct {
	Name    string
	Group   Group
	Type    string   // type word; empty: a choice written as a list
	Options []string // fixed choices
	Folder  string   // choices are the models of this folder, then Options
	Files   string   // choices are input files of these kinds, by comma; * for all
	Opts    string   // options object as JSON; empty: none
}

// Output is one output: its type word and, when it differs, its name.
type Output struct{ Type, Name string }

// Input returns the input of that name; ok is false when there is none.
func (c *Class) Input(name string) (in Input, ok bool) {
	i, ok := c.byName[name]
	if !ok {
		return Input{}, false
	}
	return c.Inputs[i], true
}

// Each calls f for the inputs a graph can give, in order.
func (c *Class) Each(f func(in Input)) {
	for _, in := range c.Inputs {
		if in.Group != hidden {
			f(in)
		}
	}
}

// Required reports whether the input must be given.
func (in Input) Required() bool { return in.Group == required }

// Hidden calls f for the hidden inputs a node of this class is given like others.
func (c *Class) Hidden(f func(name, typ string)) {
	for _, in := range c.Inputs {
		if in.Group == hidden && !c.Schema {
			f(in.Name, in.Type)
		}
	}
}

// UniqueID reports whether a result depends on the id of its node.
func (c *Class) UniqueID() bool { return c.uniqueID }

// Registry holds the classes by name and in the order they are listed.
type Registry struct {
	list   []*Class
	byName map[string]*Class
}

// NewRegistry returns all classes, with the probe nodes used for recordings when probes is set.
func NewRegistry(probes bool) *Registry {
	r := &Registry{byName: map[string]*Class{}}
	families := [][]*Class{
		samplerClasses, modelClasses, conditioningClasses, latentClasses, imageClasses, maskClasses, fileClasses, textClasses,
	}
	if probes {
		families = append(families, probeClasses)
	}
	for _, c := range slices.Concat(families...) {
		own := *c // the tables stay as they are
		own.byName = make(map[string]int, len(own.Inputs))
		for i, in := range own.Inputs {
			own.byName[in.Name] = i
			own.uniqueID = own.uniqueID || in.Group == hidden && in.Type == "UNIQUE_ID"
		}
		r.list = append(r.list, &own)
		r.byName[own.Name] = &own
	}
	return r
}

// Class returns the class of that name, nil when there is none.
func (r *Registry) Class(name string) *Class { return r.byName[name] }

// Len is the number of classes.
func (r *Registry) Len() int { return len(r.list) }
