package comfyui

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/job"
)

// readEntry makes a result of a history entry. The messages decide how it ended, not status_str: an error found
// while staging can leave "success" there.
func readEntry(entry json.RawMessage) backend.Result {
	var r backend.Result
	var status json.RawMessage
	// What is missing in an entry is absent in the result; an entry that is no object is an empty one.
	_ = pyjson.EachMember(entry, func(key string, value json.RawMessage, _ int) error {
		switch key {
		case "outputs":
			r.Outputs = pyjson.Clean(value)
		case "meta":
			r.Meta = pyjson.Clean(value)
		case "status":
			status = value
		}
		return nil
	})
	word := ""
	_ = pyjson.EachMember(status, func(key string, value json.RawMessage, _ int) error {
		switch key {
		case "status_str":
			word = pyjson.TextOf(value)
		case "messages":
			r.Messages = pyjson.Clean(value)
		}
		return nil
	})
	r.State = job.Completed
	if word != "" && word != "success" {
		r.State = job.Failed
	}
	_ = pyjson.EachElement(r.Messages, func(value json.RawMessage, _ int) error {
		parts, err := pyjson.Elements(value)
		if err != nil || len(parts) == 0 {
			return nil
		}
		switch pyjson.TextOf(parts[0]) {
		case "execution_error":
			r.State = job.Failed
		case "execution_interrupted":
			r.State = job.Cancelled
		}
		return nil
	})
	for _, part := range []*json.RawMessage{&r.Outputs, &r.Meta} {
		if pyjson.KindOf(*part) != pyjson.Object {
			*part = json.RawMessage("{}")
		}
	}
	if pyjson.KindOf(r.Messages) != pyjson.Array {
		r.Messages = json.RawMessage("[]")
	}
	return r
}

// interrupted is the result of a run that its owner took back before it began.
func interrupted(runID string) backend.Result {
	data, err := json.Marshal(struct {
		PromptID  string   `json:"prompt_id"`
		NodeID    string   `json:"node_id"`
		NodeType  string   `json:"node_type"`
		Executed  []string `json:"executed"`
		Timestamp int64    `json:"timestamp"`
	}{PromptID: runID, Executed: []string{}, Timestamp: time.Now().UnixMilli()})
	if err != nil {
		data = []byte("{}") // strings and numbers always marshal
	}
	rec := record{}
	rec.add("execution_interrupted", data)
	rec.end = "execution_interrupted"
	return rec.result()
}

// record keeps of the frames what a history entry would have.
type record struct {
	end      string // type of the end frame
	messages []byte
	nodes    []string // with outputs, in the order of their first
	outputs  map[string]json.RawMessage
	meta     map[string]json.RawMessage
	size     int      // of outputs
	seen     []string // nodes that were run, or taken from the cache
	partial  bool     // an output was left out
}

// maxRecord is from how many bytes of outputs on no more are kept: nobody takes a result of that size.
const maxRecord = 64 << 20

// note takes over a frame of the run.
func (r *record) note(f frame) {
	switch f.Type {
	case "execution_start", "execution_cached":
		r.add(f.Type, f.Data)
	case "execution_success", "execution_error", "execution_interrupted":
		if f.kind == frameEnd {
			r.add(f.Type, f.Data)
			r.end = f.Type
		}
	case "executing":
		r.seen = append(r.seen, f.Node)
	case "executed":
		r.seen = append(r.seen, f.Node)
		output, ok := pyjson.Get(f.Data, "output")
		if !ok || pyjson.KindOf(output) != pyjson.Object {
			return
		}
		if r.size > maxRecord {
			r.partial = true
			return
		}
		r.size += len(output)
		if r.outputs == nil {
			r.outputs, r.meta = make(map[string]json.RawMessage), make(map[string]json.RawMessage)
		}
		if _, had := r.outputs[f.Node]; !had {
			r.nodes = append(r.nodes, f.Node)
		}
		r.outputs[f.Node] = output
		display, ok := pyjson.Get(f.Data, "display_node")
		if !ok {
			display = pyjson.Quote(f.Node)
		}
		id := pyjson.Quote(f.Node)
		r.meta[f.Node] = pyjson.AppendObject(nil, []pyjson.Member{
			{Key: "node_id", Value: id},
			{Key: "display_node", Value: display},
			{Key: "parent_node", Value: json.RawMessage("null")},
			{Key: "real_node_id", Value: id},
		})
	}
}

func (r *record) add(typ string, data json.RawMessage) {
	if len(r.messages) > 0 {
		r.messages = append(r.messages, ", "...)
	}
	r.messages = pyjson.AppendString(append(r.messages, '['), typ)
	r.messages = append(append(append(r.messages, ", "...), data...), ']')
}

// whole reports whether the record has all that the history will have of a run that succeeded: of each of the outputs
// it was told that it was run or was taken from the cache, and no node gave something that the graph does not have. Of
// nodes that others brought in, the history says more than frames do.
func (r *record) whole(prompt json.RawMessage, outputs []string) bool {
	if r.partial || r.end != "execution_success" {
		return false
	}
	for _, id := range outputs {
		if !slices.Contains(r.seen, id) {
			return false
		}
	}
	for _, id := range r.nodes {
		if _, ok := pyjson.Get(prompt, id); !ok {
			return false
		}
	}
	return true
}

// result makes a result of what was kept.
func (r *record) result() backend.Result {
	out := backend.Result{State: job.Completed}
	switch r.end {
	case "execution_error":
		out.State = job.Failed
	case "execution_interrupted":
		out.State = job.Cancelled
	}
	object := func(values map[string]json.RawMessage) json.RawMessage {
		members := make([]pyjson.Member, 0, len(r.nodes))
		for _, n := range r.nodes {
			members = append(members, pyjson.Member{Key: n, Value: values[n]})
		}
		return pyjson.Clean(pyjson.AppendObject(nil, members))
	}
	out.Outputs, out.Meta = object(r.outputs), object(r.meta)
	out.Messages = pyjson.Clean(append(append([]byte{'['}, r.messages...), ']'))
	return out
}
