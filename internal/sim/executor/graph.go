// Package executor runs graphs the way ComfyUI's executor does: the same order of nodes, the same cache of
// results with the same keys, the same messages.
package executor

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/nodes"
)

// Graph is a prompt that validation let through. It is changed by the run it is given to and not used twice.
type Graph struct {
	nodes []node
	index map[string]int
}

type node struct {
	id     string
	class  *nodes.Class
	body   []pyjson.Member // the node's members as written, inputs replaced where they were converted
	inputs []input
	edited bool // an input was converted
}

// input is one input of a node: a link, or a value.
type input struct {
	name string
	raw  json.RawMessage
	link bool
	from int // index of the node a link comes from; -1: there is no such node
	slot int
}

// ErrGraph says that a prompt can't be run at all; validation finds all such faults first.
var ErrGraph = errors.New("not a graph that can run")

// Parse reads a prompt and converts the inputs of all nodes that outputs depend on to their declared types, as
// validation does in place.
func Parse(prompt json.RawMessage, classes *nodes.Registry, outputs []string) (*Graph, error) {
	members, err := pyjson.Members(prompt)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGraph, err)
	}
	g := &Graph{nodes: make([]node, len(members)), index: make(map[string]int, len(members))}
	for i, m := range members {
		g.index[m.Key] = i
	}
	for i, m := range members {
		if err := g.parseNode(&g.nodes[i], m, classes); err != nil {
			return nil, err
		}
	}
	g.convert(outputs)
	return g, nil
}

func (g *Graph) parseNode(n *node, m pyjson.Member, classes *nodes.Registry) error {
	body, err := pyjson.Members(m.Value)
	if err != nil {
		return fmt.Errorf("%w: node %s: %w", ErrGraph, m.Key, err)
	}
	n.id, n.body = m.Key, body
	for _, b := range body {
		switch b.Key {
		case "class_type":
			n.class = classes.Class(pyjson.TextOf(b.Value))
		case "inputs":
			inputs, err := pyjson.Members(b.Value)
			if err != nil {
				return fmt.Errorf("%w: inputs of node %s: %w", ErrGraph, m.Key, err)
			}
			n.inputs = make([]input, len(inputs))
			for i, in := range inputs {
				n.inputs[i] = g.parseInput(in)
			}
		}
	}
	if n.class == nil {
		return fmt.Errorf("%w: node %s has no known class", ErrGraph, m.Key)
	}
	return nil
}

func (g *Graph) parseInput(m pyjson.Member) input {
	in := input{name: m.Key, raw: m.Value}
	from, slot, ok := linkOf(m.Value)
	if !ok {
		return in
	}
	in.link, in.from = true, -1
	if i, ok := g.index[from]; ok {
		in.from = i
	}
	in.slot = int(slot.Float())
	return in
}

// convert visits all nodes upstream of outputs and gives their written inputs the declared types.
func (g *Graph) convert(outputs []string) {
	seen := make([]bool, len(g.nodes))
	var todo []int
	visit := func(i int) {
		if i >= 0 && !seen[i] {
			seen[i] = true
			todo = append(todo, i)
		}
	}
	for _, id := range outputs {
		if i, ok := g.index[id]; ok {
			visit(i)
		}
	}
	for len(todo) > 0 {
		n := &g.nodes[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		for i := range n.inputs {
			in := &n.inputs[i]
			if in.link {
				visit(in.from)
				continue
			}
			decl, ok := n.class.Input(in.name)
			if !ok {
				continue
			}
			if converted := convertValue(decl.Type, in.raw); !slices.Equal(converted, in.raw) {
				in.raw, n.edited = converted, true
			}
		}
	}
}

// Prompt returns the graph as JSON in Python's spacing, with what was converted.
func (g *Graph) Prompt() json.RawMessage {
	out := []byte{'{'}
	for i := range g.nodes {
		n := &g.nodes[i]
		if i > 0 {
			out = append(out, ", "...)
		}
		out = append(pyjson.AppendString(out, n.id), ": {"...)
		for j, b := range n.body {
			if j > 0 {
				out = append(out, ", "...)
			}
			out = append(pyjson.AppendString(out, b.Key), ": "...)
			if b.Key != "inputs" || !n.edited {
				out = nodes.Dump(out, b.Value)
				continue
			}
			out = append(out, '{')
			for k, in := range n.inputs {
				if k > 0 {
					out = append(out, ", "...)
				}
				out = nodes.Dump(append(pyjson.AppendString(out, in.name), ": "...), in.raw)
			}
			out = append(out, '}')
		}
		out = append(out, '}')
	}
	return append(out, '}')
}

// Texts calls f for every text written in the graph, with the id of the node it stands in.
func (g *Graph) Texts(f func(node, text string)) {
	for i := range g.nodes {
		for _, in := range g.nodes[i].inputs {
			if s, ok := pyjson.Text(in.raw); ok {
				f(g.nodes[i].id, s)
			}
		}
	}
}

// Samples reports whether the graph has a node that is only simulated.
func (g *Graph) Samples() bool {
	return slices.ContainsFunc(g.nodes, func(n node) bool { return n.class.Simulated })
}
