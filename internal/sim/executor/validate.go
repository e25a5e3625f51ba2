package executor

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/nodes"
)

// Validator says what a real server says of a prompt before it takes it.
type Validator struct {
	Classes *nodes.Registry
	Lists   func() nodes.Lists
	Exists  func(name string) bool // a file as graphs name it
	Modern  bool                   // newer servers name unknown classes another way and check all choices
}

// Verdict is what validation found. Problem is nil when the prompt may run; NodeErrors may have something to say
// all the same, of outputs that will be left out.
type Verdict struct {
	Outputs    []string
	Problem    json.RawMessage
	NodeErrors json.RawMessage
}

// fault is one thing wrong with a node.
type fault struct{ kind, message, details, extra string }

func (f fault) append(dst []byte) []byte {
	return fmt.Appendf(dst, `{"type": "%s", "message": %s, "details": %s, "extra_info": {%s}}`,
		f.kind, pyjson.Quote(f.message), pyjson.Quote(f.details), f.extra)
}

// raised is a Python exception in the middle of validation.
type raised struct{ exception, text string }

// finding is what is known of one node.
type finding struct {
	valid  bool
	faults []fault
}

// validation is one pass over a prompt.
type validation struct {
	*Validator
	prompt   []pyjson.Member
	index    map[string]int
	classes  []*nodes.Class
	inputs   []map[string]json.RawMessage
	unread   []*raised // what Python says to the inputs of a node that are none
	found    map[string]*finding
	order    []string // of found
	open     map[string]bool
	lists    nodes.Lists
	haveList bool
}

// Validate checks a prompt. targets are the output nodes wanted; nil for all. An error stands for what makes a
// real server stumble.
func (v *Validator) Validate(prompt json.RawMessage, targets []string) (Verdict, error) {
	members, err := pyjson.Members(prompt)
	if err != nil {
		return Verdict{}, err
	}
	p := &validation{
		Validator: v, prompt: members, index: make(map[string]int, len(members)),
		classes: make([]*nodes.Class, len(members)), inputs: make([]map[string]json.RawMessage, len(members)),
		unread: make([]*raised, len(members)), found: map[string]*finding{}, open: map[string]bool{},
	}
	var outputs []string
	for i, m := range members {
		p.index[m.Key] = i
		refusal, err := p.look(i)
		if err != nil || refusal != nil {
			return Verdict{Problem: refusal, NodeErrors: json.RawMessage("{}")}, err
		}
		if p.classes[i].OutputNode && (targets == nil || slices.Contains(targets, m.Key)) {
			outputs = append(outputs, m.Key)
		}
	}
	if len(outputs) == 0 {
		f := fault{kind: "prompt_no_outputs", message: "Prompt has no outputs"}
		return Verdict{Problem: f.append(nil), NodeErrors: json.RawMessage("{}")}, nil
	}
	return p.judge(outputs), nil
}

// look reads a node and its class; the class must be known.
func (p *validation) look(i int) (refusal json.RawMessage, err error) {
	id, raw := p.prompt[i].Key, p.prompt[i].Value
	p.unread[i] = &raised{"KeyError", "'inputs'"}
	var class json.RawMessage
	switch pyjson.KindOf(raw) {
	case pyjson.Object:
		body, err := pyjson.Members(raw)
		if err != nil {
			return nil, err
		}
		for _, b := range body {
			switch b.Key {
			case "class_type":
				class = b.Value
			case "inputs":
				if p.inputs[i], p.unread[i], err = readInputs(b.Value); err != nil {
					return nil, err
				}
			}
		}
	case pyjson.String, pyjson.Array:
	default:
		return nil, fmt.Errorf("node %s is no object", id)
	}
	switch pyjson.KindOf(class) {
	case pyjson.Array, pyjson.Object:
		return nil, fmt.Errorf("the class of node %s is no text", id)
	}
	if p.classes[i] = p.Classes.Class(pyjson.TextOf(class)); p.classes[i] != nil {
		return nil, nil
	}
	f := fault{kind: "invalid_prompt", details: "Node ID '#" + id + "'"}
	if class == nil {
		f.message = "Cannot execute because a node is missing the class_type property."
	} else {
		f.message = "Cannot execute because node " + pyjson.Str(class) + " does not exist."
	}
	if p.Modern {
		title, _ := pyjson.Get(raw, "_meta", "title")
		f.kind = "missing_node_type"
		f.extra = fmt.Sprintf(`"node_id": %s, "class_type": %s, "node_title": %s`, pyjson.Quote(id), orNull(class), orNull(title))
	}
	return f.append(nil), nil
}

// readInputs reads the inputs of a node. Python finds none in a list or a text, and stumbles over the rest.
func readInputs(raw json.RawMessage) (inputs map[string]json.RawMessage, unread *raised, err error) {
	switch pyjson.KindOf(raw) {
	case pyjson.Object:
		members, err := pyjson.Members(raw)
		if err != nil {
			return nil, nil, err
		}
		inputs = make(map[string]json.RawMessage, len(members))
		for _, in := range members {
			inputs[in.Key] = in.Value
		}
		return inputs, nil, nil
	case pyjson.Array, pyjson.String:
		return nil, nil, nil
	}
	return nil, &raised{"TypeError", "argument of type '" + pyjson.TypeName(raw) + "' is not iterable"}, nil
}

func orNull(raw json.RawMessage) string {
	if raw == nil {
		return "null"
	}
	return string(nodes.Dump(nil, raw))
}

// judge validates what is upstream of the outputs and sums up.
func (p *validation) judge(outputs []string) Verdict {
	var v Verdict
	var lines []string
	type report struct{ dependents []string }
	reports := map[string]*report{}
	var reported []string
	for _, o := range outputs {
		faults := p.output(o)
		if p.found[o].valid {
			v.Outputs = append(v.Outputs, o)
			continue
		}
		for _, f := range faults {
			lines = append(lines, f.message+": "+f.details)
		}
		for _, id := range p.order {
			if f := p.found[id]; f.valid || len(f.faults) == 0 {
				continue
			}
			if reports[id] == nil {
				reports[id] = &report{}
				reported = append(reported, id)
			}
			reports[id].dependents = append(reports[id].dependents, o)
		}
	}
	out := []byte{'{'}
	for i, id := range reported {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = append(pyjson.AppendString(out, id), `: {"errors": [`...)
		for j, f := range p.found[id].faults {
			if j > 0 {
				out = append(out, ", "...)
			}
			out = f.append(out)
		}
		out = pyjson.AppendStrings(append(out, `], "dependent_outputs": `...), reports[id].dependents)
		out = pyjson.AppendString(append(out, `, "class_type": `...), p.classes[p.index[id]].Name)
		out = append(out, '}')
	}
	v.NodeErrors = append(out, '}')
	if len(v.Outputs) == 0 {
		f := fault{
			kind: "prompt_outputs_failed_validation", message: "Prompt outputs failed validation",
			details: strings.Join(lines, "\n"),
		}
		v.Problem = f.append(nil)
	}
	return v
}

// output validates an output node and everything it needs.
func (p *validation) output(id string) []fault {
	f, err := p.node(id)
	if err == nil {
		return f.faults
	}
	faults := []fault{{
		kind: "exception_during_validation", message: "Exception when validating node", details: err.text,
		extra: fmt.Sprintf(`"exception_type": "%s", "traceback": %s`, err.exception, traceback),
	}}
	p.note(id, &finding{faults: faults})
	return faults
}

// traceback stands where a real server lists lines of its source.
const traceback = `["  File \"simulated/execution\", line 1, in validate_inputs\n"]`

func (p *validation) note(id string, f *finding) {
	if p.found[id] == nil {
		p.order = append(p.order, id)
	}
	p.found[id] = f
}

// node validates a node, those upstream first where they are met.
func (p *validation) node(id string) (*finding, *raised) {
	if f := p.found[id]; f != nil {
		return f, nil
	}
	if p.open[id] { // a cycle: the real one goes round until its stack is full
		return nil, &raised{"RecursionError", "maximum recursion depth exceeded"}
	}
	p.open[id] = true
	defer delete(p.open, id)
	i := p.index[id]
	class := p.classes[i]
	if p.unread[i] != nil {
		return nil, p.unread[i]
	}
	f := &finding{valid: true}
	var stumbled *raised
	class.Each(func(in nodes.Input) {
		if stumbled != nil {
			return
		}
		raw, given := p.inputs[i][in.Name]
		switch {
		case !given:
			if in.Required() {
				f.faults = append(f.faults, fault{
					kind: "required_input_missing", message: "Required input is missing", details: in.Name,
					extra: `"input_name": ` + string(pyjson.Quote(in.Name)),
				})
			}
		case pyjson.KindOf(raw) == pyjson.Array:
			stumbled = p.link(f, in, raw)
		default:
			p.value(f, class, in, raw)
		}
	})
	if stumbled == nil && class.File != "" {
		stumbled = p.file(f, class, p.inputs[i][class.File])
	}
	if stumbled != nil {
		return nil, stumbled
	}
	f.valid = f.valid && len(f.faults) == 0
	p.note(id, f)
	return f, nil
}

// link validates an input that comes from another node, and that node.
func (p *validation) link(f *finding, in nodes.Input, raw json.RawMessage) *raised {
	pair, err := pyjson.Elements(raw)
	if err != nil {
		return &raised{"ValueError", err.Error()}
	}
	if len(pair) != 2 {
		f.faults = append(f.faults, p.fault(in, "bad_linked_input",
			"Bad linked input, must be a length-2 list of [node_id, slot_index]", in.Name,
			`"received_value": `+string(nodes.Dump(nil, raw))))
		return nil
	}
	from := pyjson.TextOf(pair[0])
	at, known := p.index[from]
	if !known || pyjson.KindOf(pair[0]) != pyjson.String {
		switch pyjson.KindOf(pair[0]) {
		case pyjson.Array, pyjson.Object:
			return &raised{"TypeError", "unhashable type: '" + pyjson.TypeName(pair[0]) + "'"}
		}
		return &raised{"KeyError", pyjson.Repr(pair[0])}
	}
	received, stumbled := outputType(p.classes[at], pair[1])
	if stumbled != nil {
		return stumbled
	}
	linked := `"linked_node": ` + string(nodes.Dump(nil, raw))
	if !matches(received, in.Type) {
		details := fmt.Sprintf("%s, received_type(%s) mismatch input_type(%s)", in.Name, received, p.typeText(in))
		f.faults = append(f.faults, p.fault(in, "return_type_mismatch", "Return type mismatch between linked nodes", details,
			`"received_type": `+string(pyjson.Quote(received))+", "+linked))
		return nil
	}
	inner, stumbled := p.node(from)
	switch {
	case stumbled != nil:
		f.valid = false
		p.note(from, &finding{faults: []fault{p.fault(in, "exception_during_inner_validation",
			"Exception when validating inner node", stumbled.text,
			fmt.Sprintf(`"exception_message": %s, "exception_type": "%s", "traceback": %s, %s`,
				pyjson.Quote(stumbled.text), stumbled.exception, traceback, linked))}})
	case !inner.valid:
		f.valid = false
	}
	return nil
}

// outputType is the type of an output as Python finds it: from the end when the number is negative.
func outputType(class *nodes.Class, slot json.RawMessage) (string, *raised) {
	kind := "tuple"
	if class.Schema {
		kind = "list"
	}
	n, ok := slotOf(slot)
	i, whole := n.Int64()
	switch {
	case !ok || !whole:
		return "", &raised{"TypeError", kind + " indices must be integers or slices, not " + pyjson.TypeName(slot)}
	case i < 0:
		i += int64(len(class.Outputs))
	}
	if i < 0 || i >= int64(len(class.Outputs)) {
		return "", &raised{"IndexError", kind + " index out of range"}
	}
	return class.Outputs[i].Type, nil
}

// matches reports whether an output of one type may go into an input of another: equal, one of several by comma,
// or anything.
func matches(received, wanted string) bool {
	if received == wanted || received == "*" || wanted == "*" {
		return true
	}
	if received == "" || wanted == "" {
		return false
	}
	for r := range strings.SplitSeq(received, ",") {
		for w := range strings.SplitSeq(wanted, ",") {
			if strings.TrimSpace(r) == strings.TrimSpace(w) {
				return true
			}
		}
	}
	return false
}

// choices are the values a choice offers.
func (p *validation) choices(in nodes.Input) []string {
	if !p.haveList {
		p.lists, p.haveList = p.Lists(), true
	}
	return in.Choices(p.lists)
}

// typeText is the type of an input as Python prints it.
func (p *validation) typeText(in nodes.Input) string {
	if in.Type != "" {
		return in.Type
	}
	return pyjson.Repr(pyjson.AppendStrings(nil, p.choices(in)))
}

// config is an input's type and options as error reports show them.
func (p *validation) config(in nodes.Input) string {
	opts := in.Opts
	if opts == "" {
		opts = "{}"
	}
	if in.Type == "" {
		return "[" + string(pyjson.AppendStrings(nil, p.choices(in))) + ", " + opts + "]"
	}
	return "[" + string(pyjson.Quote(in.Type)) + ", " + opts + "]"
}

func (p *validation) fault(in nodes.Input, kind, message, details, extra string) fault {
	return fault{kind, message, details, fmt.Sprintf(`"input_name": %s, "input_config": %s, %s`, pyjson.Quote(in.Name), p.config(in), extra)}
}

// value validates an input that was written in the graph.
func (p *validation) value(f *finding, class *nodes.Class, in nodes.Input, raw json.RawMessage) {
	if inner, ok := pyjson.Get(raw, "__value__"); ok {
		raw = inner
	}
	received := func(raw json.RawMessage) string { return `"received_value": ` + string(nodes.Dump(nil, raw)) }
	if problem := conversionProblem(in.Type, raw); problem != "" {
		f.faults = append(f.faults, p.fault(in, "invalid_input_type",
			"Failed to convert an input value to a "+in.Type+" value", in.Name+", "+pyjson.Str(raw)+", "+problem,
			received(raw)+`, "exception_message": `+string(pyjson.Quote(problem))))
		return
	}
	raw = convertValue(in.Type, raw)
	if class.File == in.Name {
		return // the class checks it itself
	}
	if n, ok := pyjson.ParseNum(raw); ok && in.Opts != "" {
		if limit, ok := bound(in, "min"); ok && n.Less(limit) {
			f.faults = append(f.faults, p.fault(in, "value_smaller_than_min",
				fmt.Sprintf("Value %s smaller than min of %s", n, limit), in.Name, received(raw)))
			return
		}
		if limit, ok := bound(in, "max"); ok && limit.Less(n) {
			f.faults = append(f.faults, p.fault(in, "value_bigger_than_max",
				fmt.Sprintf("Value %s bigger than max of %s", n, limit), in.Name, received(raw)))
			return
		}
	}
	if in.Type != "" && (!p.Modern || in.Type != "COMBO" || len(in.Options) == 0 && in.Folder == "") {
		return
	}
	options := p.choices(in)
	text, isText := pyjson.Text(raw)
	if isText && slices.Contains(options, text) {
		return
	}
	config, list := p.config(in), pyjson.Repr(pyjson.AppendStrings(nil, options))
	if len(options) > 20 {
		config, list = "null", "(list of length "+strconv.Itoa(len(options))+")"
	}
	f.faults = append(f.faults, fault{
		kind: "value_not_in_list", message: "Value not in list",
		details: fmt.Sprintf("%s: '%s' not in %s", in.Name, pyjson.Str(raw), list),
		extra:   fmt.Sprintf(`"input_name": %s, "input_config": %s, %s`, pyjson.Quote(in.Name), config, received(raw)),
	})
}

func bound(in nodes.Input, name string) (pyjson.Num, bool) {
	raw, ok := pyjson.Get(json.RawMessage(in.Opts), name)
	if !ok {
		return pyjson.Num{}, false
	}
	return pyjson.ParseNum(raw)
}

// file checks the input of a class that must name a file.
func (p *validation) file(f *finding, class *nodes.Class, raw json.RawMessage) *raised {
	if raw == nil {
		return &raised{"TypeError", class.Name + ".VALIDATE_INPUTS() missing 1 required positional argument: '" + class.File + "'"}
	}
	if _, _, link := linkOf(raw); link {
		raw = json.RawMessage("null") // what comes of a link is not known yet
	}
	name, ok := pyjson.Text(raw)
	if !ok {
		return &raised{"AttributeError", "'" + pyjson.TypeName(raw) + "' object has no attribute 'endswith'"}
	}
	if !p.Exists(name) {
		f.faults = append(f.faults, fault{
			kind: "custom_validation_failed", message: "Custom validation failed for node",
			details: class.File + " - " + class.Missing + name, extra: `"input_name": ` + string(pyjson.Quote(class.File)),
		})
	}
	return nil
}
