package catalog

import (
	"encoding/json"
	"slices"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/file"
)

// Verdict is what validation found.
type Verdict struct {
	Outputs    []string        // output nodes that will run, in the order of the graph
	Refusal    json.RawMessage // body of the 400 answer; nil when the graph is accepted
	NodeErrors json.RawMessage // object; of output nodes that are left out although the graph is accepted
}

// Validate checks a graph as ComfyUI does before it takes it into its queue, with its error bodies, but refuses only
// what every back end would refuse: ranges and choices count for core classes without checks of their own; wildcards,
// dynamic and optional inputs pass; file inputs are held against the person's files. targets are the output nodes to
// run, nil for all; has tells whether the person has a file.
//
// Source: ComfyUI 0.3.64, execution.py (validate_prompt, validate_inputs).
func (v *View) Validate(g *comfy.Graph, targets []string, has func(file.Ref) bool) Verdict {
	m := v.merged
	if v.none {
		return Verdict{Refusal: refuse(noBackEnd, "No GPU runs jobs of your group", "Every GPU of this studio is for other groups. Ask its operator.", nil)}
	}
	if len(m.classes) == 0 {
		return Verdict{Outputs: []string{}, NodeErrors: empty} // nothing is known, so nothing is certain
	}
	check := &validation{m: m, g: g, has: has, done: map[string]*result{}}
	outputs, refusal := check.outputs(targets)
	if refusal != nil {
		return Verdict{Refusal: refusal}
	}
	verdict := check.judge(outputs)
	if verdict.Refusal == nil {
		verdict.Refusal = v.nowhere(g, verdict.Outputs)
	}
	return verdict
}

var empty = json.RawMessage("{}")

// validation is one run of Validate.
type validation struct {
	m     *merged
	g     *comfy.Graph
	has   func(file.Ref) bool
	done  map[string]*result
	order []string // of done, as they were begun
}

// result is what was found of one node. A node that is invalid only because of another one has no errors.
type result struct {
	valid  bool
	open   bool // being looked at: meeting it again is a cycle
	errors []nodeError

	// What ComfyUI would raise while it checks this node. Whoever asked for the check words it as an error.
	exception, text string
}

// nodeError is one element of a node's errors.
type nodeError struct {
	typ, message, details string
	extra                 []pyjson.Member
}

// outputs finds the output nodes, or what makes the graph unusable as a whole.
func (v *validation) outputs(targets []string) (ids []string, refusal json.RawMessage) {
	for _, n := range v.g.Nodes() {
		k := v.m.classes[n.ClassType]
		if k == nil || n.ClassType == "" { // only then the node is read again
			class, ok := pyjson.Get(n.Raw, "class_type")
			if !ok {
				return nil, refuse("invalid_prompt", "Cannot execute because a node is missing the class_type property.", "Node ID '#"+n.ID+"'", nil)
			}
			if k == nil {
				return nil, refuse("invalid_prompt", "Cannot execute because node "+pyjson.Str(class)+" does not exist.", "Node ID '#"+n.ID+"'", nil)
			}
		}
		if k.output && (targets == nil || slices.Contains(targets, n.ID)) {
			ids = append(ids, n.ID)
		}
	}
	if len(ids) == 0 {
		return nil, refuse("prompt_no_outputs", "Prompt has no outputs", "", nil)
	}
	return ids, nil
}

// manyOutputs is how many outputs that can't run are told with every faulty node found so far, as ComfyUI does. The
// later ones are told with what they added: 10,000 of them would make an answer of a gigabyte.
const manyOutputs = 100

// judge checks every output and says which can run.
func (v *validation) judge(outputs []string) Verdict {
	verdict := Verdict{Outputs: []string{}, NodeErrors: empty}
	errors := newNodeErrors(v.g)
	details := []byte{}
	failed, before := 0, 0
	for _, id := range outputs {
		r := v.node(id)
		if r.valid {
			verdict.Outputs = append(verdict.Outputs, id)
			continue
		}
		r.raisedAtOutput()
		for _, e := range r.errors {
			if len(details) > 0 {
				details = append(details, '\n')
			}
			details = append(append(append(details, e.message...), ": "...), e.details...)
		}
		known := v.order
		if failed++; failed > manyOutputs {
			known = v.order[before:]
		}
		before = len(v.order)
		for _, other := range known {
			if o := v.done[other]; !o.valid && len(o.errors) > 0 {
				errors.add(other, o, id)
			}
		}
	}
	verdict.NodeErrors = errors.json()
	if len(verdict.Outputs) == 0 {
		verdict.Refusal = refuse("prompt_outputs_failed_validation", "Prompt outputs failed validation", string(details), verdict.NodeErrors)
	}
	return verdict
}

// node checks a node and all that it depends on.
func (v *validation) node(id string) *result {
	if r, ok := v.done[id]; ok {
		return r
	}
	r := &result{valid: true, open: true}
	v.done[id] = r
	v.order = append(v.order, id)
	n, _ := v.g.Node(id)
	k := v.m.classes[n.ClassType]
	if !n.HasInputs {
		r.exception, r.text = noInputs(n, k)
	}
	for i := range k.inputs {
		if r.exception == "" {
			v.input(r, n, k, &k.inputs[i])
		}
		if r.exception != "" { // it ends the check of this node, and nothing else of it counts
			r.errors = nil
			break
		}
	}
	r.open = false
	r.valid = r.valid && len(r.errors) == 0 && r.exception == ""
	return r
}

// noInputs is what ComfyUI would raise for a node whose inputs are no object.
func noInputs(n *comfy.Node, k *class) (exception, text string) {
	raw, ok := pyjson.Get(n.Raw, "inputs")
	if !ok {
		return "KeyError", "'inputs'"
	}
	switch pyjson.KindOf(raw) {
	case pyjson.Null, pyjson.Bool, pyjson.Number:
		if len(k.inputs) > 0 {
			return "TypeError", "argument of type '" + pyjson.TypeName(raw) + "' is not iterable"
		}
	}
	return "", ""
}

// input checks one input of a node.
func (v *validation) input(r *result, n *comfy.Node, k *class, in *input) {
	value, ok := n.Input(in.name)
	if !ok {
		if in.required && !in.dynamic {
			r.add("required_input_missing", "Required input is missing", in.name, pyjson.Member{Key: "input_name", Value: pyjson.Quote(in.name)})
		}
		return
	}
	if pyjson.KindOf(value) == pyjson.Array {
		v.link(r, k, in, value)
		return
	}
	v.literal(r, k, in, value)
}

// link checks an input that takes another node's output.
func (v *validation) link(r *result, k *class, in *input, value json.RawMessage) {
	parts, err := pyjson.Elements(value)
	if err != nil || len(parts) != 2 {
		if in.dynamic {
			return
		}
		r.add("bad_linked_input", "Bad linked input, must be a length-2 list of [node_id, slot_index]", in.name, in.extra(value)...)
		return
	}
	from, ok := pyjson.Text(parts[0])
	source, exists := v.g.Node(from)
	if !ok || !exists {
		r.exception, r.text = "KeyError", pyjson.Repr(parts[0])
		if kind := pyjson.KindOf(parts[0]); kind == pyjson.Array || kind == pyjson.Object {
			r.exception, r.text = "TypeError", "unhashable type: '"+pyjson.TypeName(parts[0])+"'"
		}
		return
	}
	results := v.m.classes[source.ClassType].results
	slot, exception, text := index(parts[1], len(results))
	if exception != "" {
		r.exception, r.text = exception, text
		return
	}
	if got := results[slot]; !fits(got, k, in) {
		details := in.name + ", received_type(" + got + ") mismatch input_type(" + in.typeText() + ")"
		r.add("return_type_mismatch", "Return type mismatch between linked nodes", details,
			pyjson.Member{Key: "input_name", Value: pyjson.Quote(in.name)},
			pyjson.Member{Key: "input_config", Value: in.config},
			pyjson.Member{Key: "received_type", Value: pyjson.Quote(got)},
			pyjson.Member{Key: "linked_node", Value: value})
		return
	}
	up := v.node(from)
	switch {
	case up.open:
		r.add("dependency_cycle", "Dependency cycle detected", in.name+" leads back to its own node",
			pyjson.Member{Key: "input_name", Value: pyjson.Quote(in.name)}, pyjson.Member{Key: "linked_node", Value: value})
	case !up.valid:
		up.raised(in, value)
		r.valid = false
	}
}

// index reads the number of one of n outputs as Python does: from the end where it is negative, and a bool counts.
func index(raw json.RawMessage, n int) (i int, exception, text string) {
	num, ok := pyjson.ParseNum(raw)
	switch {
	case pyjson.KindOf(raw) == pyjson.Bool:
		if pyjson.Truthy(raw) {
			i = 1
		}
	case !ok || num.IsFloat():
		return 0, "TypeError", "tuple indices must be integers or slices, not " + pyjson.TypeName(raw)
	default:
		long, ok := num.Int64()
		if !ok {
			return 0, "IndexError", "cannot fit 'int' into an index-sized integer"
		}
		if long < 0 {
			long += int64(n)
		}
		i = int(max(min(long, int64(n)), -1))
	}
	if i < 0 || i >= n {
		return 0, "IndexError", "tuple index out of range"
	}
	return i, "", ""
}

// fits reports whether an output of type got may go into the input.
func fits(got string, k *class, in *input) bool {
	if in.dynamic || !k.core() || k.checksItself(inputTypes) {
		return true
	}
	return typesFit(got, in.typeName())
}

func (r *result) add(typ, message, details string, extra ...pyjson.Member) {
	r.errors = append(r.errors, nodeError{typ, message, details, extra})
}

// raised words the exception of a node's check as ComfyUI does for the input that led to the node.
func (r *result) raised(in *input, link json.RawMessage) {
	if r.exception == "" {
		return
	}
	r.add("exception_during_inner_validation", "Exception when validating inner node", r.text,
		pyjson.Member{Key: "input_name", Value: pyjson.Quote(in.name)},
		pyjson.Member{Key: "input_config", Value: in.config},
		pyjson.Member{Key: "exception_message", Value: pyjson.Quote(r.text)},
		pyjson.Member{Key: "exception_type", Value: pyjson.Quote(r.exception)},
		pyjson.Member{Key: "traceback", Value: json.RawMessage("[]")},
		pyjson.Member{Key: "linked_node", Value: link})
	r.exception = ""
}

// raisedAtOutput words it for an output node.
func (r *result) raisedAtOutput() {
	if r.exception == "" {
		return
	}
	r.add("exception_during_validation", "Exception when validating node", r.text,
		pyjson.Member{Key: "exception_type", Value: pyjson.Quote(r.exception)},
		pyjson.Member{Key: "traceback", Value: json.RawMessage("[]")})
	r.exception = ""
}

// extra is what most errors tell of an input.
func (in *input) extra(value json.RawMessage) []pyjson.Member {
	return []pyjson.Member{
		{Key: "input_name", Value: pyjson.Quote(in.name)},
		{Key: "input_config", Value: in.config},
		{Key: "received_value", Value: value},
	}
}

// refuse makes the body of a 400 answer.
func refuse(typ, message, details string, nodeErrors json.RawMessage) json.RawMessage {
	b := pyjson.AppendString([]byte(`{"error": {"type": `), typ)
	b = pyjson.AppendString(append(b, `, "message": `...), message)
	b = pyjson.AppendString(append(b, `, "details": `...), details)
	b = append(b, `, "extra_info": {}}, "node_errors": `...)
	if nodeErrors == nil {
		nodeErrors = empty
	}
	return append(append(b, nodeErrors...), '}')
}

// nodeErrors gathers the errors of nodes with the outputs that depend on them.
type nodeErrors struct {
	g     *comfy.Graph
	order []string
	by    map[string]*nodeReport
}

type nodeReport struct {
	errors  []nodeError
	outputs []string
}

func newNodeErrors(g *comfy.Graph) *nodeErrors {
	return &nodeErrors{g: g, by: map[string]*nodeReport{}}
}

func (e *nodeErrors) add(node string, r *result, output string) {
	report := e.by[node]
	if report == nil {
		report = &nodeReport{errors: r.errors}
		e.by[node] = report
		e.order = append(e.order, node)
	}
	report.outputs = append(report.outputs, output)
}

func (e *nodeErrors) json() json.RawMessage {
	b := []byte{'{'}
	for i, id := range e.order {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(pyjson.AppendString(b, id), `: {"errors": [`...)
		for j, x := range e.by[id].errors {
			if j > 0 {
				b = append(b, ", "...)
			}
			b = pyjson.AppendString(append(b, `{"type": `...), x.typ)
			b = pyjson.AppendString(append(b, `, "message": `...), x.message)
			b = pyjson.AppendString(append(b, `, "details": `...), x.details)
			b = pyjson.AppendObject(append(b, `, "extra_info": `...), x.extra)
			b = append(b, '}')
		}
		b = pyjson.AppendStrings(append(b, `], "dependent_outputs": `...), e.by[id].outputs)
		n, _ := e.g.Node(id)
		b = append(pyjson.AppendString(append(b, `, "class_type": `...), n.ClassType), '}')
	}
	return append(b, '}')
}
