package sim

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"strconv"
	"sync"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// message is one frame, ready to be written.
type message struct {
	kind websocket.MessageType
	body []byte
}

// jsonFrame makes a text frame, the type first.
func jsonFrame(event string, data []byte) message {
	body := make([]byte, 0, len(event)+len(data)+24)
	body = append(append(body, `{"type": "`...), event...)
	body = append(append(append(body, `", "data": `...), data...), '}')
	return message{websocket.MessageText, body}
}

// binaryFrame makes a binary frame: event, a word, and two pieces.
func binaryFrame(event, word uint32, head, body []byte) message {
	b := make([]byte, 0, 8+len(head)+len(body))
	b = binary.BigEndian.AppendUint32(b, event)
	b = binary.BigEndian.AppendUint32(b, word)
	return message{websocket.MessageBinary, append(append(b, head...), body...)}
}

// hub knows the sockets by session id and what they may want to hear when they come.
type hub struct {
	life *life

	mu       sync.Mutex
	bySID    map[string]*socket
	all      map[*socket]bool // the forgotten ones too
	flags    map[string]bool  // sessions that asked for descriptions of previews
	watchers map[string]bool  // sessions that want the log
	client   string           // of the run that is going on, or went on last
	node     string           // that runs
	used     int64            // bytes of loaded models
	ended    bool
}

func newHub(l *life) *hub {
	return &hub{life: l, bySID: map[string]*socket{}, all: map[*socket]bool{}, flags: map[string]bool{}, watchers: map[string]bool{}}
}

// send gives a frame to a session. It is dropped when the session has no socket.
func (h *hub) send(sid string, m message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.bySID[sid]; s != nil {
		s.push(m)
	}
}

// broadcast gives a frame to every session.
func (h *hub) broadcast(m message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.bySID {
		s.push(m)
	}
}

// has reports whether a session has a socket; without a name, whether there is any.
func (h *hub) has(sid string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if sid == "" {
		return len(h.bySID) > 0
	}
	return h.bySID[sid] != nil
}

func (h *hub) wantsMetadata(sid string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.flags[sid]
}

func (h *hub) serves(it *item) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.client = it.client
}

func (h *hub) working(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.node = node
}

// memory remembers how much the loaded models take.
func (h *hub) memory(used int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.used = used
}

func (h *hub) usedMemory() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.used
}

// watch switches the log on or off for a session.
func (h *hub) watch(sid string, on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if on {
		h.watchers[sid] = true
	} else {
		delete(h.watchers, sid)
	}
}

// logged gives a line of the log to those that want it.
func (h *hub) logged(line []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for sid := range h.watchers {
		s := h.bySID[sid]
		if s == nil {
			delete(h.watchers, sid)
			continue
		}
		s.push(jsonFrame("logs", append(append([]byte(`{"entries": [`), line...), `], "size": null}`...)))
	}
}

// cut breaks all connections.
func (h *hub) cut() {
	h.mu.Lock()
	h.ended = true
	open := make([]*socket, 0, len(h.all))
	for s := range h.all {
		open = append(open, s)
	}
	h.mu.Unlock()
	for _, s := range open {
		s.cancel()
		s.raw.drop() // without a word: the process is gone
	}
}

func statusData(remaining int, sid string) []byte {
	out := strconv.AppendInt([]byte(`{"status": {"exec_info": {"queue_remaining": `), int64(remaining), 10)
	out = append(out, "}}"...)
	if sid != "" {
		out = pyjson.AppendString(append(out, `, "sid": `...), sid)
	}
	return append(out, '}')
}

func (l *life) statusChanged(remaining int) {
	l.sockets.broadcast(jsonFrame("status", statusData(remaining, "")))
}

// join takes a new socket in and greets it. A session that comes again takes the place of its older socket,
// which stays open but gets nothing any more.
func (h *hub) join(s *socket) bool {
	remaining := h.life.queue.remaining()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	h.bySID[s.sid] = s
	h.all[s] = true
	delete(h.flags, s.sid)
	s.push(jsonFrame("status", statusData(remaining, s.sid)))
	if h.client == s.sid && h.node != "" {
		s.push(jsonFrame("executing", append(pyjson.AppendString([]byte(`{"node": `), h.node), '}')))
	}
	return true
}

// leave forgets a socket's session. As in the real thing that is also so when another socket has taken the
// session over meanwhile.
func (h *hub) leave(s *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, s)
	delete(h.bySID, s.sid)
	delete(h.flags, s.sid)
}

// heard handles a text frame of a client. The first one may negotiate; nothing else has a meaning.
func (h *hub) heard(s *socket, text []byte) {
	if !pyjson.Valid(text) {
		return
	}
	first := !s.heard
	s.heard = true
	kind, _ := pyjson.Get(text, "type")
	if !first || pyjson.TextOf(kind) != "feature_flags" {
		return
	}
	wish, _ := pyjson.Get(text, "data", "supports_preview_metadata")
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flags[s.sid] = pyjson.Truthy(wish)
	s.push(jsonFrame("feature_flags", h.life.server.features()))
}

// maxIncoming is the largest frame a client may send.
const maxIncoming = 4 << 20

// handleSocket serves one WebSocket from the handshake to its end.
func (s *ComfyUI) handleSocket(w http.ResponseWriter, r *http.Request, l *life) {
	sid := query(r).Get("clientId")
	if sid == "" {
		id := uuid.New()
		sid = hex.EncodeToString(id[:])
	}
	if r.Header.Get("Sec-WebSocket-Key") == "" {
		text(w, http.StatusBadRequest, "No WebSocket UPGRADE hdr: None\n Can \"Upgrade\" only to \"WebSocket\".")
		return
	}
	ctx, cancel := context.WithCancel(l.ctx) // not the request's: that one ends with the handler
	defer cancel()
	sock := &socket{sid: sid, raw: &corked{}, cancel: cancel, wake: make(chan struct{}, 1), server: s}
	// The session is known before the client hears that it is connected: what it asks for next finds it there.
	if !l.sockets.join(sock) {
		hangUp(w)
		return
	}
	defer l.sockets.leave(sock)
	conn, err := websocket.Accept(&hijackable{w, sock.raw}, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return // answered already
	}
	conn.SetReadLimit(maxIncoming)
	sock.conn = conn
	var writer sync.WaitGroup
	writer.Go(func() { sock.write(ctx) })
	for {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			break
		}
		if kind == websocket.MessageText {
			l.sockets.heard(sock, data)
		}
	}
	cancel()
	conn.CloseNow() // most often closed already
	writer.Wait()
}
