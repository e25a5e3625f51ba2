package sim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/executor"
)

// request is the body of POST /prompt as far as it says something.
type request struct {
	prompt   json.RawMessage // nil: there is none
	id       string
	client   json.RawMessage // nil: there is none
	number   json.RawMessage // nil: there is none
	front    bool
	targets  []string // nil: all
	extra    json.RawMessage
	badID    bool
	badExtra bool
}

// canonical is a UUID as Modern wants prompt ids.
var canonical = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

func (s *ComfyUI) readRequest(raw json.RawMessage) (request, error) {
	q := request{id: uuid.NewString()}
	members, err := pyjson.Members(raw)
	if err != nil {
		return q, err
	}
	for _, m := range members {
		switch m.Key {
		case "prompt":
			q.prompt = m.Value
		case "prompt_id":
			if !s.modern {
				q.id = pyjson.Str(m.Value)
			} else if pyjson.KindOf(m.Value) != pyjson.Null {
				q.id = pyjson.TextOf(m.Value)
				q.badID = !canonical.MatchString(q.id)
			}
		case "client_id":
			q.client = m.Value
		case "number":
			q.number = m.Value
		case "front":
			q.front = pyjson.Truthy(m.Value)
		case "partial_execution_targets":
			if pyjson.KindOf(m.Value) != pyjson.Null {
				q.targets = []string{}
				if err := names(m.Value, func(id string) { q.targets = append(q.targets, id) }); err != nil {
					return q, err
				}
			}
		case "extra_data":
			q.extra = m.Value
		}
	}
	if q.extra == nil {
		q.extra = json.RawMessage("{}")
	}
	q.badExtra = pyjson.KindOf(q.extra) != pyjson.Object
	return q, nil
}

// refuse answers a prompt with an error and what is wrong with which node.
func refuse(w http.ResponseWriter, status int, problem, nodeErrors json.RawMessage) {
	reply(w, status, fmt.Appendf(nil, `{"error": %s, "node_errors": %s}`, problem, nodeErrors))
}

func problem(kind, sentence, details string) json.RawMessage {
	return fmt.Appendf(nil, `{"type": "%s", "message": %s, "details": %s, "extra_info": {}}`, kind, pyjson.Quote(sentence), pyjson.Quote(details))
}

// emptyObject is {} where there is nothing to say.
var emptyObject = json.RawMessage("{}")

func (s *ComfyUI) handlePrompt(w http.ResponseWriter, r *http.Request, l *life, _ []string) {
	raw, ok := wishes(w, r)
	if !ok {
		return
	}
	l.print("got prompt\n")
	q, err := s.readRequest(raw)
	if err != nil {
		broken(w)
		return
	}
	it := &item{id: q.id, previews: !s.opts.NoPreviews}
	if q.number != nil {
		n, ok := executor.Float(q.number)
		if !ok {
			broken(w)
			return
		}
		it.number = n
	} else {
		it.number = l.queue.nextNumber(q.front)
	}
	switch {
	case q.prompt == nil:
		refuse(w, http.StatusBadRequest, problem("no_prompt", "No prompt provided", "No prompt provided"), emptyObject)
		return
	case q.badID:
		refuse(w, http.StatusBadRequest, problem("invalid_prompt_id", "prompt_id must be a valid UUID",
			"prompt_id must be a UUID in canonical form"), emptyObject)
		return
	case pyjson.KindOf(q.prompt) != pyjson.Object || q.badExtra:
		broken(w)
		return
	}
	verdict, err := s.validator.Validate(q.prompt, q.targets)
	if err != nil {
		s.log.Info("prompt can't be read", "err", err)
		broken(w)
		return
	}
	if verdict.Problem != nil {
		l.print("invalid prompt: " + string(verdict.Problem) + "\n")
		refuse(w, http.StatusBadRequest, verdict.Problem, verdict.NodeErrors)
		return
	}
	if err := s.complete(it, q, verdict); err != nil {
		s.log.Info("prompt can't be run", "err", err)
		broken(w)
		return
	}
	if s.asked(it).kind == crashPost {
		s.Crash()
		<-l.ctx.Done()
		panic(http.ErrAbortHandler)
	}
	l.queue.put(it)
	defer l.queue.announce(it)
	if s.opts.EagerFrames {
		l.queue.announce(it)
	}
	reply(w, http.StatusOK, fmt.Appendf(nil, `{"prompt_id": %s, "number": %s, "node_errors": %s}`,
		pyjson.Quote(it.id), it.number.JSON(), verdict.NodeErrors))
	// The answer is out before the run begins: a real server, too, writes it first.
	if err := http.NewResponseController(w).Flush(); err != nil {
		s.log.Debug("answer not flushed", "job", it.id, "err", err)
	}
}

// complete fills in what is run and what is shown of it.
func (s *ComfyUI) complete(it *item, q request, v executor.Verdict) error {
	g, err := executor.Parse(q.prompt, s.classes, v.Outputs)
	if err != nil {
		return err
	}
	it.graph, it.prompt, it.outputs = g, g.Prompt(), v.Outputs
	it.created = time.Now().UnixMilli()
	extra, err := pyjson.Members(q.extra)
	if err != nil {
		return err
	}
	set := func(key string, value json.RawMessage) {
		if i := slices.IndexFunc(extra, func(m pyjson.Member) bool { return m.Key == key }); i >= 0 {
			extra[i].Value = value
			return
		}
		extra = append(extra, pyjson.Member{Key: key, Value: value})
	}
	if q.client != nil {
		set("client_id", q.client)
	}
	if s.modern {
		set("create_time", pyjson.IntNum(it.created).JSON())
	}
	for _, m := range extra {
		switch m.Key {
		case "client_id":
			it.client, it.hasClient = pyjson.TextOf(m.Value), pyjson.KindOf(m.Value) != pyjson.Null
		case "extra_pnginfo":
			it.pnginfo = m.Value
		case "preview_method":
			if method := pyjson.TextOf(m.Value); s.modern && method != "" && method != "default" {
				it.previews = method != "none"
			}
		}
	}
	for i := range extra {
		extra[i].Value = dumped(extra[i].Value)
	}
	it.extra = pyjson.AppendObject(nil, extra)
	return nil
}
