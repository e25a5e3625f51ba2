package sim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim"
)

// ask sends a request and returns status, headers and body.
func ask(t testing.TB, method, address, body string) (int, http.Header, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(answer)
}

// TestEdges are answers to requests nobody recorded.
func TestEdges(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{MaxUpload: 1 << 20})
	for _, c := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"PUT", "/prompt", "", 405, "405: Method Not Allowed"},
		{"HEAD", "/api/queue", "", 200, ""},
		{"GET", "/api/api/queue", "", 404, "404: Not Found"},
		{"GET", "/api/internal/logs", "", 404, "404: Not Found"},
		{"GET", "/queue/", "", 404, "404: Not Found"},
		{"GET", "/history?max_items=x", "", 500, "500 Internal Server Error\n\nServer got itself in trouble"},
		{"POST", "/queue", "5", 500, "500 Internal Server Error\n\nServer got itself in trouble"},
		{"POST", "/queue", "[]", 200, ""},
		{"POST", "/history", `{"delete": "x"}`, 200, ""},
		{"GET", "/interrupt", "", 404, "404: Not Found"},
		{"POST", "/nowhere", "", 405, "405: Method Not Allowed"},
		{"GET", "/experiment/models/preview/vae/0/x.safetensors", "", 404, ""},
		{"GET", "/experiment/models/preview/vae/9/x.safetensors", "", 500, "500 Internal Server Error\n\nServer got itself in trouble"},
		{"POST", "/prompt", "[]", 400, `{"error": {"type": "no_prompt", "message": "No prompt provided", "details": "No prompt provided", "extra_info": {}}, "node_errors": {}}`},
		{"POST", "/prompt", `{"prompt": {"1": {"class_type": {}, "inputs": {}}}}`, 500, "500 Internal Server Error\n\nServer got itself in trouble"},
		{"POST", "/interrupt", "", 200, ""},
		{"POST", "/interrupt", "[]", 500, "500 Internal Server Error\n\nServer got itself in trouble"},
		{"POST", "/prompt", strings.Repeat(" ", 2<<20), 413, "Maximum request body size 1048576 exceeded."},
		{"POST", "/prompt", `{"prompt": 5}`, 500, "500 Internal Server Error\n\nServer got itself in trouble"},
		{"GET", "/internal/files/secret", "", 400, `{"error": "Invalid directory type"}`},
		{"GET", "/userdata/a%00b", "", 403, ""},
		{"GET", "/userdata/%252e%252e%252f%252e%252e%252fetc%252fpasswd", "", 403, ""},
		{"POST", "/userdata/..%2F..%2Fx", "x", 403, ""},
		{"DELETE", "/userdata/..%2Fusers.json", "", 403, ""},
		{"GET", "/view?filename=a%00b", "", 400, ""},
		{"GET", "/view?filename=x&subfolder=/etc", "", 403, ""},
		{"PATCH", "/internal/logs/subscribe", "{}", 500, "500 Internal Server Error\n\nServer got itself in trouble"},
		{"GET", "/ws", "", 400, ""},
	} {
		status, _, answer := ask(t, c.method, base+c.path, c.body)
		if status != c.status || c.answer != "" && answer != c.answer {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, status, answer, c.status, c.answer)
		}
	}
}

// TestSockets holds the rules of who gets which frame.
func TestSockets(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{})
	a, b := dial(t, base, "a"), dial(t, base, "b")
	a.next(t)
	b.next(t)
	submit(t, base, `{"client_id": "a", "prompt": `+textGraph("x")+`}`)
	for !strings.Contains(string(a.next(t).body), `"node": null`) {
	}
	for range 3 {
		if f := string(b.next(t).body); !strings.Contains(f, `"status"`) {
			t.Errorf("somebody else gets %s", f)
		}
	}
	// A run without a client: progress goes to everybody, the rest to nobody.
	submit(t, base, `{"prompt": `+textGraph("y")+`}`)
	kinds := ""
	for n := 0; n < 3; {
		f := string(b.next(t).body)
		switch {
		case strings.Contains(f, `"type": "status"`):
			n++
		case strings.Contains(f, `"type": "progress_state"`):
			kinds += "p"
		default:
			t.Errorf("a run without a client tells %s", f)
		}
	}
	if kinds != "pppp" {
		t.Errorf("progress frames %q", kinds)
	}
	// The log, for those who want it.
	if status, _, _ := ask(t, "PATCH", base+"/internal/logs/subscribe", `{"clientId": "b", "enabled": true}`); status != 200 {
		t.Fatal(status)
	}
	submit(t, base, `{"client_id": "c", "prompt": `+textGraph("z")+`}`)
	for !strings.Contains(string(b.next(t).body), `{"type": "logs", "data": {"entries": [{"t": "`) {
	}
}

// TestOrder takes lower numbers first and lets prompts go to the front.
func TestOrder(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{Probes: true})
	c := dial(t, base, "prepare")
	c.next(t)
	slow := `{"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}, "2": {"class_type": "ProbeSlow", "inputs": {"image": ["1", 0], "steps": 1000, "seconds": 0.005, "preview": false}}, "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}`
	submit(t, base, `{"client_id": "prepare", "prompt": `+slow+`}`)
	for !strings.Contains(string(c.next(t).body), `"progress", "data"`) {
	}
	want := map[string]string{}
	want["third"] = submit(t, base, `{"client_id": "prepare", "prompt": `+textGraph("3")+`}`)
	want["second"] = submit(t, base, `{"client_id": "prepare", "number": 0.5, "prompt": `+textGraph("2")+`}`)
	want["first"] = submit(t, base, `{"client_id": "prepare", "front": true, "prompt": `+textGraph("1")+`}`)
	ask(t, "POST", base+"/interrupt", "{}")
	var order []string
	for len(order) < 4 {
		f := c.next(t)
		var m struct {
			Type string
			Data struct {
				PromptID string `json:"prompt_id"`
			}
		}
		if json.Unmarshal(f.body, &m) == nil && m.Type == "execution_success" || m.Type == "execution_interrupted" {
			order = append(order, m.Data.PromptID)
		}
	}
	for i, name := range []string{"first", "second", "third"} {
		if order[i+1] != want[name] {
			t.Errorf("%s was not %s", order[i+1], name)
		}
	}
}

// TestHistoryPages counts from the end where no offset is given, and is odd below one as a real server is.
func TestHistoryPages(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{})
	c := dial(t, base, "prepare")
	c.next(t)
	letter := map[string]string{}
	for _, text := range []string{"a", "b", "c"} {
		id, _ := run(t, base, c, textGraph(text))
		letter[id] = text
	}
	for query, want := range map[string]string{
		"": "abc", "max_items=2": "bc", "max_items=2&offset=0": "ab", "offset=1": "bc", "offset=-1": "abc",
		"max_items=9": "abc", "max_items=1&offset=9": "", "max_items=0": "", "max_items=-1": "", "max_items=-1&offset=0": "a",
	} {
		_, _, answer := ask(t, "GET", base+"/history?"+query, "")
		members, err := pyjson.Members(json.RawMessage(answer))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, m := range members {
			got += letter[m.Key]
		}
		if got != want {
			t.Errorf("/history?%s: %q, want %q", query, got, want)
		}
	}
}

// TestJobs is the list newer editors ask for.
func TestJobs(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{Version: sim.Modern, Probes: true})
	c := dial(t, base, "prepare")
	c.next(t)
	good, _ := run(t, base, c, `{"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "j"}}}`)
	bad, _ := run(t, base, c, textGraph("sim:fail"))
	type list struct {
		Jobs []struct {
			ID            string
			Status        string
			CreateTime    *float64       `json:"create_time"`
			OutputsCount  int            `json:"outputs_count"`
			PreviewOutput map[string]any `json:"preview_output"`
			Error         map[string]any `json:"execution_error"`
		}
		Pagination struct {
			Offset, Limit, Total int
			HasMore              bool `json:"has_more"`
		}
	}
	var all list
	fetch(t, base+"/api/jobs?status=completed,failed,cancelled&limit=200&offset=0", &all)
	if len(all.Jobs) != 2 || all.Pagination.Total != 2 || all.Pagination.Limit != 200 || all.Pagination.HasMore {
		t.Fatalf("%+v", all)
	}
	for _, j := range all.Jobs {
		switch {
		case j.CreateTime == nil:
			t.Errorf("job %s has no create_time", j.ID)
		case j.ID == good && (j.Status != "completed" || j.OutputsCount != 1 || j.PreviewOutput["nodeId"] != "2" || j.PreviewOutput["mediaType"] != "images"):
			t.Errorf("%+v", j)
		case j.ID == bad && (j.Status != "failed" || j.Error["exception_type"] != "RuntimeError"):
			t.Errorf("%+v", j)
		}
	}
	var page list
	fetch(t, base+"/api/jobs?limit=1&sort_order=asc", &page)
	if len(page.Jobs) != 1 || page.Jobs[0].ID != good || !page.Pagination.HasMore {
		t.Errorf("%+v", page)
	}
	var detail struct {
		Workflow struct{ Prompt map[string]any }
		Outputs  map[string]any
		Status   map[string]any `json:"execution_status"`
	}
	fetch(t, base+"/api/jobs/"+good, &detail)
	if len(detail.Workflow.Prompt) != 2 || detail.Outputs["2"] == nil || detail.Status["status_str"] != "success" {
		t.Errorf("%+v", detail)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"GET", "/api/jobs/nope", "", 404, `{"error": "Job not found"}`},
		{"GET", "/api/jobs?status=weird", "", 400, ""},
		{"GET", "/api/jobs?limit=0", "", 400, ""},
		{"GET", "/api/jobs?offset=x", "", 400, ""},
		{"GET", "/jobs", "", 404, ""},
		{"POST", "/api/jobs/" + good + "/cancel", "", 200, `{"cancelled": false}`},
		{"POST", "/api/jobs/cancel", `{"job_ids": ["x"]}`, 400, `{"error": "job_ids contains invalid id(s)", "invalid_ids": ["x"]}`},
		{"POST", "/api/jobs/cancel", `{"job_ids": ["` + good + `"]}`, 200, `{"cancelled": false}`},
		{"POST", "/prompt", `{"prompt_id": "x", "prompt": {}}`, 400, ""},
		{"GET", "/global_subgraphs", "", 200, `{}`},
	} {
		status, _, answer := ask(t, c.method, base+c.path, c.body)
		if status != c.status || c.answer != "" && answer != c.answer {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, status, answer, c.status, c.answer)
		}
	}
}

// gated is an answer whose writing ends when the gate opens.
type gated struct {
	*httptest.ResponseRecorder
	gate chan struct{}
}

func (g *gated) Flush() { <-g.gate }

// TestAnswerBeforeFrames is what a real server does and clients rely on: no frame of a run before the answer of its
// POST is out, unless it is asked for.
func TestAnswerBeforeFrames(t *testing.T) {
	t.Parallel()
	for _, eager := range []bool{false, true} {
		s, base := start(t, sim.Options{EagerFrames: eager})
		c := dial(t, base, "prepare")
		c.next(t)
		w := &gated{httptest.NewRecorder(), make(chan struct{})}
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			s.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/prompt", strings.NewReader(`{"client_id": "prepare", "prompt": `+textGraph("x")+`}`)))
		}()
		wait := 50 * time.Millisecond
		if eager {
			wait = patience
		}
		select {
		case <-c.in:
			if !eager {
				t.Error("a frame overtook the answer")
			}
		case <-time.After(wait):
			if eager {
				t.Error("no frame before the answer")
			}
		}
		close(w.gate)
		<-answered
		for !strings.Contains(string(c.next(t).body), `"node": null`) {
		}
	}
}

// TestLargeGraphs runs a chain of thousands of nodes and refuses one that bites its tail.
func TestLargeGraphs(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{})
	c := dial(t, base, "prepare")
	c.next(t)
	const length = 10000
	chain := func(first string) string {
		var b strings.Builder
		b.WriteString(`{"0": {"class_type": "StringTrim", "inputs": {"string": ` + first + `, "mode": "Both"}}`)
		for i := 1; i < length; i++ {
			fmt.Fprintf(&b, `, "%d": {"class_type": "StringTrim", "inputs": {"string": ["%d", 0], "mode": "Both"}}`, i, i-1)
		}
		fmt.Fprintf(&b, `, "out": {"class_type": "PreviewAny", "inputs": {"source": ["%d", 0]}}}`, length-1)
		return b.String()
	}
	id := submit(t, base, `{"client_id": "nobody", "prompt": `+chain(`" deep "`)+`}`)
	for range 3 {
		c.next(t) // queued, begun, done
	}
	var history map[string]struct {
		Outputs map[string]struct{ Text []string }
	}
	fetch(t, base+"/history/"+id, &history)
	if text := history[id].Outputs["out"].Text; len(text) != 1 || text[0] != "deep" {
		t.Errorf("the chain gives %v", text)
	}
	code, _, answer := ask(t, "POST", base+"/prompt", `{"prompt": `+chain(fmt.Sprintf(`["%d", 0]`, length-1))+`}`)
	if code != http.StatusBadRequest || !strings.Contains(answer, "prompt_outputs_failed_validation") {
		t.Errorf("a cycle: %d %.300s", code, answer)
	}
}

// FuzzPrompt gives the server prompts of all sorts: it answers every one, and what it takes, it runs.
func FuzzPrompt(f *testing.F) {
	for _, requests := range sequences {
		for _, r := range requests {
			f.Add([]byte(r))
		}
	}
	s, err := sim.NewComfyUI(sim.Options{Base: f.TempDir(), Probes: true, NoTriggers: true, MaxValues: 1e5})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := s.Close(); err != nil {
			f.Error(err)
		}
	})
	h := s.Handler()
	f.Fuzz(func(t *testing.T, body []byte) {
		if bytes.Contains(body, []byte("seconds")) || bytes.Contains(body, []byte("steps")) {
			t.Skip("may take its time")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/prompt", bytes.NewReader(body)))
		switch w.Code {
		case http.StatusOK, http.StatusBadRequest:
			if !pyjson.Valid(w.Body.Bytes()) {
				t.Errorf("%s", w.Body)
			}
		case http.StatusInternalServerError:
		default:
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
