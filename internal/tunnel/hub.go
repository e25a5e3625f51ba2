package tunnel

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// HubOptions are what a Hub needs of the studio around it.
type HubOptions struct {
	Studio  string // id
	Version string // of the program, for people

	// Check says whose a key is: the agent's name. Denied: nobody's, or revoked.
	Check func(ctx context.Context, key string) (name string, err error)
	// Join uses a one-time code. from is the network address that it comes from.
	Join func(ctx context.Context, code, name, from string, hello Hello) (Credentials, error)
	// From returns the network address that a request comes from, where proxies are trusted. Nil: the connection's.
	From func(*http.Request) string
	// Changed is called when an agent came or went. It must not block. May be nil.
	Changed func(name string)
	// Log may be nil.
	Log *slog.Logger
}

// Presence is what is known of an agent's line.
type Presence struct {
	Name   string
	Online bool
	Since  time.Time     // when the line came up or was lost
	Why    string        // why it was lost
	Hello  Hello         // as said last
	Clock  time.Duration // how far the agent's clock is ahead of the studio's
	From   string        // network address
}

// Hub is the studio's end of all lines. It is safe for concurrent use.
type Hub struct {
	o   HubOptions
	log *slog.Logger

	mu     sync.Mutex
	agents map[string]*member
	closed bool
	open   bool // it takes agents
	lines  sync.WaitGroup
}

// member is what the hub knows of one agent.
type member struct {
	Presence
	line  *line         // nil: none
	taken bool          // somebody finds out whether the older line lives
	came  chan struct{} // closed when a line comes up; then anew
}

// NewHub returns a hub that takes agents.
func NewHub(o HubOptions) *Hub {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(string) {}
	}
	return &Hub{o: o, log: o.Log, agents: map[string]*member{}, open: true}
}

// Agents returns what is known of all agents that were here since the start, by name.
func (h *Hub) Agents() []Presence {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]Presence, 0, len(h.agents))
	for _, m := range h.agents {
		if !m.Since.IsZero() {
			all = append(all, m.Presence)
		}
	}
	slices.SortFunc(all, func(a, b Presence) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Agent returns what is known of one agent. The zero value: it was not here since the start.
func (h *Hub) Agent(name string) Presence {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.agents[name]; m != nil {
		return m.Presence
	}
	return Presence{}
}

// Wait returns when the agent has a line, or an error when ctx ends.
func (h *Hub) Wait(ctx context.Context, name string) error {
	for {
		h.mu.Lock()
		m := h.member(name)
		online, came := m.line != nil, m.came
		h.mu.Unlock()
		if online {
			return nil
		}
		select {
		case <-came:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// member returns the entry of an agent. h.mu is held.
func (h *Hub) member(name string) *member {
	m := h.agents[name]
	if m == nil {
		m = &member{came: make(chan struct{})}
		m.Name = name
		h.agents[name] = m
	}
	return m
}

// Dial opens a stream to an agent. Unavailable: there is no line to it (CodeOffline, CodeNotJoined), or it has no
// ComfyUI now, in the agent's words. Busy: too many streams are open.
func (h *Hub) Dial(ctx context.Context, name string, kind Kind) (net.Conn, error) {
	h.mu.Lock()
	var l *line
	var p Presence
	m := h.agents[name]
	if m != nil {
		l, p = m.line, m.Presence
	}
	h.mu.Unlock()
	if l == nil {
		return nil, offline(name, p)
	}
	if kind == Large {
		conn, err := h.dialApart(ctx, m, l)
		if code := codeOf(err); code != CodeApart && code != CodeVersion {
			return conn, err
		}
		kind = ComfyUI
	}
	return h.openStream(ctx, m, l, []byte{byte(kind)})
}

// openStream opens a stream on a line, which leads where ask says.
func (h *Hub) openStream(ctx context.Context, m *member, l *line, ask []byte) (net.Conn, error) {
	name := l.agent
	if l.session.NumStreams() >= maxStreams {
		return nil, fault.New(fault.Busy, "The agent %s has %d streams open already.", name, maxStreams).WithCode("agent_busy")
	}
	stream, err := l.session.OpenStream()
	if err != nil {
		l.end(errCut)
		h.gone(m, l)
		return nil, fault.Wrap(fault.Unavailable, err, "The line to the agent %s is being lost.", name).WithCode(CodeOffline)
	}
	if err := lead(ctx, stream, ask); err != nil {
		stream.Close() //nolint:errcheck // it leads nowhere
		if l.session.IsClosed() {
			l.end(errCut)
			h.gone(m, l)
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		if _, ok := errors.AsType[*fault.Error](err); ok {
			return nil, err
		}
		return nil, fault.Wrap(fault.Unavailable, err, "The agent %s does not answer.", name).WithCode(CodeOffline)
	}
	return stream, nil
}

// offline is the error of an agent without a line.
func offline(name string, p Presence) error {
	if p.Since.IsZero() {
		return fault.New(fault.Unavailable, "The agent %s has not dialled home since the studio started.", name).WithCode(CodeOffline).
			WithRemedy("Start it on its machine: comfyume agent.")
	}
	return fault.New(fault.Unavailable, "The agent %s has been away since %s: %s.", name, p.Since.Format(time.DateTime), p.Why).WithCode(CodeOffline).
		WithRemedy("It comes back by itself; if not, look at its machine %s.", cmp.Or(p.Hello.Machine, "and its log"))
}

// lead tells the agent where a new stream is to lead, and hears whether it does.
func lead(ctx context.Context, stream net.Conn, ask []byte) error {
	stop := context.AfterFunc(ctx, func() { stream.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // the stream's end says it
	defer stop()
	if err := stream.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	if _, err := stream.Write(ask); err != nil {
		return err
	}
	var head [3]byte
	if _, err := io.ReadFull(stream, head[:1]); err != nil {
		return err
	}
	if head[0] != 0 {
		return refusedStream(stream, head[1:])
	}
	if !stop() {
		return context.Cause(ctx)
	}
	return stream.SetDeadline(time.Time{})
}

// refusedStream reads why the agent can't lead a stream on.
func refusedStream(stream io.Reader, size []byte) error {
	if _, err := io.ReadFull(stream, size); err != nil {
		return err
	}
	n := binary.BigEndian.Uint16(size)
	if n > maxAnswer {
		return errors.New("its answer is too long")
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(stream, raw); err != nil {
		return err
	}
	var r refusal
	if err := json.Unmarshal(raw, &r); err != nil || r.Detail == "" {
		return errors.New("its answer can't be read")
	}
	e := r.fault()
	if e.Kind == fault.Internal {
		e.Kind = fault.Unavailable
	}
	return e
}

// Cut ends the line of an agent that may not be here any more.
func (h *Hub) Cut(name, why string) {
	h.mu.Lock()
	var l *line
	if m := h.agents[name]; m != nil {
		l = m.line
	}
	h.mu.Unlock()
	if l != nil {
		l.end(errors.New(why))
	}
}

// Forget drops what is known of an agent that was removed, and cuts its line.
func (h *Hub) Forget(name string) {
	h.Cut(name, "the agent was removed")
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.agents[name]; m != nil {
		m.Presence = Presence{Name: name, Online: m.Online}
	}
}

// Open says whether the hub takes agents. One that takes none any more sends those away that are here: another server
// of the studio takes them.
func (h *Hub) Open(take bool) {
	h.mu.Lock()
	h.open = take && !h.closed
	h.mu.Unlock()
	if !take {
		h.sendAway("the server does not lead any more")
	}
}

// Close ends all lines and takes no more.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closed, h.open = true, false
	h.mu.Unlock()
	h.sendAway("the studio stops")
	h.lines.Wait()
	return nil
}

func (h *Hub) sendAway(why string) {
	h.mu.Lock()
	var all []*line
	for _, m := range h.agents {
		if m.line != nil {
			all = append(all, m.line)
		}
	}
	h.mu.Unlock()
	var leaving sync.WaitGroup
	for _, l := range all {
		leaving.Go(func() { l.goodbye(errors.New(why)) })
	}
	leaving.Wait()
}
