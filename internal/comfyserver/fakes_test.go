package comfyserver_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeQueue keeps jobs in memory and announces what happens to them.
type fakeQueue struct {
	bus *event.Bus

	mu      sync.Mutex
	entries []job.Entry // in order of submission
	keys    []string    // of them
	done    []job.ID    // in order of ending
	next    float64
}

func (q *fakeQueue) tell(c job.Change, j job.Job, o *job.Outcome) {
	q.bus.Publish(event.Event{User: j.User, Body: event.JobChanged{Changed: job.Changed{Change: c, Job: &j, Outcome: o}}})
}

func (q *fakeQueue) Submit(_ context.Context, s job.Submission) (job.Job, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s.PromptID == "" {
		s.PromptID = string(s.ID)
	}
	for i, key := range q.keys {
		switch e := q.entries[i]; {
		case s.Key == "" || key != s.Key || e.Job.User != s.User:
		case !bytes.Equal(e.Request.Prompt, s.Request.Prompt):
			return job.Job{}, false, fault.New(fault.Conflict, "This key was used for another run.").WithCode("idempotency_key_reused")
		default:
			return e.Job, true, nil
		}
	}
	for _, e := range q.entries {
		if e.Job.User == s.User && e.Job.PromptID == s.PromptID && !e.Job.State.Final() {
			return job.Job{}, false, fault.New(fault.Conflict, "That prompt id is in use.").WithCode("prompt_id_in_use")
		}
	}
	j := job.Job{
		ID: s.ID, User: s.User, PromptID: s.PromptID, ClientID: s.ClientID, State: job.Pending, Created: s.Created,
		WorkflowID: s.WorkflowID, Seq: int64(len(q.entries)), Profile: s.Profile,
	}
	if s.Number != nil {
		j.Number = *s.Number
	} else {
		j.Number = q.next
		q.next++
		if s.Front {
			j.Number = -j.Number
		}
	}
	q.entries, q.keys = append(q.entries, job.Entry{Job: j, Request: s.Request}), append(q.keys, s.Key)
	q.tell(job.Submitted, j, nil)
	return j, false, nil
}

func (q *fakeQueue) Remaining(user string) int {
	return len(q.pick(user, func(j job.Job) bool { return !j.State.Final() }))
}

func (q *fakeQueue) pick(user string, want func(job.Job) bool) []job.Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	var jobs []job.Job
	for _, e := range q.entries {
		if e.Job.User == user && want(e.Job) {
			jobs = append(jobs, e.Job)
		}
	}
	return jobs
}

func (q *fakeQueue) Open(_ context.Context, user string) ([]job.Job, error) {
	jobs := q.pick(user, func(j job.Job) bool { return !j.State.Final() })
	slices.SortStableFunc(jobs, func(a, b job.Job) int {
		return cmp.Or(cmp.Compare(b.State, a.State), cmp.Compare(a.Number, b.Number)) // running sorts after pending
	})
	return jobs, nil
}

func (q *fakeQueue) Requests(_ context.Context, user string, ids []job.ID) (map[job.ID]job.Request, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	found := map[job.ID]job.Request{}
	for _, e := range q.entries {
		if e.Job.User == user && slices.Contains(ids, e.Job.ID) {
			found[e.Job.ID] = e.Request
		}
	}
	return found, nil
}

func (q *fakeQueue) Entry(_ context.Context, user, promptID string) (job.Entry, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range slices.Backward(q.entries) {
		if e.Job.User == user && e.Job.PromptID == promptID {
			return e, nil
		}
	}
	return job.Entry{}, fault.New(fault.Missing, "There is no such job.")
}

func (q *fakeQueue) Find(ctx context.Context, user, promptID string) (job.Job, error) {
	e, err := q.Entry(ctx, user, promptID)
	return e.Job, err
}

func (q *fakeQueue) EachHistory(_ context.Context, user string, h job.HistoryQuery, fn func(job.Entry) error) error {
	q.mu.Lock()
	var all []job.Entry
	for _, id := range q.done {
		for _, e := range q.entries {
			if e.Job.ID == id && e.Job.User == user && !e.Job.Hidden {
				all = append(all, e)
			}
		}
	}
	q.mu.Unlock()
	switch {
	case h.Offset >= 0:
		all = all[min(h.Offset, len(all)):]
		if h.MaxItems >= 0 {
			all = all[:min(h.MaxItems, len(all))]
		}
	case h.MaxItems >= 0:
		all = all[max(0, len(all)-h.MaxItems):]
	}
	for _, e := range all {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (q *fakeQueue) Jobs(_ context.Context, user string, l job.ListQuery) ([]job.Job, int, error) {
	jobs := q.pick(user, func(j job.Job) bool {
		return !j.Hidden && (l.States == nil || slices.Contains(l.States, j.State)) && (l.WorkflowID == "" || l.WorkflowID == j.WorkflowID)
	})
	if !l.Ascending {
		slices.Reverse(jobs)
	}
	total := len(jobs)
	jobs = jobs[min(l.Offset, total):]
	if l.Limit > 0 {
		jobs = jobs[:min(l.Limit, len(jobs))]
	}
	return jobs, total, nil
}

// change applies fn to a job and announces it.
func (q *fakeQueue) change(c job.Change, want func(job.Job) bool, fn func(*job.Entry)) []job.Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	var changed []job.Job
	for i := range q.entries {
		e := &q.entries[i]
		if !want(e.Job) {
			continue
		}
		fn(e)
		changed = append(changed, e.Job)
		if c == job.Finished {
			q.done = append(q.done, e.Job.ID)
			q.tell(c, e.Job, e.Outcome)
			continue
		}
		q.tell(c, e.Job, nil)
	}
	return changed
}

func (q *fakeQueue) RemovePending(_ context.Context, user string, ids []string) ([]job.Job, error) {
	return q.change(job.Removed, func(j job.Job) bool {
		return j.User == user && j.State == job.Pending && slices.Contains(ids, j.PromptID)
	}, func(e *job.Entry) { e.Job.State, e.Job.Hidden = job.Cancelled, true }), nil
}

func (q *fakeQueue) ClearPending(ctx context.Context, user string) ([]job.Job, error) {
	var ids []string
	for _, j := range q.pick(user, func(j job.Job) bool { return j.State == job.Pending }) {
		ids = append(ids, j.PromptID)
	}
	return q.RemovePending(ctx, user, ids)
}

func (q *fakeQueue) moved(id job.ID, fn func(*job.Entry)) (job.Job, error) {
	changed := q.change(job.Moved, func(j job.Job) bool { return j.ID == id && j.State == job.Pending }, fn)
	if len(changed) == 0 {
		return job.Job{}, fault.New(fault.Conflict, "It does not wait any more.").WithCode("not_pending")
	}
	return changed[0], nil
}

func (q *fakeQueue) Hold(_ context.Context, id job.ID, on bool) (job.Job, error) {
	return q.moved(id, func(e *job.Entry) { e.Job.Held = on })
}

func (q *fakeQueue) ToFront(_ context.Context, id job.ID) (job.Job, error) {
	return q.moved(id, func(e *job.Entry) { e.Job.Number = -100 })
}

func (q *fakeQueue) DeleteHistory(_ context.Context, user string, ids []string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.entries = slices.DeleteFunc(q.entries, func(e job.Entry) bool {
		return e.Job.User == user && e.Job.State.Final() && (ids == nil || slices.Contains(ids, e.Job.PromptID))
	})
	return nil
}

func (q *fakeQueue) ClearHistory(ctx context.Context, user string) error {
	return q.DeleteHistory(ctx, user, nil)
}

func (q *fakeQueue) Stop(_ context.Context, user, id string) ([]job.Job, error) {
	return q.change(job.StopRequested, func(j job.Job) bool {
		return j.User == user && j.State == job.Running && (id == "" || j.PromptID == id)
	}, func(e *job.Entry) { e.Job.Stop = true }), nil
}

// post makes a back end begin a job, finish ends it.
func (q *fakeQueue) post(user, promptID string) job.Job {
	return q.change(job.Posted, func(j job.Job) bool { return j.User == user && j.PromptID == promptID && j.State == job.Pending },
		func(e *job.Entry) {
			e.Job.State, e.Job.Started = job.Running, time.Now()
			e.Job.Attempt = job.Attempt{N: 1, Posted: true, BackEnd: "gpu1"}
		})[0]
}

func (q *fakeQueue) finish(user, promptID string, o job.Outcome) {
	q.change(job.Finished, func(j job.Job) bool { return j.User == user && j.PromptID == promptID && !j.State.Final() },
		func(e *job.Entry) {
			e.Job.State, e.Job.Finished, e.Job.Error, e.Job.Summary = o.State, time.Now(), o.Error, o.Summary
			e.Outcome = &o
		})
}

// fakeFiles keeps files in memory by "user/type/subfolder/name".
type fakeFiles struct {
	mu    sync.Mutex
	order []string
	files map[string][]byte
	infos map[string]file.Info
	full  error // what Room says
}

func (f *fakeFiles) Room(context.Context) error { return f.full }

func fileKey(user string, r file.Ref) string {
	return user + "|" + r.Type + "|" + path.Join(r.Subfolder, r.Name)
}

func outsideRef(r file.Ref) error {
	if strings.HasPrefix(r.Subfolder, "/") || strings.HasPrefix(path.Clean(r.Subfolder), "..") || strings.Contains(r.Name, "/") {
		return fault.New(fault.Invalid, "This leads out of your files.").WithCode(file.CodeOutside)
	}
	return nil
}

func (f *fakeFiles) Upload(_ context.Context, user string, ref file.Ref, overwrite bool, r io.Reader) (file.Info, error) {
	if err := outsideRef(ref); err != nil {
		return file.Info{}, err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return file.Info{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files == nil {
		f.files, f.infos = map[string][]byte{}, map[string]file.Info{}
	}
	stem, ext := strings.TrimSuffix(ref.Name, path.Ext(ref.Name)), path.Ext(ref.Name)
	for i := 1; !overwrite; i++ {
		if old, ok := f.files[fileKey(user, ref)]; !ok || bytes.Equal(old, b) {
			break
		}
		ref.Name = fmt.Sprintf("%s (%d)%s", stem, i, ext)
	}
	k := fileKey(user, ref)
	f.files[k] = b
	f.infos[k] = file.Info{Ref: ref, Size: int64(len(b)), Hash: fmt.Sprintf("%064x", len(b)), Modified: time.Unix(1e9, 0)}
	f.order = append([]string{k}, slices.DeleteFunc(f.order, func(o string) bool { return o == k })...)
	return f.infos[k], nil
}

type nopSeekCloser struct{ *bytes.Reader }

func (nopSeekCloser) Close() error { return nil }

func (f *fakeFiles) Open(ctx context.Context, user string, ref file.Ref) (file.Info, io.ReadSeekCloser, error) {
	info, err := f.Stat(ctx, user, ref)
	if err != nil {
		return file.Info{}, nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return info, nopSeekCloser{bytes.NewReader(f.files[fileKey(user, ref)])}, nil
}

func (f *fakeFiles) Stat(_ context.Context, user string, ref file.Ref) (file.Info, error) {
	if err := outsideRef(ref); err != nil {
		return file.Info{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	info, ok := f.infos[fileKey(user, ref)]
	if !ok {
		return file.Info{}, fault.New(fault.Missing, "There is no such file.")
	}
	return info, nil
}

func (f *fakeFiles) List(_ context.Context, user, typ string) ([]file.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []file.Info
	for _, k := range f.order {
		if strings.HasPrefix(k, user+"|"+typ+"|") {
			list = append(list, f.infos[k])
		}
	}
	return list, nil
}

// fakeHome keeps documents and settings in memory.
type fakeHome struct {
	mu       sync.Mutex
	docs     map[string][]byte // "user/path"
	settings map[string]map[string]json.RawMessage
}

func cleanDoc(p string) (string, error) {
	p = path.Clean(p)
	if p == ".." || strings.HasPrefix(p, "../") || strings.HasPrefix(p, "/") {
		return "", fault.New(fault.Invalid, "This leads out of your files.").WithCode(file.CodeOutside)
	}
	return p, nil
}

func noDoc() error { return fault.New(fault.Missing, "There is no such document.") }

func (h *fakeHome) entry(user, p string) file.Entry {
	return file.Entry{Path: p, Size: int64(len(h.docs[user+"/"+p])), Modified: time.Unix(1e9, 0)}
}

func (h *fakeHome) ListUserdata(user, dir string, recurse bool) ([]file.Entry, error) {
	dir, err := cleanDoc(dir)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	prefix := user + "/"
	if dir != "." {
		prefix += dir + "/"
	}
	var list []file.Entry
	dirs := map[string]bool{}
	for k := range h.docs {
		if rest, ok := strings.CutPrefix(k, prefix); ok {
			for parent := path.Dir(rest); parent != "."; parent = path.Dir(parent) {
				dirs[strings.TrimPrefix(prefix, user+"/")+parent] = true
			}
			if !recurse && strings.Contains(rest, "/") {
				continue
			}
			list = append(list, h.entry(user, strings.TrimPrefix(k, user+"/")))
		}
	}
	if len(list)+len(dirs) == 0 && dir != "." {
		return nil, noDoc()
	}
	for d := range dirs {
		list = append(list, file.Entry{Path: d, Dir: true})
	}
	return list, nil
}

func (h *fakeHome) OpenUserdata(user, p string) (file.Entry, io.ReadSeekCloser, error) {
	p, err := cleanDoc(p)
	if err != nil {
		return file.Entry{}, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	b, ok := h.docs[user+"/"+p]
	if !ok {
		return file.Entry{}, nil, noDoc()
	}
	return h.entry(user, p), nopSeekCloser{bytes.NewReader(b)}, nil
}

func (h *fakeHome) WriteUserdata(_ context.Context, user, p string, r io.Reader, overwrite bool) (file.Entry, error) {
	p, err := cleanDoc(p)
	if err != nil {
		return file.Entry{}, err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return file.Entry{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.docs == nil {
		h.docs = map[string][]byte{}
	}
	if _, ok := h.docs[user+"/"+p]; ok && !overwrite {
		return file.Entry{}, fault.New(fault.Conflict, "It is there already.")
	}
	h.docs[user+"/"+p] = b
	return h.entry(user, p), nil
}

func (h *fakeHome) DeleteUserdata(user, p string) error {
	p, err := cleanDoc(p)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.docs[user+"/"+p]; !ok {
		return noDoc()
	}
	delete(h.docs, user+"/"+p)
	return nil
}

func (h *fakeHome) MoveUserdata(user, from, to string, overwrite bool) (file.Entry, error) {
	_, content, err := h.OpenUserdata(user, from)
	if err != nil {
		return file.Entry{}, err
	}
	e, err := h.WriteUserdata(context.Background(), user, to, content, overwrite)
	if err != nil {
		return file.Entry{}, err
	}
	return e, h.DeleteUserdata(user, from)
}

func (h *fakeHome) Settings(user string) (json.RawMessage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.settings[user] == nil {
		return json.RawMessage("{}"), nil
	}
	return json.Marshal(h.settings[user])
}

func (h *fakeHome) MergeSettings(user string, raw json.RawMessage) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	for k, v := range m {
		if err := h.SetSetting(user, k, v); err != nil {
			return err
		}
	}
	return nil
}

func (h *fakeHome) SetSetting(user, key string, v json.RawMessage) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.settings == nil {
		h.settings = map[string]map[string]json.RawMessage{}
	}
	if h.settings[user] == nil {
		h.settings[user] = map[string]json.RawMessage{}
	}
	h.settings[user][key] = slices.Clone(v)
	return nil
}

// fakePictures gives back what it gets.
type fakePictures struct{}

func (fakePictures) Preview(_ context.Context, src io.Reader, format string, _ int) ([]byte, string, error) {
	b, err := io.ReadAll(src)
	return b, "image/" + format, err
}

func (fakePictures) Channel(_ context.Context, src io.Reader, _ string) ([]byte, error) {
	return io.ReadAll(src)
}

func (fakePictures) Mask(_ context.Context, original, mask io.Reader) ([]byte, error) {
	return io.ReadAll(io.MultiReader(original, mask))
}

// fakeCatalog knows three classes and one model folder.
type fakeCatalog struct{ info []byte }

// always returns the same catalog for every group.
func always(c comfyserver.Catalog) func(string) comfyserver.Catalog {
	return func(string) comfyserver.Catalog { return c }
}

func (c fakeCatalog) ObjectInfo(inputs []string) comfyserver.Encoded {
	if c.info != nil {
		return comfyserver.Encoded{JSON: c.info, Gzip: []byte("packed"), ETag: `"abc"`}
	}
	b, _ := json.Marshal(map[string]any{"LoadImage": map[string]any{"input": map[string]any{"required": map[string]any{"image": []any{inputs}}}}})
	return comfyserver.Encoded{JSON: b, ETag: fmt.Sprintf(`"%d"`, len(b))}
}

func (fakeCatalog) Class(name string, inputs []string) json.RawMessage {
	if !slices.Contains([]string{"SaveImage", "LoadImage", "KSampler", "EmptyImage", "ImageCompositeMasked"}, name) {
		return nil
	}
	b, _ := json.Marshal(map[string]any{"name": name, "choices": inputs})
	return b
}

func (fakeCatalog) Models(folder string) ([]string, bool) { return []string{}, folder == "checkpoints" }

func (fakeCatalog) Folders() []string              { return []string{"checkpoints", "loras", "configs"} }
func (fakeCatalog) Embeddings() []string           { return nil }
func (fakeCatalog) WebText(string) json.RawMessage { return nil }
func (fakeCatalog) SystemStats() json.RawMessage   { return nil }

// fakeChecker accepts everything, or what it is told.
type fakeChecker func(prompt json.RawMessage, has func(file.Ref) bool) (comfyserver.Verdict, error)

func (f fakeChecker) Check(_ context.Context, _ identity.Person, prompt json.RawMessage, _ []string, has func(file.Ref) bool) (comfyserver.Verdict, error) {
	if f == nil {
		return comfyserver.Verdict{Outputs: []string{"3"}}, nil
	}
	return f(prompt, has)
}

// studio is a server behind a test listener. The person is in the header "Person"; without it nobody is signed in.
type studio struct {
	t       testing.TB
	queue   *fakeQueue
	bus     *event.Bus
	files   *fakeFiles
	server  *comfyserver.Server
	url     string
	checker fakeChecker
}

func newStudio(t testing.TB, o comfyserver.Options, change ...func(*comfyserver.Deps)) *studio {
	t.Helper()
	s := &studio{t: t, bus: event.New(), files: &fakeFiles{}}
	s.queue = &fakeQueue{bus: s.bus}
	d := comfyserver.Deps{
		Queue: s.queue, Bus: s.bus, Files: s.files, Home: &fakeHome{}, Pictures: fakePictures{}, Catalog: always(fakeCatalog{}),
		Checker: fakeChecker(func(p json.RawMessage, has func(file.Ref) bool) (comfyserver.Verdict, error) {
			if s.checker == nil {
				return comfyserver.Verdict{Outputs: []string{"3"}}, nil
			}
			return s.checker(p, has)
		}),
	}
	for _, c := range change {
		c(&d)
	}
	var err error
	if s.server, err = comfyserver.New(d, o); err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if name := r.Header.Get("Person"); name != "" {
			ctx = identity.With(ctx, identity.Person{Name: name, Group: r.Header.Get("Group"), Role: identity.Participant})
		}
		s.server.ServeHTTP(w, r.WithContext(ctx))
	}))
	t.Cleanup(func() {
		if err := s.server.Close(context.Background()); err != nil {
			t.Error(err)
		}
		front.Close()
	})
	s.url = front.URL
	return s
}

// do sends one request as user and returns the answer.
func (s *studio) do(user, method, target, body string, headers ...string) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, s.url+target, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if user != "" {
		req.Header.Set("Person", user)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		s.t.Fatal(err)
	}
	return resp, string(b)
}

// submit sends a small graph as user and returns its prompt id.
func (s *studio) submit(user, sid string) string {
	s.t.Helper()
	resp, body := s.do(user, "POST", "/prompt", `{"prompt": {"3": {"class_type": "SaveImage", "inputs": {}}}, "client_id": "`+sid+`"}`)
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("POST /prompt: %d %s", resp.StatusCode, body)
	}
	var a struct {
		ID string `json:"prompt_id"`
	}
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		s.t.Fatal(err)
	}
	return a.ID
}

// success is how a run of submit ends.
func success(promptID string) job.Outcome {
	return job.Outcome{
		State:    job.Completed,
		Outputs:  json.RawMessage(`{"3": {"images": [{"filename": "ComfyUI_00001_.png", "subfolder": "", "type": "output"}]}}`),
		Messages: json.RawMessage(`[["execution_start", {"prompt_id": "` + promptID + `"}], ["execution_success", {"prompt_id": "` + promptID + `", "timestamp": 5}]]`),
		Meta:     json.RawMessage(`{}`), ExecSeconds: 1.25,
		Summary: json.RawMessage(`{"execution_start_time": 1, "execution_end_time": 5, "outputs_count": 1, "previewable_outputs_count": 1}`),
	}
}
