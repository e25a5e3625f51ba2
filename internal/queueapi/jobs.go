package queueapi

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// Bounds of a list.
const (
	defaultLimit = 100
	maxLimit     = 10_000
)

var states = []job.State{job.Pending, job.Running, job.Completed, job.Failed, job.Cancelled}

// list answers GET /api/jobs: jobs that the person may see, newest first.
func (f *Face) list(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	q, user, err := listQuery(r.URL.Query())
	if err != nil {
		return err
	}
	names, err := f.whose(r.Context(), p, user)
	if err != nil {
		return err
	}
	jobs, err := f.collect(r.Context(), p, names, q)
	if err != nil {
		return err
	}
	return f.writeList(w, r, jobs)
}

func listQuery(values url.Values) (q job.ListQuery, user string, err error) {
	q.Limit = defaultLimit
	if text := values.Get("limit"); text != "" {
		q.Limit, err = strconv.Atoi(text)
		if err != nil || q.Limit < 1 || q.Limit > maxLimit {
			return q, "", wrong("limit", "Leave it out for "+strconv.Itoa(defaultLimit)+".", "%q is no whole number from 1 to %d.", clip(text), maxLimit)
		}
	}
	if text := values.Get("status"); text != "" {
		state := job.State(strings.ToLower(text))
		if !slices.Contains(states, state) {
			return q, "", wrong("status", "Use pending, running, completed, failed or cancelled.", "%q is not a state of a job.", clip(text))
		}
		q.States = []job.State{state}
	}
	return q, values.Get("user_id"), nil
}

// whose returns whose jobs are asked for. One empty name: everybody's.
func (f *Face) whose(ctx context.Context, p identity.Person, user string) ([]string, error) {
	switch {
	case user != "":
		other, err := f.subject(ctx, p, user)
		return []string{other.Name}, err
	case p.Role == identity.Operator:
		return []string{""}, nil
	case !teaches(p, p.Group):
		return []string{p.Name}, nil
	}
	names, err := f.People.Members(ctx, p.Group)
	if err == nil && !slices.Contains(names, p.Name) {
		names = append(names, p.Name)
	}
	return names, err
}

// collect returns the newest jobs of these people that the person may see.
func (f *Face) collect(ctx context.Context, p identity.Person, names []string, q job.ListQuery) ([]job.Job, error) {
	var all []job.Job
	for _, name := range names {
		found := 0
		for page := q; found < q.Limit; page.Offset += page.Limit {
			jobs, _, err := f.Queue.ListAll(ctx, page, name)
			if err != nil {
				return nil, err
			}
			for _, j := range jobs {
				if sees(p, j) { // an instructor does not see what somebody did before they joined the group
					all = append(all, j)
					found++
				}
			}
			if len(jobs) < page.Limit {
				break
			}
		}
		if len(all) > 2*q.Limit {
			all = newest(all, q.Limit)
		}
	}
	return newest(all, q.Limit), nil
}

func newest(jobs []job.Job, limit int) []job.Job {
	slices.SortFunc(jobs, func(x, y job.Job) int { return cmp.Compare(y.Seq, x.Seq) })
	jobs = slices.CompactFunc(jobs, func(x, y job.Job) bool { return x.ID == y.ID }) // pages move while they are read
	return jobs[:min(limit, len(jobs))]
}

// graphsAtOnce is how many graphs a list reads at a time for what was kept with them.
const graphsAtOnce = 8

// writeList sends jobs as it reads what was kept with them: a long list is never whole in memory.
func (f *Face) writeList(w http.ResponseWriter, r *http.Request, jobs []job.Job) error {
	out := &started{ResponseWriter: w}
	buffered := bufio.NewWriterSize(out, 64<<10)
	w.Header().Set("Content-Type", "application/json")
	fail := func(err error) error {
		if !out.begun {
			return err
		}
		if r.Context().Err() == nil {
			f.log.Warn("a list was cut short", "err", err)
		}
		panic(http.ErrAbortHandler) // so that nobody takes it for whole
	}
	buffered.WriteByte('[') //nolint:errcheck // Flush says it
	var b bytes.Buffer
	for part := range slices.Chunk(jobs, graphsAtOnce) {
		requests, err := f.requests(r.Context(), part)
		if err != nil {
			return fail(err)
		}
		for _, shown := range f.shapes(r.Context(), part...) {
			if req, ok := requests[shown.ID]; ok {
				shown.Metadata = metadataOf(req)
			}
			b.Reset()
			if shown.ID != jobs[0].ID {
				b.WriteString(",\n")
			}
			if err := encode(&b, shown); err != nil {
				return fail(err)
			}
			buffered.Write(bytes.TrimRight(b.Bytes(), "\n")) //nolint:errcheck // Flush says it
		}
	}
	buffered.WriteString("]\n") //nolint:errcheck // Flush says it
	if err := buffered.Flush(); err != nil {
		f.log.Debug("write an answer", "err", err) // who asked has gone
	}
	return nil
}

// started knows whether anything of an answer is on its way.
type started struct {
	http.ResponseWriter
	begun bool
}

func (s *started) Write(p []byte) (int, error) {
	s.begun = true
	return s.ResponseWriter.Write(p)
}

// requests returns what was asked with these jobs, as far as it is kept.
func (f *Face) requests(ctx context.Context, jobs []job.Job) (map[job.ID]job.Request, error) {
	ids := map[string][]job.ID{}
	for _, j := range jobs {
		ids[j.User] = append(ids[j.User], j.ID)
	}
	all := map[job.ID]job.Request{}
	for user, list := range ids {
		some, err := f.Queue.Requests(ctx, user, list)
		if err != nil {
			return nil, err
		}
		for id, req := range some {
			all[id] = req
		}
	}
	return all, nil
}

// one answers GET /api/jobs/{id}.
func (f *Face) one(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	j, err := f.find(r.Context(), p, r.PathValue("id"))
	if err != nil {
		return err
	}
	shown := f.shape(r.Context(), j)
	// What is out of history has left nothing but its row, and its prompt id may be another job's by now.
	e, err := f.Queue.Entry(r.Context(), j.User, j.PromptID)
	switch {
	case fault.Is(err, fault.Missing), err == nil && e.Job.ID != j.ID:
	case err != nil:
		return err
	default:
		shown.Metadata = metadataOf(e.Request)
		if shown.Result, err = resultOf(e); err != nil {
			return err
		}
		if text := errorOf(e); text != "" {
			shown.Error = &text
		}
	}
	f.write(w, http.StatusOK, shown)
	return nil
}

// cancel answers DELETE /api/jobs/{id}: a waiting job is taken out, a running one interrupted.
func (f *Face) cancel(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	j, err := f.find(r.Context(), p, r.PathValue("id"))
	if err != nil {
		return err
	}
	if j.State.Final() {
		return over(j)
	}
	if _, err := f.Queue.Cancel(r.Context(), j.ID); err != nil {
		return err
	}
	f.log.Info("a job is cancelled", "job", string(j.ID), "user", j.User, "by", p.Name)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func over(j job.Job) error {
	return fault.New(fault.Conflict, "Job %s is over already: %s.", j.ID, j.State).WithCode("job_is_over").
		WithRemedy("Nothing is left to do.")
}

// priority answers PATCH /api/jobs/{id}/priority. The number comes in a JSON body or in the query.
func (f *Face) priority(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	j, err := f.find(r.Context(), p, r.PathValue("id"))
	if err != nil {
		return err
	}
	class, err := f.priorityOf(w, r, p)
	if err != nil {
		return err
	}
	if j.State.Final() {
		return over(j)
	}
	if err := moves(p, j.Class, class); err != nil {
		return err
	}
	if j, err = f.Queue.SetClass(r.Context(), j.ID, class); err != nil {
		return err
	}
	f.log.Info("a job's priority is another", "job", string(j.ID), "user", j.User, "by", p.Name, "priority", class)
	f.write(w, http.StatusOK, struct {
		Status   string    `json:"status"`
		ID       job.ID    `json:"id"`
		JobID    job.ID    `json:"job_id"`
		Priority job.Class `json:"priority"`
	}{"success", j.ID, j.ID, j.Class})
	return nil
}

func (f *Face) priorityOf(w http.ResponseWriter, r *http.Request, p identity.Person) (job.Class, error) {
	query, asked := r.URL.Query()["priority"]
	body, done, err := f.body(w, r, p, 64<<10)
	if err != nil {
		return 0, err
	}
	defer done()
	var raw string
	if len(bytes.TrimSpace(body)) > 0 {
		members, err := object(body)
		if err != nil {
			return 0, err
		}
		if value, ok := member(members, "priority"); ok {
			raw = string(value)
		}
	}
	switch {
	case raw == "" && !asked:
		return 0, wrong("priority", `Send {"priority": 0} to 3 as JSON, or ?priority= in the address.`, "it is missing.")
	case raw != "" && asked && query[0] != raw:
		return 0, wrong("priority", "Send one of them.", "the body says %s and the address %s.", clip(raw), clip(query[0]))
	case raw == "":
		raw = query[0]
	}
	return classOf(raw)
}

// classOf reads a priority.
func classOf(raw string) (job.Class, error) {
	n, err := strconv.Atoi(raw)
	if err != nil || n < 0 || n > int(job.ClassLow) {
		return 0, wrong("priority", "Use 0 (instructor), 1 (high), 2 (normal) or 3 (low).", "%s is not a priority.", clip(raw))
	}
	return job.Class(n), nil
}

// object reads a JSON object.
func object(body []byte) ([]pyjson.Member, error) {
	if err := pyjson.Check(body); err != nil {
		return nil, wrong("body", "Send a JSON object.", "it is %v.", err)
	}
	if pyjson.KindOf(body) != pyjson.Object {
		return nil, wrong("body", "Send a JSON object.", "it is JSON, and not an object.")
	}
	return pyjson.Members(body)
}

func member(members []pyjson.Member, key string) ([]byte, bool) {
	i := slices.IndexFunc(members, func(m pyjson.Member) bool { return m.Key == key })
	if i < 0 || pyjson.KindOf(members[i].Value) == pyjson.Null {
		return nil, false
	}
	return members[i].Value, true
}
