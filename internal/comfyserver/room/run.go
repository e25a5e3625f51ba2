package room

import (
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

// previewKey names the preview among the frames a run remembers.
const previewKey = "\x00preview"

// lingerAlone is how much longer a finished job without a listening session stays in the shown queue: programs that
// poll history first and the queue second would otherwise find it in neither.
const lingerAlone = 500 * time.Millisecond

// run is what a room knows of one job. It is guarded by the room's lock.
type run struct {
	job      *job.Job // shared, never changed
	posted   bool     // the person sees it running
	started  bool     // its execution_start came through us: nothing of this run was missed before
	attempt  int
	at       json.RawMessage // data of the executing frame that counts
	kept     []keptFrame     // the latest of each kind and node, in order of arrival
	ended    time.Time
	heard    bool         // a session listened when it ended
	recalled time.Time    // when it was read from the store, after its end
	gone     bool         // about to be forgotten
	unsent   atomic.Int32 // end frames that are still on their way to sockets
}

// keptFrame is a remembered frame with the kind and node that a later one replaces.
type keptFrame struct {
	key string
	frame
	plain []byte // previews: the same without metadata
}

// keep remembers f in place of the earlier one of its key.
func (n *run) keep(k keptFrame) {
	n.drop(k.key)
	if n.kept == nil {
		n.kept = make([]keptFrame, 0, 8) // as many as a short run has
	}
	if len(n.kept) < 4096 { // a graph of 10,000 nodes that all show something is not worth more
		n.kept = append(n.kept, k)
	}
}

// drop forgets the frames of keys.
func (n *run) drop(keys ...string) {
	n.kept = slices.DeleteFunc(n.kept, func(k keptFrame) bool { return slices.Contains(keys, k.key) })
}

// frameKey is what a JSON frame replaces: executed, and what custom nodes send, count per node; the rest once.
func frameKey(typ, node string) string {
	switch typ {
	case "execution_start", "execution_cached", "executing", "progress", "progress_state":
		return typ
	}
	return typ + "\x00" + node
}

// runFrame passes one JSON frame of a run on to its session. The lock is held.
func (r *room) runFrame(b event.RunFrame) {
	n := r.forFrame(b.Job, b.Attempt, b.PromptID, b.ClientID)
	if n == nil {
		return
	}
	k := kindState
	switch b.Type {
	case "execution_success", "execution_interrupted":
		return // these follow from the end of the job, after its history is there
	case "execution_start":
		n.started = true
		n.drop("executing", "progress", "progress_state", previewKey)
	case "executing":
		if b.Node == "" {
			return // the same
		}
		n.at = b.Data
	case "progress", "progress_state":
		k = kindProgress
	}
	f := text(k, b.Type, b.Data)
	f.key, f.run = b.Type, n
	n.keep(keptFrame{key: frameKey(b.Type, b.Node), frame: f})
	r.tellStatus()
	for s := range r.session(n.job.ClientID) {
		if b.Type == "executing" {
			s.painted = n
		}
		s.push(f)
	}
}

// runBinary passes one binary frame of a run on to its session: to sockets that did not ask for metadata without it.
// The lock is held.
func (r *room) runBinary(b event.RunBinary) {
	n := r.forFrame(b.Job, b.Attempt, b.PromptID, b.ClientID)
	if n == nil {
		return
	}
	r.tellStatus()
	k := keptFrame{key: previewKey, frame: frame{kind: kindProgress, first: binaryFrame, key: previewKey, data: b.Frame, run: n}}
	if plain, ok := plainPreview(b.Frame); ok {
		k.plain = plain
	}
	if b.Result { // each counts, and is given once
		k.kind, k.frame.key = kindResult, ""
	} else {
		n.keep(k)
	}
	for s := range r.session(n.job.ClientID) {
		s.push(n.previewFor(s, k)...)
	}
}

// previewFor returns what s gets for a picture. One without metadata belongs to the node of the last executing frame,
// which therefore goes before it when the session's runs take turns.
func (n *run) previewFor(s *socket, k keptFrame) []frame {
	if k.plain == nil || s.preview.Load() {
		return []frame{k.frame}
	}
	f := k.frame
	f.data = k.plain
	if s.painted == n || n.at == nil {
		return []frame{f}
	}
	s.painted = n
	return []frame{text(kindState, "executing", n.at), f}
}

// forFrame returns the run a frame belongs to, or nil when the run is over or the frame comes from a lost attempt.
func (r *room) forFrame(id job.ID, attempt int, promptID, clientID string) *run {
	n := r.find(id)
	if n == nil {
		n = r.of(&job.Job{ID: id, User: r.user, PromptID: promptID, ClientID: clientID})
	}
	if !n.ended.IsZero() || attempt < n.attempt {
		return nil
	}
	n.attempt = attempt
	return n
}

// finish ends a run: its last frame, then the person's new numbers, then the sign that it is over. History and
// outputs are readable since before the announcement. The lock is held.
func (r *room) finish(c job.Changed) {
	n := r.of(c.Job)
	if !n.ended.IsZero() {
		return
	}
	r.status, r.soon = false, false // the frame below has the numbers
	for _, f := range n.end(c.Outcome, r.hub.options.Several) {
		for s := range r.session(n.job.ClientID) {
			s.push(f)
		}
	}
	n.posted, n.ended = false, time.Now()
	r.open--
	n.drop("progress", previewKey)
	delete(r.places, n.job.ID)
	r.studio = true
	status := statusFrame(r.remaining(), "")
	over := overFrame(n.job.PromptID)
	written := func() { n.unsent.Add(-1) }
	for _, s := range r.sockets {
		if n.job.ClientID == "" || s.sid != n.job.ClientID {
			s.push(status)
			continue
		}
		n.heard = true
		n.unsent.Add(1)
		mine := status
		mine.after = written
		s.push(mine, over)
		s.push(r.goingOn(s)...)
		s.prove(n.ended) // once it is answered, nothing of this run is told again
	}
	line := "finished "
	if c.Job.State != job.Completed {
		line = string(c.Job.State) + " "
	}
	line += n.job.PromptID
	if c.Job.Error != "" {
		line += ": " + c.Job.Error
	}
	r.logLines(line)
}

// goingOn returns how far the session's other runs are, for an editor that was just told that one is over: it takes
// this for the end of whatever it shows. Another run may have begun before, on another back end or while results of this
// one were brought home. The lock is held.
func (r *room) goingOn(s *socket) []frame {
	if !s.talks.Load() {
		return nil // programs count frames, and ask for what they miss
	}
	var frames []frame
	for _, n := range r.runs {
		if n.job.ClientID != s.sid || !n.posted || n.at == nil {
			continue
		}
		for _, k := range n.kept {
			switch k.key {
			case "execution_start", "executing", "progress", "progress_state":
				frames = append(frames, k.frame)
			case previewKey:
				frames = append(frames, n.previewFor(s, k)...)
			}
		}
		s.painted = n
	}
	return frames
}

// end returns the run's last frames and remembers them. Where the run began before this process did, or frames of it may
// be lost, results that were not told are told first.
func (n *run) end(o *job.Outcome, several bool) []frame {
	if o == nil {
		o = &job.Outcome{State: n.job.State}
	}
	var frames []frame
	if !n.started || several {
		frames = n.results(o)
	}
	typ, data := lastMessage(o.Messages)
	if typ == "" {
		typ, data = n.plainEnd(o)
	}
	f := text(kindState, typ, data)
	n.keep(keptFrame{key: "\x00end", frame: f})
	return append(frames, f)
}

// results makes the executed frames of outputs whose own ones never came through here.
func (n *run) results(o *job.Outcome) []frame {
	outputs, err := pyjson.Members(o.Outputs)
	if err != nil {
		return nil
	}
	var meta map[string]struct {
		Display string `json:"display_node"`
	}
	_ = json.Unmarshal(o.Meta, &meta) // without it a node is shown as itself
	var frames []frame
	for _, m := range outputs {
		key := frameKey("executed", m.Key)
		if slices.ContainsFunc(n.kept, func(k keptFrame) bool { return k.key == key }) {
			continue
		}
		display := m.Key
		if d := meta[m.Key].Display; d != "" {
			display = d
		}
		b := append([]byte(`{"node": `), pyjson.AppendString(nil, m.Key)...)
		b = pyjson.AppendString(append(b, `, "display_node": `...), display)
		b = append(append(b, `, "output": `...), m.Value...)
		b = pyjson.AppendString(append(b, `, "prompt_id": `...), n.job.PromptID)
		f := text(kindState, "executed", append(b, '}'))
		n.keep(keptFrame{key: key, frame: f})
		frames = append(frames, f)
	}
	return frames
}

// lastMessage returns the end frame among a history entry's messages.
func lastMessage(messages json.RawMessage) (typ string, data json.RawMessage) {
	all, err := pyjson.Elements(messages)
	if err != nil || len(all) == 0 {
		return "", nil
	}
	pair, err := pyjson.Elements(all[len(all)-1])
	if err != nil || len(pair) != 2 {
		return "", nil
	}
	switch typ = pyjson.TextOf(pair[0]); typ {
	case "execution_success", "execution_error", "execution_interrupted":
		return typ, pair[1]
	}
	return "", nil
}

// plainEnd makes the end frame of a run that left none.
func (n *run) plainEnd(o *job.Outcome) (typ string, data json.RawMessage) {
	state := o.State
	if !state.Final() {
		state = n.job.State
	}
	end := struct {
		PromptID  string   `json:"prompt_id"`
		NodeID    *string  `json:"node_id,omitempty"`
		NodeType  *string  `json:"node_type,omitempty"`
		Executed  []string `json:"executed,omitzero"`
		Message   *string  `json:"exception_message,omitempty"`
		Type      *string  `json:"exception_type,omitempty"`
		Traceback []string `json:"traceback,omitzero"`
		Inputs    any      `json:"current_inputs,omitempty"`
		Outputs   []string `json:"current_outputs,omitzero"`
		Timestamp int64    `json:"timestamp"`
	}{PromptID: n.job.PromptID, Timestamp: time.Now().UnixMilli()}
	none, empty := "", []string{}
	switch state {
	case job.Failed:
		typ = "execution_error"
		message, exception := strings.TrimRight(n.job.Error, "\n")+"\n", "ComfyuME.RunFailed"
		end.NodeID, end.NodeType, end.Executed = &none, &none, empty
		end.Message, end.Type, end.Traceback = &message, &exception, empty
		end.Inputs, end.Outputs = struct{}{}, empty
	case job.Cancelled:
		typ = "execution_interrupted"
		end.NodeID, end.NodeType, end.Executed = &none, &none, empty
	default:
		typ = "execution_success"
	}
	data, err := json.Marshal(end)
	if err != nil { // strings and numbers can always be encoded
		return typ, json.RawMessage(`{}`)
	}
	return typ, data
}

// lingers reports whether a finished run is still to be shown in the queue at now.
func (n *run) lingers(now time.Time) bool {
	if n.ended.IsZero() {
		return false
	}
	if n.heard {
		return n.unsent.Load() > 0
	}
	return now.Sub(n.ended) < lingerAlone
}
