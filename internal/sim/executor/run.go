package executor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/nodes"
)

// Machine is the server an executor works for. It does for nodes what nodes.Host asks, except for progress, which
// the executor keeps, and hears what happens. Its methods are called by the one worker.
type Machine interface {
	nodes.Device
	// Frame sends a message of the run to its client. broadcast: to everybody when the run has no client;
	// otherwise such a message is not sent.
	Frame(event string, data []byte, broadcast bool)
	// Picture sends a preview. metadata is its description, nil for clients that did not ask for one.
	Picture(p *nodes.Preview, metadata []byte)
	// WantsMetadata reports whether the run's client asked for descriptions of previews.
	WantsMetadata() bool
	// Interrupted reports whether the run is to stop, and forgets it.
	Interrupted() bool
	// Working names the node that runs, for clients that come back; empty: none.
	Working(node string)
	// Before is called before a node runs. An error is raised in its place.
	Before(ctx context.Context, node string, class *nodes.Class) error
	// Unload drops all loaded models.
	Unload()
	// Millis is the time of day in milliseconds since 1970.
	Millis() int64
}

// Executor runs one graph at a time and keeps results from one to the next.
type Executor struct {
	machine Machine
	cache   *Cache
}

// New returns an executor with an empty cache.
func New(m Machine) *Executor { return &Executor{machine: m, cache: NewCache()} }

// Reset forgets all results.
func (e *Executor) Reset() { e.cache = NewCache() }

// Job is what Run is given.
type Job struct {
	ID      string
	Graph   *Graph
	Outputs []string        // ids of the output nodes to run
	Extra   json.RawMessage // extra_data.extra_pnginfo; nil when there is none
	Client  bool            // the run has a client
}

// Outcome is what goes into the history.
type Outcome struct {
	Success  bool
	Outputs  json.RawMessage
	Meta     json.RawMessage
	Messages json.RawMessage
}

// run is one run of a graph.
type run struct {
	nodes.Device
	*Executor
	ctx      context.Context
	job      Job
	g        *Graph
	keys     []key
	changed  []json.RawMessage
	prompt   json.RawMessage // written into files; made when first needed
	done     []string        // ids of nodes that were run
	broke    bool            // a node failed or was interrupted
	messages []byte
	progress progress
}

// Run runs a graph. An error means that the machine went away in mid-run: there is no outcome.
func (e *Executor) Run(ctx context.Context, job Job) (Outcome, error) {
	r := &run{Executor: e, Device: e.machine, ctx: ctx, job: job, g: job.Graph}
	r.progress.prompt = string(pyjson.Quote(job.ID))
	e.machine.Interrupted() // a stop from before is forgotten
	r.message("execution_start", r.head(nil), false)
	r.fingerprints()
	r.keys = e.cache.use(r.g, r.changed)
	cached := []string{}
	for i := range r.g.nodes {
		if r.cached(i) {
			cached = append(cached, r.g.nodes[i].id)
		}
	}
	nodesList := pyjson.AppendStrings([]byte(`"nodes": `), cached)
	r.message("execution_cached", fmt.Appendf(nil, `%s, "prompt_id": %s`, nodesList, r.progress.prompt), false)
	all, err := r.all()
	if err != nil {
		return Outcome{}, err
	}
	if all {
		r.message("execution_success", r.head(nil), false)
	}
	out := Outcome{Success: !r.broke, Messages: json.RawMessage("[" + string(r.messages) + "]")}
	out.Outputs, out.Meta = r.shown()
	e.machine.Working("")
	return out, nil
}

// all runs the nodes until none is left or one fails. A cycle ends the run with an error and, as in the real thing,
// without making it a failure.
func (r *run) all() (ok bool, err error) {
	o := newOrder(r.g, r.cached)
	for _, id := range r.job.Outputs {
		if i, ok := r.g.index[id]; ok {
			o.add(i)
		}
	}
	for o.pending > 0 {
		i, found := o.next()
		if !found {
			r.failed(r.stuck(o), nodes.Raise("graph.DependencyCycleError", "Dependency cycle detected"), nil)
			return false, nil
		}
		if fine, err := r.execute(i); err != nil || !fine {
			r.broke = true
			return false, err
		}
		o.done(i)
	}
	return true, nil
}

// stuck returns the node that is blamed when those that are left wait for one another: the one that came in first.
func (r *run) stuck(o *order) int {
	first := -1
	for i, seq := range o.seq {
		if o.waits[i] > 0 && (first < 0 || seq < o.seq[first]) {
			first = i
		}
	}
	return first
}

func (r *run) cached(i int) bool { return r.cache.results[r.keys[i]] != nil }

// fingerprints asks the nodes what besides their inputs they depend on. What they say is also written into the
// prompt of saved files.
func (r *run) fingerprints() {
	r.changed = make([]json.RawMessage, len(r.g.nodes))
	for i := range r.g.nodes {
		n := &r.g.nodes[i]
		if n.class.Changed == nil {
			continue
		}
		c := &nodes.Call{Ctx: r.ctx, Host: r, Class: n.class, Node: n.id, Args: map[string]any{}}
		for _, in := range n.inputs {
			if !in.link {
				c.Args[in.name] = nodes.Literal(in.raw)
			}
		}
		said := json.RawMessage("NaN")
		if v, err := n.class.Changed(c); err == nil {
			r.changed[i], said = v, v
		}
		n.body = append(n.body, pyjson.Member{Key: "is_changed", Value: said})
	}
}

// execute runs node i, or tells what it gave before.
func (r *run) execute(i int) (ok bool, err error) {
	n := &r.g.nodes[i]
	if res := r.cache.results[r.keys[i]]; res != nil {
		r.executed(n.id, res.ui)
		r.finish(i)
		return true, nil
	}
	r.progress.start(i, n.id)
	r.sendState()
	if r.job.Client {
		r.machine.Working(n.id)
		r.frame("executing", fmt.Appendf(nil, `"node": %s, "display_node": %[1]s, "prompt_id": %s`, pyjson.Quote(n.id), r.progress.prompt), false)
	}
	call := r.call(i)
	res, err := r.invoke(call)
	switch {
	case err == nil:
	case r.ctx.Err() != nil:
		return false, context.Cause(r.ctx)
	case errors.Is(err, nodes.ErrInterrupted):
		r.message("execution_interrupted", fmt.Appendf(r.head(n), `, "executed": %s`, pyjson.AppendStrings(nil, r.done)), true)
		return false, nil
	default:
		r.failed(i, nodes.AsFailure(err), call)
		return false, nil
	}
	if res.ui != nil {
		quoted := pyjson.Quote(n.id)
		res.meta = fmt.Appendf(nil, `{"node_id": %s, "display_node": %[1]s, "parent_node": null, "real_node_id": %[1]s}`, quoted)
		r.executed(n.id, res.ui)
	}
	r.cache.results[r.keys[i]] = res
	r.finish(i)
	r.done = append(r.done, n.id)
	return true, nil
}

// call gathers what node i is given.
func (r *run) call(i int) *nodes.Call {
	n := &r.g.nodes[i]
	c := &nodes.Call{
		Ctx: r.ctx, Host: r, Class: n.class, Node: n.id, Args: make(map[string]any, len(n.inputs)), Extra: r.job.Extra,
		Prompt: r.written, Object: r.cache.objects[objectKey{n.id, n.class.Name}],
	}
	for _, in := range n.inputs {
		switch {
		case in.link && in.from >= 0:
			from, slot := r.cache.results[r.keys[in.from]], in.slot
			if from != nil && slot < 0 {
				slot += len(from.values) // from the end
			}
			if from != nil && slot >= 0 && slot < len(from.values) {
				c.Args[in.name] = from.values[slot]
				c.Tainted = c.Tainted || from.tainted
			}
		case !in.link:
			if _, declared := n.class.Input(in.name); declared {
				c.Args[in.name] = nodes.Literal(in.raw)
			}
		}
	}
	return c
}

// written is the prompt as it stands in files.
func (r *run) written() json.RawMessage {
	if r.prompt == nil {
		r.prompt = r.g.Prompt()
	}
	return r.prompt
}

// invoke runs the node. A node that breaks is reported like one that raises: the server goes on.
func (r *run) invoke(c *nodes.Call) (res *result, err error) {
	defer func() {
		if p := recover(); p != nil {
			res, err = nil, nodes.Raise("SystemError", "%v\n%s", p, debug.Stack())
		}
	}()
	if r.machine.Interrupted() {
		return nil, nodes.ErrInterrupted
	}
	if err := r.machine.Before(r.ctx, c.Node, c.Class); err != nil {
		return nil, err
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	values, err := c.Class.Run(c)
	if err != nil {
		return nil, err
	}
	return &result{values: values, ui: c.UI, tainted: c.Tainted || c.Class.Simulated}, nil
}

// shown collects what the nodes of the graph show, run now or before.
func (r *run) shown() (outputs, meta json.RawMessage) {
	outputs, meta = append(outputs, '{'), append(meta, '{')
	for i := range r.g.nodes {
		res := r.cache.results[r.keys[i]]
		if res == nil || res.ui == nil {
			continue
		}
		if len(outputs) > 1 {
			outputs, meta = append(outputs, ", "...), append(meta, ", "...)
		}
		id := r.g.nodes[i].id
		outputs = append(append(pyjson.AppendString(outputs, id), ": "...), res.ui...)
		meta = append(append(pyjson.AppendString(meta, id), ": "...), res.meta...)
	}
	return append(outputs, '}'), append(meta, '}')
}

// failed reports what node i raised. call is nil when it was not run at all.
func (r *run) failed(i int, f *nodes.Failure, call *nodes.Call) {
	n := &r.g.nodes[i]
	message := f.Message
	if call != nil {
		message += "\n"
	}
	if f.Memory {
		message += "This error means you ran out of memory on your GPU.\n\n" +
			"TIPS: If the workflow worked before you might have accidentally set the batch_size to a large number."
		r.machine.Unload()
	}
	trace, inputs := []string{}, []byte("[]")
	if call != nil {
		trace = []string{
			"  File \"simulated/execution\", line 1, in execute\n",
			"  File \"simulated/nodes\", line 1, in " + n.class.Name + "\n",
		}
		inputs = r.formatInputs(n, call)
	}
	all := make([]string, len(r.g.nodes))
	for k := range r.g.nodes {
		all[k] = r.g.nodes[k].id
	}
	data := fmt.Appendf(r.head(n), `, "executed": %s, "exception_message": %s, "exception_type": %s, "traceback": %s, "current_inputs": %s, "current_outputs": %s`,
		pyjson.AppendStrings(nil, r.done), pyjson.Quote(message), pyjson.Quote(f.Type), pyjson.AppendStrings(nil, trace),
		inputs, pyjson.AppendStrings(nil, all))
	r.message("execution_error", data, false)
}

// formatInputs shows what a node was given: each input as a list of values, hidden ones too.
func (r *run) formatInputs(n *node, call *nodes.Call) []byte {
	out := []byte{'{'}
	add := func(name string, v any) {
		if len(out) > 1 {
			out = append(out, ", "...)
		}
		out = append(nodes.Format(append(pyjson.AppendString(out, name), ": ["...), v), ']')
	}
	for _, in := range n.inputs {
		if v, given := call.Args[in.name]; given {
			add(in.name, v)
		}
	}
	n.class.Hidden(func(name, typ string) {
		switch typ {
		case "PROMPT":
			add(name, pyjson.Repr(r.written()))
		case "EXTRA_PNGINFO":
			add(name, nodes.Literal(r.job.Extra))
		case "UNIQUE_ID":
			add(name, n.id)
		}
	})
	return append(out, '}')
}

// head begins the data of a message about the run, or about a node of it.
func (r *run) head(n *node) []byte {
	out := fmt.Appendf(nil, `"prompt_id": %s`, r.progress.prompt)
	if n != nil {
		out = fmt.Appendf(out, `, "node_id": %s, "node_type": %s`, pyjson.Quote(n.id), pyjson.Quote(n.class.Name))
	}
	return out
}

// message sends what also goes into the history.
func (r *run) message(event string, members []byte, broadcast bool) {
	members = strconv.AppendInt(append(members, `, "timestamp": `...), r.machine.Millis(), 10)
	if len(r.messages) > 0 {
		r.messages = append(r.messages, ", "...)
	}
	r.messages = fmt.Appendf(r.messages, `["%s", {%s}]`, event, members)
	r.frame(event, members, broadcast)
}

func (r *run) frame(event string, members []byte, broadcast bool) {
	if r.job.Client || broadcast {
		data := make([]byte, 0, len(members)+2)
		r.machine.Frame(event, append(append(append(data, '{'), members...), '}'), broadcast)
	}
}

func (r *run) executed(id string, ui json.RawMessage) {
	if ui == nil {
		ui = json.RawMessage("null")
	}
	r.frame("executed", fmt.Appendf(nil, `"node": %s, "display_node": %[1]s, "output": %s, "prompt_id": %s`,
		pyjson.Quote(id), ui, r.progress.prompt), false)
}
