package room

import (
	"encoding/json"
	"maps"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// When a socket gets remembered frames:
//
//   - A session that comes back (socket cut, server restarted) has its graph open: it is given them at once.
//   - A page that loads opens its socket before it has built its graph, so what comes then is lost on it. It is given them
//     again some seconds later, and after it asked for the lists, which it does when the graph is about to be there.
//   - Of a finished run they are given to a session that may not have seen the end: none of its sockets has answered a
//     ping that was sent after it.
//   - After a restart of the server the run may have ended without anybody left who remembers: then they are made
//     from its history entry.
//
// Given twice they do no harm: each says how things stand.
const (
	reloadWindow = 30 * time.Second // from the first calls of a page to its socket
	reloadAfter  = 3 * time.Second
	listsAfter   = 2 * time.Second
	reloadUntil  = 25 * time.Second // after this the graph is there, or never will be
	reloadTimes  = 5
	restartGrace = 2 * time.Minute // sessions of before a restart come back within it
)

// replay returns the run's remembered frames for s. The lock is held.
func (n *run) replay(s *socket) []frame {
	frames := make([]frame, 0, len(n.kept)+2)
	for _, k := range n.kept {
		if k.key == previewKey {
			frames = append(frames, n.previewFor(s, k)...)
			continue
		}
		frames = append(frames, k.frame)
	}
	if len(frames) > 0 && n.at != nil {
		s.painted = n
	}
	if !n.ended.IsZero() {
		frames = append(frames, overFrame(n.job.PromptID))
	}
	return frames
}

// attach takes a new socket in and tells it how things stand. The lock is held.
func (r *room) attach(s *socket, known bool) {
	now := time.Now()
	s.since = now
	heard := r.proven[s.sid]
	_, s.logs = r.logging[s.sid]
	delete(r.logging, s.sid)
	for other := range r.session(s.sid) { // of the same page, when nobody noticed yet that it is gone
		heard = max(heard, other.proven.Load())
		s.logs = s.logs || other.logs
	}
	if r.hub.options.Several { // it may be another page of the session, and come from another server
		heard = 0
	}
	s.lastOut.Store(now.UnixNano())
	s.heard = heard
	r.sockets = append(r.sockets, s)
	frames := []frame{statusFrame(r.remaining(), s.sid)}
	if !known {
		s.push(frames...)
		return
	}
	for _, n := range r.runs {
		if n.job.ClientID == s.sid && n.ended.IsZero() && n.at != nil {
			frames = append(frames, executingFrame(displayNode(n.at)))
		}
	}
	s.push(append(frames, r.missed(s)...)...)
	if r.hub.loads(r.user) {
		s.reload = time.AfterFunc(reloadAfter, func() { r.again(s) })
	}
}

// missed returns the remembered frames of all runs that s may not have seen. The lock is held.
func (r *room) missed(s *socket) []frame {
	var frames []frame
	for _, n := range r.runs {
		if n.job.ClientID != s.sid {
			continue
		}
		if n.ended.IsZero() || n.ended.UnixNano() >= s.heard {
			frames = append(frames, n.replay(s)...)
		}
	}
	return frames
}

// again gives a loading page its frames once more.
func (r *room) again(s *socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.replays++
	s.push(r.missed(s)...)
}

// PageLoads notes that a page of user begins to load: its socket will be open before its graph is built.
func (h *Hub) PageLoads(user string) {
	h.pagesMu.Lock()
	defer h.pagesMu.Unlock()
	now := time.Now()
	h.pages[user] = now
	if len(h.pages) > 64 {
		maps.DeleteFunc(h.pages, func(_ string, at time.Time) bool { return now.Sub(at) > reloadWindow })
	}
}

// loads reports whether a page of user began to load a moment ago.
func (h *Hub) loads(user string) bool {
	h.pagesMu.Lock()
	defer h.pagesMu.Unlock()
	at, ok := h.pages[user]
	return ok && time.Since(at) < reloadWindow
}

// ListsAsked notes that a page of user asked for the queue or the history.
func (h *Hub) ListsAsked(user string) {
	r := h.look(user)
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sockets {
		if s.reload != nil && s.replays < reloadTimes && time.Since(s.since) < reloadUntil {
			s.reload.Reset(listsAfter)
		}
	}
}

// detach takes a socket out of the room.
func (r *room) detach(s *socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, o := range r.sockets {
		if o == s {
			r.sockets = append(r.sockets[:i:i], r.sockets[i+1:]...)
			break
		}
	}
	if s.reload != nil {
		s.reload.Stop()
	}
	if s.logs { // a page subscribes once, and not again when it comes back
		if r.logging == nil {
			r.logging = make(map[string]time.Time)
		}
		r.logging[s.sid] = time.Now()
	}
	for _, n := range r.runs {
		if n.job.ClientID == s.sid {
			if r.proven == nil {
				r.proven = make(map[string]int64)
			}
			r.proven[s.sid] = max(r.proven[s.sid], s.proven.Load())
			break
		}
	}
	r.reap(time.Now())
}

// refresh replaces what waits for a slow socket by what is true now. The lock is held.
func (r *room) refresh(s *socket) {
	if !s.shed() {
		r.hub.spawn(s.cut)
		return
	}
	frames := []frame{statusFrame(r.remaining(), "")}
	for _, n := range r.runs {
		if n.job.ClientID == s.sid && (n.ended.IsZero() || !n.ended.Before(s.since)) {
			frames = append(frames, n.replay(s)...)
		}
	}
	s.push(frames...)
}

// since is from when on this room heard all that sessions may have missed elsewhere. What was before is in the store only.
func (r *room) since() time.Time {
	if r.hub.options.Several {
		return r.created
	}
	return r.hub.started
}

// recall gives a session that comes back after a restart, or from another server, what nobody here remembers: its open jobs, and the ends of runs
// that it may have missed.
func (r *room) recall(s *socket) {
	h := r.hub
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		s.recalled = true
	}()
	if open, err := h.queue.Open(h.ctx, r.user); err != nil {
		h.log.Warn("reading jobs of before the restart", "user", r.user, "err", err)
	} else {
		h.Seed(r.user, open)
	}
	// In the order in which they ended: what ended last may be older than a hundred others. A room remembers no more.
	last := job.HistoryQuery{MaxItems: keepRuns, Offset: -1}
	err := h.queue.EachHistory(h.ctx, r.user, last, func(e job.Entry) error {
		if from := r.since().Add(-restartGrace); e.Job.ClientID == s.sid && !e.Job.Finished.Before(from) && !e.Job.Finished.After(r.created) {
			r.recallRun(s.sid, e)
		}
		return nil
	})
	if err != nil {
		h.log.Warn("reading what ended before the restart", "user", r.user, "err", err)
	}
}

// recallRun remembers a run that ended, unless the room knows it, and tells the sockets of its session.
func (r *room) recallRun(sid string, e job.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.find(e.Job.ID) != nil {
		return
	}
	n := &run{job: &e.Job, ended: e.Job.Finished, heard: true, recalled: time.Now()}
	n.end(e.Outcome, r.hub.options.Several)
	for s := range r.session(sid) {
		if !s.recalled { // it is on its way here too, and will find the run known
			s.push(n.replay(s)...)
		}
	}
	r.runs = append(r.runs, n)
}

// displayNode is the node an executing frame is shown at.
func displayNode(data json.RawMessage) string {
	var d struct {
		Node    string `json:"node"`
		Display string `json:"display_node"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return ""
	}
	if d.Display != "" {
		return d.Display
	}
	return d.Node
}
