package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// watcher is the socket of a person's browser: it connects again whenever it is cut, and does nothing else.
type watcher struct {
	l      *loader
	editor bool // it tells what it can, as the editor does
	at     int  // the server it is at, or tries next: see loader.others
	cancel context.CancelFunc

	mu        sync.Mutex
	conn      int            // how many connections there were
	ends      map[string]int // connection that told the job's end last, by prompt id
	remaining int            // what the last status said; -1 before the first one of a connection
	history   int            // entries that were looked at when the end was told
}

func newWatcher(l *loader, editor bool) *watcher {
	return &watcher{l: l, editor: editor, ends: map[string]int{}, remaining: -1}
}

// run listens until it is stopped.
func (w *watcher) run(ctx context.Context, t *testing.T) {
	ctx, cancel := context.WithCancel(ctx)
	w.mu.Lock()
	w.cancel = cancel
	w.mu.Unlock()
	defer cancel()
	for ctx.Err() == nil {
		w.listen(ctx, t)
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond): // editors wait longer
		}
	}
}

func (w *watcher) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancel()
}

// listen follows one connection to its end.
func (w *watcher) listen(ctx context.Context, t *testing.T) {
	header := http.Header{"Authorization": {"Bearer " + w.l.token}}
	// The client has no time limit: it would end the socket.
	base := w.server()
	conn, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(base, "http")+"/ws?clientId="+w.l.sid,
		&websocket.DialOptions{HTTPHeader: header, HTTPClient: &http.Client{}})
	if err != nil {
		w.at++
		return // the server is away
	}
	defer conn.CloseNow()
	conn.SetReadLimit(64 << 20)
	if w.editor {
		hello := `{"type": "feature_flags", "data": {"supports_preview_metadata": true}}`
		if conn.Write(ctx, websocket.MessageText, []byte(hello)) != nil {
			return
		}
	}
	w.mu.Lock()
	w.conn++
	w.remaining = -1
	w.mu.Unlock()
	for {
		kind, raw, err := conn.Read(ctx)
		if err != nil {
			return
		}
		if kind == websocket.MessageText {
			w.frame(t, raw)
		}
	}
}

// server is the address that this browser is at.
func (w *watcher) server() string {
	return append([]string{w.l.base}, w.l.others...)[w.at%(1+len(w.l.others))]
}

// frame takes one JSON frame in.
func (w *watcher) frame(t *testing.T, raw []byte) {
	var f struct {
		Type string
		Data struct {
			PromptID string `json:"prompt_id"`
			Status   *struct {
				Exec struct {
					Queue int `json:"queue_remaining"`
				} `json:"exec_info"`
			}
		}
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Errorf("%s: a frame that is no JSON: %s", w.l.name, raw)
		return
	}
	switch f.Type {
	case "status":
		if f.Data.Status != nil {
			w.mu.Lock()
			w.remaining = f.Data.Status.Exec.Queue
			w.mu.Unlock()
		}
	case "execution_success", "execution_error", "execution_interrupted":
		w.end(t, f.Data.PromptID)
	}
}

// end takes in that a run is over: once a connection, and not before it is in history.
func (w *watcher) end(t *testing.T, id string) {
	w.mu.Lock()
	if w.ends[id] == w.conn {
		t.Errorf("%s: the end of job %s was told twice over one connection", w.l.name, id)
	}
	w.ends[id] = w.conn
	look := len(w.ends)%5 == 0 // looking costs time, and others need the machine too
	w.mu.Unlock()
	if !look {
		return
	}
	var history map[string]json.RawMessage
	here := &loader{base: w.server(), token: w.l.token, http: w.l.http}
	if err := here.call(http.MethodGet, "/history/"+id, nil, &history); err != nil {
		return // the server has gone meanwhile
	}
	if _, ok := history[id]; !ok {
		t.Errorf("%s: the end of job %s was told before it was in history", w.l.name, id)
	}
	w.mu.Lock()
	w.history++
	w.mu.Unlock()
}

// settle waits until the browser knows the end of every acknowledged job and that nothing is left. A job that was
// deleted while it waited has no end to be told.
func (w *watcher) settle(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		w.mu.Lock()
		var open []string
		for id, o := range w.l.acked {
			if w.ends[id] == 0 && !o.asked {
				open = append(open, id)
			}
		}
		remaining, looked := w.remaining, w.history
		w.mu.Unlock()
		if len(open) == 0 && remaining == 0 {
			if looked == 0 && len(w.l.acked) > 50 {
				t.Errorf("%s: no end was held against history", w.l.name)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: the browser believes that %d jobs are open and was not told the end of %d of %d: %q",
				w.l.name, remaining, len(open), len(w.l.acked), open[:min(5, len(open))])
			for _, id := range open[:min(5, len(open))] {
				var j json.RawMessage
				err := w.l.call(http.MethodGet, "/api/jobs/"+id, nil, &j)
				t.Logf("%s, %+v: %.1000s (%v)", id, *w.l.acked[id], j, err)
			}
			return
		}
		<-time.After(20 * time.Millisecond)
	}
}
