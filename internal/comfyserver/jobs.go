package comfyserver

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// jobLimit is the page of GET /api/jobs when none was asked for: the editors demand a number in the answer.
const jobLimit = 1000

// jobError is an error of the jobs API in its own form.
func jobError(w http.ResponseWriter, status int, text string) error {
	return writeJSON(w, status, append(pyjson.AppendString([]byte(`{"error": `), text), '}'))
}

// integer reads a whole number from a query, or other when there is none.
func integer(text, name string, other int) (int, error) {
	if text == "" {
		return other, nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, invalid("invalid_query", "%s must be a whole number.", name)
	}
	return n, nil
}

// jobStates are the words of the jobs API.
var jobStates = map[string]job.State{
	"pending": job.Pending, "in_progress": job.Running,
	"completed": job.Completed, "failed": job.Failed, "cancelled": job.Cancelled,
}

// jobQuery reads the query of GET /api/jobs. problem is what is wrong with it.
func jobQuery(c *call) (q job.ListQuery, problem string) {
	values := c.query()
	if list := values.Get("status"); list != "" {
		for word := range strings.SplitSeq(list, ",") {
			word = strings.ToLower(strings.TrimSpace(word))
			if word == "" {
				continue
			}
			state, ok := jobStates[word]
			if !ok {
				return q, "unknown status: " + clip(word, 100)
			}
			if !slices.Contains(q.States, state) {
				q.States = append(q.States, state)
			}
		}
	}
	q.WorkflowID = values.Get("workflow_id")
	switch strings.ToLower(values.Get("sort_by")) {
	case "", "created_at":
	case "execution_duration":
		q.ByDuration = true
	default:
		return q, "sort_by must be created_at or execution_duration"
	}
	switch strings.ToLower(values.Get("sort_order")) {
	case "", "desc":
	case "asc":
		q.Ascending = true
	default:
		return q, "sort_order must be asc or desc"
	}
	var err error
	if q.Limit, err = integer(values.Get("limit"), "limit", jobLimit); err != nil || q.Limit <= 0 {
		return q, "limit must be a positive whole number"
	}
	if q.Offset, err = integer(values.Get("offset"), "offset", 0); err != nil {
		return q, "offset must be a whole number"
	}
	q.Limit, q.Offset = min(q.Limit, math.MaxInt32), min(max(0, q.Offset), math.MaxInt32) // so that their sum is a number
	return q, ""
}

// jobsGet answers GET /api/jobs.
func (s *Server) jobsGet(w http.ResponseWriter, c *call) error {
	s.hub.ListsAsked(c.user())
	q, problem := jobQuery(c)
	if problem != "" {
		return jobError(w, http.StatusBadRequest, problem)
	}
	jobs, total, err := s.Queue.Jobs(c.Context(), c.user(), q)
	if err != nil {
		return err
	}
	out := newStream(w)
	out.text(`{"jobs": [`)
	for i := range jobs {
		out.comma()
		out.buf = append(appendJob(out.buf, jobs[i]), '}')
		if err := out.spill(); err != nil {
			return out.fail(err)
		}
	}
	out.text(`], "pagination": {"offset": ` + strconv.Itoa(q.Offset) + `, "limit": ` + strconv.Itoa(q.Limit) +
		`, "total": ` + strconv.Itoa(total) + `, "has_more": ` + strconv.FormatBool(q.Offset+len(jobs) < total) + `}}`)
	return out.end()
}

// jobOne answers GET /api/jobs/{id}: the element with its workflow, and with its results when it is over.
func (s *Server) jobOne(w http.ResponseWriter, c *call) error {
	e, err := s.Queue.Entry(c.Context(), c.user(), c.params.get("prompt_id"))
	if fault.Is(err, fault.Missing) || err == nil && e.Job.Hidden {
		return jobError(w, http.StatusNotFound, "Job not found")
	}
	if err != nil {
		return err
	}
	b := appendJob(nil, e.Job)
	if e.Outcome != nil {
		b = append(append(b, `, "outputs": `...), safe(e.Outcome.Outputs, "{}")...)
		b = appendStatus(append(b, `, "execution_status": `...), e.Job.State, e.Outcome)
	}
	b = append(append(b, `, "workflow": {"prompt": `...), safe(e.Request.Prompt, "{}")...)
	b = append(append(b, `, "extra_data": `...), safe(e.Request.ExtraData, "{}")...)
	return writeJSON(w, http.StatusOK, append(b, `}}`...))
}

// cancel takes jobs of the person out of the queue, or stops them where they run already.
func (s *Server) cancel(c *call, ids []string) (bool, error) {
	removed, err := s.Queue.RemovePending(c.Context(), c.user(), ids)
	if err != nil {
		return false, err
	}
	cancelled := len(removed) > 0
	for _, id := range ids {
		if slices.ContainsFunc(removed, func(j job.Job) bool { return j.PromptID == id }) || id == "" {
			continue
		}
		stopped, err := s.Queue.Stop(c.Context(), c.user(), id)
		if err != nil && !fault.Is(err, fault.Missing) {
			return false, err
		}
		cancelled = cancelled || len(stopped) > 0
	}
	return cancelled, nil
}

// jobCancel answers POST /api/jobs/{id}/cancel.
func (s *Server) jobCancel(w http.ResponseWriter, c *call) error {
	yes, err := s.cancel(c, []string{c.params.get("prompt_id")})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, []byte(`{"cancelled": `+strconv.FormatBool(yes)+`}`))
}

// enoughWrong is how many ids are looked for and not found before a whole list is refused.
const enoughWrong = 100

// jobsCancel answers POST /api/jobs/cancel.
func (s *Server) jobsCancel(w http.ResponseWriter, c *call) error {
	body, err := s.jsonBody(w, c)
	if err != nil {
		return err
	}
	raw, ok := pyjson.Get(body, "job_ids")
	ids, isList := pyjson.Strings(raw)
	if !pyjson.Valid(body) || !ok || !isList {
		return jobError(w, http.StatusBadRequest, "job_ids must be a list of job ids")
	}
	var wrong []string
	for _, id := range ids {
		if u, err := uuid.Parse(id); err == nil && u.String() == id {
			continue
		}
		// An id that a client chose may have any form; it counts when it is one of theirs.
		if _, err := s.Queue.Find(c.Context(), c.user(), id); err != nil {
			if !fault.Is(err, fault.Missing) {
				return err
			}
			if wrong = append(wrong, id); len(wrong) == enoughWrong {
				break
			}
		}
	}
	if wrong != nil {
		b := pyjson.AppendStrings([]byte(`{"error": "job_ids contains invalid id(s)", "invalid_ids": `), wrong)
		return writeJSON(w, http.StatusBadRequest, append(b, '}'))
	}
	yes, err := s.cancel(c, ids)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, []byte(`{"cancelled": `+strconv.FormatBool(yes)+`}`))
}
