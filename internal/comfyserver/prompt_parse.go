package comfyserver

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/job"
)

// maxID bounds prompt ids and session ids: real ones have 36 characters.
const maxID = 256

// secrets are the keys of extra_data that pay for API nodes. They are kept apart from the first moment.
var secrets = [...]string{"auth_token_comfy_org", "api_key_comfy_org"}

// parsePrompt reads the body of POST /prompt. refusal is the answer in ComfyUI's own form where it has one.
func parsePrompt(body []byte) (sub *job.Submission, refusal []byte, err error) {
	members, err := object(body, "The body")
	if err != nil {
		return nil, nil, err
	}
	sub = &job.Submission{}
	var extra json.RawMessage
	for _, m := range members {
		switch m.Key {
		case "prompt":
			sub.Request.Prompt = m.Value
		case "extra_data":
			extra = m.Value
		case "client_id":
			sub.ClientID = word(m.Value)
		case "prompt_id":
			sub.PromptID = word(m.Value)
		case "number":
			if sub.Number, err = number(m.Value); err != nil {
				return nil, nil, err
			}
		case "front":
			sub.Front = pyjson.Truthy(m.Value)
		case "partial_execution_targets":
			if sub.Request.Targets, err = targets(m.Value); err != nil {
				return nil, nil, err
			}
		}
	}
	if sub.Request.Prompt == nil {
		return nil, errorBody("no_prompt", "No prompt provided", "No prompt provided"), nil
	}
	if pyjson.KindOf(sub.Request.Prompt) != pyjson.Object {
		return nil, nil, invalid("invalid_prompt", "prompt must be an object: node id to node.")
	}
	if err := readExtra(sub, extra); err != nil {
		return nil, nil, err
	}
	if len(sub.PromptID) > maxID {
		return nil, nil, invalid("invalid_prompt_id", "prompt_id has %d characters, at most %d are taken.", len(sub.PromptID), maxID)
	}
	if len(sub.ClientID) > maxID {
		return nil, nil, invalid("invalid_client_id", "client_id has %d characters, at most %d are taken.", len(sub.ClientID), maxID)
	}
	return sub, nil, nil
}

// object reads a JSON object as Python would.
func object(raw []byte, what string) ([]pyjson.Member, error) {
	if err := pyjson.Check(raw); err != nil {
		return nil, invalid("invalid_json", "%s is not JSON: %v.", what, err)
	}
	if pyjson.KindOf(raw) != pyjson.Object {
		return nil, invalid("invalid_json", "%s must be a JSON object.", what)
	}
	members, err := pyjson.Members(raw)
	if err != nil {
		return nil, invalid("invalid_json", "%s is not a JSON object: %v.", what, err)
	}
	return members, nil
}

// word reads an id: a string, or what Python makes of another value. null is none.
func word(raw json.RawMessage) string {
	if pyjson.KindOf(raw) == pyjson.Null {
		return ""
	}
	if s, ok := pyjson.Text(raw); ok {
		return s
	}
	return pyjson.Str(raw)
}

// number reads a place in the queue: a number, or a string that holds one. null is none.
func number(raw json.RawMessage) (*float64, error) {
	if pyjson.KindOf(raw) == pyjson.Null {
		return nil, nil
	}
	text := string(raw)
	if s, ok := pyjson.Text(raw); ok {
		text = s
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return nil, invalid("invalid_number", "number must be a number.")
	}
	return &f, nil
}

// targets reads the output nodes to run. null means all.
func targets(raw json.RawMessage) ([]string, error) {
	if pyjson.KindOf(raw) == pyjson.Null {
		return nil, nil
	}
	list, ok := pyjson.Strings(raw)
	if !ok {
		return nil, invalid("invalid_targets", "partial_execution_targets must be a list of node ids.")
	}
	return list, nil
}

// readExtra takes secrets out of extra_data, finds the session and the workflow's id, and keeps the rest as it is.
func readExtra(sub *job.Submission, raw json.RawMessage) error {
	var members []pyjson.Member
	if raw != nil && pyjson.KindOf(raw) != pyjson.Null {
		var err error
		if members, err = object(raw, "extra_data"); err != nil {
			return err
		}
	}
	kept := members[:0]
	for _, m := range members {
		if takeSecret(sub, m) {
			continue
		}
		switch m.Key {
		case "metadata": // of the queue manager's API: people put the same things in there
			m.Value = withoutSecrets(sub, m.Value)
		case "client_id":
			if sub.ClientID == "" {
				sub.ClientID = word(m.Value)
			}
			continue
		case "create_time":
			continue // ours
		case "extra_pnginfo":
			if id, ok := pyjson.Get(m.Value, "workflow", "id"); ok {
				if s, ok := pyjson.Text(id); ok && len(s) <= maxID {
					sub.WorkflowID = s
				}
			}
		}
		kept = append(kept, m)
	}
	if sub.ClientID != "" {
		kept = append(kept, pyjson.Member{Key: "client_id", Value: pyjson.Quote(sub.ClientID)})
	}
	sub.Request.ExtraData = pyjson.AppendObject(nil, kept)
	return nil
}

// takeSecret keeps m apart when it pays for API nodes, and reports whether it does.
func takeSecret(sub *job.Submission, m pyjson.Member) bool {
	if m.Key != secrets[0] && m.Key != secrets[1] {
		return false
	}
	if s, ok := pyjson.Text(m.Value); ok && s != "" {
		if sub.Credentials == nil {
			sub.Credentials = make(map[string]string, len(secrets))
		}
		sub.Credentials[m.Key] = s
	}
	return true
}

// withoutSecrets takes secrets out of an object. What holds none stays as it is, byte for byte.
func withoutSecrets(sub *job.Submission, raw json.RawMessage) json.RawMessage {
	members, err := pyjson.Members(raw)
	if err != nil { // no object
		return raw
	}
	kept := slices.DeleteFunc(slices.Clone(members), func(m pyjson.Member) bool { return takeSecret(sub, m) })
	if len(kept) == len(members) {
		return raw
	}
	return pyjson.AppendObject(nil, kept)
}

// stamp adds the time of submission to extra_data, where the editors look for it.
func stamp(extra json.RawMessage, at time.Time) json.RawMessage {
	b := extra[: len(extra)-1 : len(extra)-1]
	if len(b) > 1 {
		b = append(b, ", "...)
	}
	b = append(b, `"create_time": `...)
	return append(strconv.AppendInt(b, at.UnixMilli(), 10), '}')
}
