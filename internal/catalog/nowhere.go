package catalog

import (
	"encoding/json"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// nowhere refuses a graph whose parts can be run, but not all on one back end. A back end that was never asked may be
// able to: then nothing is certain. Nil: some back end can run it.
func (v *View) nowhere(g *comfy.Graph, outputs []string) json.RawMessage {
	if len(v.asked) < 2 || len(v.dark) > 0 {
		return nil // of one back end, whatever it lacks was told already
	}
	needs := v.Needs(g)
	var told []string
	var least []string // what the back end lacks that lacks least
	best := ""
	for _, name := range v.asked {
		lacks := missing(v.merged.has[name], needs)
		if len(lacks) == 0 {
			return nil
		}
		if told = append(told, name+" has no "+strings.Join(lacks, ", ")); least == nil || len(lacks) < len(least) {
			least, best = lacks, name
		}
	}
	errors := newNodeErrors(g)
	for _, n := range g.Nodes() {
		r := &result{}
		for _, lack := range least {
			if lack == n.ClassType {
				r.add(noBackEnd, "No GPU has all that this graph needs", best+" has no node "+lack)
			}
			for _, value := range n.Inputs {
				if text, ok := pyjson.Text(value.Value); ok && lack == need(n.ClassType, value.Key, text) {
					r.add(noBackEnd, "No GPU has all that this graph needs", value.Key+": "+best+" has no "+text,
						pyjson.Member{Key: "input_name", Value: pyjson.Quote(value.Key)},
						pyjson.Member{Key: "received_value", Value: value.Value})
				}
			}
		}
		for _, output := range outputs {
			if len(r.errors) > 0 {
				errors.add(n.ID, r, output)
			}
		}
	}
	return refuse(noBackEnd, "No GPU has all that this graph needs", strings.Join(told, "; "), errors.json())
}

// noBackEnd is the type of an error that no ComfyUI gives: one server has what it has.
const noBackEnd = "no_back_end"
