package api

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// record returns a job with what it asks for and what it gave.
func (f *Face) record(ctx context.Context, j job.Job) (Record, error) {
	e, err := f.Queue.Entry(ctx, j.User, j.PromptID)
	if fault.Is(err, fault.Missing) || err == nil && e.Job.ID != j.ID { // its prompt id may be another job's by now
		return Record{}, fault.New(fault.Missing, "What job %s asked for is not kept any more: it is out of history.", j.ID)
	}
	if err != nil {
		return Record{}, err
	}
	out := Record{Job: f.shape(ctx, e.Job), Prompt: strict(e.Request.Prompt), Results: []Result{}}
	var extra struct {
		Info struct {
			Workflow json.RawMessage `json:"workflow"`
		} `json:"extra_pnginfo"`
	}
	if err := json.Unmarshal(strict(e.Request.ExtraData), &extra); err == nil { // else a program sent something else there
		out.Workflow = extra.Info.Workflow
	}
	if e.Outcome != nil {
		out.Results = results(e.Outcome.Outputs)
	}
	return out, nil
}

// results lists the files in the outputs of a history entry, in the order of nodes.
func results(outputs json.RawMessage) []Result {
	list := []Result{}
	var nodes map[string]map[string]json.RawMessage
	if json.Unmarshal(strict(outputs), &nodes) != nil { // nothing came out
		return list
	}
	for node, kinds := range nodes {
		for kind, values := range kinds {
			var files []Result
			if json.Unmarshal(values, &files) != nil { // texts, flags: no files
				continue
			}
			for _, r := range files {
				if r.Filename != "" {
					r.Node, r.Kind = node, kind
					list = append(list, r)
				}
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Result) int {
		return cmp.Or(cmp.Compare(len(a.Node), len(b.Node)), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Kind, b.Kind))
	})
	return list
}

// strict returns raw as JSON that every program reads: Python also writes NaN and Infinity, which become null.
func strict(raw json.RawMessage) json.RawMessage {
	if json.Valid(raw) {
		return raw
	}
	out := make(json.RawMessage, 0, len(raw))
	text := false // within a string
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case text && c == '\\' && i+1 < len(raw):
			out = append(out, c)
			i++
			c = raw[i]
		case c == '"':
			text = !text
		case !text && (c == 'N' || c == 'I' || c == '-' && i+1 < len(raw) && raw[i+1] == 'I'):
			for i+1 < len(raw) && (raw[i+1] == '-' || raw[i+1] >= 'A' && raw[i+1] <= 'Z' || raw[i+1] >= 'a' && raw[i+1] <= 'z') {
				i++
			}
			out = append(out, "null"...)
			continue
		}
		out = append(out, c)
	}
	if !json.Valid(out) {
		return json.RawMessage("null")
	}
	return out
}
