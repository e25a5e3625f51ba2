package room

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// Serve makes the request a socket of user's session sid, which may be empty: then the session is new. It returns when the
// upgrade is done; the socket lives on by itself. An upgrade that can't be served is refused with an error and
// nothing has been written: a socket that is accepted and closed makes editors ask for everything again.
// Whether the request's origin may open sockets is checked at the door.
func (h *Hub) Serve(w http.ResponseWriter, r *http.Request, user, sid string) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	known := sid != ""
	if !known {
		sid = newSID()
	}
	rm, err := h.reserve(user)
	if err != nil {
		return err
	}
	s := &socket{room: rm, sid: sid}
	hijacker := &thinHijacker{ResponseWriter: w, timeout: h.options.WriteTimeout}
	alive := func() { s.lastIn.Store(time.Now().UnixNano()) }
	s.conn, err = websocket.Accept(hijacker, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true,
		OnPongReceived: func(_ context.Context, payload []byte) {
			alive()
			s.heardPing(payload)
		},
		OnPingReceived: func(context.Context, []byte) bool { alive(); return true },
	})
	rm.mu.Lock()
	rm.reserved--
	if err != nil {
		rm.reap(time.Now())
		rm.mu.Unlock()
		h.log.Debug("upgrade came to nothing", "user", user, "err", err)
		return nil // Accept has answered, or the connection is gone
	}
	s.nc = hijacker.conn
	s.conn.SetReadLimit(maxIncoming)
	h.mu.Lock()
	h.next++
	s.slot = h.next
	closed := h.closed
	if !closed {
		h.wg.Go(s.read)
	}
	h.mu.Unlock()
	if closed {
		rm.mu.Unlock()
		_ = s.conn.CloseNow()
		return nil
	}
	rm.attach(s, known)
	rm.mu.Unlock()
	if known && time.Since(rm.since()) < restartGrace {
		h.spawn(func() { rm.recall(s) })
	}
	return nil
}

// reserve takes one of user's sockets, so that the limit holds although the upgrade takes a moment.
func (h *Hub) reserve(user string) (*room, error) {
	r := h.enter(user)
	if r == nil {
		return nil, fault.New(fault.Unavailable, "The studio is going down.").WithRemedy("Try again in a moment.")
	}
	defer r.mu.Unlock()
	if limit := h.options.SocketsPerUser; len(r.sockets)+r.reserved >= limit {
		return nil, fault.New(fault.Busy, "You have %d connections open, which is the limit.", limit).
			WithCode("sockets_per_user").WithRemedy("Close some of the pages or programs that use this workspace.")
	}
	r.reserved++
	return r, nil
}

// checkUpgrade refuses what is no WebSocket handshake.
func checkUpgrade(r *http.Request) error {
	bad := func(what string) error {
		return fault.New(fault.Invalid, "This address takes WebSocket connections: %s.", what).WithCode("no_websocket")
	}
	if r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1) {
		return bad("the request is not a GET of HTTP/1.1")
	}
	if !hasToken(r.Header.Values("Connection"), "upgrade") || !hasToken(r.Header.Values("Upgrade"), "websocket") {
		return bad("the request asks for no upgrade; a proxy in between may have dropped the Upgrade header")
	}
	if r.Header.Get("Sec-WebSocket-Version") != "13" {
		return bad("the version is not 13")
	}
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	if err != nil || len(key) != 16 || len(r.Header.Values("Sec-WebSocket-Key")) != 1 {
		return bad("the key is missing or malformed")
	}
	return nil
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// newSID makes a session id as a real server does: 32 hexadecimal characters.
func newSID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails; see its documentation
	return hex.EncodeToString(b[:])
}

// goodbye closes a socket in form.
func (s *socket) goodbye() {
	_ = s.conn.Close(websocket.StatusGoingAway, "the studio is going down")
}

// Hold keeps back what is told of one job, so that no client hears of a run whose POST is not answered yet: many
// register the id, or even open the socket, only then.
type Hold struct {
	room   *room
	id     job.ID
	events []event.Event
}

// Hold begins to keep back what is told of the job with id. Release it when the answer has been flushed, whatever
// became of the job.
func (h *Hub) Hold(user string, id job.ID) *Hold {
	r := h.enter(user)
	if r == nil {
		return &Hold{}
	}
	defer r.mu.Unlock()
	hold := &Hold{room: r, id: id}
	if r.holds == nil {
		r.holds = make(map[job.ID]*Hold)
	}
	r.holds[id] = hold
	return hold
}

// Release tells what was kept back, in order, and everything that follows at once. Idempotent.
func (h *Hold) Release() {
	r := h.room
	if r == nil {
		return
	}
	h.room = nil
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drain() // what was announced before is kept back too, and goes out in its order
	delete(r.holds, h.id)
	if len(r.holds) == 0 {
		r.holds = nil
	}
	for _, e := range h.events {
		r.handle(e)
	}
	r.settle()
}

// Shown is a job of which the room knows more than the queue.
type Shown struct {
	Job       job.Job
	Lingering bool // finished, and still to be shown as running
}

// Shown lists the person's jobs that the room believes open, and those that linger. Between the commit that ends a job
// and its announcement the queue knows more: what is not open there any more has just ended.
func (h *Hub) Shown(user string) []Shown {
	r := h.look(user)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	var all []Shown
	for _, n := range r.runs {
		if lingers := n.lingers(now); lingers || n.ended.IsZero() {
			all = append(all, Shown{Job: *n.job, Lingering: lingers})
		}
	}
	for _, hold := range r.holds {
		for _, e := range hold.events {
			if c, ok := e.Body.(event.JobChanged); ok {
				all = append(all, Shown{Job: *c.Job})
				break
			}
		}
	}
	return all
}
