package queueapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// Bounds of the lease that a worker may ask for.
const (
	shortestLease = 5 * time.Second
	longestLease  = time.Hour
)

// workerOf reads worker_id.
func workerOf(r *http.Request, needed bool) (string, error) {
	id := r.URL.Query().Get("worker_id")
	switch {
	case id == "" && !needed, workerID.MatchString(id):
		return id, nil
	case id == "":
		return "", wrong("worker_id", "Add ?worker_id=NAME to the address.", "it is missing.")
	}
	return "", wrong("worker_id", "Use 1 to 100 letters, digits, dots, - and _.", "%q can't be the name of a worker.", clip(id))
}

// jobOf reads job_id.
func jobOf(r *http.Request) (string, error) {
	if id := r.URL.Query().Get("job_id"); id != "" {
		return id, nil
	}
	return "", wrong("job_id", "Add ?job_id=ID to the address.", "it is missing.")
}

// leaseOf reads lease: for how many seconds the worker may be silent.
func (f *Face) leaseOf(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("lease")
	if text == "" {
		return f.o.Lease, nil
	}
	n, err := strconv.Atoi(text)
	if d := time.Duration(n) * time.Second; err == nil && d >= shortestLease && d <= longestLease {
		return d, nil
	}
	return 0, wrong("lease", "Leave it out for "+strconv.Itoa(int(f.o.Lease/time.Second))+".",
		"%q is no whole number of seconds from %d to %d.", clip(text), int(shortestLease/time.Second), int(longestLease/time.Second))
}

// nextJob answers GET /api/workers/next-job.
func (f *Face) nextJob(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	worker, err := workerOf(r, true)
	if err != nil {
		return err
	}
	lease, err := f.leaseOf(r)
	if err != nil {
		return err
	}
	e, ok, err := f.workers.next(r.Context(), p.Name, worker, lease)
	if err != nil {
		return err
	}
	type given struct {
		ID         job.ID          `json:"id"`
		JobID      job.ID          `json:"job_id"`
		UserID     string          `json:"user_id"`
		Workflow   json.RawMessage `json:"workflow"`
		Metadata   json.RawMessage `json:"metadata"`
		Priority   job.Class       `json:"priority"`
		Attempt    int             `json:"attempt"`
		LeaseUntil time.Time       `json:"lease_until"`
	}
	var answer struct {
		Job *given `json:"job"`
	}
	if ok {
		answer.Job = &given{
			ID: e.Job.ID, JobID: e.Job.ID, UserID: e.Job.User, Workflow: pyjson.Clean(e.Request.Prompt), Metadata: metadataOf(e.Request),
			Priority: e.Job.Class, Attempt: e.Job.Attempt.N, LeaseUntil: e.Job.Attempt.LeaseUntil,
		}
	}
	f.write(w, http.StatusOK, answer)
	return nil
}

// completeJob answers POST /api/workers/complete-job. The body is {"result": {…}}, or the result itself.
func (f *Face) completeJob(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	body, done, err := f.body(w, r, p, maxResult+slack)
	if err != nil {
		return err
	}
	defer done()
	members, err := object(body)
	if err != nil {
		return err
	}
	result := json.RawMessage(bytes.TrimSpace(body))
	if raw, ok := member(members, "result"); ok {
		if pyjson.KindOf(raw) != pyjson.Object {
			return wrong("result", "Send a JSON object.", "%s is not an object.", clip(string(raw)))
		}
		result = raw
	}
	if len(result) > maxResult {
		return wrong("result", "Send less, or keep files elsewhere and send where they are.", "it has %d bytes; the limit is %d.", len(result), maxResult)
	}
	return f.report(w, r, p, func(j job.Job) (job.Outcome, error) {
		asked, err := f.Queue.Requests(r.Context(), j.User, []job.ID{j.ID})
		if err != nil {
			return job.Outcome{}, err
		}
		return completed(j, asked[j.ID], result), nil
	})
}

// failJob answers POST /api/workers/fail-job. The error comes as {"error": "…"} or in the address.
func (f *Face) failJob(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	body, done, err := f.body(w, r, p, 4*maxError+slack)
	if err != nil {
		return err
	}
	defer done()
	text := r.URL.Query().Get("error")
	if len(bytes.TrimSpace(body)) > 0 {
		members, err := object(body)
		if err != nil {
			return err
		}
		if raw, ok := member(members, "error"); ok {
			if text, ok = pyjson.Text(raw); !ok {
				return wrong("error", "Send a text.", "%s is not a text.", clip(string(raw)))
			}
		}
	}
	text = strings.TrimSpace(text)
	switch n := utf8.RuneCountInString(text); {
	case n == 0:
		return wrong("error", `Send {"error": "what went wrong"}, or ?error= in the address.`, "it is missing.")
	case n > maxError:
		return wrong("error", "Send the end of it, where the reason is.", "it has %d characters; the limit is %d.", n, maxError)
	}
	return f.report(w, r, p, func(j job.Job) (job.Outcome, error) { return failed(j, text), nil })
}

// report ends a job for a worker and answers.
func (f *Face) report(w http.ResponseWriter, r *http.Request, p identity.Person, out func(job.Job) (job.Outcome, error)) error {
	id, err := jobOf(r)
	if err != nil {
		return err
	}
	worker, err := workerOf(r, false)
	if err != nil {
		return err
	}
	j, err := f.workers.report(r.Context(), p, worker, id, out)
	if err == nil {
		f.success(w, j.ID, nil)
	}
	return err
}

// heartbeat answers POST /api/workers/heartbeat: the worker is still at its job.
func (f *Face) heartbeat(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	worker, err := workerOf(r, true)
	if err != nil {
		return err
	}
	id, err := jobOf(r)
	if err != nil {
		return err
	}
	lease, err := f.leaseOf(r)
	if err != nil {
		return err
	}
	j, fence, err := f.workers.held(r.Context(), p.Name, worker, id)
	if err != nil {
		return err
	}
	until := time.Now().Add(lease).UTC().Truncate(time.Millisecond)
	lost, err := f.Leases.Renew(r.Context(), []job.Fence{{Job: j.ID, N: fence}}, until)
	if err != nil {
		return err
	}
	if len(lost) > 0 {
		return gone(j)
	}
	f.workers.hear(worker)
	f.success(w, j.ID, &until)
	return nil
}

func (f *Face) success(w http.ResponseWriter, id job.ID, until *time.Time) {
	f.write(w, http.StatusOK, struct {
		Status     string     `json:"status"`
		JobID      job.ID     `json:"job_id"`
		LeaseUntil *time.Time `json:"lease_until,omitempty"`
	}{"success", id, until})
}

// completed is how a job ended that a worker brought to its end.
func completed(j job.Job, asked job.Request, result json.RawMessage) job.Outcome {
	kept := pyjson.AppendObject(nil, []pyjson.Member{{Key: resultKey, Value: append(append([]byte("["), result...), ']')}})
	outputs := pyjson.AppendObject(nil, []pyjson.Member{{Key: outputNode(asked), Value: kept}})
	out := outcome(j, job.Completed, outputs, "execution_success", nil)
	out.ExecSeconds = time.Since(j.Started).Seconds()
	return out
}

// failed is how a job ended that a worker gave up.
func failed(j job.Job, text string) job.Outcome {
	return outcome(j, job.Failed, []byte("{}"), "execution_error", map[string]any{
		"node_id": "", "node_type": "", "executed": []string{}, "exception_message": text + "\n", "exception_type": "ComfyuME.WorkerError",
		"traceback": []string{}, "current_inputs": map[string]any{}, "current_outputs": []string{},
	})
}

// interrupted is how a job ended that its owner stopped.
func interrupted(j job.Job) job.Outcome {
	return outcome(j, job.Cancelled, []byte("{}"), "execution_interrupted", map[string]any{"node_id": "", "node_type": "", "executed": []string{}})
}

// outcome makes the end that history and editors show.
func outcome(j job.Job, state job.State, outputs []byte, kind string, data map[string]any) job.Outcome {
	now := time.Now()
	begun := j.Started
	if begun.IsZero() {
		begun = now
	}
	if data == nil {
		data = map[string]any{}
	}
	data["prompt_id"], data["timestamp"] = j.PromptID, now.UnixMilli()
	messages, err := json.Marshal([][2]any{
		{"execution_start", map[string]any{"prompt_id": j.PromptID, "timestamp": begun.UnixMilli()}}, {kind, data},
	})
	if err != nil { // texts and numbers always marshal
		messages = []byte("[]")
	}
	out := job.Outcome{State: state, Outputs: outputs, Messages: messages, Meta: json.RawMessage("{}")}
	out.Summary, out.Error = comfy.Summarize(out.Outputs, out.Messages)
	return out
}
