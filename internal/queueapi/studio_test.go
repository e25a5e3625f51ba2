package queueapi_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/memory"
	"github.com/ahelme/comfyume/internal/queueapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// everybody are the people of the test's studio. The worker is an account whose token is for workers.
var everybody = map[string]identity.Person{
	"ann": {Name: "ann", Group: "class-a", Role: identity.Participant},
	"amy": {Name: "amy", Group: "class-a", Role: identity.Participant},
	"ben": {Name: "ben", Group: "class-b", Role: identity.Participant},
	"ivy": {Name: "ivy", Group: "class-a", Role: identity.Instructor},
	"ian": {Name: "ian", Group: "class-b", Role: identity.Instructor},
	"lea": {Name: "lea", Role: identity.Instructor}, // of no group
	"olu": {Name: "olu", Role: identity.Operator},
	"gpu": {Name: "gpu", Role: identity.Operator},
}

// studio is the interface over a true queue, with everything else made up.
type studio struct {
	*queueapi.Face
	t     *testing.T
	store *memory.Store
	queue *queue.Service
	bus   *event.Bus
	log   *bytes.Buffer
	facts queueapi.Facts

	mu      sync.Mutex
	reasons map[job.ID]string // codes of why jobs wait
}

type lockedBuffer struct {
	mu sync.Mutex
	b  *bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func newStudio(t *testing.T, o queueapi.Options, qo queue.Options) *studio {
	t.Helper()
	s := &studio{t: t, bus: event.New(), log: &bytes.Buffer{}, reasons: map[job.ID]string{}}
	s.facts = queueapi.Facts{Ready: true, Version: "1.2.3", Store: "sqlite", Since: time.Now().Add(-time.Minute), BackEnds: []queueapi.BackEnd{
		{Name: "gpu1", Driver: "comfyui", URL: "http://10.0.0.5:8188", Alive: true, GPUs: []string{"NVIDIA H200"}},
		{Name: "gpu2", Driver: "serverless", URL: "https://containers.example/x", GPUs: []string{"NVIDIA B300"}},
	}}
	s.store = memory.New()
	s.start(o, qo)
	return s
}

// start opens the queue over the store, as a start of the studio does, and the interface over it.
func (s *studio) start(o queueapi.Options, qo queue.Options) {
	s.t.Helper()
	qo.Notify = func(c job.Changed) { s.bus.Publish(event.Event{User: c.Job.User, Body: event.JobChanged{Changed: c}}) }
	sealer, err := queue.NewSealer(make([]byte, 32))
	ok(s.t, err)
	qo.Sealer = sealer
	s.queue, err = queue.New(context.Background(), s.store, qo)
	ok(s.t, err)
	o.Log = slog.New(slog.NewTextHandler(&lockedBuffer{b: s.log}, nil))
	s.Face = queueapi.New(queueapi.Deps{
		Queue: managed{s.queue}, Leases: s.queue, Line: s, Submit: s, People: s, Bus: s.bus, Studio: s,
	}, o)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type managed struct{ *queue.Service }

func (q managed) Running() []job.Job { return q.Expired(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)) }

// Facts implements queueapi.Studio.
func (s *studio) Facts(context.Context) queueapi.Facts { return s.facts }

// Person implements queueapi.People.
func (s *studio) Person(_ context.Context, name string) (identity.Person, error) {
	if p, ok := everybody[name]; ok {
		return p, nil
	}
	return identity.Person{}, fault.New(fault.Missing, "There is nobody called %s.", name)
}

// Members implements queueapi.People.
func (s *studio) Members(_ context.Context, group string) (names []string, err error) {
	for _, p := range everybody {
		if p.Group == group {
			names = append(names, p.Name)
		}
	}
	return names, nil
}

// Places implements queueapi.Line: by class, then in order of acceptance.
func (s *studio) Places(ctx context.Context, ids []job.ID) map[job.ID]event.Place {
	var waiting []job.Job
	err := s.queue.EachOpen(ctx, func(j job.Job) error {
		if j.State == job.Pending {
			waiting = append(waiting, j)
		}
		return nil
	})
	if err != nil {
		return nil
	}
	slices.SortStableFunc(waiting, func(a, b job.Job) int { return cmp.Compare(a.Class, b.Class) })
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[job.ID]event.Place{}
	for i, j := range waiting {
		if slices.Contains(ids, j.ID) {
			n := i + 1
			out[j.ID] = event.Place{
				Position: n, Code: cmp.Or(s.reasons[j.ID], "turn"), Reason: "Others go first.", From: float64(10 * n), To: float64(20 * n),
			}
		}
	}
	return out
}

// Submit implements queueapi.Submitter as far as the interface cares: a graph with the class Broken can't run.
func (s *studio) Submit(ctx context.Context, p identity.Person, body []byte, o queueapi.Order, answer func(queueapi.Accepted) error) error {
	prompt, _ := pyjson.Get(body, "prompt")
	extra, _ := pyjson.Get(body, "extra_data")
	if !json.Valid(body) {
		s.t.Errorf("the body of POST /prompt is no JSON: %.200s", body)
	}
	if bytes.Contains(prompt, []byte(`"Broken"`)) {
		return &queueapi.Refusal{Body: []byte(`{"error": {"type": "x", "message": "Prompt outputs failed validation.", "details": "Node 1"}, "node_errors": {"1": {"errors": []}}}`)}
	}
	sub := job.Submission{
		User: p.Name, Group: p.Group, Class: job.ClassNormal, Key: o.Key, Created: time.Now(),
		Request: job.Request{Prompt: prompt, ExtraData: extra, Outputs: []string{"9"}},
	}
	if o.Class != nil {
		sub.Class = *o.Class
	}
	if bytes.Contains(prompt, []byte(`"Paid"`)) {
		sub.Credentials = map[string]string{"api_key_comfy_org": "secret"}
	}
	j, existing, err := s.queue.Submit(ctx, sub)
	if err != nil {
		return err
	}
	return answer(queueapi.Accepted{Job: j, Existing: existing})
}

// answer is what came back.
type answer struct {
	*httptest.ResponseRecorder
	t *testing.T
}

// fields returns the body as an object.
func (a answer) fields() map[string]any {
	a.t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.Body.Bytes(), &m); err != nil {
		a.t.Fatalf("%d %s: %v", a.Code, a.Body, err)
	}
	return m
}

func (a answer) want(status int) answer {
	a.t.Helper()
	if a.Code != status {
		a.t.Fatalf("%d and not %d: %s", a.Code, status, a.Body)
	}
	return a
}

// ask sends a request as a person; "" is nobody.
func (s *studio) ask(as, method, path, body string, headers ...string) answer {
	s.t.Helper()
	return s.send(as, method, path, strings.NewReader(body), headers...)
}

func (s *studio) send(as, method, path string, body io.Reader, headers ...string) answer {
	r := httptest.NewRequest(method, path, body)
	for n := 0; n < len(headers); n += 2 {
		r.Header.Set(headers[n], headers[n+1])
	}
	if p, ok := everybody[as]; ok {
		r = r.WithContext(identity.With(r.Context(), p))
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return answer{w, s.t}
}

const graph = `{"9": {"class_type": "SaveImage", "inputs": {}}}`

// submit takes a graph of a person in and returns the job's id.
func (s *studio) submit(as string, more ...string) string {
	s.t.Helper()
	fields := append([]string{`"workflow": ` + graph}, more...)
	return s.ask(as, "POST", "/api/jobs", "{"+strings.Join(fields, ", ")+"}").want(http.StatusCreated).fields()["id"].(string)
}

// next has a worker fetch a job and returns its id; empty: there is none.
func (s *studio) next(worker string) string {
	s.t.Helper()
	given, _ := s.ask("gpu", "GET", "/api/workers/next-job?worker_id="+worker, "").want(http.StatusOK).fields()["job"].(map[string]any)
	id, _ := given["id"].(string)
	return id
}

// state returns what its owner reads of a job.
func (s *studio) state(as, id string) string {
	s.t.Helper()
	state, _ := s.ask(as, "GET", "/api/jobs/"+id, "").want(http.StatusOK).fields()["status"].(string)
	return state
}

// run has the interface look after what workers hold, until the test's end.
func (s *studio) run() {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(func() { stop(); wg.Wait() })
}

// expire lets jobs wait again whose lease is over, as the studio's dispatch does.
func (s *studio) expire() {
	s.t.Helper()
	for _, j := range s.queue.Expired(time.Now()) {
		ok(s.t, s.queue.Release(context.Background(), j.ID, j.Attempt.Fence, "nobody holds its attempt any more"))
	}
}
