package comfy

import (
	"encoding/json"
	"fmt"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// Graph is a prompt in API form: nodes by id in the order in which they were sent. It is not safe for concurrent
// use while Set is called.
type Graph struct {
	nodes []Node
	index map[string]int
}

// Node is one node of a graph.
type Node struct {
	ID        string
	ClassType string          // as text; empty when it is missing or no text
	Inputs    []pyjson.Member // in order; nil when the node has none
	HasInputs bool            // there is an inputs object
	Title     string          // _meta.title
	Raw       json.RawMessage // the node as it was sent
	changed   bool
}

// ParseGraph reads a prompt. It refuses what is no object of objects; whether the nodes make sense is for
// validation to say.
func ParseGraph(raw json.RawMessage) (*Graph, error) {
	members, err := pyjson.Members(raw)
	if err != nil {
		return nil, fmt.Errorf("prompt: %w", err)
	}
	g := &Graph{nodes: make([]Node, 0, len(members)), index: make(map[string]int, len(members))}
	for _, m := range members {
		n, err := parseNode(m)
		if err != nil {
			return nil, err
		}
		g.index[m.Key] = len(g.nodes)
		g.nodes = append(g.nodes, n)
	}
	return g, nil
}

func parseNode(m pyjson.Member) (Node, error) {
	n := Node{ID: m.Key, Raw: m.Value}
	fields, err := pyjson.Members(m.Value)
	if err != nil {
		return n, fmt.Errorf("node %q: %w", m.Key, err)
	}
	for _, f := range fields {
		switch f.Key {
		case "class_type":
			n.ClassType = pyjson.TextOf(f.Value)
		case "inputs":
			if pyjson.KindOf(f.Value) != pyjson.Object {
				continue
			}
			n.HasInputs = true
			if n.Inputs, err = pyjson.Members(f.Value); err != nil {
				return n, fmt.Errorf("inputs of node %q: %w", m.Key, err)
			}
		case "_meta":
			if title, ok := pyjson.Get(f.Value, "title"); ok {
				n.Title = pyjson.TextOf(title)
			}
		}
	}
	return n, nil
}

// Nodes returns the nodes in order. The slice belongs to the graph.
func (g *Graph) Nodes() []Node { return g.nodes }

// Len returns how many nodes the graph has.
func (g *Graph) Len() int { return len(g.nodes) }

// Node returns the node with this id. The node belongs to the graph.
func (g *Graph) Node(id string) (*Node, bool) {
	i, ok := g.index[id]
	if !ok {
		return nil, false
	}
	return &g.nodes[i], true
}

// Input returns the value of an input.
func (n *Node) Input(name string) (value json.RawMessage, ok bool) {
	for i := range n.Inputs {
		if n.Inputs[i].Key == name {
			return n.Inputs[i].Value, true
		}
	}
	return nil, false
}

// Literal returns a value that is written in the graph itself as nodes get it: {"__value__": x} is x, so that a list can
// be told from a link.
func Literal(value json.RawMessage) json.RawMessage {
	if pyjson.KindOf(value) != pyjson.Object {
		return value
	}
	if inner, ok := pyjson.Get(value, "__value__"); ok {
		return inner
	}
	return value
}

// Set gives an input of a node a value, adding the input where it is not there. It reports whether there is such a
// node.
func (g *Graph) Set(node, input string, value json.RawMessage) bool {
	n, ok := g.Node(node)
	if !ok {
		return false
	}
	n.own()
	for i := range n.Inputs {
		if n.Inputs[i].Key == input {
			n.Inputs[i].Value = value
			return true
		}
	}
	n.Inputs = append(n.Inputs, pyjson.Member{Key: input, Value: value})
	return true
}

// Drop removes an input of a node. It reports whether there was one.
func (g *Graph) Drop(node, input string) bool {
	n, ok := g.Node(node)
	if !ok {
		return false
	}
	if _, ok := n.Input(input); !ok {
		return false
	}
	n.own()
	kept := n.Inputs[:0]
	for _, m := range n.Inputs {
		if m.Key != input {
			kept = append(kept, m)
		}
	}
	n.Inputs = kept
	return true
}

// own readies the inputs of a node for a change.
func (n *Node) own() {
	if n.changed {
		return
	}
	n.changed = true
	n.Inputs = append(make([]pyjson.Member, 0, len(n.Inputs)+1), n.Inputs...)
}

// JSON returns the graph. Nodes that were not changed are as they were sent.
func (g *Graph) JSON() json.RawMessage {
	size := 2
	for i := range g.nodes {
		size += len(g.nodes[i].Raw) + len(g.nodes[i].ID) + 64
	}
	b := append(make([]byte, 0, size), '{')
	for i := range g.nodes {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = pyjson.AppendString(b, g.nodes[i].ID)
		b = append(b, ": "...)
		b = g.nodes[i].append(b)
	}
	return append(b, '}')
}

func (n *Node) append(b []byte) []byte {
	if !n.changed {
		return append(b, n.Raw...)
	}
	fields, err := pyjson.Members(n.Raw)
	if err != nil { // parseNode read it before
		return append(b, n.Raw...)
	}
	inputs := pyjson.AppendObject(nil, n.Inputs)
	found := false
	for i := range fields {
		if fields[i].Key == "inputs" {
			fields[i].Value, found = inputs, true
		}
	}
	if !found {
		fields = append(fields, pyjson.Member{Key: "inputs", Value: inputs})
	}
	return pyjson.AppendObject(b, fields)
}

// FileInput is an input of a graph's node that reads a file, or a folder, of the person.
type FileInput struct {
	Node   string
	Input  string
	Member string // where the input is an object of files: the key; else empty
	Value  string // as the graph has it, with its annotation if any
	Type   string // where a value without annotation is: input, output or temp
	Folder bool   // Value names a folder
}
