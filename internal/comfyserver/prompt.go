package comfyserver

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
)

// promptInfo answers GET /prompt: how many of the person's jobs are left.
func (s *Server) promptInfo(w http.ResponseWriter, c *call) error {
	b := append([]byte(`{"exec_info": {"queue_remaining": `), strconv.Itoa(s.Queue.Remaining(c.user()))...)
	return writeJSON(w, http.StatusOK, append(b, `}}`...))
}

// promptPost takes a graph into the queue. Nothing is told of the run before the answer has left.
func (s *Server) promptPost(w http.ResponseWriter, c *call) error {
	key, err := idempotencyKey(c.Header)
	if err != nil {
		return err
	}
	if err := s.attended(c); err != nil {
		return err
	}
	body, err := s.jsonBody(w, c)
	if err != nil {
		return err
	}
	err = s.Submit(c.Context(), c.person, body, Order{Key: key}, func(a Accepted) error {
		nodeErrors := a.NodeErrors
		if nodeErrors == nil {
			nodeErrors = empty
		}
		b := pyjson.AppendString([]byte(`{"prompt_id": `), a.Job.PromptID)
		b = appendNumber(append(b, `, "number": `...), a.Job.Number)
		b = append(append(b, `, "node_errors": `...), nodeErrors...)
		if err := writeJSON(w, http.StatusOK, append(b, '}')); err != nil {
			return err
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			s.log.Debug("answer to a prompt was not flushed", "user", c.user(), "job", a.Job.ID, "err", err) // accepted all the same
		}
		return nil
	})
	if refused, ok := errors.AsType[*Refused](err); ok {
		return writeJSON(w, http.StatusBadRequest, refused.Body)
	}
	return err
}

// longestKey is the longest Idempotency-Key that is kept.
const longestKey = 255

// idempotencyKey returns what a client names a submission with, so that sending it again makes no second job; empty: it
// names none.
func idempotencyKey(h http.Header) (string, error) {
	keys := h.Values("Idempotency-Key")
	switch {
	case len(keys) == 0:
		return "", nil
	case len(keys) > 1:
		return "", invalid("invalid_idempotency_key", "Send one Idempotency-Key, not %d.", len(keys))
	}
	key := keys[0]
	if key == "" || len(key) > longestKey || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", invalid("invalid_idempotency_key", "An Idempotency-Key has 1 to %d plain characters; a random UUID is a good one.", longestKey)
	}
	return key, nil
}

// jsonBody reads a JSON body, whatever its content type says.
func (s *Server) jsonBody(w http.ResponseWriter, c *call) ([]byte, error) {
	// A short body takes its room at once. Of a longer one the announced size is believed as far as it came.
	const short = 64 << 10
	size := c.ContentLength
	if size > s.options.MaxPrompt {
		return nil, tooLarge("The request", s.options.MaxPrompt)
	}
	var r io.Reader = http.MaxBytesReader(w, c.Body, s.options.MaxPrompt)
	if size < 0 || size > short {
		p := newPaced(w, r)
		defer p.end()
		r = p
	}
	var b []byte
	for int64(len(b)) != size {
		if len(b) == cap(b) {
			room := max(2*int64(cap(b)), short)
			if size >= 0 {
				room = min(room, size)
			}
			if err := s.hold(c, room-int64(cap(b))); err != nil {
				return nil, err
			}
			b = append(make([]byte, 0, room), b...)
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF && (size < 0 || int64(len(b)) == size) {
			break
		}
		if err != nil {
			return nil, bodyError(err, s.options.MaxPrompt)
		}
	}
	return b, nil
}

// hold books n bytes more for a request.
func (s *Server) hold(c *call, n int64) error {
	err := s.memory.take(c.user(), c.held, n)
	if err == nil {
		c.held += n
	}
	return err
}

// bodyError says why a body could not be read.
func bodyError(err error, limit int64) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge("The request", limit)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	return fault.Wrap(fault.Invalid, err, "The request ended before its body was complete.").WithCode("incomplete_body")
}

func tooLarge(what string, limit int64) error {
	return fault.New(fault.Invalid, "%s is larger than the limit of %d MB.", what, max(1, (limit+500_000)/1_000_000)).
		WithRemedy("Send something smaller, or ask the operator to raise the limit.").WithCode(codeTooLarge)
}

// appendNumber writes a place in the queue the way Python does: whole numbers without a fraction.
func appendNumber(b []byte, n float64) []byte {
	if n == float64(int64(n)) && n < 1e15 && n > -1e15 {
		return strconv.AppendInt(b, int64(n), 10)
	}
	return strconv.AppendFloat(b, n, 'g', -1, 64)
}
