package comfyui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// place is where a run stands in the server's queue.
type place uint8

const (
	absent place = iota
	pending
	running
)

// look reads the queue: where runID stands, and how many runs in it are not ours.
func (d *Driver) look(ctx context.Context, runID string) (at place, others int, err error) {
	raw, err := d.get(ctx, "/queue")
	if err != nil {
		return absent, 0, err
	}
	for _, part := range []struct {
		key   string
		place place
	}{{"queue_running", running}, {"queue_pending", pending}} {
		list, _ := pyjson.Get(raw, part.key)
		err := pyjson.EachElement(list, func(entry json.RawMessage, _ int) error {
			id := entryID(entry)
			if id == runID && id != "" {
				at = part.place
			}
			if !d.tidy.ours(id) {
				others++
			}
			return nil
		})
		if err != nil {
			return absent, 0, fmt.Errorf("%w: its /queue has no %s: %w", backend.ErrNotComfyUI, part.key, err)
		}
	}
	return at, others, nil
}

// entryID returns the prompt id of a queue entry: [number, id, graph, …].
func entryID(entry json.RawMessage) (id string) {
	i := 0
	// An entry in another form has no id, and so is somebody else's.
	_ = pyjson.EachElement(entry, func(value json.RawMessage, _ int) error {
		if i == 1 {
			id = pyjson.TextOf(value)
		}
		i++
		return nil
	})
	return id
}

// history reads the entry of a run. ok is false while there is none.
func (d *Driver) history(ctx context.Context, runID string) (entry json.RawMessage, ok bool, err error) {
	raw, err := d.get(ctx, "/history/"+runID)
	if err != nil {
		return nil, false, err
	}
	entry, ok = pyjson.Get(raw, runID)
	return entry, ok, nil
}

// interrupt stops a run that runs now, and no other. It looks first: servers before about 0.3.56
// stop whatever runs.
// removed reports that the run was waiting and was taken out of the queue, asked that it runs and will stop once
// the server gets to it.
func (d *Driver) interrupt(ctx context.Context, runID string) (removed, asked bool, err error) {
	for range 3 { // a waiting run may begin between look and removal
		at, _, err := d.look(ctx, runID)
		if err != nil {
			return removed, false, err
		}
		quoted := string(pyjson.Quote(runID))
		switch at {
		case absent:
			return removed, false, nil
		case running:
			return false, true, d.post(ctx, "/interrupt", []byte(`{"prompt_id":`+quoted+`}`))
		}
		if err := d.post(ctx, "/queue", []byte(`{"delete":[`+quoted+`]}`)); err != nil {
			return false, false, err
		}
		removed = true
	}
	return removed, false, nil
}

// tidier deletes the history entries of runs that are over, several at a time and off their way, and takes off
// the server what nobody here holds any more.
type tidier struct {
	mu      sync.Mutex
	known   map[string]struct{} // runs of ours the server may have in its queue or history
	forget  []string            // history entries to delete
	cancel  []string            // runs to stop first
	working bool
	kick    chan struct{} // do not wait for more
}

const (
	tidyDelay  = time.Second      // how long entries are gathered
	tidyBatch  = 64               // how many are enough
	tidyRetry  = 10 * time.Second // pause after the server did not answer
	maxUntidy  = 10_000           // what is remembered for a server that does not come back
	lastTidyIn = 2 * time.Second  // what Close gives it
)

func (t *tidier) ours(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.known[id]
	return ok
}

func (t *tidier) own(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known[id] = struct{}{}
}

// tidyLater forgets a run in the background; with cancel it is stopped first.
func (d *Driver) tidyLater(runID string, cancel bool) {
	t := &d.tidy
	t.mu.Lock()
	t.known[runID] = struct{}{}
	if cancel && len(t.cancel) < maxUntidy {
		t.cancel = append(t.cancel, runID)
	} else if len(t.forget) < maxUntidy {
		t.forget = append(t.forget, runID)
	}
	now := cancel || len(t.forget) >= tidyBatch // a GPU that works for nobody does not wait
	start := !t.working && d.closed.Err() == nil
	t.working = t.working || start
	t.mu.Unlock()
	if start {
		d.background(d.tidyUp)
	}
	if now {
		select {
		case t.kick <- struct{}{}:
		default:
		}
	}
}

// tidyUp works until nothing is left to do.
func (d *Driver) tidyUp() {
	wait := tidyDelay
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-d.tidy.kick:
		case <-d.closed.Done():
			timer.Stop()
			d.tidy.mu.Lock()
			d.tidy.working = false
			d.tidy.mu.Unlock()
			return
		}
		timer.Stop()
		wait = tidyDelay
		if err := d.tidyOnce(d.closed); err != nil && d.closed.Err() == nil {
			d.log.Debug("history entries stay on the back end for now", "err", err)
			wait = tidyRetry
		}
		d.tidy.mu.Lock()
		if len(d.tidy.forget)+len(d.tidy.cancel) == 0 {
			d.tidy.working = false
			d.tidy.mu.Unlock()
			return
		}
		d.tidy.mu.Unlock()
	}
}

// tidyOnce does what there is to do now.
func (d *Driver) tidyOnce(ctx context.Context) error {
	t := &d.tidy
	t.mu.Lock()
	forget, cancel := t.forget, t.cancel
	t.forget, t.cancel = nil, nil
	t.mu.Unlock()
	for i, id := range cancel {
		_, asked, err := d.interrupt(ctx, id)
		switch {
		case err != nil:
			d.untidy(forget, cancel[i:])
			return err
		case asked: // its history entry is still to come
			d.untidy(nil, []string{id})
		default:
			forget = append(forget, id)
		}
	}
	if len(forget) == 0 {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, d.options.RequestTimeout)
	defer stop()
	body := pyjson.AppendStrings([]byte(`{"delete":`), forget)
	if err := d.post(ctx, "/history", append(body, '}')); err != nil {
		d.untidy(forget, nil)
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range forget {
		delete(t.known, id)
		d.row.leave(id, false)
	}
	return nil
}

// untidy takes back what could not be done.
func (d *Driver) untidy(forget, cancel []string) {
	d.tidy.mu.Lock()
	defer d.tidy.mu.Unlock()
	d.tidy.forget = append(forget, d.tidy.forget...)
	d.tidy.cancel = append(cancel, d.tidy.cancel...)
}

// lastTidy makes one try at the end of the driver: what stays is other people's to read on the server.
func (d *Driver) lastTidy() {
	ctx, cancel := context.WithTimeout(context.Background(), lastTidyIn)
	defer cancel()
	if err := d.tidyOnce(ctx); err != nil {
		d.log.Warn("history entries stay on the back end", "err", err)
	}
}

// Cancel takes a run off the server in the background.
func (d *Driver) Cancel(runID string) { d.tidyLater(runID, true) }

// reply is the server's answer to a prompt.
type reply struct {
	err    error
	unsent bool // the server certainly did not take it
}

// hand posts a prompt.
func (d *Driver) hand(ctx context.Context, runID string, body []byte) reply {
	ctx, cancel := context.WithTimeout(ctx, d.options.PostTimeout)
	defer cancel()
	status, answer, err := d.do(ctx, http.MethodPost, "/prompt", body)
	switch {
	case err != nil:
		op, ok := errors.AsType[*net.OpError](err)
		return reply{err: err, unsent: ok && op.Op == "dial"}
	case status == http.StatusBadRequest:
		if _, ok := pyjson.Get(answer, "error"); !ok {
			return reply{unsent: true, err: refusal("refused", "The back end refused the graph without saying why.")}
		}
		return reply{unsent: true, err: &backend.Refused{Body: pyjson.Clean(answer)}}
	case status == http.StatusRequestEntityTooLarge:
		return reply{unsent: true, err: refusal("prompt_too_large", fmt.Sprintf("The graph has %d bytes, more than the back end takes.", len(body)))}
	case status != http.StatusOK:
		return reply{unsent: true, err: fmt.Errorf("%w: %w", backend.ErrLost, statusError{"POST /prompt", status})}
	}
	if id, _ := pyjson.Get(answer, "prompt_id"); pyjson.TextOf(id) != runID {
		d.tidyLater(pyjson.TextOf(id), true)
		return reply{unsent: true, err: fmt.Errorf("%w (%s): it gave the run another id", backend.ErrTooOld, Oldest)}
	}
	if errs, ok := pyjson.Get(answer, "node_errors"); ok && len(errs) > 2 {
		d.log.Warn("the back end leaves out outputs of the graph", "req", runID, "node_errors", string(errs))
	}
	return reply{}
}
