package oneshot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/handover"
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

// TestInputsFromStorage: an input that a request names in storage is taken when it is the one that was meant, to its last
// byte, and never from where a job's outputs are.
func TestInputsFromStorage(t *testing.T) {
	t.Parallel()
	place, err := handover.New("file://" + filepath.ToSlash(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	c := newContainer(t, oneshot.HandlerOptions{Place: place, FindFor: 200 * time.Millisecond})
	store := func(run, name, text string) oneshot.Input {
		e, err := place.Put(t.Context(), run, name, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return oneshot.Input{Name: e.Name, Size: e.Size, Stored: run, SHA256: e.SHA256}
	}
	mine := store(handover.InputName("lab", "mine"), "mine.png", "my picture")
	other := store(handover.RunName("lab", "0197"), "other.png", "another's")
	lie, long, both := mine, mine, mine
	lie.Name, lie.SHA256 = "lie.png", strings.Repeat("0", 64)
	long.Size++
	both.Sent = true
	for what, k := range map[string]struct {
		in     oneshot.Input
		store  string
		status int
		class  string // of trouble; empty: it runs
	}{
		"as meant":             {mine, "", http.StatusOK, ""},
		"another hash":         {lie, "", http.StatusOK, "inputs"},
		"another size":         {long, "", http.StatusOK, "inputs"},
		"not there":            {oneshot.Input{Name: "b", Size: 1, Stored: handover.InputName("lab", "b"), SHA256: mine.SHA256}, "", http.StatusOK, "inputs"},
		"another job's output": {other, "", http.StatusBadRequest, ""},
		"no hash":              {oneshot.Input{Name: "b", Size: 1, Stored: mine.Stored}, "", http.StatusBadRequest, ""},
		"a path":               {oneshot.Input{Name: "b", Size: 1, Stored: "x_in-/../y", SHA256: mine.SHA256}, "", http.StatusBadRequest, ""},
		"sent as well":         {both, "", http.StatusBadRequest, ""},
		"outputs over inputs":  {mine, mine.Stored, http.StatusBadRequest, ""},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			q := request(textGraph)
			q.Inputs, q.Store = []oneshot.Input{k.in}, k.store
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			resp := post(t, ctx, c.url, q, backend.Upload{Size: k.in.Size, Open: func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader("my picture")), nil
			}})
			if resp.StatusCode != k.status {
				t.Fatalf("status %d, want %d", resp.StatusCode, k.status)
			}
			if k.status != http.StatusOK {
				return
			}
			told := read(resp.Body)
			got, there := c.fake.File("input", k.in.Name)
			switch {
			case k.class == "" && (told.result == nil || string(got) != "my picture"):
				t.Errorf("%+v, the ComfyUI has %q", told, got)
			case k.class != "" && (told.trouble == nil || told.trouble.Class != k.class || told.posted != 0):
				t.Errorf("it gave %+v", told)
			case what == "another hash" && there:
				t.Errorf("the ComfyUI has %q", got)
			}
		})
	}
	t.Cleanup(func() {
		if left, err := filepath.Glob(filepath.Join(c.dir, "*", "*")); err != nil || len(left) != 0 {
			t.Errorf("copies stay: %q, %v", left, err)
		}
	})
}

// TestInputsOfAKilledAgent are deleted at a later start, and nothing else.
func TestInputsOfAKilledAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, old := range map[string]bool{"comfyume-run-1": true, "comfyume-run-2": false, "mine": true} {
		when := time.Now()
		if old {
			when = when.Add(-48 * time.Hour)
		}
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, name), 0o700), os.Chtimes(filepath.Join(dir, name), when, when)); err != nil {
			t.Fatal(err)
		}
	}
	driver, err := comfyui.New("http://127.0.0.1:9", comfyui.Options{})
	if err != nil {
		t.Fatal(err)
	}
	j := oneshot.Handler(driver, oneshot.HandlerOptions{Dir: dir})
	if err := errors.Join(j.Close(), driver.Close()); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if err != nil || !slices.Equal(left, []string{"comfyume-run-2", "mine"}) {
		t.Errorf("left: %q, %v", left, err)
	}
}
