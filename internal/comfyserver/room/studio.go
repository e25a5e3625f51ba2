package room

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

// State is what our extension shows of a person's jobs.
type State struct {
	Jobs []JobState `json:"jobs"`
}

// JobState is where one open job stands.
type JobState struct {
	PromptID string  `json:"prompt_id"`
	State    string  `json:"state"` // pending or running
	Held     bool    `json:"held,omitempty"`
	Position int     `json:"position,omitempty"`
	Line     string  `json:"line,omitempty"` // Position in words
	Code     string  `json:"code,omitempty"`
	Reason   string  `json:"reason,omitempty"`
	From     float64 `json:"wait_from,omitempty"`
	To       float64 `json:"wait_to,omitempty"`
	Wait     string  `json:"wait,omitempty"`    // From and To in words
	BackEnd  string  `json:"backend,omitempty"` // where it runs, or goes next
	Since    int64   `json:"since"`             // ms: since when it waits or runs
}

// state is what our extension shows now. The lock is held.
func (r *room) state() State {
	st := State{Jobs: []JobState{}}
	for _, n := range r.runs {
		if !n.ended.IsZero() || n.job.Created.IsZero() { // what was only heard of through frames is not told
			continue
		}
		j := JobState{PromptID: n.job.PromptID, State: "pending", Held: n.job.Held, Since: n.job.Created.UnixMilli()}
		if n.posted {
			j.State, j.BackEnd = "running", n.job.Attempt.BackEnd
			if !n.job.Started.IsZero() {
				j.Since = n.job.Started.UnixMilli()
			}
		} else if n.job.State == job.Running { // it is made ready there and goes when the run before it ends
			j.BackEnd = n.job.Attempt.BackEnd
		} else if p, ok := r.places[n.job.ID]; ok {
			j.Position, j.Line, j.Code, j.Reason = p.Position, p.Line(), p.Code, p.Reason
			j.From, j.To, j.Wait = p.From, p.To, p.Wait()
		}
		st.Jobs = append(st.Jobs, j)
	}
	slices.SortStableFunc(st.Jobs, func(a, b JobState) int {
		return cmp.Or(cmp.Compare(a.stage(), b.stage()), cmp.Compare(a.Position, b.Position))
	})
	return st
}

// stage orders jobs as they are shown: what runs, what runs next, what has a place in line, the rest.
func (j JobState) stage() int {
	switch {
	case j.State == "running":
		return 0
	case j.BackEnd != "":
		return 1
	case j.Position > 0 && !j.Held:
		return 2
	}
	return 3
}

// Follow makes the sockets of a session of user hear of State whenever it changes, and returns it as it is.
// Only sockets of a page with our extension get these frames: other clients complain about types they don't know.
func (h *Hub) Follow(user, sid string) State {
	r := h.look(user)
	if r == nil {
		return State{Jobs: []JobState{}}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.session(sid) {
		s.studio = true
	}
	return r.state()
}

// Seed gives user's room jobs that were open before it was: after a restart nobody announced them to it. They make the
// room: a program that asks for its lists, and has no socket, must not find a job in neither of them when it ends.
func (h *Hub) Seed(user string, open []job.Job) {
	if len(open) == 0 {
		return
	}
	r := h.enter(user)
	if r == nil {
		return
	}
	added := false
	for _, j := range open {
		if r.find(j.ID) == nil && r.holds[j.ID] == nil {
			r.of(&j).posted = j.State == job.Running && j.Attempt.Posted
			added = true
		}
	}
	r.mu.Unlock()
	if added {
		r.resync() // some may have ended since they were read
	}
}

// tellStudio sends State to the sockets that follow it, if it may have changed. The lock is held.
func (r *room) tellStudio() {
	if !r.studio {
		return
	}
	r.studio = false
	var f frame
	for _, s := range r.sockets {
		if !s.studio {
			continue
		}
		if f.data == nil {
			data, err := json.Marshal(r.state())
			if err != nil { // plain values can always be encoded
				return
			}
			f = text(kindProgress, "comfyume.state", data)
			f.key = "comfyume.state"
		}
		s.push(f)
	}
}

// notice sends a sentence to the pages with our extension. The lock is held.
func (r *room) notice(n event.Notice) {
	data, err := json.Marshal(map[string]string{"severity": n.Severity, "text": n.Text})
	if err != nil { // strings can always be encoded
		return
	}
	f := text(kindState, "comfyume.notice", data)
	for _, s := range r.sockets {
		if s.studio {
			s.push(f)
		}
	}
}

// fleetChanged tells the pages with our extension that what can run may have changed. The lock is held.
func (r *room) fleetChanged() {
	f := text(kindProgress, "comfyume.fleet", json.RawMessage("{}"))
	f.key = "comfyume.fleet"
	for _, s := range r.sockets {
		if s.studio {
			s.push(f)
		}
	}
}
