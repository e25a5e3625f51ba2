package backendtest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// fakeSocket is one client's connection with what is still to be sent.
type fakeSocket struct {
	conn *websocket.Conn
	mu   sync.Mutex
	out  [][]byte
	kick chan struct{}
	end  context.CancelFunc
}

func (s *fakeSocket) send(frame []byte) {
	s.mu.Lock()
	s.out = append(s.out, frame)
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// serveSocket takes a client's socket; the handler stays until it is cut.
func (f *Fake) serveSocket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	id := r.URL.Query().Get("clientId")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := &fakeSocket{conn: conn, kick: make(chan struct{}, 1), end: cancel}
	f.mu.Lock()
	s.send(fmt.Appendf(nil, `{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": %d}}, "sid": %q}}`, f.count(), id))
	f.sockets[id] = s
	f.every[s] = struct{}{}
	f.mu.Unlock()
	f.wg.Go(func() {
		defer cancel()
		for {
			if _, _, err := conn.Read(ctx); err != nil {
				return
			}
		}
	})
	s.pump(ctx)
	f.mu.Lock()
	if f.sockets[id] == s {
		delete(f.sockets, id)
	}
	delete(f.every, s)
	f.mu.Unlock()
}

// pump writes what is to be sent until the socket is cut.
func (s *fakeSocket) pump(ctx context.Context) {
	for {
		s.mu.Lock()
		var next []byte
		if len(s.out) > 0 {
			next = s.out[0]
		}
		s.mu.Unlock()
		if next == nil {
			select {
			case <-s.kick:
				continue
			case <-ctx.Done():
				return
			}
		}
		if len(next) == 0 { // the end was put into the stream: what was sent before has to arrive
			s.conn.Close(websocket.StatusGoingAway, "") //nolint:errcheck // it may be gone already
			return
		}
		kind := websocket.MessageText
		if next[0] == 0 { // JSON and its like begin with a character, binary frames with their event word
			kind = websocket.MessageBinary
		}
		if s.conn.Write(ctx, kind, next) != nil {
			return
		}
		s.mu.Lock()
		s.out = s.out[1:]
		s.mu.Unlock()
	}
}

// status tells everybody the length of the queue. The lock is held.
func (f *Fake) status() {
	frame := fmt.Appendf(nil, `{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": %d}}}}`, f.count())
	for s := range f.every {
		if !f.mute {
			s.send(frame)
		}
	}
}

// Unsent tells how many frames wait in sockets whose clients do not read.
func (f *Fake) Unsent() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for s := range f.every {
		s.mu.Lock()
		n += len(s.out)
		s.mu.Unlock()
	}
	return n
}

// Mute stops sending frames, or goes on; what was not sent is lost.
func (f *Fake) Mute(mute bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mute = mute
}

// Broadcast sends a text frame to every socket, as custom nodes do.
func (f *Fake) Broadcast(frame string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.every {
		s.send([]byte(frame))
	}
}

// tell sends a frame to the client of a prompt.
func (f *Fake) tell(p *play, typ, format string, args ...any) json.RawMessage {
	data := json.RawMessage(fmt.Sprintf(format, args...))
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sockets[p.ClientID]; s != nil && !p.gone && !f.mute {
		s.send(fmt.Appendf(nil, `{"type": %q, "data": %s}`, typ, data))
	}
	return data
}

// work plays prompts until none is pending.
func (f *Fake) work() {
	for {
		f.mu.Lock()
		if len(f.pending) == 0 || f.running != nil {
			f.mu.Unlock()
			return
		}
		p := f.pending[0]
		f.pending = f.pending[1:]
		f.running = p
		f.requests["played"]++
		f.status()
		f.mu.Unlock()
		entry := f.play(p)
		f.mu.Lock()
		if !p.gone {
			f.history[p.ID] = entry
			f.running = nil
			f.status()
		}
		gone := p.gone
		f.mu.Unlock()
		if gone {
			return
		}
		f.tell(p, "executing", `{"node": null, "prompt_id": %q}`, p.ID)
		close(p.over)
	}
}

// play plays one prompt and returns its history entry.
func (f *Fake) play(p *play) json.RawMessage {
	var messages, outputs []string
	message := func(typ, format string, args ...any) {
		data := f.tell(p, typ, format, args...)
		messages = append(messages, fmt.Sprintf(`[%q, %s]`, typ, data))
	}
	now := func() int64 { return time.Now().UnixMilli() }
	message("execution_start", `{"prompt_id": %q, "timestamp": %d}`, p.ID, now())
	cached := f.cachedNodes(p)
	message("execution_cached", `{"nodes": %s, "prompt_id": %q, "timestamp": %d}`, f.told(cached), p.ID, now())
	status := "success"
	for _, id := range slices.Sorted(maps.Keys(p.graph)) {
		n := p.graph[id]
		if output, ok := cached[id]; ok {
			if output != "" {
				outputs = append(outputs, fmt.Sprintf(`%q: %s`, id, output))
				f.tell(p, "executed", `{"node": %q, "display_node": %q, "output": %s, "prompt_id": %q}`, id, id, output, p.ID)
			}
			continue
		}
		f.tell(p, "progress_state", `{"prompt_id": %q, "nodes": {%q: {"value": 0.0, "max": 1.0, "state": "running"}}}`, p.ID, id)
		f.tell(p, "executing", `{"node": %q, "display_node": %q, "prompt_id": %q}`, id, id, p.ID)
		output := ""
		switch n.Class {
		case "Text":
			output = fmt.Sprintf(`{"text": [%q]}`, n.text("text"))
		case "Save", "Preview", "Audio", "Animated", "Big":
			output = f.made(n)
		case "Step":
			f.tell(p, "progress", `{"value": 1, "max": 2, "prompt_id": %q, "node": %q}`, p.ID, id)
			f.preview(p, id)
		case "Fail":
			status = "error"
			message("execution_error", `{"prompt_id": %q, "node_id": %q, "node_type": "Fail", "executed": [], "exception_message": "it failed\n", "exception_type": "ValueError", "traceback": [], "current_inputs": {}, "current_outputs": [], "timestamp": %d}`, p.ID, id, now())
		case "Tick":
			ticker := time.NewTicker(50 * time.Millisecond)
			for running := true; running; {
				select {
				case <-ticker.C:
					f.tell(p, "progress", `{"value": 1, "max": 2, "prompt_id": %q, "node": %q}`, p.ID, id)
				case <-p.interrupt:
					running = false
				}
			}
			ticker.Stop()
			status = "error"
			message("execution_interrupted", `{"prompt_id": %q, "node_id": %q, "node_type": "Tick", "executed": [], "timestamp": %d}`, p.ID, id, now())
		case "Wait":
			select {
			case <-f.release:
			case <-p.interrupt:
				status = "error"
				message("execution_interrupted", `{"prompt_id": %q, "node_id": %q, "node_type": "Wait", "executed": [], "timestamp": %d}`, p.ID, id, now())
			}
		}
		if status == "error" {
			break
		}
		f.remember(n, output)
		if output != "" {
			outputs = append(outputs, fmt.Sprintf(`%q: %s`, id, output))
			f.tell(p, "executed", `{"node": %q, "display_node": %q, "output": %s, "prompt_id": %q}`, id, id, output, p.ID)
		}
	}
	if status == "success" {
		message("execution_success", `{"prompt_id": %q, "timestamp": %d}`, p.ID, now())
	}
	return fmt.Appendf(nil, `{"prompt": %s, "outputs": {%s}, "status": {"status_str": %q, "completed": %t, "messages": [%s]}, "meta": {}}`,
		p.tuple(), strings.Join(outputs, ", "), status, status == "success", strings.Join(messages, ", "))
}

// cacheKey is what makes two nodes alike.
func (n fakeNode) cacheKey() string { return fmt.Sprint(n.Class, n.Inputs) }

// cachedNodes returns the outputs of nodes that need not run, by id.
func (f *Fake) cachedNodes(p *play) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]string{}
	for id, n := range p.graph {
		if output, ok := f.cache[n.cacheKey()]; ok {
			out[id] = output
		}
	}
	return out
}

func (f *Fake) remember(n fakeNode, output string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cache != nil {
		f.cache[n.cacheKey()] = output
	}
}

// told returns the ids of cached nodes as a JSON list.
func (f *Fake) told(nodes map[string]string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hideCached {
		return "[]"
	}
	ids := slices.Sorted(maps.Keys(nodes))
	for i, id := range ids {
		ids[i] = fmt.Sprintf("%q", id)
	}
	return "[" + strings.Join(ids, ", ") + "]"
}

// Caching has nodes that ran before not run again, as a real server does.
func (f *Fake) Caching(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cache = nil; on {
		f.cache = map[string]string{}
	}
}

// HideCached has cached nodes left out of the list of them, as those that other nodes brought in are.
func (f *Fake) HideCached(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hideCached = on
}

// LoseFiles has nodes report files that they do not write.
func (f *Fake) LoseFiles(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lossy = on
}

// preview sends a small binary frame with its node.
func (f *Fake) preview(p *play, node string) {
	meta := fmt.Sprintf(`{"node_id": %q, "prompt_id": %q, "image_type": "image/jpeg"}`, node, p.ID)
	frame := append([]byte{0, 0, 0, 4, 0, 0, 0, byte(len(meta))}, meta...)
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sockets[p.ClientID]; s != nil {
		s.send(append(frame, 0xff, 0xd8, 0xff))
	}
}

// Release lets one Wait node go on, this one or the next.
func (f *Fake) Release() { f.release <- struct{}{} }

// CutSockets cuts every web socket and leaves the rest alone.
func (f *Fake) CutSockets() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.every {
		s.end()
	}
}

// Restart forgets what a process forgets: queue, history, temp files, sockets.
func (f *Fake) Restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.every {
		s.end()
	}
	for _, p := range append(f.pending, f.running) {
		if p != nil {
			p.gone = true
			p.once.Do(func() { close(p.interrupt) })
		}
	}
	f.reset()
}

// DropQueue forgets the pending prompts, as another client's "clear" does.
func (f *Fake) DropQueue() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = nil
	f.status()
}

// SetFrozen stops answering requests, or goes on. Connections stay open.
func (f *Fake) SetFrozen(frozen bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if frozen && f.frozen == nil {
		f.frozen = make(chan struct{})
	} else if !frozen && f.frozen != nil {
		close(f.frozen)
		f.frozen = nil
	}
}

// Close ends what plays and waits for it.
func (f *Fake) Close() {
	f.SetFrozen(false)
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.Restart()
	f.wg.Wait()
}
