package sim

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/executor"
)

// listed is one element of /api/jobs.
type listed struct {
	item     *item
	status   string
	outcome  *executor.Outcome // nil while open
	summary  []byte            // its members, without braces
	duration float64           // of finished ones, in milliseconds
}

// statusWords are the states a job can be asked for by.
var statusWords = []string{"pending", "in_progress", "completed", "failed", "cancelled"}

func finishedStatus(o executor.Outcome) string {
	switch {
	case o.Success:
		return "completed"
	case bytes.Contains(o.Messages, []byte(`["execution_interrupted", {`)):
		return "cancelled"
	}
	return "failed"
}

// jobs lists everything the server knows.
func (l *life) jobs() []listed {
	var all []listed
	running, waiting := l.queue.lists()
	open := []byte(`"outputs_count": 0, "previewable_outputs_count": 0`)
	for _, it := range running {
		all = append(all, listed{item: it, status: "in_progress", summary: open})
	}
	for _, it := range waiting {
		all = append(all, listed{item: it, status: "pending", summary: open})
	}
	for _, f := range l.queue.past(math.MaxInt, -1) {
		all = append(all, f.listed())
	}
	return all
}

func (f *finished) listed() listed {
	summary, _ := comfy.Summarize(f.outcome.Outputs, f.outcome.Messages)
	number := func(key string) float64 {
		raw, _ := pyjson.Get(summary, key)
		n, _ := pyjson.ParseNum(raw)
		return n.Float()
	}
	return listed{
		item: f.item, status: finishedStatus(f.outcome), outcome: &f.outcome,
		summary:  bytes.TrimSuffix(bytes.TrimPrefix(summary, []byte{'{'}), []byte{'}'}),
		duration: number("execution_end_time") - number("execution_start_time"),
	}
}

// workflow is the id of the workflow a prompt was made from.
func (it *item) workflow() string {
	id, _ := pyjson.Get(it.pnginfo, "workflow", "id")
	return pyjson.TextOf(id)
}

func (j listed) append(dst []byte) []byte {
	dst = fmt.Appendf(dst, `{"id": %s, "status": "%s", "priority": %s, "create_time": %d, %s`,
		pyjson.Quote(j.item.id), j.status, j.item.number.JSON(), j.item.created, j.summary)
	if id := j.item.workflow(); id != "" {
		dst = pyjson.AppendString(append(dst, `, "workflow_id": `...), id)
	}
	return append(dst, '}')
}

// jobsQuery is what a list of jobs is asked for.
type jobsQuery struct {
	status         []string
	workflow, sort string
	ascending      bool
	limit, offset  int // limit -1: none
}

func (q *jobsQuery) read(get func(string) string) (problem string) {
	q.limit = -1
	if s := get("status"); s != "" {
		for word := range strings.SplitSeq(strings.ToLower(s), ",") {
			if word = strings.TrimSpace(word); !slices.Contains(statusWords, word) {
				return "Invalid status value(s): " + word
			}
			q.status = append(q.status, word)
		}
	}
	q.workflow = get("workflow_id")
	q.sort = strings.ToLower(cmp.Or(get("sort_by"), "created_at"))
	order := strings.ToLower(cmp.Or(get("sort_order"), "desc"))
	if q.sort != "created_at" && q.sort != "execution_duration" {
		return "sort_by must be created_at or execution_duration"
	}
	if order != "asc" && order != "desc" {
		return "sort_order must be asc or desc"
	}
	q.ascending = order == "asc"
	if s := get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n <= 0 {
			return "limit must be a positive integer"
		}
		q.limit = n
	}
	if s := get("offset"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return "offset must be an integer"
		}
		q.offset = max(0, n)
	}
	return ""
}

func failure(w http.ResponseWriter, status int, sentence string) {
	reply(w, status, append(append([]byte(`{"error": `), pyjson.Quote(sentence)...), '}'))
}

func (s *ComfyUI) handleJobs(w http.ResponseWriter, r *http.Request, l *life, _ []string) {
	var q jobsQuery
	if problem := q.read(query(r).Get); problem != "" {
		failure(w, http.StatusBadRequest, problem)
		return
	}
	all := slices.DeleteFunc(l.jobs(), func(j listed) bool {
		return q.status != nil && !slices.Contains(q.status, j.status) || q.workflow != "" && j.item.workflow() != q.workflow
	})
	slices.SortStableFunc(all, func(a, b listed) int {
		order := cmp.Compare(a.item.created, b.item.created)
		if q.sort == "execution_duration" {
			order = cmp.Compare(a.duration, b.duration)
		}
		if !q.ascending {
			order = -order
		}
		return order
	})
	total := len(all)
	all = all[min(q.offset, total):]
	limit := "null"
	if q.limit >= 0 {
		limit = strconv.Itoa(q.limit)
		all = all[:min(q.limit, len(all))]
	}
	out := []byte(`{"jobs": [`)
	for i, j := range all {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = j.append(out)
	}
	reply(w, http.StatusOK, fmt.Appendf(out, `], "pagination": {"offset": %d, "limit": %s, "total": %d, "has_more": %t}}`,
		q.offset, limit, total, min(q.offset, total)+len(all) < total))
}

func (s *ComfyUI) handleJob(w http.ResponseWriter, _ *http.Request, l *life, args []string) {
	jobs := l.jobs()
	i := slices.IndexFunc(jobs, func(j listed) bool { return j.item.id == args[0] })
	if i < 0 {
		failure(w, http.StatusNotFound, "Job not found")
		return
	}
	j := jobs[i]
	out := j.append(nil)
	out = out[:len(out)-1]
	if j.outcome != nil {
		status := "error"
		if j.outcome.Success {
			status = "success"
		}
		out = fmt.Appendf(out, `, "outputs": %s, "execution_status": {"status_str": "%s", "completed": %t, "messages": %s}`,
			j.outcome.Outputs, status, j.outcome.Success, j.outcome.Messages)
	}
	out = fmt.Appendf(out, `, "workflow": {"prompt": %s, "extra_data": %s}}`, j.item.prompt, withoutSecrets(j.item.extra))
	reply(w, http.StatusOK, out)
}

// cancel stops a job, whether it runs or waits, and reports whether there was something to stop.
func (l *life) cancelJob(id string) bool {
	if l.queue.remove(id) {
		return true
	}
	return l.queue.whileRuns(id, func() { l.stop.Store(true) })
}

func (s *ComfyUI) handleJobCancel(w http.ResponseWriter, _ *http.Request, l *life, args []string) {
	reply(w, http.StatusOK, fmt.Appendf(nil, `{"cancelled": %t}`, l.cancelJob(args[0])))
}

func (s *ComfyUI) handleJobsCancel(w http.ResponseWriter, r *http.Request, l *life, _ []string) {
	b, ok := body(w, r)
	if !ok {
		return
	}
	list, found := pyjson.Get(b, "job_ids")
	ids, err := pyjson.Elements(list)
	if !pyjson.Valid(b) || !found || err != nil {
		failure(w, http.StatusBadRequest, "job_ids must be a list of ids")
		return
	}
	var invalid []json.RawMessage
	for _, id := range ids {
		if !canonical.MatchString(pyjson.TextOf(id)) {
			invalid = append(invalid, id)
		}
	}
	if len(invalid) > 0 {
		out := []byte(`{"error": "job_ids contains invalid id(s)", "invalid_ids": [`)
		out = append(out, bytes.Join(asBytes(invalid), []byte(", "))...)
		reply(w, http.StatusBadRequest, append(out, "]}"...))
		return
	}
	any := false
	for _, id := range ids {
		any = l.cancelJob(pyjson.TextOf(id)) || any
	}
	reply(w, http.StatusOK, fmt.Appendf(nil, `{"cancelled": %t}`, any))
}

func asBytes(list []json.RawMessage) [][]byte {
	out := make([][]byte, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}
