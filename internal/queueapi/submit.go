package queueapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// The largest a field may be.
const (
	maxWorkflow = 10 << 20
	maxMetadata = 1 << 20
	maxResult   = 50 << 20
	maxError    = 10_000 // characters
	slack       = 64 << 10
)

// submission is what POST /api/jobs takes.
type submission struct {
	user               string
	workflow, metadata json.RawMessage
	class              *job.Class
	deadline           string // of metadata.deadline; empty: none
}

// submit answers POST /api/jobs.
func (f *Face) submit(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	body, done, err := f.body(w, r, p, maxWorkflow+maxMetadata+slack)
	if err != nil {
		return err
	}
	defer done()
	s, err := readSubmission(body)
	if err != nil {
		return err
	}
	owner, err := f.subject(r.Context(), p, s.user)
	if err != nil {
		return err
	}
	if s.class != nil {
		if err := moves(p, job.ClassNormal, *s.class); err != nil {
			return err
		}
	}
	order := Order{Class: s.class, Key: r.Header.Get("Idempotency-Key")}
	return f.Submit.Submit(r.Context(), owner, s.prompt(), order, func(a Accepted) error {
		shown := f.shape(r.Context(), a.Job)
		kept, err := f.requests(r.Context(), []job.Job{a.Job}) // not what was sent: credentials are out of it
		if err != nil {                                        // the job is accepted all the same
			f.log.Warn("what a job was submitted with can't be read", "job", string(a.Job.ID), "user", owner.Name, "err", err)
		}
		shown.Metadata, shown.NodeErrors = metadataOf(kept[a.Job.ID]), a.NodeErrors
		if a.Existing {
			w.Header().Set("Idempotent-Replayed", "true")
		}
		if owner.Name != p.Name {
			f.log.Info("a job is submitted for somebody", "job", string(a.Job.ID), "user", owner.Name, "by", p.Name)
		}
		f.write(w, http.StatusCreated, shown)
		if err := http.NewResponseController(w).Flush(); err != nil {
			f.log.Debug("flush an answer", "err", err)
		}
		return nil
	})
}

func readSubmission(body []byte) (s submission, err error) {
	members, err := object(body)
	if err != nil {
		return s, err
	}
	if raw, ok := member(members, "user_id"); ok {
		if s.user, ok = pyjson.Text(raw); !ok || s.user == "" {
			return s, wrong("user_id", "Send the name of an account, or leave it out for your own.", "%s is not a name.", clip(string(raw)))
		}
	}
	if raw, ok := member(members, "priority"); ok {
		class, err := classOf(string(raw))
		if err != nil {
			return s, err
		}
		s.class = &class
	}
	if s.workflow, err = s.object(members, "workflow", maxWorkflow); err != nil {
		return s, err
	}
	const export = "Send the graph in API form: in the editor, Export (API)."
	switch nodes, isEditors := pyjson.Get(s.workflow, "nodes"); {
	case s.workflow == nil:
		return s, wrong("workflow", export, "it is missing.")
	case isEditors && pyjson.KindOf(nodes) == pyjson.Array:
		return s, wrong("workflow", export, "it is a workflow as editors save it, with a list of nodes.")
	case bytes.Equal(bytes.TrimSpace(s.workflow), []byte("{}")):
		return s, wrong("workflow", export, "it has no nodes.")
	}
	if s.metadata, err = s.object(members, "metadata", maxMetadata); err != nil {
		return s, err
	}
	if raw, ok := pyjson.Get(s.metadata, "deadline"); ok && pyjson.KindOf(raw) != pyjson.Null {
		if s.deadline, ok = pyjson.Text(raw); !ok {
			s.deadline = clip(string(raw))
		}
		_, err = job.ParseDeadline("metadata.deadline", s.deadline, time.Now())
	}
	return s, err
}

// object returns a member that is an object within its limit, nil when it is not there.
func (submission) object(members []pyjson.Member, key string, most int) (json.RawMessage, error) {
	raw, ok := member(members, key)
	switch {
	case !ok:
		return nil, nil
	case pyjson.KindOf(raw) != pyjson.Object:
		return nil, wrong(key, "Send a JSON object.", "%s is not an object.", clip(string(raw)))
	case len(raw) > most:
		return nil, wrong(key, "Send less.", "it has %d bytes; the limit is %d.", len(raw), most)
	}
	return raw, nil
}

// prompt is the submission as the body of POST /prompt.
func (s submission) prompt() []byte {
	b := append([]byte(`{"prompt": `), s.workflow...)
	b = append(append(b, `, "extra_data": `...), s.extra()...)
	return append(b, '}')
}

// extra is what is kept with the job.
func (s submission) extra() json.RawMessage {
	if s.metadata == nil {
		return json.RawMessage("{}")
	}
	b := append([]byte(`{"metadata": `), s.metadata...)
	if s.deadline != "" {
		b = append(append(b, `, "deadline": `...), pyjson.Quote(s.deadline)...)
	}
	return append(b, '}')
}
