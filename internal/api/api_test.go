package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fake is a studio of two participants, each with a job, and notes what is done to jobs.
type fake struct {
	done   []string
	broken bool
}

var (
	made     = time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	accounts = map[string]api.User{
		"ann": {Name: "ann", Role: identity.Participant, Group: "class-a"},
		"ben": {Name: "ben", Role: identity.Participant, Group: "class-b"},
		"ivy": {Name: "ivy", Role: identity.Instructor, Group: "class-a"},
		"olu": {Name: "olu", Role: identity.Operator},

		"socket": {Role: identity.Operator}, // who owns the data folder
	}
	jobs = []job.Job{
		{ID: "j-ann", User: "ann", Group: "class-a", PromptID: "p", Class: job.ClassNormal, State: job.Running, Created: made, Attempt: job.Attempt{N: 1, BackEnd: "gpu1"}},
		{ID: "j-ben", User: "ben", Group: "class-b", PromptID: "p", Class: job.ClassNormal, State: job.Completed, Created: made, Started: made, Finished: made.Add(time.Second)},
		{ID: "j-ann-0", User: "ann", Group: "class-a", PromptID: "p0", Class: job.ClassNormal, State: job.Failed, Created: made, Started: made, Finished: made.Add(time.Second)},
	}
)

func missing(what string) error { return fault.New(fault.Missing, "There is no %s.", what) }

func (*fake) User(_ context.Context, name string) (api.User, error) {
	if u, ok := accounts[name]; ok {
		return u, nil
	}
	return api.User{}, missing("person " + name)
}

func (*fake) Users(context.Context, string) ([]api.User, error) {
	return []api.User{accounts["ann"], accounts["ben"]}, nil
}

func (*fake) AddUser(_ context.Context, n api.NewUser) (api.User, error) {
	if n.Name == "ann" {
		return api.User{}, fault.New(fault.Conflict, "The name is taken.").WithCode("name_taken").WithRemedy("Choose another.")
	}
	return api.User{Name: n.Name, Role: n.Role}, nil
}

func (f *fake) ChangeUser(ctx context.Context, name string, _ api.UserChange) (api.User, error) {
	return f.User(ctx, name)
}
func (*fake) RemoveUser(context.Context, string, bool) error    { return nil }
func (*fake) SetPassword(context.Context, string, string) error { return nil }
func (*fake) Import(context.Context, io.Reader) (api.Imported, error) {
	return api.Imported{Made: []api.User{}}, nil
}

func (*fake) NewLink(_ context.Context, user, _ string, _ time.Duration) (api.Link, error) {
	return api.Link{User: user, URL: "http://x/link/c"}, nil
}
func (*fake) Tokens(context.Context, string) ([]api.Token, error) { return []api.Token{}, nil }
func (*fake) NewToken(_ context.Context, user string, n api.NewToken) (api.Token, error) {
	return api.Token{User: user, Label: n.Label, Secret: "cm_x"}, nil
}
func (*fake) RevokeToken(context.Context, string, string) error { return nil }
func (*fake) Groups(context.Context) ([]api.Group, error) {
	return []api.Group{{Name: "class-a"}, {Name: "class-b"}}, nil
}

func (*fake) AddGroup(_ context.Context, name, _ string) (api.Group, error) {
	return api.Group{Name: name}, nil
}
func (*fake) RemoveGroup(context.Context, string) error         { return nil }
func (*fake) Codes(context.Context, string) ([]api.Code, error) { return []api.Code{}, nil }
func (*fake) NewCode(_ context.Context, group, _ string, _ int, _ time.Duration) (api.Code, error) {
	return api.Code{Group: group}, nil
}
func (*fake) RevokeCode(context.Context, string) error { return nil }

func (*fake) Counts() job.Counts { return job.Counts{Running: 1, Completed: 1} }
func (*fake) CountsByUser() map[string]job.Counts {
	return map[string]job.Counts{"ann": {Running: 1}, "ben": {Pending: 2}}
}
func (*fake) Mode() string { return "fair" }
func (f *fake) SetMode(_ context.Context, mode string) error {
	return f.note("mode", mode)
}

func (*fake) Pauses() []api.Pause {
	return []api.Pause{
		{Scope: "group:class-b", Reason: "Exam.", By: "olu", Since: made},
		{Scope: "backend:gpu1", By: "olu", Since: made},
		{Scope: "group:class-a", Reason: "Break.", By: "olu", Since: made},
		{Scope: "all", By: "olu", Since: made},
	}
}

func (f *fake) Pause(_ context.Context, scope, reason, by string) error {
	return f.note("pause", scope, reason, by)
}
func (f *fake) Resume(_ context.Context, scope string) error { return f.note("resume", scope) }
func (*fake) Weights(user, group string) (person, all float64) {
	if user == "ann" {
		return 2, 3
	}
	return 1, 1
}

func (f *fake) Export(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, "{}\n")
	if f.broken {
		return errors.New("the disk is gone")
	}
	return err
}

func (*fake) Places(_ context.Context, ids []job.ID) map[job.ID]event.Place {
	return map[job.ID]event.Place{"j-ann": {Position: 1, Code: "next", Reason: "It is the first in line.", From: 2, To: 30}}
}

func (*fake) Entry(_ context.Context, user, promptID string) (job.Entry, error) {
	if user != "ann" || promptID != "p0" {
		return job.Entry{}, missing("such job")
	}
	return job.Entry{
		Job: jobs[2],
		Request: job.Request{
			Prompt:    json.RawMessage(`{"1": {"class_type": "A", "inputs": {"x": NaN, "y": -Infinity, "text": "NaN \" Infinity"}}}`),
			ExtraData: json.RawMessage(`{"client_id": "c", "extra_pnginfo": {"workflow": {"nodes": []}}}`),
		},
		Outcome: &job.Outcome{Outputs: json.RawMessage(`{"10": {"images": [{"filename": "b.png", "subfolder": "", "type": "output"}], "animated": [false]},
			"9": {"images": [{"filename": "a.png", "subfolder": "x", "type": "temp"}], "text": ["filename"]}}`)},
	}, nil
}

// note keeps what was asked for.
func (f *fake) note(words ...string) error {
	f.done = append(f.done, strings.Join(words, " "))
	return nil
}

func (f *fake) act(ctx context.Context, id job.ID, words ...string) (job.Job, error) {
	return must(f.Get(ctx, id)), f.note(append(words, string(id))...)
}

func must(j job.Job, err error) job.Job {
	if err != nil {
		panic(err)
	}
	return j
}

func (f *fake) Hold(ctx context.Context, id job.ID, on bool) (job.Job, error) {
	return f.act(ctx, id, "hold", strconv.FormatBool(on))
}

func (f *fake) ToFront(ctx context.Context, id job.ID) (job.Job, error) {
	return f.act(ctx, id, "front")
}

func (f *fake) SetClass(ctx context.Context, id job.ID, c job.Class) (job.Job, error) {
	return f.act(ctx, id, "class", strconv.Itoa(int(c)))
}

func (f *fake) SetDeadline(ctx context.Context, id job.ID, at time.Time) (job.Job, error) {
	return f.act(ctx, id, "deadline", at.Format(time.RFC3339))
}

func (f *fake) Retry(ctx context.Context, id job.ID) (job.Job, error) { return f.act(ctx, id, "retry") }

func (f *fake) Reorder(_ context.Context, user string, ids []job.ID) ([]job.Job, error) {
	return jobs[:1], f.note("reorder", user, fmt.Sprint(ids))
}

func (f *fake) CancelUser(_ context.Context, user string) (removed, stopped []job.Job, err error) {
	return nil, jobs[:1], f.note("cancel all", user)
}

func (*fake) ListAll(_ context.Context, _ job.ListQuery, user string) ([]job.Job, int, error) {
	own := slices.DeleteFunc(slices.Clone(jobs), func(j job.Job) bool { return user != "" && j.User != user })
	return own, len(own), nil
}

func (*fake) Get(_ context.Context, id job.ID) (job.Job, error) {
	for _, j := range jobs {
		if j.ID == id {
			return j, nil
		}
	}
	return job.Job{}, missing("job " + string(id))
}

func (f *fake) Cancel(ctx context.Context, id job.ID) (job.Job, error) {
	return f.act(ctx, id, "cancel")
}

func (*fake) BackEnds() []api.BackEnd { return []api.BackEnd{{Name: "gpu1", Devices: []api.Device{}}} }

func (*fake) Budget(_ context.Context, group string, all bool) api.Budget {
	return api.Budget{Groups: []api.Spending{{Group: group}}}
}

func (*fake) Tries(_ context.Context, id job.ID) ([]job.Try, error) {
	if id != "j-ann-0" {
		return nil, nil
	}
	return []job.Try{{N: 1, BackEnd: "gpu0", Began: made, Ended: made, Cause: job.CauseLost, Reason: "gpu0 lost the run."}}, nil
}

func (*fake) Status(context.Context) api.Status {
	return api.Status{Reasons: []string{}, BackEnds: []api.BackEnd{}}
}

func face(t *testing.T) (*api.Face, *fake) {
	t.Helper()
	f := &fake{}
	return api.New(api.Deps{People: f, Queue: f, Fleet: f, Agents: fakeAgents{}, Studio: f, Verda: f}, slog.New(slog.DiscardHandler)), f
}

// ask sends a request as a person; "" is nobody.
func ask(f http.Handler, as, method, path, body string) *httptest.ResponseRecorder {
	kind := "application/json"
	if strings.HasSuffix(path, "/roster") {
		kind = "text/csv"
	}
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", kind)
	}
	if u, ok := accounts[as]; ok {
		r = r.WithContext(identity.With(r.Context(), identity.Person{Name: u.Name, Group: u.Group, Role: u.Role}))
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

const v1 = api.Base + "/v1"

// TestWhoMayDoWhat tries every operation as nobody, as the participants ann and ben, as an instructor and as an
// operator. The table says the status for each; an operation that is not in it fails the test.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	type row struct {
		body, path                 string
		nobody, ann, ben, ivy, olu int
	}
	table := map[string]row{
		"GET /me":                          {"", "/me", 401, 200, 200, 200, 200},
		"GET /users":                       {"", "/users", 401, 403, 403, 200, 200},
		"POST /users":                      {`{"name":"new"}`, "/users", 401, 403, 403, 403, 201},
		"GET /users/{name}":                {"", "/users/ann", 401, 403, 403, 200, 200},
		"PATCH /users/{name}":              {`{"suspended":true}`, "/users/ann", 401, 403, 403, 403, 200},
		"DELETE /users/{name}":             {"", "/users/ann", 401, 403, 403, 403, 204},
		"PUT /users/{name}/password":       {`{"password":"p"}`, "/users/ann/password", 401, 403, 403, 403, 204},
		"POST /roster":                     {"name\nx\n", "/roster", 401, 403, 403, 403, 200},
		"POST /users/{name}/links":         {"", "/users/ann/links", 401, 403, 403, 201, 201},
		"GET /users/{name}/tokens":         {"", "/users/ann/tokens", 401, 200, 403, 403, 200},
		"POST /users/{name}/tokens":        {`{"label":"l"}`, "/users/ann/tokens", 401, 201, 403, 403, 201},
		"DELETE /users/{name}/tokens/{id}": {"", "/users/ann/tokens/t", 401, 204, 403, 403, 204},
		"GET /groups":                      {"", "/groups", 401, 403, 403, 200, 200},
		"POST /groups":                     {`{"name":"g"}`, "/groups", 401, 403, 403, 403, 201},
		"DELETE /groups/{group}":           {"", "/groups/g", 401, 403, 403, 403, 204},
		"GET /codes":                       {"", "/codes", 401, 403, 403, 200, 200},
		"POST /groups/{group}/codes":       {"", "/groups/g/codes", 401, 403, 403, 201, 201},
		"DELETE /codes/{code}":             {"", "/codes/ABCD", 401, 403, 403, 204, 204},
		"GET /jobs":                        {"", "/jobs?user=ann", 401, 200, 403, 200, 200},
		"GET /jobs/{id}":                   {"", "/jobs/j-ann", 401, 200, 404, 200, 200},
		"GET /jobs/{id}/record":            {"", "/jobs/j-ann-0/record", 401, 200, 404, 200, 200},
		"POST /jobs/{id}/cancel":           {"", "/jobs/j-ann/cancel", 401, 200, 404, 200, 200},
		"POST /jobs/{id}/hold":             {"", "/jobs/j-ann/hold", 401, 200, 404, 200, 200},
		"POST /jobs/{id}/release":          {"", "/jobs/j-ann/release", 401, 200, 404, 200, 200},
		"POST /jobs/{id}/front":            {"", "/jobs/j-ann/front", 401, 200, 404, 200, 200},
		"POST /jobs/{id}/retry":            {"", "/jobs/j-ann-0/retry", 401, 201, 404, 201, 201},
		"PATCH /jobs/{id}":                 {`{"priority":3}`, "/jobs/j-ann", 401, 200, 404, 200, 200},
		"DELETE /users/{name}/jobs":        {"", "/users/ann/jobs", 401, 200, 403, 200, 200},
		"PUT /users/{name}/jobs/order":     {`{"jobs":["j-ann"]}`, "/users/ann/jobs/order", 401, 200, 403, 200, 200},
		"GET /queue":                       {"", "/queue", 401, 200, 200, 200, 200},
		"GET /queue/export":                {"", "/queue/export", 401, 403, 403, 403, 200},
		"PUT /queue/mode":                  {`{"mode":"fifo"}`, "/queue/mode", 401, 403, 403, 403, 200},
		"PUT /queue/pauses/{scope}":        {`{"reason":"Lunch."}`, "/queue/pauses/group:class-a", 401, 403, 403, 403, 200},
		"DELETE /queue/pauses/{scope}":     {"", "/queue/pauses/all", 401, 403, 403, 403, 200},
		"GET /budget":                      {"", "/budget", 401, 403, 403, 200, 200},
		"GET /status":                      {"", "/status", 401, 403, 403, 200, 200},
		"GET /backends":                    {"", "/backends", 401, 403, 403, 200, 200},
		"GET /agents":                      {"", "/agents", 401, 403, 403, 200, 200},
		"DELETE /agents/{name}":            {"", "/agents/lab-1", 401, 403, 403, 403, 204},
		"POST /backends/{name}/code":       {"", "/backends/lab-1/code", 401, 403, 403, 403, 201},
		"POST /backends/{name}/test":       {"", "/backends/gpu1/test", 401, 403, 403, 403, 200},
		"POST /backends":                   {`{"name":"gpu2","url":"http://x"}`, "/backends", 401, 403, 403, 403, 201},
		"DELETE /backends/{name}":          {"", "/backends/gpu1", 401, 403, 403, 403, 204},
		"POST /backends/{name}/drain":      {"", "/backends/gpu1/drain", 401, 403, 403, 403, 200},
		"POST /backends/{name}/resume":     {"", "/backends/gpu1/resume", 401, 403, 403, 403, 200},
		"GET /requests":                    {"", "/requests", 401, 403, 403, 200, 200},
		"DELETE /requests":                 {"", "/requests?kind=model&name=x", 401, 403, 403, 403, 204},

		"GET /backends/{name}/models":          {"", "/backends/gpu1/models", 401, 403, 403, 403, 200},
		"POST /backends/{name}/models":         {`{"folder":"loras","url":"https://h/x"}`, "/backends/gpu1/models", 401, 403, 403, 403, 200},
		"POST /backends/{name}/models/hash":    {"", "/backends/gpu1/models/hash", 401, 403, 403, 403, 200},
		"DELETE /backends/{name}/models":       {"", "/backends/gpu1/models?folder=loras&file=x", 401, 403, 403, 403, 200},
		"GET /backends/{name}/nodes":           {"", "/backends/gpu1/nodes", 401, 403, 403, 403, 200},
		"POST /backends/{name}/nodes/install":  {`{"url":"https://h/x"}`, "/backends/gpu1/nodes/install", 401, 403, 403, 403, 200},
		"POST /backends/{name}/nodes/pin":      {`{"name":"x"}`, "/backends/gpu1/nodes/pin", 401, 403, 403, 403, 200},
		"POST /backends/{name}/nodes/rollback": {`{"name":"x"}`, "/backends/gpu1/nodes/rollback", 401, 403, 403, 403, 200},
	}
	for name, r := range verdaCalls {
		table[name] = row{r.body, r.path, 401, 403, 403, 403, r.ok}
	}
	f, _ := face(t)
	var doc struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	text, err := f.OpenAPI()
	if err == nil {
		err = json.Unmarshal(text, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	for path, operations := range doc.Paths {
		for method := range operations {
			name := strings.ToUpper(method) + " " + strings.TrimPrefix(path, v1)
			r, ok := table[name]
			if !ok {
				t.Errorf("%s is not in the table: say who may", name)
				continue
			}
			delete(table, name)
			for as, want := range map[string]int{"": r.nobody, "ann": r.ann, "ben": r.ben, "ivy": r.ivy, "olu": r.olu} {
				w := ask(f, as, strings.ToUpper(method), v1+r.path, r.body)
				if w.Code != want {
					t.Errorf("%s as %q gave %d, want %d: %s", name, as, w.Code, want, w.Body)
				}
				if w.Code >= 400 && (w.Header().Get("Content-Type") != "application/problem+json" || strings.Contains(w.Body.String(), "gpu1")) {
					t.Errorf("%s as %q: refusal is %s %s", name, as, w.Header().Get("Content-Type"), w.Body)
				}
			}
		}
	}
	for name := range table {
		t.Errorf("%s is in the table and not in the interface", name)
	}
}

func TestOthersLeaveNoTrace(t *testing.T) {
	t.Parallel()
	f, state := face(t)
	for _, path := range []string{"/jobs", "/queue", "/jobs?state=running&state=completed"} {
		if w := ask(f, "ann", "GET", v1+path, ""); strings.Contains(w.Body.String(), "ben") {
			t.Errorf("%s shows ann what is ben's: %s", path, w.Body)
		}
	}
	for name, want := range map[string]string{"ann": `"pending":0,"running":1`, "ben": `"pending":2,"running":0`} {
		if w := ask(f, name, "GET", v1+"/queue", ""); !strings.Contains(w.Body.String(), `"counts":{`+want) {
			t.Errorf("%s sees counts of others: %s", name, w.Body)
		}
	}
	for _, act := range []string{"cancel", "hold", "release", "front", "retry"} {
		if w := ask(f, "ann", "POST", v1+"/jobs/j-ben/"+act, ""); w.Code != 404 || len(state.done) != 0 {
			t.Errorf("ann could %s ben's job: %d, %v", act, w.Code, state.done)
		}
	}
	if w := ask(f, "ivy", "POST", v1+"/users/olu/links", ""); w.Code != 403 {
		t.Errorf("an instructor could become operator: %d", w.Code)
	}
	a, b := ask(f, "ann", "GET", v1+"/jobs/j-ben", ""), ask(f, "ann", "GET", v1+"/jobs/j-xyz", "")
	if strings.ReplaceAll(a.Body.String(), "j-ben", "j-xyz") != b.Body.String() {
		t.Errorf("a job of somebody else can be told from none: %s %s", a.Body, b.Body)
	}
}

func TestErrorsSayWhatAndWhatToDo(t *testing.T) {
	t.Parallel()
	f, _ := face(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "/users", `{"name":"ann"}`, 409, `"code":"name_taken","remedy":"Choose another."`},
		{"POST", "/users", `{"name":`, 400, "unexpected end"},
		{"POST", "/users", `{"name":1}`, 422, `"detail":"name: expected string, and not 1.","remedy":"See what is taken in /studio/api/openapi.json."`},
		{"POST", "/users", `{}`, 422, `"detail":"expected required property name to be present."`},
		{"POST", "/users", `{"name":"x","role":"king"}`, 422, "expected value to be one of"},
		{"POST", "/users", `{"name":"x","colour":"red"}`, 422, "unexpected property"},
		{"GET", "/jobs?limit=0", "", 422, `"detail":"limit: expected number >= 1, and not 0."`},
		{"GET", "/jobs?state=gone", "", 422, "is not a state"},
		{"POST", "/jobs/j-ben/cancel", "", 409, "job_is_over"},
		{"POST", "/jobs/j-ann/retry", "", 409, "job_is_open"},
		{"PATCH", "/jobs/j-ann", `{"priority":4}`, 422, "priority"},
		{"PUT", "/users/ann/jobs/order", `{"jobs":[]}`, 422, "jobs"},
		{"PUT", "/queue/mode", `{"mode":"best"}`, 422, "mode"},
		{"PUT", "/queue/pauses/gpu1", `{}`, 422, "Use all, group:NAME or backend:NAME."},
		{"PUT", "/queue/pauses/group:class-c", `{}`, 404, "There is no group class-c."},
		{"PUT", "/queue/pauses/backend:gpu2", `{}`, 404, "There is no back end gpu2."},
		{"DELETE", "/queue/pauses/backend:gpu2", "", 404, "Nothing is paused"},
		{"GET", "/jobs/j-ben/record", "", 404, "out of history"},
		{"GET", "/nope", "", 404, "no GET"},
		{"PUT", "/me", "", 405, "no PUT"},
		{"GET", "/jobs/..%2F..%2Fme", "", 404, "There is no job"},
	} {
		w := ask(f, "olu", c.method, v1+c.path, c.body)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s gave %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
}

func TestAttemptsAreToldWithTheJob(t *testing.T) {
	t.Parallel()
	f, _ := face(t)
	var got api.Job
	if err := json.Unmarshal(ask(f, "ann", "GET", v1+"/jobs/j-ann-0", "").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := []api.Attempt{{N: 1, BackEnd: "gpu0", Began: &made, Ended: &made, Cause: job.CauseLost, Reason: "gpu0 lost the run."}}
	if diff := cmp.Diff(want, got.Attempts); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	got = api.Job{}
	if err := json.Unmarshal(ask(f, "ann", "GET", v1+"/jobs/j-ann", "").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if n := len(got.Attempts); n != 0 {
		t.Errorf("of a job whose first attempt is staged: %+v", got.Attempts)
	}
}

func TestStagedJobsWait(t *testing.T) {
	t.Parallel()
	f, _ := face(t)
	var got api.Job
	if err := json.Unmarshal(ask(f, "ann", "GET", v1+"/jobs/j-ann", "").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := api.Job{
		ID: "j-ann", User: "ann", Group: "class-a", PromptID: "p", State: job.Pending, Class: job.ClassNormal, Created: made, Attempt: 1, BackEnd: "gpu1",
		Staged: true, Position: 1, Code: "next", Why: "It is the first in line.", Wait: &api.Band{From: 2, To: 30},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestOpenAPI shows every change of the interface as a change of a file.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	f, _ := face(t)
	text, err := f.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "openapi.json")
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil { //nolint:gosec // it is for everybody
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got)+"\n", "\n")); diff != "" {
		t.Errorf("the interface changed; if that is meant: go test ./internal/api -update\n%s", diff)
	}
	w := ask(f, "", "GET", api.Base+"/openapi.json", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"openapi":"3.1.0"`) {
		t.Errorf("%d %.80s", w.Code, w.Body)
	}
}
