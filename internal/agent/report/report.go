// Package report is how long work on a GPU machine is told while it goes on: JSON objects, one a line, the last of
// which says how it ended. The agent writes them, the studio reads them.
package report

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// ContentType is that of a stream of events.
const ContentType = "application/x-ndjson"

// The states that end a stream. All others say what goes on.
const (
	Done   = "done"
	Failed = "failed"
)

// Event is one line.
type Event struct {
	State  string          `json:"state"`
	Text   string          `json:"text,omitempty"`   // a line for people, or what a tool printed
	At     int64           `json:"at,omitempty"`     // bytes that are done
	Total  int64           `json:"total,omitempty"`  // bytes of all; 0: not known
	Result json.RawMessage `json:"result,omitempty"` // with Done: what came of it
	Error  *Problem        `json:"error,omitempty"`  // with Failed
}

// Problem is an error on its way to another program.
type Problem struct {
	Kind   string `json:"kind"`
	Code   string `json:"code,omitempty"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// kinds are all that cross the line, and the status of an answer that is nothing but the error.
var kinds = map[fault.Kind]int{
	fault.Internal: 500, fault.Invalid: 422, fault.Denied: 403, fault.Missing: 404, fault.Conflict: 409, fault.Busy: 429, fault.Unavailable: 503,
}

// ProblemOf returns what may be told of an error.
func ProblemOf(err error) *Problem {
	p := &Problem{Kind: fault.KindOf(err).String()}
	p.Text, p.Remedy = fault.Public(err)
	if f, ok := errors.AsType[*fault.Error](err); ok {
		p.Code = f.Code
	}
	return p
}

// Err returns the problem as an error of the same kind.
func (p *Problem) Err() error {
	kind := fault.Internal
	for k := range kinds {
		if k.String() == p.Kind {
			kind = k
		}
	}
	return fault.New(kind, "%s", p.Text).WithCode(p.Code).WithRemedy("%s", p.Remedy)
}

// Sink takes events of work that goes on. It does not block for long, and may leave out what a later event says again.
type Sink func(Event)

// Answer writes v, or what went wrong, as the whole answer.
func Answer(w http.ResponseWriter, log *slog.Logger, v any, err error) {
	status := http.StatusOK
	if err != nil {
		status, v = kinds[fault.KindOf(err)], ProblemOf(err)
		if fault.KindOf(err) == fault.Internal {
			log.Error("control", "err", err)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Debug("control", "err", err) // who asked is gone
	}
}

// between is the least time between two events of one state that say nothing in words.
const between = 250 * time.Millisecond

// Serve does work and tells of it line by line. Work ends when whoever asked is gone.
func Serve(w http.ResponseWriter, r *http.Request, log *slog.Logger, work func(ctx context.Context, tell Sink) (any, error)) {
	w.Header().Set("Content-Type", ContentType)
	w.Header().Set("X-Accel-Buffering", "no")
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	flush := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if err := flush.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) { // at once: who asks waits for a sign of life
		return
	}
	var mu sync.Mutex
	var last time.Time
	state := ""
	write := func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Text == "" && e.State == state && time.Since(last) < between {
			return
		}
		state, last = e.State, time.Now()
		line, err := json.Marshal(e)
		if err == nil {
			_, err = w.Write(append(line, '\n'))
		}
		if err == nil {
			err = flush.Flush()
		}
		if err != nil && !errors.Is(err, http.ErrNotSupported) {
			cancel()
		}
	}
	result, err := work(ctx, write)
	var raw json.RawMessage
	if err == nil {
		raw, err = json.Marshal(result)
	}
	if err != nil {
		if fault.KindOf(err) == fault.Internal && ctx.Err() == nil {
			log.Error("control", "err", err)
		}
		write(Event{State: Failed, Error: ProblemOf(err)})
		return
	}
	write(Event{State: Done, Result: raw})
}

// maxLine bounds one event: a hostile agent must not take the studio's memory.
const maxLine = 1 << 20

// Read reads events up to the end of the work and returns what came of it. each is told of all others; nil: nobody is.
func Read(r io.Reader, each Sink) (json.RawMessage, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fault.Wrap(fault.Unavailable, err, "The agent's answer is none.")
		}
		switch {
		case e.State == Done:
			return e.Result, nil
		case e.State == Failed && e.Error != nil:
			return nil, e.Error.Err()
		case each != nil:
			each(e)
		}
	}
	err := lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return nil, fault.Wrap(fault.Unavailable, fmt.Errorf("reading what the agent tells: %w", err), "The agent's answer broke off before its end.").
		WithRemedy("See whether the agent still runs, and ask for the same again: what was done so far is kept.")
}

// ErrorOf reads the error of an answer that is nothing else.
func ErrorOf(resp *http.Response) error {
	var p Problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLine)).Decode(&p); err != nil || p.Text == "" {
		return fault.Wrap(fault.Unavailable, errors.Join(fmt.Errorf("status %s", resp.Status), err), "The agent answered with status %d.", resp.StatusCode).
			WithRemedy("See whether the agent is of a version that has this.")
	}
	return p.Err()
}
