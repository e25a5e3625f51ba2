package backendtest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/coder/websocket"
)

// Line is one event of a recorded conversation between clients and a real ComfyUI.
type Line struct {
	Kind    string          `json:"kind"` // http, ws_open, ws_close, ws_send, ws, note
	JSON    json.RawMessage `json:"json"`
	Base64  string          `json:"base64"`
	Client  string          `json:"client"`
	Request struct {
		Method string          `json:"method"`
		Path   string          `json:"path"`
		JSON   json.RawMessage `json:"json"`
	} `json:"request"`
	Response struct {
		Status int             `json:"status"`
		JSON   json.RawMessage `json:"json"`
	} `json:"response"`
}

// ReadRecording reads a recording, one event a line.
func ReadRecording(raw []byte) (lines []Line, err error) {
	for text := range bytes.Lines(raw) {
		var l Line
		if err := json.Unmarshal(text, &l); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(lines)+1, err)
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// ends reports whether the line is a frame after which the server has the run in its history.
func (l Line) ends() bool {
	var f struct {
		Type string `json:"type"`
		Data struct {
			Node *string `json:"node"`
		} `json:"data"`
	}
	return l.Kind == "ws" && json.Unmarshal(l.JSON, &f) == nil && f.Type == "executing" && f.Data.Node == nil
}

// Bytes returns a binary frame, as far as it was recorded: long ones are cut.
func (l Line) Bytes() []byte {
	text := strings.TrimRight(l.Base64, ".")
	b, err := base64.StdEncoding.DecodeString(text[:len(text)/4*4])
	if err != nil {
		return nil
	}
	return b
}

// Post tells whether the line is a POST of path.
func (l Line) Post(path string) bool {
	return l.Kind == "http" && l.Request.Method == http.MethodPost && l.Request.Path == path
}

// Player is a server that plays a recording to one client at a time: what the recorded client A was sent after each
// of its requests goes to whoever makes the same request now, with its own ids.
type Player struct {
	lines []Line

	mu      sync.Mutex
	next    int               // the first line not played yet
	ids     map[string]string // recorded prompt id → present one
	posted  string            // recorded id of the run that goes on
	ended   map[string]bool   // recorded ids that are in the history
	marker  []byte
	sockets map[*fakeSocket]bool
	clients map[string]*fakeSocket
	client  string // id of the client whose run goes on
	away    bool   // it was cut, and has not looked at the queue since: real runs take their time, this one waits
	wg      sync.WaitGroup
}

// NewPlayer returns a player at the beginning of a recording.
func NewPlayer(lines []Line) *Player {
	return &Player{lines: lines, ids: map[string]string{}, ended: map[string]bool{}, sockets: map[*fakeSocket]bool{}, clients: map[string]*fakeSocket{}}
}

// Close cuts what is open.
func (p *Player) Close() {
	p.mu.Lock()
	for s := range p.sockets {
		s.end()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// Handler serves the recording.
func (p *Player) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ws", p.socket)
	mux.HandleFunc("POST /prompt", p.prompt)
	mux.HandleFunc("POST /interrupt", func(w http.ResponseWriter, _ *http.Request) { p.pass("/interrupt") })
	mux.HandleFunc("POST /history", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /history/{id}", p.history)
	mux.HandleFunc("GET /queue", p.queue)
	mux.HandleFunc("GET /view", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.marker == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Write(p.marker)
	})
	mux.HandleFunc("POST /upload/image", func(w http.ResponseWriter, r *http.Request) {
		file, _, err := r.FormFile("image")
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		b, err := io.ReadAll(file)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		p.marker = b
		p.mu.Unlock()
		answer(w, http.StatusOK, `{"name":"x","subfolder":"","type":"temp"}`)
	})
	return mux
}

func (p *Player) socket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := &fakeSocket{conn: conn, kick: make(chan struct{}, 1), end: cancel}
	s.send([]byte(`{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "x"}}`))
	p.mu.Lock()
	id := r.URL.Query().Get("clientId")
	p.sockets[s] = true
	p.clients[id] = s
	p.play()
	p.mu.Unlock()
	p.wg.Go(func() {
		defer cancel()
		for {
			if _, _, err := conn.Read(ctx); err != nil {
				return
			}
		}
	})
	s.pump(ctx)
	p.mu.Lock()
	delete(p.sockets, s)
	if p.clients[id] == s {
		delete(p.clients, id)
	}
	p.mu.Unlock()
}

// play sends frames up to the next request that changes something, or the next cut. The lock is held.
func (p *Player) play() {
	for ; p.posted != "" && !p.away && p.next < len(p.lines); p.next++ {
		l := p.lines[p.next]
		switch {
		case l.Kind == "http" && l.Request.Method == http.MethodPost:
			return // until it is made
		case l.Kind == "ws_close" && l.Client == "A":
			if s := p.clients[p.client]; s != nil {
				s.send([]byte{}) // cuts it once the frames before are out
				delete(p.clients, p.client)
			}
			p.away = true
		case l.Kind == "ws" && (l.Client == "A" || l.Client == "A2"):
			s := p.clients[p.client]
			if s == nil {
				return // until the client is back
			}
			s.send(p.frame(l))
			if l.ends() {
				p.ended[p.posted] = true
			}
		}
	}
}

// frame returns a recorded frame with the present ids.
func (p *Player) frame(l Line) []byte {
	if l.Base64 != "" {
		return l.Bytes()
	}
	return p.present(l.JSON)
}

// present replaces recorded prompt ids. Recorded frames have their type first, as the server wrote them.
func (p *Player) present(raw []byte) []byte {
	text := string(raw)
	for old, now := range p.ids {
		text = strings.ReplaceAll(text, old, now)
	}
	return []byte(text)
}

// pass goes on behind the next recorded POST of path.
func (p *Player) pass(path string) (Line, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := p.next; i < len(p.lines); i++ {
		if p.lines[i].Post(path) {
			p.next = i + 1
			if path != "/prompt" {
				p.play()
			}
			return p.lines[i], true
		}
	}
	return Line{}, false
}

func (p *Player) prompt(w http.ResponseWriter, r *http.Request) {
	var body struct {
		PromptID string `json:"prompt_id"`
		ClientID string `json:"client_id"`
	}
	l, ok := p.pass("/prompt")
	if !ok || json.NewDecoder(r.Body).Decode(&body) != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	var recorded struct {
		PromptID string `json:"prompt_id"`
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if json.Unmarshal(l.Response.JSON, &recorded) == nil && recorded.PromptID != "" {
		p.ids[recorded.PromptID] = body.PromptID
		p.posted, p.client = recorded.PromptID, body.ClientID
	}
	answer(w, l.Response.Status, string(p.present(l.Response.JSON)))
	p.play()
}

func (p *Player) history(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if entry := p.entry(r.PathValue("id")); entry != nil {
		answer(w, http.StatusOK, string(p.present(entry)))
		return
	}
	answer(w, http.StatusOK, "{}")
}

// entry returns the recorded answer to GET /history/{id}.
func (p *Player) entry(now string) json.RawMessage {
	for old, id := range p.ids {
		if id != now || !p.ended[old] {
			continue
		}
		for _, l := range p.lines {
			if l.Kind == "http" && l.Request.Path == "/history/"+old && len(l.Response.JSON) > 2 {
				return l.Response.JSON
			}
		}
		return p.told(old)
	}
	return nil
}

// told makes the history's answer for a run of which it was not recorded, out of its frames: a server has a run in its
// queue or in its history.
func (p *Player) told(id string) json.RawMessage {
	var outputs, messages []string
	status := "error"
	for _, l := range p.lines {
		var f struct {
			Type string
			Data json.RawMessage
		}
		var of struct {
			PromptID string `json:"prompt_id"`
			Node     string
			Output   json.RawMessage
		}
		if l.Kind != "ws" || json.Unmarshal(l.JSON, &f) != nil || json.Unmarshal(f.Data, &of) != nil || of.PromptID != id {
			continue
		}
		switch {
		case f.Type == "executed":
			outputs = append(outputs, fmt.Sprintf("%q: %s", of.Node, of.Output))
		case strings.HasPrefix(f.Type, "execution_"):
			messages = append(messages, fmt.Sprintf("[%q, %s]", f.Type, f.Data))
		}
		if f.Type == "execution_success" {
			status = "success"
		}
	}
	return fmt.Appendf(nil, `{%q: {"prompt": [0, %q, {}, {}, []], "outputs": {%s}, "status": {"status_str": %q, "completed": %t, "messages": [%s]}, "meta": {}}}`,
		id, id, strings.Join(outputs, ", "), status, status == "success", strings.Join(messages, ", "))
}

func (p *Player) queue(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	running := ""
	if p.posted != "" && !p.ended[p.posted] {
		running = fmt.Sprintf(`[0, %q, {}, {}, []]`, p.ids[p.posted])
	}
	answer(w, http.StatusOK, `{"queue_running": [`+running+`], "queue_pending": []}`)
	if p.away {
		p.away = false
		p.play()
	}
}
