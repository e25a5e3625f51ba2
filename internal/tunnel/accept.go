package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/fault"
)

// maxJoin bounds the body of POST join.
const maxJoin = 4 << 10

// ServeHTTP answers agents: POST Base/join, GET Base/connect and GET Base/apart.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(headerStudio, h.o.Studio)
	w.Header().Set("Cache-Control", "no-store")
	switch route := strings.TrimPrefix(r.URL.Path, Base); {
	case route == "/join" && r.Method == http.MethodPost:
		h.join(w, r)
	case route == "/connect" && r.Method == http.MethodGet:
		h.connect(w, r)
	case route == "/apart" && r.Method == http.MethodGet:
		h.apart(w, r)
	case route == "/join", route == "/connect", route == "/apart":
		w.Header().Set("Allow", map[string]string{"/join": "POST", "/connect": "GET", "/apart": "GET"}[route])
		h.refuse(w, http.StatusMethodNotAllowed, fault.New(fault.Invalid, "This address does not take %s.", r.Method).
			WithRemedy("Agents join and connect by themselves: comfyume agent join CODE --server URL, then comfyume agent."))
	default:
		h.refuse(w, http.StatusNotFound, fault.New(fault.Missing, "There is nothing for agents at this address.").
			WithCode(CodeVersion).WithRemedy("Update the agent or the studio: the two speak different versions."))
	}
}

// refuse answers with an error.
func (h *Hub) refuse(w http.ResponseWriter, status int, err error) {
	raw, encodeErr := json.Marshal(refusalOf(err))
	if encodeErr != nil {
		raw = []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/json")
	if seconds, ok := fault.RetryAfter(err); ok {
		w.Header().Set("Retry-After", seconds)
	}
	w.WriteHeader(status)
	w.Write(raw) //nolint:errcheck // nobody may be there any more
}

// statusOf says that a key is wrong as HTTP does: what is denied to an agent is denied for its key.
func statusOf(err error) int {
	if fault.Is(err, fault.Denied) {
		return http.StatusUnauthorized
	}
	return fault.KindOf(err).Status()
}

// fail answers with err, and logs what only the log may know.
func (h *Hub) fail(w http.ResponseWriter, what string, err error) {
	if fault.KindOf(err) == fault.Internal {
		h.log.Error("an agent was not answered", "what", what, "err", err)
	}
	h.refuse(w, statusOf(err), err)
}

// from is where a request comes from.
func (h *Hub) from(r *http.Request) string {
	if h.o.From != nil {
		return h.o.From(r)
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func (h *Hub) join(w http.ResponseWriter, r *http.Request) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		h.refuse(w, http.StatusUnsupportedMediaType, fault.New(fault.Invalid, "The body is not called JSON.").
			WithRemedy("Send it with Content-Type: application/json."))
		return
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJoin))
	var req joinRequest
	if err == nil {
		err = json.Unmarshal(raw, &req)
	}
	if err == nil {
		err = req.Hello.check()
	}
	if err != nil {
		h.fail(w, "join", badHello(err))
		return
	}
	c, err := h.o.Join(r.Context(), req.Code, req.Name, h.from(r), req.Hello)
	if err != nil {
		h.fail(w, "join", err)
		return
	}
	c.Studio = h.o.Studio
	if raw, err = json.Marshal(c); err != nil {
		h.fail(w, "join", err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(raw) //nolint:errcheck // nobody may be there any more; the operator makes another code
	h.log.Info("an agent joined", "agent", c.Name, "machine", req.Hello.Machine, "version", req.Hello.Version, "remote", h.from(r))
}

func badHello(err error) error {
	return fault.Wrap(fault.Invalid, err, "What the agent says of itself can't be read: %s.", err).WithCode(CodeHello).
		WithRemedy("Update the agent or the studio: the two speak different versions.")
}

// connect takes a line.
func (h *Hub) connect(w http.ResponseWriter, r *http.Request) {
	name, hello, err := h.admit(r)
	if err != nil {
		h.fail(w, "connect", err)
		return
	}
	h.mu.Lock()
	open := h.open
	h.mu.Unlock()
	if !open {
		h.fail(w, "connect", fault.New(fault.Unavailable, "This server takes no agents: it does not lead the studio, or stops.").
			WithCode(CodeNotLeading).WithRemedy("The agent tries again by itself."))
		return
	}
	if err := h.makeRoom(r.Context(), name, hello); err != nil {
		h.fail(w, "connect", err)
		return
	}
	defer h.roomMade(name)
	socket, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{protocol}, CompressionMode: websocket.CompressionDisabled,
		InsecureSkipVerify: true, // agents are no browsers and have no cookie: the key is what counts
	})
	if err != nil {
		return // it was answered
	}
	l, err := newLine(socket, nil, false)
	if err != nil {
		h.log.Error("a line was not begun", "agent", name, "err", err)
		return
	}
	h.up(name, l, hello, h.from(r))
}

const passUpgrade = "Have the proxy pass Upgrade and Connection on (in nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade, proxy_set_header Connection upgrade)."

// whose finds out which agent asks.
func (h *Hub) whose(r *http.Request) (name string, err error) {
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || key == "" || len(key) > maxWord {
		return "", fault.New(fault.Denied, "The agent sent no key.").WithCode(CodeKey).
			WithRemedy("Join first: comfyume agent join CODE --server URL.")
	}
	return h.o.Check(r.Context(), key)
}

// admit finds out who asks, before anything is done for them.
func (h *Hub) admit(r *http.Request) (name string, hello Hello, err error) {
	if name, err = h.whose(r); err != nil {
		return "", hello, err
	}
	if hello, err = decodeHello(r.Header.Get(headerHello)); err != nil {
		return "", hello, badHello(err)
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", hello, fault.New(fault.Unavailable, "Something between the agent and the studio lets no web sockets through: the Upgrade header was lost.").
			WithCode(CodeUpgrade).WithRemedy(passUpgrade)
	}
	for _, p := range strings.Split(strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ","), ",") {
		if strings.TrimSpace(p) == protocol {
			return name, hello, nil
		}
	}
	return "", hello, fault.New(fault.Invalid, "The agent (%s) speaks another version of the line than the studio (%s).", hello.Version, h.o.Version).
		WithCode(CodeVersion).WithRemedy("Install the same version of comfyume on both.")
}

// makeRoom sees to it that no other line of the agent is left: one of the same process was lost without our noticing, and
// one of another process is given a moment to show that it lives.
func (h *Hub) makeRoom(ctx context.Context, name string, hello Hello) error {
	h.mu.Lock()
	m := h.member(name)
	if m.taken {
		h.mu.Unlock()
		return fault.New(fault.Busy, "Another connection of the agent %s is being made.", name)
	}
	m.taken = true
	l, p := m.line, m.Presence
	h.mu.Unlock()
	if l == nil {
		return nil
	}
	if p.Hello.Instance != hello.Instance && alive(ctx, l) {
		h.roomMade(name)
		return fault.New(fault.Conflict, "Two agents use the name %s: one on %s (%s) since %s, and one on %s.",
			name, p.Hello.Machine, p.From, p.Since.Format(time.DateTime), hello.Machine).WithCode(CodeTaken).
			WithRemedy("Stop one of them, or let it join under a name of its own: comfyume backend join NAME.")
	}
	l.end(errReplaced)
	for deadline := time.Now().Add(greetWithin); ; {
		h.mu.Lock()
		gone := m.line != l
		h.mu.Unlock()
		if gone {
			return nil
		}
		if time.Now().After(deadline) || pause(ctx, 2*time.Millisecond) != nil {
			h.roomMade(name)
			return fault.New(fault.Busy, "The older line of the agent %s has not ended yet.", name)
		}
	}
}

func (h *Hub) roomMade(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.member(name).taken = false
}

// alive waits until something is heard on a line, or should have been.
func alive(ctx context.Context, l *line) bool {
	before := l.heard.Load()
	for l.silence() < patience {
		if l.heard.Load() != before {
			return true
		}
		if pause(ctx, beatEvery/20) != nil {
			return true // whoever asks has gone
		}
		select {
		case <-l.done:
			return false
		default:
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// up lets an agent's line work. It does not wait for its end: the goroutine is the server's.
func (h *Hub) up(name string, l *line, hello Hello, from string) {
	h.mu.Lock()
	if !h.open {
		h.mu.Unlock()
		l.end(errors.New("the hub is closed"))
		return
	}
	m := h.member(name)
	l.agent, m.line = name, l
	m.Presence = Presence{Name: name, Online: true, Since: time.Now(), Hello: hello, From: from}
	if !hello.Time.IsZero() {
		m.Clock = time.Until(hello.Time)
	}
	clock := m.Clock
	close(m.came)
	m.came = make(chan struct{})
	h.lines.Go(func() { h.refuseStreams(l) })
	h.lines.Go(func() { h.follow(m, l) })
	h.mu.Unlock()
	h.log.Info("an agent dialled home", "agent", name, "machine", hello.Machine, "version", hello.Version, "remote", from)
	if clock.Abs() > clockOff {
		h.log.Warn("the clocks of an agent and of the studio differ", "agent", name, "by", clock.Round(time.Second))
	}
	h.o.Changed(name)
}

// follow lets a line work until it ends.
func (h *Hub) follow(m *member, l *line) {
	l.run(context.Background()) //nolint:errcheck // gone tells it
	h.gone(m, l)
}

// gone takes in that a line has ended. Whoever notices first tells it.
func (h *Hub) gone(m *member, l *line) {
	h.mu.Lock()
	news := m.line == l
	if news {
		m.line = nil
		m.Online, m.Since, m.Why = false, time.Now(), l.why.Error()
	}
	h.mu.Unlock()
	if news {
		h.log.Info("an agent is away", "agent", l.agent, "why", l.why)
		h.o.Changed(l.agent)
	}
}

// refuseStreams ends a line whose agent managed to open a stream.
func (h *Hub) refuseStreams(l *line) {
	if _, err := l.session.AcceptStream(); err == nil {
		l.end(errRude)
	}
}
