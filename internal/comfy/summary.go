package comfy

import (
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// textPreview is how many characters of a text result a list of jobs shows.
const textPreview = 1024

var (
	visualLists = []string{"images", "video", "audio", "3d"}
	solidFiles  = []string{".obj", ".fbx", ".gltf", ".glb", ".usdz"}
	textFiles   = []string{".txt", ".md", ".json"}
)

// Summarize makes the part of an element of GET /api/jobs that follows from how a run ended: an object with
// execution_start_time and execution_end_time (ms), outputs_count, previewable_outputs_count, preview_output and,
// for a failed run, execution_error. Keys without a value are left out. line is the error in one line, empty when
// there was none. outputs and messages are those of a history entry.
func Summarize(outputs, messages json.RawMessage) (summary json.RawMessage, line string) {
	s := summing{}
	s.readMessages(messages)
	s.readOutputs(outputs)
	var m []pyjson.Member
	add := func(key string, value json.RawMessage) {
		if value != nil {
			m = append(m, pyjson.Member{Key: key, Value: value})
		}
	}
	add("execution_start_time", s.start)
	add("execution_end_time", s.end)
	add("outputs_count", pyjson.IntNum(int64(s.count)).JSON())
	add("previewable_outputs_count", pyjson.IntNum(int64(s.visual)).JSON())
	add("preview_output", s.preview())
	add("execution_error", s.failure)
	return pyjson.AppendObject(nil, m), s.line
}

// ExecSeconds is the time from begin to end that a summary tells, on the back end's clock; 0 where it tells none.
func ExecSeconds(summary json.RawMessage) float64 {
	at := func(key string) float64 {
		raw, _ := pyjson.Get(summary, key)
		ms, err := strconv.ParseFloat(string(raw), 64)
		if err != nil {
			return 0
		}
		return ms
	}
	start, end := at("execution_start_time"), at("execution_end_time")
	if start == 0 {
		return 0
	}
	return max(end-start, 0) / 1000
}

// summing gathers a summary.
type summing struct {
	start, end, failure json.RawMessage
	line                string
	count, visual       int
	first               [4]json.RawMessage // best preview of each rank, see rank
}

// readMessages takes times and error from the messages of a history entry.
func (s *summing) readMessages(messages json.RawMessage) {
	list, err := pyjson.Elements(messages)
	if err != nil {
		return // an entry without messages has no times
	}
	for _, e := range list {
		pair, err := pyjson.Elements(e)
		if err != nil || len(pair) != 2 {
			continue
		}
		at, _ := pyjson.Get(pair[1], "timestamp")
		if pyjson.KindOf(at) != pyjson.Number {
			at = nil
		}
		switch pyjson.TextOf(pair[0]) {
		case "execution_start":
			s.start = at
		case "execution_success", "execution_interrupted":
			s.end = at
		case "execution_error":
			s.end = at
			s.failure, s.line = failure(pair[1])
		}
	}
}

// failure returns the data of an execution_error with every field that lists of jobs need as text, and its line.
func failure(data json.RawMessage) (json.RawMessage, string) {
	members, err := pyjson.Members(data)
	if err != nil {
		members = nil
	}
	need := func(key string, fits func(json.RawMessage) bool, other string) json.RawMessage {
		for i := range members {
			if members[i].Key == key {
				if !fits(members[i].Value) {
					members[i].Value = json.RawMessage(other)
				}
				return members[i].Value
			}
		}
		members = append(members, pyjson.Member{Key: key, Value: json.RawMessage(other)})
		return json.RawMessage(other)
	}
	isText := func(v json.RawMessage) bool { return pyjson.KindOf(v) == pyjson.String }
	isTexts := func(v json.RawMessage) bool { _, ok := pyjson.Strings(v); return ok }
	need("node_id", isText, `""`)
	class := pyjson.TextOf(need("node_type", isText, `""`))
	message := strings.TrimSpace(pyjson.TextOf(need("exception_message", isText, `""`)))
	kind := pyjson.TextOf(need("exception_type", isText, `"Error"`))
	need("traceback", isTexts, `[]`)
	line, _, _ := strings.Cut(message, "\n")
	if line == "" {
		line = kind
	}
	if class != "" {
		line = class + ": " + line
	}
	return pyjson.AppendObject(nil, members), line
}

// readOutputs counts results and remembers the best of each rank.
func (s *summing) readOutputs(outputs json.RawMessage) {
	nodes, err := pyjson.Members(outputs)
	if err != nil {
		return // no outputs
	}
	for _, n := range nodes {
		lists, err := pyjson.Members(n.Value)
		if err != nil {
			continue
		}
		for _, l := range lists {
			if l.Key == "animated" {
				continue
			}
			items, err := pyjson.Elements(l.Value)
			if err != nil {
				continue
			}
			for _, item := range items {
				s.item(n.Key, l.Key, item)
			}
		}
	}
}

func (s *summing) item(node, list string, item json.RawMessage) {
	switch pyjson.KindOf(item) {
	case pyjson.Object:
		s.count++
		members, err := pyjson.Members(item)
		if err != nil {
			return
		}
		s.offer(node, list, members)
	case pyjson.String:
		text := pyjson.TextOf(item)
		if slices.Contains(solidFiles, strings.ToLower(path.Ext(text))) && !strings.ContainsAny(text, "\n ") {
			s.count++
			s.offer(node, "3d", []pyjson.Member{
				{Key: "filename", Value: pyjson.Quote(text)},
				{Key: "type", Value: json.RawMessage(`"output"`)},
				{Key: "subfolder", Value: json.RawMessage(`""`)},
			})
			return
		}
		if s.first[3] == nil {
			s.first[3] = textResult(node, text)
		}
	}
}

// offer keeps an entry as the preview of its rank: 0 a visual saved result, 1 another visual one, 2 a text file.
func (s *summing) offer(node, list string, members []pyjson.Member) {
	var name, kind, format string
	for _, m := range members {
		switch m.Key {
		case "filename":
			name = pyjson.TextOf(m.Value)
		case "type":
			kind = pyjson.TextOf(m.Value)
		case "format":
			format = pyjson.TextOf(m.Value)
		}
	}
	ext := strings.ToLower(path.Ext(name))
	rank := -1
	switch {
	case slices.Contains(visualLists, list), strings.HasPrefix(format, "video/"),
		strings.HasPrefix(format, "audio/"), slices.Contains(solidFiles, ext):
		s.visual++
		rank = 1
		if kind == "output" {
			rank = 0
		}
	case slices.Contains(textFiles, ext):
		rank = 2
	}
	if rank < 0 || s.first[rank] != nil {
		return
	}
	members = append(slices.Clone(members),
		pyjson.Member{Key: "nodeId", Value: pyjson.Quote(node)},
		pyjson.Member{Key: "mediaType", Value: pyjson.Quote(list)})
	s.first[rank] = pyjson.AppendObject(nil, members)
}

// textResult makes the preview of a text that no file holds.
func textResult(node, text string) json.RawMessage {
	m := []pyjson.Member{{Key: "content", Value: pyjson.Quote(text)}}
	if runes := []rune(text); len(runes) > textPreview {
		m[0].Value = pyjson.Quote(string(runes[:textPreview]))
		m = append(m, pyjson.Member{Key: "truncated", Value: json.RawMessage("true")})
	}
	m = append(m,
		pyjson.Member{Key: "nodeId", Value: pyjson.Quote(node)},
		pyjson.Member{Key: "mediaType", Value: json.RawMessage(`"text"`)})
	return pyjson.AppendObject(nil, m)
}

func (s *summing) preview() json.RawMessage {
	for _, p := range s.first {
		if p != nil {
			return p
		}
	}
	return nil
}
