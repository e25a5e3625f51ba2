package room

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// Limits of what waits for a slow socket.
const (
	crowdedFrames = 32       // from here on progress replaces waiting progress of its key
	fullFrames    = 512      // from here on the waiting frames are replaced by what is true now
	fullBytes     = 8 << 20  // the same
	deadBytes     = 64 << 20 // results that can't be given again: the socket is cut
)

// maxIncoming bounds what a client may send in one message, as a real server does.
const maxIncoming = 4 << 20

// socket is one WebSocket of a session. Its reader sleeps in a goroutine of its own; its writer exists while frames
// wait. It is safe for concurrent use.
type socket struct {
	room  *room
	sid   string
	conn  *websocket.Conn
	nc    *frameConn
	slot  int       // second of the ping period at which it is pinged
	since time.Time // when it was opened

	lastIn  atomic.Int64 // when something came from the client, ns
	proven  atomic.Int64 // when it was pinged for the last time that it answered, ns: what was sent before has arrived
	lastOut atomic.Int64 // when something was written, ns
	talks   atomic.Bool  // it sent feature_flags: an editor
	preview atomic.Bool  // it takes previews with metadata (binary event 4)

	mu      sync.Mutex
	closed  bool
	writing bool
	queue   []frame
	bytes   int // of queue

	// Guarded by the room's lock.
	painted  *run        // whose executing frame went out last
	reload   *time.Timer // gives remembered frames again while the page loads
	replays  int         // how often it did
	recalled bool        // it was told what it may have missed elsewhere
	heard    int64       // until when earlier sockets of the session surely got what was sent, ns
	pinged   time.Time   // when it was pinged last
	owed     bool        // the next tick pings it
	logs     bool        // it subscribed to log lines
	studio   bool        // our extension listens
}

// push queues frames and sees to it that they are written.
func (s *socket) push(frames ...frame) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		runAfters(frames)
		return
	}
	for i := range frames {
		s.add(frames[i])
	}
	start := !s.writing && len(s.queue) > 0
	if start {
		s.writing = true
	}
	s.mu.Unlock()
	if start {
		s.room.hub.wg.Go(s.write)
	}
}

// add appends f, or puts it in the place of the waiting frame it supersedes. The lock is held.
func (s *socket) add(f frame) {
	switch f.kind {
	case kindStatus:
		if n := len(s.queue); n > 0 && s.queue[n-1].kind == kindStatus && s.queue[n-1].after == nil {
			s.bytes += len(f.data) - len(s.queue[n-1].data)
			s.queue[n-1] = f
			return
		}
	case kindProgress:
		if len(s.queue) >= crowdedFrames && s.replace(f) {
			return
		}
	}
	s.queue = append(s.queue, f)
	s.bytes += len(f.data)
}

// replace puts f in the place of the waiting frame with its key.
func (s *socket) replace(f frame) bool {
	for i := len(s.queue) - 1; i >= 0; i-- {
		q := &s.queue[i]
		if q.kind == kindProgress && q.key == f.key && q.run == f.run {
			s.bytes += len(f.data) - len(q.data)
			*q = f
			return true
		}
	}
	return false
}

// crowded reports whether too much waits, so that the room should replace it by what is true now.
func (s *socket) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) > fullFrames || s.bytes > fullBytes
}

// shed drops everything that can be told again. It reports false when what is left is still too much.
func (s *socket) shed() bool {
	s.mu.Lock()
	var dropped []frame
	kept := s.queue[:0:0]
	s.bytes = 0
	for _, f := range s.queue {
		if f.kind == kindResult {
			kept = append(kept, f)
			s.bytes += len(f.data)
			continue
		}
		dropped = append(dropped, f)
	}
	s.queue = kept
	fits := s.bytes <= deadBytes
	s.mu.Unlock()
	runAfters(dropped)
	return fits
}

// write sends what waits until nothing does.
func (s *socket) write() {
	// Frames come in bursts. Whoever brings the rest of this one and only waits for a processor goes first: on a busy
	// server that saves write calls, and on an idle one it takes no time.
	runtime.Gosched()
	for {
		s.mu.Lock()
		batch := s.queue
		s.queue, s.bytes = nil, 0
		if s.closed || len(batch) == 0 {
			s.writing = false
			s.mu.Unlock()
			runAfters(batch)
			return
		}
		s.mu.Unlock()
		err := s.nc.frames(batch)
		s.lastOut.Store(time.Now().UnixNano())
		runAfters(batch)
		if err != nil {
			s.cut()
		}
	}
}

// ping sends a ping of the WebSocket protocol that carries its time: its pong proves that what was sent up to now has
// arrived. The library's Ping waits for the pong; a goroutine per socket and ping is what we save. The room's lock is held.
func (s *socket) ping(now time.Time) {
	s.pinged, s.owed = now, false
	at := binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(now.UnixNano()+1)) //nolint:gosec // after 1970
	s.push(frame{first: pingFrame, data: at})
}

// prove pings the client after the end of a run, which is at now. Where one end follows another, the tick of the second
// does it for all of them. The room's lock is held.
func (s *socket) prove(now time.Time) {
	if s.owed = now.Sub(s.pinged) < time.Second; !s.owed {
		s.ping(now)
	}
}

// heardPing notes the pong of a ping.
func (s *socket) heardPing(payload []byte) {
	if len(payload) == 8 { // a client may send pongs of its own
		at := int64(binary.BigEndian.Uint64(payload)) //nolint:gosec // ours, or a lie that harms the client alone
		s.proven.Store(max(s.proven.Load(), at))
	}
}

func runAfters(frames []frame) {
	for i := range frames {
		if f := frames[i].after; f != nil {
			f()
		}
	}
}

// read takes what the client sends until the socket is gone.
func (s *socket) read() {
	defer s.leave()
	first := true
	for {
		typ, r, err := s.conn.Reader(context.Background())
		if err != nil {
			return
		}
		s.lastIn.Store(time.Now().UnixNano())
		if typ == websocket.MessageText && first {
			b, err := io.ReadAll(r)
			if err != nil {
				return
			}
			// Invalid JSON does not use up the first message; any other valid one does.
			first = !s.hear(b)
			continue
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return
		}
	}
}

// hear takes the first text message. It reports whether it was valid JSON.
func (s *socket) hear(b []byte) bool {
	var m struct {
		Type string `json:"type"`
		Data struct {
			Preview any `json:"supports_preview_metadata"`
		} `json:"data"`
	}
	if !json.Valid(b) {
		return false
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Type != "feature_flags" {
		return true
	}
	yes, _ := m.Data.Preview.(bool)
	s.preview.Store(yes)
	s.talks.Store(true)
	s.push(text(kindState, "feature_flags", s.room.hub.options.Features))
	return true
}

// cut ends the socket without ceremony. Its reader then takes it out of the room.
func (s *socket) cut() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.conn.CloseNow()
}

// leave takes the socket out of its room.
func (s *socket) leave() {
	s.mu.Lock()
	s.closed = true
	waiting := s.queue
	s.queue, s.bytes = nil, 0
	s.mu.Unlock()
	_ = s.conn.CloseNow()
	runAfters(waiting)
	s.room.detach(s)
}
