package executor

import (
	"fmt"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/nodes"
)

// progress is how far each node of a run is, in the order in which they began.
type progress struct {
	prompt  string // id as JSON
	entries []entry
	at      map[int]int // node index → position in entries
}

type entry struct {
	id         string // as JSON
	value, max string // as JSON: they begin as decimals and become whole when a node counts its steps
	finished   bool
}

func (p *progress) ensure(i int, id string) *entry {
	at, ok := p.at[i]
	if !ok {
		if p.at == nil {
			p.at = map[int]int{}
		}
		at = len(p.entries)
		p.at[i] = at
		p.entries = append(p.entries, entry{id: string(pyjson.Quote(id)), value: "0", max: "1"})
	}
	return &p.entries[at]
}

func (p *progress) start(i int, id string) {
	e := p.ensure(i, id)
	e.value, e.max, e.finished = "0.0", "1.0", false
}

// table is the state of all nodes as the members of a message.
func (p *progress) table() []byte {
	out := make([]byte, 0, 64+220*len(p.entries))
	out = append(append(append(out, `"prompt_id": `...), p.prompt...), `, "nodes": {`...)
	for i := range p.entries {
		e := &p.entries[i]
		if i > 0 {
			out = append(out, ", "...)
		}
		out = append(append(append(out, e.id...), `: {"value": `...), e.value...)
		out = append(append(out, `, "max": `...), e.max...)
		if e.finished {
			out = append(out, `, "state": "finished", "node_id": `...)
		} else {
			out = append(out, `, "state": "running", "node_id": `...)
		}
		out = append(append(append(out, e.id...), `, "prompt_id": `...), p.prompt...)
		out = append(append(out, `, "display_node_id": `...), e.id...)
		out = append(append(append(out, `, "parent_node_id": null, "real_node_id": `...), e.id...), '}')
	}
	return append(out, '}')
}

// sendState tells how far all nodes are, if anybody listens.
func (r *run) sendState() {
	if r.machine.Watched() {
		r.frame("progress_state", r.progress.table(), true)
	}
}

func (r *run) finish(i int) {
	e := r.progress.ensure(i, r.g.nodes[i].id)
	e.value, e.finished = e.max, true
	r.sendState()
}

// Progress tells how far the running node is.
func (r *run) Progress(node string, value, total int, preview *nodes.Preview) error {
	if r.machine.Interrupted() {
		return nodes.ErrInterrupted
	}
	e := r.progress.ensure(r.g.index[node], node)
	e.value, e.max = fmt.Sprint(value), fmt.Sprint(total)
	r.sendState()
	described := r.machine.WantsMetadata()
	if preview != nil && preview.Picture != nil && described {
		kind := "image/jpeg"
		if preview.PNG {
			kind = "image/png"
		}
		r.machine.Picture(preview, fmt.Appendf(nil,
			`{"node_id": %s, "prompt_id": %s, "display_node_id": %[1]s, "parent_node_id": null, "real_node_id": %[1]s, "image_type": "%[3]s"}`,
			e.id, r.progress.prompt, kind))
	}
	if r.machine.Watched() {
		r.frame("progress", fmt.Appendf(nil, `"value": %d, "max": %d, "prompt_id": %s, "node": %s`, value, total, r.progress.prompt, e.id), true)
	}
	if preview != nil && preview.Picture != nil && !described {
		r.machine.Picture(preview, nil)
	}
	return nil
}
