package room

import (
	"encoding/json"
	"strings"
	"time"
)

// Limits of the lines kept per person, as a real server has them.
const (
	logEntries = 300
	logLine    = 4 << 10 // bytes of one line
)

// LogEntry is one line in the form of ComfyUI's terminal: time without zone, text with its line end.
type LogEntry struct {
	T string `json:"t"`
	M string `json:"m"`
}

// logged is a line and when it was told: few are ever read, so that the rest need no form.
type logged struct {
	at   time.Time
	line string
}

func (l logged) entry() LogEntry {
	return LogEntry{T: l.at.Format("2006-01-02T15:04:05.000000"), M: strings.TrimRight(l.line, "\r\n") + "\n"}
}

// logRing holds the last lines of a person's own runs.
type logRing struct {
	entries []logged
	oldest  int // where the oldest is, once the ring is full
}

func (l *logRing) add(e logged) {
	if len(l.entries) < logEntries {
		l.entries = append(l.entries, e)
		return
	}
	l.entries[l.oldest] = e
	l.oldest = (l.oldest + 1) % logEntries
}

// last returns the last n lines, oldest first.
func (l *logRing) last(n int) []LogEntry {
	held := len(l.entries)
	n = min(n, held)
	list := make([]LogEntry, 0, n)
	for i := held - n; i < held; i++ {
		list = append(list, l.entries[(l.oldest+i)%held].entry())
	}
	return list
}

// logLines keeps lines and sends them to the sockets that subscribed. The lock is held.
func (r *room) logLines(lines ...string) {
	if r.log == nil {
		r.log = &logRing{}
	}
	now := time.Now()
	for _, l := range lines {
		if len(l) > logLine {
			l = strings.ToValidUTF8(l[:logLine], "") + "…"
		}
		r.log.add(logged{now, l})
	}
	var f frame
	for _, s := range r.sockets {
		if !s.logs {
			continue
		}
		if f.data == nil {
			data, err := json.Marshal(map[string]any{"entries": r.log.last(len(lines)), "size": nil})
			if err != nil { // strings can always be encoded
				return
			}
			f = text(kindState, "logs", data)
		}
		s.push(f)
	}
}

// Logs returns the last lines of user's own runs.
func (h *Hub) Logs(user string) []LogEntry {
	r := h.look(user)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log == nil {
		return nil
	}
	return r.log.last(logEntries)
}

// SubscribeLogs turns log frames on or off for the sockets of a session of user.
func (h *Hub) SubscribeLogs(user, sid string, on bool) {
	r := h.look(user)
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.session(sid) {
		s.logs = on
	}
	delete(r.logging, sid) // what it wants now counts, not what a socket before wanted
}
