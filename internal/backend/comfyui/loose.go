package comfyui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// Loose asks ComfyUI servers behind one address, any of which may answer: each request goes over a connection of its
// own, and nothing that one said is believed to hold at the next. It is safe for concurrent use.
type Loose struct {
	d *Driver
	o Options
}

// NewLoose returns one for the servers at address. It does not connect. Of the options those of whole runs mean nothing.
func NewLoose(address string, o Options) (*Loose, error) {
	d, err := New(address, o)
	if err != nil {
		return nil, err
	}
	d.wire.fresh = true
	return &Loose{d: d, o: d.options}, nil
}

// Close ends what goes on.
func (l *Loose) Close() { l.d.stop() }

// Identify reads who answers, and checks that it can be driven. Of the snapshot, what it can run is left out.
func (l *Loose) Identify(ctx context.Context) (backend.Snapshot, error) {
	s := backend.Snapshot{Taken: time.Now().UTC()}
	return s, l.d.identify(ctx, &s)
}

// Abilities adds to a snapshot what the servers can run. They are taken to be alike.
func (l *Loose) Abilities(ctx context.Context, s *backend.Snapshot) error {
	return l.d.readAbilities(ctx, s)
}

// History reads the result of a run, from a server that has it: ok is false when the one that answered does not, which
// says nothing about the others.
func (l *Loose) History(ctx context.Context, run string) (result backend.Result, ok bool, err error) {
	entry, ok, err := l.d.history(ctx, run)
	if err != nil || !ok {
		return backend.Result{}, false, err
	}
	return readEntry(entry), true, nil
}

// Queued reports whether the server that answered has a run in its queue, and whether it works at it.
func (l *Loose) Queued(ctx context.Context, run string) (queued, working bool, err error) {
	at, _, err := l.d.look(ctx, run)
	return at != absent, at == running, err
}

// Posted is what became of a prompt.
type Posted uint8

const (
	NotTaken Posted = iota // nobody has it
	Unclear                // the line broke, or somebody in between gave up: a server may have it
	Taken                  // a server has it
)

// Post hands a prompt to whichever server answers. The error says why it was not taken, or may not have been:
// *backend.Refused, or ErrUnreachable.
func (l *Loose) Post(ctx context.Context, t backend.Task, client string) (Posted, error) {
	r := &run{t: t, id: t.Attempt.RunID, client: client}
	rep := l.d.hand(ctx, r.id, r.body())
	status, answered := errors.AsType[statusError](rep.err)
	switch {
	case rep.err == nil:
		return Taken, nil
	case answered && (status.status == http.StatusTooManyRequests || status.status == http.StatusServiceUnavailable):
		return NotTaken, fmt.Errorf("%w: %w", backend.ErrUnreachable, status)
	case answered && status.status >= 500: // whoever answers so may have passed it on
		return Unclear, fmt.Errorf("%w: %w", backend.ErrUnreachable, status)
	case rep.unsent:
		return NotTaken, rep.err
	}
	return Unclear, rep.err
}

// Upload gives an input file to whichever server answers.
func (l *Loose) Upload(ctx context.Context, u backend.Upload) error { return l.d.sendFile(ctx, u) }

// HasInput reports whether the server that answered has an input file in its full size.
func (l *Loose) HasInput(ctx context.Context, u backend.Upload) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, l.o.RequestTimeout)
	defer cancel()
	q := url.Values{"filename": {u.Name}, "subfolder": {u.Subfolder}, "type": {"input"}}
	resp, stop, err := l.d.open(ctx, http.MethodHead, "/view?"+q.Encode(), "", nil, 0)
	if err != nil {
		return false, err
	}
	defer stop(nil)
	drop(resp)
	switch {
	case resp.StatusCode == http.StatusOK:
		return resp.ContentLength == u.Size, nil
	case resp.StatusCode == http.StatusNotFound:
		return false, nil
	}
	return false, fmt.Errorf("%w: %w", backend.ErrUnreachable, errStatus("HEAD /view", resp))
}

// View opens a file of the server that answers. A fault of kind Missing: that one does not have it.
func (l *Loose) View(ctx context.Context, f backend.FileRef) (io.ReadCloser, error) {
	r := &run{d: l.d}
	return r.fetch(ctx, f)
}

// WebFile reads one file of a custom node's web directory.
func (l *Loose) WebFile(ctx context.Context, path string) (io.ReadCloser, string, error) {
	return l.d.WebFile(ctx, path)
}

// Stop has the server that answers stop a run if it has it, and no other one. Servers that stop whatever runs are only
// asked to take it out of their queue: they are those before version 0.3.57.
func (l *Loose) Stop(ctx context.Context, runID, version string) error {
	ctx, cancel := context.WithTimeout(ctx, l.o.RequestTimeout)
	defer cancel()
	quoted := string(pyjson.Quote(runID))
	err := l.d.post(ctx, "/queue", []byte(`{"delete":[`+quoted+`]}`))
	if err == nil && !older(version, "0.3.57") {
		err = l.d.post(ctx, "/interrupt", []byte(`{"prompt_id":`+quoted+`}`))
	}
	return err
}

// Forget has the server that answers delete a run from its history.
func (l *Loose) Forget(ctx context.Context, runID string) error {
	ctx, cancel := context.WithTimeout(ctx, l.o.RequestTimeout)
	defer cancel()
	return l.d.post(ctx, "/history", append(pyjson.AppendStrings([]byte(`{"delete":`), []string{runID}), '}'))
}

// Frame is what a server said of a run on a web socket.
type Frame struct {
	backend.Update
	Idle bool            // the server has nothing to do: no run is there; nothing else is said
	Busy bool            // the server has something to do, maybe the run; nothing else is said
	End  *backend.Result // the run is over; outputs are those that were told
}

// Listen opens a web socket to whichever server answers, under a client id that has one run only, and passes on what it
// says until hear returns false, the line ends or ctx does. It is not an error when the server has no such run: then
// nothing comes, or Idle.
func (l *Loose) Listen(ctx context.Context, client, runID string, hear func(Frame) bool) error {
	dialing, cancel := context.WithTimeout(ctx, l.o.RequestTimeout)
	s, err := l.d.connect(dialing, client, func() {})
	cancel()
	if err != nil {
		return err
	}
	defer s.close()
	defer context.AfterFunc(ctx, s.close)()
	var buf bytes.Buffer
	var told record
	for {
		kind, r, err := s.conn.Reader(context.Background()) // ended by closing the connection
		if err == nil {
			err = readFrame(&buf, kind, r)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
		}
		f, remaining := decode(kind == websocket.MessageBinary, buf.Bytes())
		out := Frame{Update: f.Update}
		switch {
		case f.kind == frameNone, f.kind == frameNull, f.runID != "" && f.runID != runID:
			continue
		case f.kind == frameStatus:
			out = Frame{Idle: remaining == 0, Busy: remaining > 0}
		default:
			told.note(f)
			if f.kind == frameEnd {
				end := told.result()
				out.End = &end
			}
		}
		if !hear(out) {
			return nil
		}
	}
}
