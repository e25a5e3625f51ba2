package oneshot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// container is an agent beside a fake ComfyUI.
type container struct {
	fake *backendtest.Fake
	jobs *oneshot.Jobs
	url  string
	dir  string
}

func newContainer(t *testing.T, o oneshot.HandlerOptions) *container {
	t.Helper()
	c := &container{fake: backendtest.NewFake()}
	comfy := httptest.NewServer(c.fake.Handler())
	driver, err := comfyui.New(comfy.URL, comfyui.Options{Studio: "agent", PollAfter: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	o.Dir = t.TempDir()
	c.dir = o.Dir
	c.jobs = oneshot.Handler(driver, o)
	srv := httptest.NewServer(c.jobs)
	c.url = srv.URL
	t.Cleanup(func() {
		if err := errors.Join(c.jobs.Close(), driver.Close()); err != nil {
			t.Error(err)
		}
		srv.CloseClientConnections()
		srv.Close()
		c.fake.Close()
		comfy.Close()
	})
	return c
}

// ask makes a request of its own connection.
func ask(t *testing.T, ctx context.Context, method, address string, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// request returns a job with one graph.
func request(graph string) oneshot.Request {
	return oneshot.Request{Run: uuid.NewString(), Prompt: json.RawMessage(graph), Previews: true}
}

func post(t *testing.T, ctx context.Context, url string, q oneshot.Request, uploads ...backend.Upload) *http.Response {
	t.Helper()
	body, length, err := oneshot.Body(q, uploads)
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(body)
	if err != nil || int64(len(all)) != length {
		t.Fatalf("a body of %d bytes, where %d were told: %v", len(all), length, err)
	}
	return ask(t, ctx, http.MethodPost, url+"/run", bytes.NewReader(all))
}

// told is a whole answer.
type told struct {
	hello   oneshot.Hello
	posted  int
	types   []string
	numbers []int64
	files   map[string]string
	absent  []string
	result  *backend.Result
	trouble *oneshot.Trouble
	err     error
}

func read(r io.Reader) (a told) {
	a.files = map[string]string{}
	answer := oneshot.NewAnswer(r, nil, 1<<30)
	name := ""
	for {
		e, err := answer.Next()
		switch {
		case err != nil:
			a.err = err
			return a
		case e.Hello != nil:
			a.hello = *e.Hello
		case e.Posted != nil:
			a.posted++
		case e.Frame != nil:
			a.types, a.numbers = append(a.types, e.Frame.Update.Type), append(a.numbers, e.Frame.N)
		case e.Open != nil:
			name = e.Open.Ref.Type + "/" + e.Open.Ref.Filename
			a.files[name] = ""
		case e.Data != nil:
			a.files[name] += string(e.Data)
		case e.Absent != nil:
			a.absent = append(a.absent, e.Absent.Ref.Filename)
		case e.Result != nil:
			a.result = e.Result
		case e.Trouble != nil:
			a.trouble = e.Trouble
			return a
		case e.End:
			return a
		}
	}
}

const (
	textGraph = `{"1":{"class_type":"Text","inputs":{"text":"hello"}}}`
	saveGraph = `{"1":{"class_type":"Save","inputs":{"text":"pixels"}},"2":{"class_type":"Preview","inputs":{"text":"small"}}}`
	tickGraph = `{"1":{"class_type":"Tick","inputs":{}}}`
	loadGraph = `{"1":{"class_type":"Load","inputs":{"file":"in.png"}},"2":{"class_type":"Save","inputs":{"text":"pixels"}}}`
)

func TestJobInOneRequest(t *testing.T) {
	t.Parallel()
	c := newContainer(t, oneshot.HandlerOptions{Version: "1"})
	resp := post(t, t.Context(), c.url, request(saveGraph))
	if resp.StatusCode != http.StatusOK || resp.Header.Get(oneshot.ContainerHeader) != c.jobs.Container() {
		t.Fatal(resp.Status, resp.Header)
	}
	a := read(resp.Body)
	if a.err != nil || a.trouble != nil || a.result == nil || a.result.State != job.Completed || a.posted != 1 {
		t.Fatalf("%+v %+v", a, a.trouble)
	}
	if len(a.files) != 2 || a.files["output/fake_00001_.png"] != "pixels" || a.files["temp/fake_00001_.png"] != "small" || a.hello.Container != c.jobs.Container() || a.hello.Again {
		t.Errorf("files %v, hello %+v", a.files, a.hello)
	}
	if a.types[0] != "execution_start" || a.types[len(a.types)-1] != "execution_success" {
		t.Errorf("frames %v", a.types)
	}
}

func TestRunIDIsNeverRunTwice(t *testing.T) {
	t.Parallel()
	c := newContainer(t, oneshot.HandlerOptions{})
	q := request(saveGraph)
	first := read(post(t, t.Context(), c.url, q).Body)
	again := read(post(t, t.Context(), c.url, q).Body)
	if !again.hello.Again || again.err != nil || string(again.result.Outputs) != string(first.result.Outputs) || len(again.files) != 2 {
		t.Errorf("%+v", again)
	}
	if n := c.fake.Requests("POST /prompt"); n != 1 {
		t.Errorf("%d prompts", n)
	}
}

func TestRestOfACutAnswer(t *testing.T) {
	t.Parallel()
	c := newContainer(t, oneshot.HandlerOptions{})
	ctx, cut := context.WithCancel(t.Context())
	q := request(`{"1":{"class_type":"Wait","inputs":{}},"2":{"class_type":"Save","inputs":{"text":"pixels"}}}`)
	resp := post(t, ctx, c.url, q)
	answer := oneshot.NewAnswer(resp.Body, nil, 1<<20)
	var last int64
	for {
		e, err := answer.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e.Frame != nil {
			if last = e.Frame.N; e.Frame.Update.Type == "executing" {
				break
			}
		}
	}
	cut()
	c.fake.Release()
	a := read(ask(t, t.Context(), http.MethodGet, c.url+"/runs/"+q.Run+"?from="+jsonOf(last+1), nil).Body)
	if a.err != nil || a.result == nil || a.result.State != job.Completed || a.hello.Gap || len(a.files) != 1 {
		t.Fatalf("%+v %+v", a, a.trouble)
	}
	if a.numbers[0] != last+1 {
		t.Errorf("frames %v after %d", a.numbers, last)
	}
	if rest := read(ask(t, t.Context(), http.MethodGet, c.url+"/runs/"+q.Run+"?have=0", nil).Body); len(rest.files) != 0 {
		t.Errorf("a file that the caller has came again: %v", rest.files)
	}
}

func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestInputsComeOnlyWhenTheyAreMissing(t *testing.T) {
	t.Parallel()
	c := newContainer(t, oneshot.HandlerOptions{})
	q := request(loadGraph)
	q.Inputs = []oneshot.Input{{Name: "in.png", Size: 5}}
	upload := backend.Upload{Name: "in.png", Size: 5, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("input")), nil }}
	a := read(post(t, t.Context(), c.url, q, upload).Body)
	if a.trouble == nil || !errors.Is(a.trouble.Err(), oneshot.ErrInputs) {
		t.Fatalf("%+v %+v", a, a.trouble)
	}
	q.Inputs[0].Sent = true
	if a = read(post(t, t.Context(), c.url, q, upload).Body); a.result == nil || a.result.State != job.Completed {
		t.Fatalf("%+v %+v", a, a.trouble)
	}
	q = request(loadGraph)
	q.Inputs = []oneshot.Input{{Name: "in.png", Size: 5}}
	if a = read(post(t, t.Context(), c.url, q, upload).Body); a.result == nil || a.result.State != job.Completed {
		t.Fatalf("%+v %+v", a, a.trouble)
	}
}

func TestCallerWhoStaysAwayEndsTheRun(t *testing.T) {
	t.Parallel()
	c := newContainer(t, oneshot.HandlerOptions{Grace: 50 * time.Millisecond})
	ctx, cut := context.WithCancel(t.Context())
	q := request(tickGraph)
	resp := post(t, ctx, c.url, q)
	if _, err := io.ReadFull(resp.Body, make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	cut()
	for { // nobody asks for it: only the history of the ComfyUI tells
		if len(c.fake.History()) == 1 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("the run goes on")
		}
	}
	a := read(ask(t, t.Context(), http.MethodGet, c.url+"/runs/"+q.Run, nil).Body)
	if a.result == nil || a.result.State != job.Cancelled {
		t.Errorf("%+v", a)
	}
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	c := newContainer(t, oneshot.HandlerOptions{})
	q := request(tickGraph)
	resp := post(t, t.Context(), c.url, q)
	if got := ask(t, t.Context(), http.MethodDelete, c.url+"/runs/"+uuid.NewString(), nil); got.StatusCode != http.StatusNotFound {
		t.Error("a run that is not there:", got.Status)
	}
	if got := ask(t, t.Context(), http.MethodDelete, c.url+"/runs/"+q.Run, nil); got.StatusCode != http.StatusNoContent {
		t.Fatal(got.Status)
	}
	if a := read(resp.Body); a.result == nil || a.result.State != job.Cancelled {
		t.Errorf("%+v", a)
	}
}
