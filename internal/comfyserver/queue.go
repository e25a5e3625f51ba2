package comfyserver

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// running reports whether its owner sees a job running; a staged one waits.
func running(j job.Job) bool { return j.State == job.Running && j.Attempt.Posted }

// queueGet answers GET /queue: the person's jobs. At most one shows as running, as on a real server; more of them head
// the waiting ones. A job that just ended still shows until its status frame is out, so that nobody finds it
// neither here nor in history.
func (s *Server) queueGet(w http.ResponseWriter, c *call) error {
	s.hub.ListsAsked(c.user())
	if err := s.seed(c); err != nil {
		return err
	}
	first, pending, err := s.shownQueue(c.Context(), c.user())
	if err != nil {
		return err
	}
	out := newStream(w)
	out.text(`{"queue_running": [`)
	if err := s.writeTuples(c.Context(), out, c.user(), first); err != nil {
		return out.fail(err)
	}
	out.text(`], "queue_pending": [`)
	if err := s.writeTuples(c.Context(), out, c.user(), pending); err != nil {
		return out.fail(err)
	}
	out.text(`]}`)
	return out.end()
}

// shownQueue returns what shows as running, at most one, and the rest.
func (s *Server) shownQueue(ctx context.Context, user string) (first, rest []job.Job, err error) {
	shown := s.hub.Shown(user) // before Open: what ends in between is then found missing there
	open, err := s.Queue.Open(ctx, user)
	if err != nil {
		return nil, nil, err
	}
	for i, j := range open {
		if running(j) {
			first = []job.Job{j}
			rest = append(open[:i:i], open[i+1:]...)
			return first, rest, nil
		}
	}
	isOpen := make(map[job.ID]bool, len(open))
	for _, j := range open {
		isOpen[j.ID] = true
	}
	for i := len(shown) - 1; i >= 0; i-- {
		k := shown[i]
		if isOpen[k.Job.ID] {
			continue
		}
		if !k.Lingering && !s.justEnded(ctx, user, k.Job) {
			continue
		}
		return []job.Job{k.Job}, open, nil
	}
	return nil, open, nil
}

// justEnded reports whether a job that the room believes open is in history already.
func (s *Server) justEnded(ctx context.Context, user string, known job.Job) bool {
	j, err := s.Queue.Find(ctx, user, known.PromptID)
	return err == nil && j.ID == known.ID && j.State.Final() && !j.Hidden
}

// writeTuples writes jobs as elements of GET /queue.
func (s *Server) writeTuples(ctx context.Context, out *stream, user string, jobs []job.Job) error {
	// A long queue is never whole in memory, nor many large graphs.
	const most, enough = 128, 4 << 20
	at := 4
	for len(jobs) > 0 {
		part := jobs[:min(at, len(jobs))]
		jobs = jobs[len(part):]
		read := 0
		tails := make(map[job.ID][]byte, len(part))
		var unknown []job.ID
		for _, j := range part {
			if tail := s.tuples.get(j.ID); tail != nil {
				tails[j.ID] = tail
			} else {
				unknown = append(unknown, j.ID)
			}
		}
		if len(unknown) > 0 {
			requests, err := s.Queue.Requests(ctx, user, unknown)
			if err != nil {
				return err
			}
			for _, j := range part {
				if req, ok := requests[j.ID]; ok {
					tails[j.ID] = tupleTail(j.PromptID, req)
					read += len(tails[j.ID])
					s.tuples.put(j.ID, tails[j.ID])
				}
			}
		}
		for _, j := range part {
			tail := tails[j.ID]
			if tail == nil {
				continue // deleted meanwhile
			}
			out.comma()
			out.buf = appendNumber(append(out.buf, '['), j.Number)
			out.bytes(tail)
		}
		if at = min(2*at, most); read > enough {
			at = 1
		}
	}
	out.first = true
	return nil
}

// idList reads {"clear": true} and {"delete": [ids]} of POST /queue and POST /history.
func (s *Server) idList(w http.ResponseWriter, c *call) (clear bool, ids []string, err error) {
	body, err := s.jsonBody(w, c)
	if err != nil {
		return false, nil, err
	}
	members, err := object(body, "The body")
	if err != nil {
		return false, nil, err
	}
	for _, m := range members {
		switch m.Key {
		case "clear":
			clear = pyjson.Truthy(m.Value)
		case "delete":
			elements, err := pyjson.Elements(m.Value)
			if err != nil {
				return false, nil, invalid("invalid_json", "delete must be a list of prompt ids.")
			}
			for _, e := range elements {
				if id, ok := pyjson.Text(e); ok {
					ids = append(ids, id)
				}
			}
		}
	}
	return clear, ids, nil
}

// queuePost takes waiting jobs of the person out of the queue.
func (s *Server) queuePost(w http.ResponseWriter, c *call) error {
	all, ids, err := s.idList(w, c)
	if err != nil {
		return err
	}
	if all {
		if _, err := s.Queue.ClearPending(c.Context(), c.user()); err != nil {
			return err
		}
	}
	if len(ids) > 0 {
		if _, err := s.Queue.RemovePending(c.Context(), c.user(), ids); err != nil {
			return err
		}
	}
	return done(w)
}

// interrupt stops the person's running job with the id in the body, or all of theirs that run. As on a real server,
// a body that is no JSON counts as none.
func (s *Server) interrupt(w http.ResponseWriter, c *call) error {
	body, err := s.jsonBody(w, c)
	if err != nil {
		return err
	}
	id := ""
	if body = bytes.TrimSpace(body); len(body) > 0 && pyjson.Valid(body) {
		if pyjson.KindOf(body) != pyjson.Object {
			return invalid("invalid_json", "The body must be a JSON object.")
		}
		if raw, ok := pyjson.Get(body, "prompt_id"); ok {
			id = word(raw)
		}
	}
	if _, err := s.Queue.Stop(c.Context(), c.user(), id); err != nil && !fault.Is(err, fault.Missing) {
		return err
	}
	return done(w)
}

// free answers POST /free. It changes nothing: what a back end keeps in memory serves everybody, and the studio frees it
// when a run needs the room.
func (s *Server) free(w http.ResponseWriter, c *call) error {
	body, err := s.jsonBody(w, c)
	if err != nil {
		return err
	}
	if _, err := object(body, "The body"); err != nil {
		return err
	}
	return done(w)
}

// historyGet answers GET /history, oldest first.
func (s *Server) historyGet(w http.ResponseWriter, c *call) error {
	s.hub.ListsAsked(c.user())
	q := job.HistoryQuery{}
	var err error
	values := c.query()
	if q.MaxItems, err = integer(values.Get("max_items"), "max_items", -1); err != nil {
		return err
	}
	if q.Offset, err = integer(values.Get("offset"), "offset", -1); err != nil {
		return err
	}
	out := newStream(w)
	out.text("{")
	err = s.Queue.EachHistory(c.Context(), c.user(), q, func(e job.Entry) error {
		out.comma()
		out.buf = appendHistory(out.buf, e)
		return out.spill()
	})
	if err != nil {
		return out.fail(err)
	}
	out.text("}")
	return out.end()
}

// historyOne answers GET /history/{prompt_id}: {} for what is not in it.
func (s *Server) historyOne(w http.ResponseWriter, c *call) error {
	e, err := s.Queue.Entry(c.Context(), c.user(), c.params.get("prompt_id"))
	switch {
	case fault.Is(err, fault.Missing):
		return done(w)
	case err != nil:
		return err
	case e.Outcome == nil || e.Job.Hidden:
		return done(w)
	}
	size := 512 + len(e.Request.Prompt) + len(e.Request.ExtraData) + len(e.Outcome.Outputs) + len(e.Outcome.Messages) + len(e.Outcome.Meta)
	return writeJSON(w, http.StatusOK, append(appendHistory(append(make([]byte, 0, size), '{'), e), '}'))
}

// historyPost deletes entries of the person's history.
func (s *Server) historyPost(w http.ResponseWriter, c *call) error {
	all, ids, err := s.idList(w, c)
	if err != nil {
		return err
	}
	if all {
		if err := s.Queue.ClearHistory(c.Context(), c.user()); err != nil {
			return err
		}
	}
	if len(ids) > 0 {
		if err := s.Queue.DeleteHistory(c.Context(), c.user(), ids); err != nil {
			return err
		}
	}
	return done(w)
}

// socket answers GET /ws.
func (s *Server) socket(w http.ResponseWriter, c *call) error {
	sid := c.query().Get("clientId")
	if len(sid) > maxID {
		return invalid("invalid_client_id", "clientId has %d characters, at most %d are taken.", len(sid), maxID)
	}
	return s.hub.Serve(w, c.Request, c.user(), sid)
}

// logs answers GET /internal/logs: the person's own lines as one string.
func (s *Server) logs(w http.ResponseWriter, c *call) error {
	var b []byte
	for _, e := range s.hub.Logs(c.user()) {
		b = append(append(append(b, e.T...), " - "...), e.M...)
	}
	return writeJSON(w, http.StatusOK, pyjson.Quote(string(b)))
}

// logsRaw answers GET /internal/logs/raw.
func (s *Server) logsRaw(w http.ResponseWriter, c *call) error {
	entries := s.hub.Logs(c.user())
	b, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	if entries == nil {
		b = []byte("[]")
	}
	b = append(append([]byte(`{"entries": `), b...), `, "size": {"cols": 80, "rows": 24}}`...)
	return writeJSON(w, http.StatusOK, b)
}

// logsSubscribe turns log frames on or off for a session of the person.
func (s *Server) logsSubscribe(w http.ResponseWriter, c *call) error {
	body, err := s.jsonBody(w, c)
	if err != nil {
		return err
	}
	if _, err := object(body, "The body"); err != nil {
		return err
	}
	sid, ok := pyjson.Get(body, "clientId")
	enabled, ok2 := pyjson.Get(body, "enabled")
	if !ok || !ok2 {
		return invalid("invalid_json", "The body needs clientId and enabled.")
	}
	s.hub.SubscribeLogs(c.user(), word(sid), pyjson.Truthy(enabled))
	return done(w)
}
