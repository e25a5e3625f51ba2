package dispatch

import (
	"bytes"
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/event"
)

// frames passes a run's frames on to its owner's session. update is called by one goroutine; a frame that names
// files waits, with those that name files after it, until the files can be opened by their owner.
type frames struct {
	attempt *attempt
	ended   atomic.Bool     // the back end is free for the next run
	ran     map[string]bool // nodes that were seen to run; of update alone

	mu        sync.Mutex
	held      []backend.Update // executed frames whose files are still to be brought home
	busy      chan struct{}    // closed when none is held any more; nil while none is
	announced map[string]bool  // nodes whose executed frame went out
	failed    bool             // a frame could not be sent: the result will tell again
}

// update takes one frame as the back end sent it.
func (f *frames) update(u backend.Update) error {
	a := f.attempt
	if u.Type == backend.Notice {
		a.notice(u.Data)
		return nil
	}
	a.begun.Store(true)
	if len(u.Data) > maxReport { // the result will tell why
		u.Data = json.RawMessage("{}")
		if u.Type == "executed" {
			return nil
		}
	}
	switch u.Type {
	case "execution_success", "execution_interrupted":
		a.free()
		return nil
	case "execution_error":
		if !blocked(u.Data) {
			a.free()
			return nil
		}
	case "execution_cached":
		a.names.noteCached(u.Data)
	case "executing":
		if f.ran == nil {
			f.ran = make(map[string]bool)
		}
		f.ran[u.Node] = true
	case "executed":
		return f.executed(u)
	}
	f.publish(u)
	return nil
}

// notice tells the owner a driver's sentence about why the run takes longer.
func (a *attempt) notice(data json.RawMessage) {
	var body struct{ Text string }
	if err := json.Unmarshal(data, &body); err != nil || body.Text == "" {
		a.note().Warn("a notice of a driver that says nothing", "err", err)
		return
	}
	a.line("%s", body.Text)
	a.deps.Bus.Publish(event.Event{User: a.user, Body: event.Notice{Severity: "info", Text: body.Text}})
}

// blocked reports whether an execution_error is about one node that was not run because another said so. The run
// goes on after it.
func blocked(data json.RawMessage) bool {
	return bytes.Contains(data, []byte(`"ExecutionBlocked"`))
}

// executed sends a frame that may name files.
func (f *frames) executed(u backend.Update) error {
	found := f.attempt.tr.Files(u)
	if len(found) > 0 && !found[0].Marked && !f.ran[u.Node] { // execution_cached leaves out nodes that other nodes brought in
		f.attempt.names.mark(u.Node)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy == nil && len(found) == 0 {
		f.announce(u)
		return nil
	}
	f.held = append(f.held, u)
	if f.busy == nil {
		f.busy = make(chan struct{})
		f.attempt.wg.Go(f.send)
	}
	return nil
}

// send brings the files of held frames home and sends the frames, in order, until none is held.
func (f *frames) send() {
	for {
		f.mu.Lock()
		if len(f.held) == 0 {
			close(f.busy)
			f.busy = nil
			f.mu.Unlock()
			return
		}
		u := f.held[0]
		f.held = f.held[1:]
		f.mu.Unlock()
		var err error
		for _, found := range f.attempt.tr.Files(u) {
			if err = f.attempt.names.bring(found); err != nil {
				break
			}
		}
		f.mu.Lock()
		if err == nil {
			f.announce(u)
		} else { // the result will be brought home with more patience, and then tell
			f.failed = true
		}
		f.mu.Unlock()
		if err != nil && f.attempt.ctx.Err() == nil {
			f.attempt.note().Warn("an output could not be brought home yet", "node", u.Node, "err", err)
		}
	}
}

// announce publishes an executed frame. The lock is held, so that such frames keep their order.
func (f *frames) announce(u backend.Update) {
	if f.announced == nil {
		f.announced = make(map[string]bool)
	}
	f.announced[u.Node] = true
	f.publish(u)
}

// wait returns when no frame is held any more. It reports whether all were sent.
func (f *frames) wait() bool {
	f.mu.Lock()
	busy := f.busy
	f.mu.Unlock()
	if busy != nil {
		<-busy
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.failed
}

// drop forgets the frames that are held, and returns when the files of the one that is not are home, or can't be.
func (f *frames) drop() {
	f.mu.Lock()
	f.held = nil
	f.mu.Unlock()
	f.wait()
}

// publish sends one frame to the owner's session, in the owner's ids and names.
func (f *frames) publish(u backend.Update) {
	a := f.attempt
	if a.job.ClientID == "" || !a.deps.Bus.Watched(a.user) {
		return
	}
	u, err := a.tr.In(u, a.names.lookup)
	if err != nil {
		a.note().Warn("a frame could not be translated", "type", u.Type, "err", err)
		return
	}
	e := event.Event{User: a.user}
	if u.Binary != nil {
		frame, err := comfy.DecodeBinary(u.Binary)
		e.Body = event.RunBinary{
			Job: a.id, Attempt: a.job.Attempt.N, PromptID: a.job.PromptID, ClientID: a.job.ClientID,
			Node: u.Node, Result: err != nil || frame.IsResult(), Frame: u.Binary,
		}
	} else {
		e.Body = event.RunFrame{
			Job: a.id, Attempt: a.job.Attempt.N, PromptID: a.job.PromptID, ClientID: a.job.ClientID,
			Type: u.Type, Node: u.Node, Data: u.Data,
		}
	}
	a.deps.Bus.Publish(e)
}
