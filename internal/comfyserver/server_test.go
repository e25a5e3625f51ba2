package comfyserver_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
)

// form makes a multipart body of pairs of name and text; the part named image is a file.
func form(t testing.TB, parts ...string) (body, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i+1 < len(parts); i += 2 {
		if name, ok := strings.CutPrefix(parts[i], "image:"); ok {
			part, err := w.CreateFormFile("image", name)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(part, parts[i+1])
			continue
		}
		_ = w.WriteField(parts[i], parts[i+1])
	}
	_ = w.Close()
	return b.String(), w.FormDataContentType()
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{MaxPrompt: 1 << 20})
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		method, target, body string
		status               int
		want                 string // part of the body
	}{
		{"GET", "/prompt", "", 200, `{"exec_info": {"queue_remaining": 0}}`},
		{"GET", "/queue", "", 200, `{"queue_running": [], "queue_pending": []}`},
		{"GET", "/api/queue", "", 200, `{"queue_running": [], "queue_pending": []}`},
		{"HEAD", "/queue", "", 200, ""},
		{"OPTIONS", "/prompt", "", 200, "{}"},
		{"GET", "/history", "", 200, "{}"},
		{"GET", "/history?max_items=x", "", 400, "max_items"},
		{"GET", "/history/nope", "", 200, "{}"},
		{"GET", "/api/jobs", "", 200, `{"jobs": [], "pagination": {"offset": 0, "limit": 1000, "total": 0, "has_more": false}}`},
		{"GET", "/jobs", "", 404, "error"}, // a real server has it below /api alone
		{"GET", "/api/internal/logs", "", 404, "error"},
		{"GET", "/api/jobs?status=flying", "", 400, "unknown status"},
		{"GET", "/api/jobs?limit=0", "", 400, "limit"},
		{"GET", "/api/jobs?sort_by=colour", "", 400, "sort_by"},
		{"GET", "/api/jobs?sort_order=up", "", 400, "sort_order"},
		{"GET", "/api/jobs/nope", "", 404, "Job not found"},
		{"POST", "/api/jobs/nope/cancel", "", 200, `{"cancelled": false}`},
		{"POST", "/api/jobs/cancel", `{"job_ids": ["x"]}`, 400, `"invalid_ids": ["x"]`},
		{"POST", "/api/jobs/cancel", `[]`, 400, "job_ids"},
		{"POST", "/queue", `{"clear": true}`, 200, "{}"},
		{"POST", "/queue", `nope`, 400, "invalid_json"},
		{"POST", "/queue", `{"delete": 5}`, 400, "delete"},
		{"POST", "/interrupt", "", 200, "{}"},
		{"POST", "/interrupt", "a=b", 200, "{}"},
		{"POST", "/interrupt", "[1]", 400, "object"},
		{"POST", "/free", `{"unload_models": true}`, 200, "{}"},
		{"POST", "/prompt", `{"prompt": {}, "prompt_id": "` + long + `"}`, 400, "invalid_prompt_id"},
		{"POST", "/prompt", `{"prompt": {}, "client_id": "` + long + `"}`, 400, "invalid_client_id"},
		{"POST", "/prompt", `{"prompt": [], "x": 1}`, 400, "invalid_prompt"},
		{"POST", "/prompt", `{"prompt": {}, "number": "NaN"}`, 400, "invalid_number"},
		{"POST", "/prompt", `{"prompt": {}, "number": {}}`, 400, "invalid_number"},
		{"POST", "/prompt", `{"prompt": {}, "extra_data": 3}`, 400, "extra_data"},
		{"POST", "/prompt", `{"prompt": {}, "partial_execution_targets": "9"}`, 400, "invalid_targets"},
		{"POST", "/prompt", strings.Repeat(" ", 2<<20), 413, "1 MB"},
		{"PUT", "/prompt", "", 405, "method_not_allowed"},
		{"GET", "/nothing", "", 404, "not_found"},
		{"GET", "/ws", "", 400, "no_websocket"},
		{"GET", "/users", "", 200, `{"storage": "server", "migrated": true}`},
		{"GET", "/settings", "", 200, `{"Comfy.TutorialCompleted": true, `},
		{"POST", "/settings", `[]`, 400, "object"},
		{"POST", "/settings/a.b", `{`, 400, "invalid_json"},
		{"GET", "/settings/none", "", 200, "null"},
		{"GET", "/object_info/NoSuch", "", 200, "{}"},
		{"GET", "/object_info/SaveImage", "", 200, `{"SaveImage": `},
		{"GET", "/models/nope", "", 404, "not_found"},
		{"GET", "/experiment/models", "", 200, `[{"name":"checkpoints","folders":["/models/checkpoints"]},{"name":"loras","folders":["/models/loras"]}]`},
		{"GET", "/experiment/models/checkpoints", "", 200, "[]"},
		{"GET", "/internal/files/weird", "", 400, "Invalid directory type"},
		{"GET", "/internal/logs", "", 200, `""`},
		{"PATCH", "/internal/logs/subscribe", `{}`, 400, "clientId"},
		{"GET", "/extensions", "", 200, `["/extensions/comfyume/studio.js"]`},
		{"GET", "/extensions/comfyume/studio.js", "", 200, "registerExtension"},
		{"GET", "/extensions/comfyume/state.json", "", 200, `"user":"ann"`},
		{"GET", "/extensions/comfyume/starter.json", "", 200, `"EmptyImage"`},
		{"GET", "/extensions/comfyume/other", "", 404, "not_found"},
		{"GET", "/extensions/pack/x.js", "", 404, "not_found"},
		{"GET", "/userdata/..%2F..%2Fetc%2Fpasswd", "", 403, "Invalid path"},
		{"GET", "/userdata/%252e%252e%252fx", "", 403, "Invalid path"},
		{"GET", "/userdata/a/b", "", 404, "not_found"}, // a slash must be escaped
		{"GET", "/v2/userdata?path=..", "", 400, "Invalid path requested"},
		{"GET", "/view", "", 404, "not_found"},
		{"GET", "/view?filename=", "", 400, "bad_name"},
		{"GET", "/view?filename=x&subfolder=a/../../b", "", 403, "outside"},
		{"GET", "/features", "", 200, `{"supports_preview_metadata": true, "max_upload_size": 536870912}`},
		{"GET", "/system_stats", "", 200, `"argv": ["main.py"]`},
		{"GET", "/i18n", "", 200, "{}"},
		{"GET", "/global_subgraphs/x", "", 404, "not_found"},
		{"GET", "/workflow_templates", "", 200, "{}"},
	} {
		resp, body := s.do("ann", c.method, c.target, c.body)
		if resp.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s, want %d with %s", c.method, c.target, resp.StatusCode, clip(body), c.status, c.want)
		}
		typ := resp.Header.Get("Content-Type")
		if typ != "application/json; charset=utf-8" && !strings.HasSuffix(c.target, ".js") {
			t.Errorf("%s %s: content type %s", c.method, c.target, typ)
		}
	}
	// The answer to a prompt and what /queue and history make of it.
	id := s.submit("ann", "tab")
	if _, body := s.do("ann", "GET", "/queue", ""); !strings.Contains(body, `[0, "`+id+`", {"3": `) {
		t.Errorf("the queue does not show the job: %s", body)
	}
	s.queue.post("ann", id)
	if _, body := s.do("ann", "GET", "/api/jobs?status=in_progress,pending&limit=200&offset=0", ""); !strings.Contains(body, `"status": "in_progress", "priority": 0, "create_time": 1`) {
		t.Errorf("the jobs do not show it running: %s", body)
	}
	s.queue.finish("ann", id, success(id))
	_, body := s.do("ann", "GET", "/history/"+id, "")
	for _, want := range []string{`"status_str": "success"`, `"execution_time": 1.25`, `"create_time": `, `["3"]]`} {
		if !strings.Contains(body, want) {
			t.Errorf("history misses %s: %s", want, body)
		}
	}
	if _, again := s.do("ann", "GET", "/api/history_v2/"+id, ""); again != body {
		t.Errorf("history_v2 differs: %s", again)
	}
	if _, detail := s.do("ann", "GET", "/api/jobs/"+id, ""); !json.Valid([]byte(detail)) || !strings.Contains(detail, `"execution_status": {"status_str": "success"`) {
		t.Errorf("job detail: %s", detail)
	}
}

func clip(s string) string { return s[:min(len(s), 300)] }

func TestNobody(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	for _, r := range comfyserver.Routes() {
		resp, body := s.do("", r.Method, fill(r.Path, "p"), "{}")
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, `"error"`) {
			t.Errorf("%s %s without a person: %d %s", r.Method, r.Path, resp.StatusCode, body)
		}
	}
}

func TestSecretsAreKeptApart(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	resp, body := s.do("ann", "POST", "/prompt", `{"prompt": {"3": {}}, "client_id": "tab", "extra_data": {"auth_token_comfy_org": "hush-token", `+
		`"extra_pnginfo": {"workflow": {"id": "w1"}}, "api_key_comfy_org": "hush-key", "client_id": "old", "create_time": 5}, "number": 7.5}`)
	if resp.StatusCode != 200 || !strings.Contains(body, `"number": 7.5`) {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	_, queue := s.do("ann", "GET", "/queue", "")
	if strings.Contains(queue, "hush") {
		t.Errorf("a secret shows: %s", queue)
	}
	if !strings.Contains(queue, `{"extra_pnginfo": {"workflow": {"id": "w1"}}, "client_id": "tab", "create_time": `) {
		t.Errorf("extra_data was not kept: %s", queue)
	}
	if _, jobs := s.do("ann", "GET", "/api/jobs?workflow_id=w1", ""); !strings.Contains(jobs, `"workflow_id": "w1"`) {
		t.Errorf("the workflow's id was not found: %s", jobs)
	}
}

func TestJobStaysVisibleWhileItEnds(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	id := s.submit("ann", "nobody-listens")
	s.queue.post("ann", id)
	s.queue.finish("ann", id, success(id))
	// Whoever finds no history entry before and looks at the queue after must find it in one of them.
	_, queue := s.do("ann", "GET", "/queue", "")
	if !strings.Contains(queue, `{"queue_running": [[0, "`+id+`"`) {
		t.Errorf("a job that just ended is not in the queue: %s", queue)
	}
	if _, prompt := s.do("ann", "GET", "/prompt", ""); !strings.Contains(prompt, `: 0`) {
		t.Errorf("it counts: %s", prompt)
	}
	next := s.submit("ann", "nobody-listens")
	s.queue.post("ann", next)
	_, queue = s.do("ann", "GET", "/queue", "")
	if strings.Contains(queue, id) || !strings.Contains(queue, next) {
		t.Errorf("two show as running: %s", queue)
	}
}

// TestJobOfBeforeARestart: a program that polls, and has no socket, misses no end of a job that this process was not
// told of.
func TestJobOfBeforeARestart(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	if _, _, err := s.queue.Submit(t.Context(), job.Submission{ID: "j1", User: "ann", PromptID: "p1", ClientID: "p1"}); err != nil {
		t.Fatal(err)
	}
	if _, queue := s.do("ann", "GET", "/queue", ""); !strings.Contains(queue, `"queue_pending": [[0, "p1"`) {
		t.Fatalf("queue: %s", queue)
	}
	s.queue.post("ann", "p1")
	s.queue.finish("ann", "p1", success("p1"))
	if _, queue := s.do("ann", "GET", "/queue", ""); !strings.Contains(queue, `{"queue_running": [[0, "p1"`) {
		t.Errorf("the job that just ended is not in the queue: %s", queue)
	}
}

func TestAtMostOneShowsAsRunning(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	var ids []string
	for range 3 {
		ids = append(ids, s.submit("ann", "tab"))
	}
	s.queue.post("ann", ids[0])
	s.queue.post("ann", ids[1])
	_, body := s.do("ann", "GET", "/queue", "")
	var q struct {
		Running [][]any `json:"queue_running"`
		Pending [][]any `json:"queue_pending"`
	}
	if err := json.Unmarshal([]byte(body), &q); err != nil {
		t.Fatal(err)
	}
	if len(q.Running) != 1 || len(q.Pending) != 2 || q.Running[0][1] != ids[0] || q.Pending[0][1] != ids[1] {
		t.Errorf("queue: %s", body)
	}
	if resp, _ := s.do("ann", "POST", "/interrupt", `{"prompt_id": "`+ids[1]+`"}`); resp.StatusCode != 200 {
		t.Error("interrupting the second failed")
	}
	if stopped := s.queue.pick("ann", func(j job.Job) bool { return j.Stop }); len(stopped) != 1 || stopped[0].PromptID != ids[1] {
		t.Errorf("stopped %v, want the second alone", stopped)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{MaxUpload: 3 << 20, Spool: t.TempDir()})
	upload := func(target string, parts ...string) (*http.Response, string) {
		body, typ := form(t, parts...)
		return s.do("ann", "POST", target, body, "Content-Type", typ)
	}
	for _, c := range []struct {
		parts []string
		want  string
	}{
		{[]string{"image:cat.png", "one"}, `{"name": "cat.png", "subfolder": "", "type": "input"}`},
		{[]string{"image:cat.png", "one"}, `{"name": "cat.png", "subfolder": "", "type": "input"}`},
		{[]string{"overwrite", "True", "image:cat.png", "two"}, `{"name": "cat (1).png", "subfolder": "", "type": "input"}`},
		{[]string{"image:cat.png", "three", "overwrite", "1", "subfolder", "pasted/", "type", "temp"}, `{"name": "cat.png", "subfolder": "pasted", "type": "temp"}`},
		{[]string{"image:big.png", strings.Repeat("b", 2<<20)}, `{"name": "big.png", "subfolder": "", "type": "input"}`},
		{[]string{"image:../../evil.png", "x"}, "outside"},
		{[]string{"image:x.png", "x", "subfolder", "../../etc"}, "outside"},
		{[]string{"image:x.png", "x", "type", "weird"}, "bad_type"},
		{[]string{"foo", "bar"}, "no_image"},
		{[]string{"image:huge.png", strings.Repeat("h", 4<<20-100)}, "too_large"},
		{[]string{"image:huge.png", strings.Repeat("h", 6<<20)}, "limit of 3 MB"},
	} {
		if _, body := upload("/upload/image", c.parts...); !strings.Contains(body, c.want) {
			t.Errorf("uploading %.60q: %s, want %s", c.parts, clip(body), c.want)
		}
	}
	if _, body := upload("/upload/mask", "image:mask.png", "mask", "original_ref", `{"filename": "cat.png [input]"}`, "subfolder", "clipspace"); !strings.Contains(body, `"mask.png", "subfolder": "clipspace"`) {
		t.Errorf("mask: %s", body)
	}
	if resp, _ := upload("/upload/mask", "image:mask.png", "mask", "original_ref", `{"filename": "none.png"}`); resp.StatusCode != 404 {
		t.Errorf("mask of nothing: %d", resp.StatusCode)
	}
	resp, body := s.do("ann", "GET", "/view?filename=cat.png&type=input", "", "Range", "bytes=1-1")
	if resp.StatusCode != 206 || body != "n" || resp.Header.Get("Content-Type") != "image/png" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("range: %d %q %v", resp.StatusCode, body, resp.Header)
	}
	resp, body = s.do("ann", "GET", "/view?filename=cat.png&type=input", "", "Range", "bytes=99-")
	if resp.StatusCode != 416 || !strings.Contains(body, "bad_range") || resp.Header.Get("Content-Range") != "bytes */3" {
		t.Errorf("a range that is not there: %d %q %v", resp.StatusCode, body, resp.Header)
	}
	resp, _ = s.do("ann", "GET", "/view?filename=cat.png&type=input", "")
	if resp, _ := s.do("ann", "GET", "/view?filename=cat.png&type=input", "", "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != 304 {
		t.Errorf("a known file was sent again: %d", resp.StatusCode)
	}
	resp, _ = s.do("ann", "GET", "/view?filename=cat.png&type=input&preview=webp;80", "")
	if resp.Header.Get("Content-Type") != "image/webp" {
		t.Errorf("preview: %v", resp.Header)
	}
	if resp, _ := s.do("ann", "GET", "/view?filename=cat.png&type=input&preview=webp;80", "", "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != 304 {
		t.Errorf("a known preview was made again: %d", resp.StatusCode)
	}
	upload("/upload/image", "image:page.html", "<script>")
	resp, _ = s.do("ann", "GET", "/view?filename=page.html&type=input", "")
	want := []string{"application/octet-stream", `attachment; filename="page.html"`, "no-store"}
	if diff := cmp.Diff(want, []string{resp.Header.Get("Content-Type"), resp.Header.Get("Content-Disposition"), resp.Header.Get("Cache-Control")}); diff != "" {
		t.Errorf("active content, -want +got:\n%s", diff)
	}
	if _, body := s.do("ann", "GET", "/internal/files/input", ""); !strings.HasPrefix(body, `["page.html", "big.png", `) {
		t.Errorf("files, newest first: %s", body)
	}
}

func TestObjectInfoIsPacked(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write([]byte("{}"))
	_ = z.Close()
	s := newStudio(t, comfyserver.Options{}, func(d *comfyserver.Deps) { d.Catalog = always(fakeCatalog{info: []byte("{}")}) })
	resp, body := s.do("ann", "GET", "/object_info", "", "Accept-Encoding", "br, gzip;q=0.5")
	if resp.Header.Get("Content-Encoding") != "gzip" || body != "packed" || !strings.Contains(strings.Join(resp.Header.Values("Vary"), ","), "Accept-Encoding") {
		t.Errorf("%v %s", resp.Header, body)
	}
	if resp, _ := s.do("ann", "GET", "/object_info", "", "Accept-Encoding", "gzip;q=0"); resp.Header.Get("Content-Encoding") != "" {
		t.Error("packed for one who takes no gzip")
	}
	if resp, _ := s.do("ann", "GET", "/object_info", "", "If-None-Match", `W/"abc"`); resp.StatusCode != 304 {
		t.Errorf("status %d, want 304", resp.StatusCode)
	}
}

func TestFaultsOfOthersAreToldApart(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	var problem error
	s.checker = func(json.RawMessage, func(file.Ref) bool) (comfyserver.Verdict, error) {
		return comfyserver.Verdict{}, problem
	}
	for _, c := range []struct {
		err    error
		status int
		want   string
	}{
		{fault.New(fault.Denied, "Paid nodes are off.").WithCode("paid_node"), 403, `"type": "paid_node", "message": "Paid nodes are off."`},
		{&fault.Error{Kind: fault.Busy, Public: "You have 100 waiting.", RetryAfter: 1500 * time.Millisecond}, 429, "You have 100 waiting."},
		{fault.New(fault.Unavailable, "The disk is full.").WithCode("disk_full"), 507, "The disk is full."},
		{fmt.Errorf("secret path /var/lib"), 500, "Something went wrong inside the studio."},
	} {
		problem = c.err
		resp, body := s.do("ann", "POST", "/prompt", `{"prompt": {"1": {}}}`)
		if resp.StatusCode != c.status || !strings.Contains(body, c.want) || strings.Contains(body, "/var/lib") {
			t.Errorf("%v: %d %s", c.err, resp.StatusCode, body)
		}
		if c.status == 429 && resp.Header.Get("Retry-After") != "2" {
			t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
		}
	}
}

func TestLongHistoryIsStreamed(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	for range 500 {
		id := s.submit("ann", "")
		s.queue.post("ann", id)
		s.queue.finish("ann", id, success(id))
	}
	resp, body := s.do("ann", "GET", "/history", "")
	var h map[string]any
	if err := json.Unmarshal([]byte(body), &h); err != nil || len(h) != 500 {
		t.Errorf("%d entries, %v", len(h), err)
	}
	if resp.ContentLength >= 0 {
		t.Error("a long answer was gathered in memory")
	}
	if resp, body := s.do("ann", "GET", "/history?max_items=3", ""); resp.ContentLength != int64(len(body)) || len(body) == 0 {
		t.Error("a short answer has no length")
	}
}

func TestFallbackTakesTheRest(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{Fallback: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "page "+r.URL.Path)
	})})
	for target, want := range map[string]string{
		"/": "page /", "/assets/x.js": "page /assets/x.js", "/extensions/core/a.js": "page /extensions/core/a.js",
		"/api/nope": "not_found", "/queue": "queue_running",
	} {
		if _, body := s.do("ann", "GET", target, ""); !strings.Contains(body, want) {
			t.Errorf("%s: %s, want %s", target, body, want)
		}
	}
	for method, want := range map[string]string{"OPTIONS": "200 {}", "POST": `405 {"error": {"type": "method_not_allowed"`} {
		for _, target := range []string{"/", "/nope", "/assets/x.js"} {
			resp, body := s.do("ann", method, target, "")
			if got := fmt.Sprint(resp.StatusCode, " ", body); !strings.HasPrefix(got, want) || resp.Header.Get("Allow") != "GET, HEAD, OPTIONS" {
				t.Errorf("%s %s: %s, want %s", method, target, got, want)
			}
		}
	}
}
