package comfyserver

import (
	"bytes"
	"container/list"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/job"
)

// safe is raw as every JSON reader takes it, or other when there is none. Python writes NaN and Infinity, which
// browsers refuse; what the person sent is kept as sent and made readable only on its way out.
func safe(raw json.RawMessage, other string) []byte {
	if len(raw) == 0 {
		return []byte(other)
	}
	if bytes.Contains(raw, []byte("NaN")) || bytes.Contains(raw, []byte("Infinity")) {
		return pyjson.Clean(raw)
	}
	return raw
}

// tupleTail is an element of GET /queue from its second member on: what follows its number never changes.
func tupleTail(promptID string, req job.Request) []byte {
	return appendTail(make([]byte, 0, len(req.Prompt)+len(req.ExtraData)+128), promptID, req)
}

func appendTail(b []byte, promptID string, req job.Request) []byte {
	b = pyjson.AppendString(append(b, ", "...), promptID)
	b = append(append(b, ", "...), safe(req.Prompt, "{}")...)
	b = append(append(b, ", "...), safe(req.ExtraData, "{}")...)
	b = pyjson.AppendStrings(append(b, ", "...), req.Outputs)
	return append(b, ']')
}

// appendHistory appends a finished job as a member of GET /history.
func appendHistory(b []byte, e job.Entry) []byte {
	o := e.Outcome
	if o == nil {
		o = &job.Outcome{State: e.Job.State}
	}
	b = pyjson.AppendString(b, e.Job.PromptID)
	b = appendNumber(append(b, `: {"prompt": [`...), e.Job.Number)
	b = appendTail(b, e.Job.PromptID, e.Request)
	b = append(append(b, `, "outputs": `...), safe(o.Outputs, "{}")...)
	b = appendStatus(append(b, `, "status": `...), e.Job.State, o)
	b = append(append(b, `, "meta": `...), safe(o.Meta, "{}")...)
	b = append(b, `, "execution_time": `...)
	b = strconv.AppendFloat(b, o.ExecSeconds, 'f', -1, 64)
	return append(b, '}')
}

// appendStatus appends the status object of a history entry. An interrupted run is an error there.
func appendStatus(b []byte, state job.State, o *job.Outcome) []byte {
	if state == job.Completed {
		b = append(b, `{"status_str": "success", "completed": true, "messages": `...)
	} else {
		b = append(b, `{"status_str": "error", "completed": false, "messages": `...)
	}
	return append(append(b, safe(o.Messages, "[]")...), '}')
}

// jobWord is a state in the words of /api/jobs.
func jobWord(j job.Job) string {
	switch {
	case j.State.Final():
		return string(j.State)
	case running(j):
		return "in_progress"
	default:
		return "pending"
	}
}

// appendJob appends a job as an element of GET /api/jobs, without its closing brace. Keys without a value are left out:
// the editors refuse the whole list for one null.
func appendJob(b []byte, j job.Job) []byte {
	b = pyjson.AppendString(append(b, `{"id": `...), j.PromptID)
	b = append(append(append(b, `, "status": "`...), jobWord(j)...), `", "priority": `...)
	b = appendNumber(b, j.Number)
	b = strconv.AppendInt(append(b, `, "create_time": `...), millis(j.Created), 10)
	if inner := inside(j.Summary); len(inner) > 0 && j.State.Final() {
		b = append(append(b, ", "...), inner...)
	} else {
		b = append(b, `, "outputs_count": 0, "previewable_outputs_count": 0`...)
	}
	if j.WorkflowID != "" {
		b = pyjson.AppendString(append(b, `, "workflow_id": `...), j.WorkflowID)
	}
	return b
}

// inside is an object's text without its braces.
func inside(raw json.RawMessage) []byte {
	raw = bytes.TrimSpace(safe(raw, ""))
	if len(raw) < 2 || raw[0] != '{' {
		return nil
	}
	return bytes.TrimSpace(raw[1 : len(raw)-1])
}

// stream gathers an answer. A short one goes out whole with its length; a long one as it grows.
type stream struct {
	w     http.ResponseWriter
	buf   []byte
	sent  bool
	first bool // the next element is the first of its list
	err   error
}

const streamBuffer = 64 << 10

var streamBuffers = sync.Pool{New: func() any { b := make([]byte, 0, streamBuffer); return &b }}

func newStream(w http.ResponseWriter) *stream {
	return &stream{w: w, buf: (*streamBuffers.Get().(*[]byte))[:0], first: true}
}

func (s *stream) text(t string)  { s.buf = append(s.buf, t...) }
func (s *stream) bytes(b []byte) { s.buf = append(s.buf, b...); s.err = s.spill() }

// comma separates list elements.
func (s *stream) comma() {
	if !s.first {
		s.buf = append(s.buf, ", "...)
	}
	s.first = false
}

// spill sends what was gathered once it is long.
func (s *stream) spill() error {
	if s.err != nil || len(s.buf) < streamBuffer {
		return s.err
	}
	if !s.sent {
		s.w.Header().Set("Content-Type", jsonType)
		s.w.WriteHeader(http.StatusOK)
		s.sent = true
	}
	_, s.err = s.w.Write(s.buf)
	s.buf = s.buf[:0]
	return s.err
}

// end sends the rest.
func (s *stream) end() error {
	defer s.release()
	if s.err != nil {
		return nil // the client left
	}
	if !s.sent {
		return writeJSON(s.w, http.StatusOK, s.buf)
	}
	_, _ = s.w.Write(s.buf) // the client left
	return nil
}

// cutShort is the error of an answer that had begun: nothing can be told to the client any more.
type cutShort struct{ error }

// Unwrap returns why.
func (c cutShort) Unwrap() error { return c.error }

// fail ends a stream that can't be completed. Once bytes are out the connection is cut, so that no client takes
// the body for whole.
func (s *stream) fail(err error) error {
	defer s.release()
	if !s.sent {
		return err
	}
	if conn, _, herr := http.NewResponseController(s.w).Hijack(); herr == nil {
		_ = conn.Close()
	}
	return cutShort{err}
}

func (s *stream) release() {
	if cap(s.buf) <= 4*streamBuffer {
		b := s.buf
		streamBuffers.Put(&b)
	}
	s.buf = nil
}

// tupleCache keeps the encoded requests of open jobs, which every status frame makes editors ask for, within a
// bound of bytes. A job's request never changes. It is safe for concurrent use.
type tupleCache struct {
	limit int

	mu    sync.Mutex
	bytes int
	order *list.List // of *tuple, latest used first
	byID  map[job.ID]*list.Element
}

type tuple struct {
	id   job.ID
	tail []byte
}

func newTupleCache(limit int) *tupleCache {
	return &tupleCache{limit: limit, order: list.New(), byID: make(map[job.ID]*list.Element)}
}

func (t *tupleCache) get(id job.ID) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byID[id]
	if e == nil {
		return nil
	}
	t.order.MoveToFront(e)
	return e.Value.(*tuple).tail
}

func (t *tupleCache) put(id job.ID, tail []byte) {
	if len(tail) > t.limit/16 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[id] != nil {
		return
	}
	t.byID[id] = t.order.PushFront(&tuple{id, tail})
	t.bytes += len(tail)
	for t.bytes > t.limit {
		last := t.order.Remove(t.order.Back()).(*tuple)
		delete(t.byID, last.id)
		t.bytes -= len(last.tail)
	}
}
