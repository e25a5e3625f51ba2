package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/api"
)

func (f *fake) Add(_ context.Context, b api.NewBackEnd) (api.BackEnd, error) {
	return api.BackEnd{Name: b.Name, Devices: []api.Device{}}, f.note("add", b.Name, b.Key)
}

func (f *fake) Remove(_ context.Context, name string, now bool) error {
	return f.note("remove", name, fmt.Sprint(now))
}

func (f *fake) Drain(_ context.Context, name string, on bool, _ api.Outage) (api.BackEnd, error) {
	return api.BackEnd{Name: name, Devices: []api.Device{}}, f.note("drain", name, fmt.Sprint(on))
}

func (f *fake) Test(_ context.Context, name string, run bool) (api.BackEndTest, error) {
	return api.BackEndTest{BackEnd: api.BackEnd{Name: name, Devices: []api.Device{}}, Steps: []api.TestStep{}}, f.note("test", name, fmt.Sprint(run))
}

func (*fake) Requests(context.Context) ([]api.Request, error) {
	return []api.Request{
		{Kind: "model", Name: "a", Groups: []api.RequestGroup{{Group: "class-a", Count: 2}, {Group: "class-b", Count: 5}}, Count: 7},
		{Kind: "model", Name: "b", Groups: []api.RequestGroup{{Group: "class-b", Count: 1}}, Count: 1},
	}, nil
}

func (f *fake) DropRequest(_ context.Context, kind, folder, name string) error {
	return f.note("drop", kind, folder, name)
}

func (f *fake) Machine(_ context.Context, name, method, path string, body any) (io.ReadCloser, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if err := f.note("machine", name, method, path, string(text)); err != nil {
		return nil, err
	}
	answer := "[]"
	if method == "DELETE" {
		answer = "{}"
	} else if method == "POST" {
		answer = "{\"state\":\"done\"}\n"
	}
	return io.NopCloser(strings.NewReader(answer)), nil
}

func (f *fake) Changed(name string) { f.done = append(f.done, "changed "+name) }

// TestKeysAreNamedByWhoOwnsTheMachine: an operator elsewhere could have any secret of the studio sent to themselves.
func TestKeysAreNamedByWhoOwnsTheMachine(t *testing.T) {
	t.Parallel()
	f, state := face(t)
	const with = `{"name":"gpu2","url":"http://x","key":"file:/etc/shadow"}`
	if w := ask(f, "olu", "POST", v1+"/backends", with); w.Code != 403 || len(state.done) != 0 || strings.Contains(w.Body.String(), "shadow") {
		t.Errorf("%d %s, done %v", w.Code, w.Body, state.done)
	}
	if w := ask(f, "socket", "POST", v1+"/backends", with); w.Code != 201 || !slices.Equal(state.done, []string{"add gpu2 file:/etc/shadow"}) {
		t.Errorf("%d %s, done %v", w.Code, w.Body, state.done)
	}
}

// TestBackEndsOfKnownGroups: one for a group that is not there would run nobody's jobs.
func TestBackEndsOfKnownGroups(t *testing.T) {
	t.Parallel()
	f, state := face(t)
	w := ask(f, "olu", "POST", v1+"/backends", `{"name":"gpu2","url":"http://x","groups":["class-a","clas-b"]}`)
	if w.Code != 404 || len(state.done) != 0 || !strings.Contains(w.Body.String(), "no group clas-b") {
		t.Errorf("%d %s, done %v", w.Code, w.Body, state.done)
	}
	if w := ask(f, "olu", "POST", v1+"/backends", `{"name":"gpu2","url":"http://x","groups":["class-a"]}`); w.Code != 201 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestRequestsOfOnesGroup: an instructor sees what their group asked for, and not who else did.
func TestRequestsOfOnesGroup(t *testing.T) {
	t.Parallel()
	f, _ := face(t)
	ivy := ask(f, "ivy", "GET", v1+"/requests", "").Body.String()
	if !strings.Contains(ivy, `"count":2`) || strings.Contains(ivy, "class-b") || strings.Contains(ivy, `"name":"b"`) {
		t.Errorf("ivy sees %s", ivy)
	}
	if olu := ask(f, "olu", "GET", v1+"/requests", "").Body.String(); !strings.Contains(olu, `"count":7`) || !strings.Contains(olu, "class-b") {
		t.Errorf("olu sees %s", olu)
	}
}

func TestMachines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ method, path, body, done string }{
		{"POST", "/backends/gpu1/models", `{"folder":"loras","url":"https://h/x","sha256":"ab"}`, `machine gpu1 POST /models/get {"folder":"loras","url":"https://h/x","sha256":"ab"}, changed gpu1`},
		{"DELETE", "/backends/gpu1/models?folder=loras&file=a%2Fb.ckpt", "", `machine gpu1 DELETE /models?folder=loras&name=a%2Fb.ckpt null, changed gpu1`},
		{"POST", "/backends/gpu1/nodes/rollback", `{"name":"P","restart":true}`, `machine gpu1 POST /nodes/rollback {"name":"P","restart":true}, changed gpu1`},
		{"DELETE", "/backends/gpu1?now=true", "", "remove gpu1 true"},
		{"POST", "/backends/gpu1/test?run=true", "", "test gpu1 true"},
		{"POST", "/backends/gpu1/resume", "", "drain gpu1 false"},
	} {
		f, state := face(t)
		if w := ask(f, "olu", c.method, v1+c.path, c.body); w.Code >= 300 || strings.Join(state.done, ", ") != c.done {
			t.Errorf("%s %s: %d %s, done %q", c.method, c.path, w.Code, w.Body, state.done)
		}
	}
}
