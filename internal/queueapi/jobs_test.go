package queueapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queueapi"
)

// jobFields are those that programs of old read.
var jobFields = []string{
	"id", "job_id", "user_id", "status", "priority", "created_at", "started_at", "completed_at", "worker_id", "result", "error",
	"position_in_queue", "estimated_wait_time", "metadata",
}

// list returns the ids of a list.
func (s *studio) list(as, query string) (ids []string) {
	s.t.Helper()
	var jobs []map[string]any
	a := s.ask(as, "GET", "/api/jobs"+query, "").want(http.StatusOK)
	ok(s.t, json.Unmarshal(a.Body.Bytes(), &jobs))
	for _, j := range jobs {
		for _, f := range jobFields {
			if _, there := j[f]; !there {
				s.t.Errorf("%s is not in %v", f, j)
			}
		}
		ids = append(ids, j["id"].(string))
	}
	return ids
}

func TestSubmittedJob(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	s.submit("ben")
	meta := `{"a": [1, 2.50, null], "text": "<b>&\u00e9"}`
	got := s.ask("ann", "POST", "/api/jobs", `{"user_id": "ANN", "workflow": `+graph+`, "priority": 3, "metadata": `+meta+`}`).want(201).fields()
	for _, f := range jobFields {
		if _, there := got[f]; !there {
			t.Errorf("%s is not in %v", f, got)
		}
	}
	want := map[string]any{
		"user_id": "ann", "status": "pending", "priority": 3., "started_at": nil, "completed_at": nil, "worker_id": nil, "result": nil,
		"error": nil, "position_in_queue": 2., "estimated_wait_time": 30., "metadata": map[string]any{"a": []any{1., 2.5, nil}, "text": "<b>&é"},
	}
	for key, v := range want {
		if diff := cmp.Diff(v, got[key]); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
	id := got["id"].(string)
	again := s.ask("ann", "GET", "/api/jobs/"+id, "").want(200).fields()
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("it is read otherwise than it was answered:\n%s", diff)
	}
	if ids := s.list("ann", ""); !slices.Equal(ids, []string{id}) {
		t.Errorf("the list has %v", ids)
	}
}

// TestOnBehalf: who looks after people submits for them, and it is theirs.
func TestOnBehalf(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	for as, for_ := range map[string]string{"olu": "ben", "ivy": "ann"} {
		id := s.submit(as, `"user_id": "`+for_+`"`)
		if got := s.ask(for_, "GET", "/api/jobs/"+id, "").want(200).fields(); got["user_id"] != for_ || got["priority"] != 2. {
			t.Errorf("%s for %s: %v", as, for_, got)
		}
	}
	s.ask("olu", "POST", "/api/jobs", `{"user_id": "zoe", "workflow": `+graph+`}`).want(422)
}

// TestEverythingIsInTheQueue: defect 6, jobs for serverless GPUs had no record, no order, no limit and no end.
func TestEverythingIsInTheQueue(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{MaxPendingPerUser: 2, MaxPending: 3})
	a := s.submit("ann")
	b := s.submit("ann")
	full := s.ask("ann", "POST", "/api/jobs", `{"workflow": `+graph+`}`).want(http.StatusTooManyRequests)
	if full.Header().Get("Retry-After") == "" || full.fields()["code"] != "max_pending_per_user" || full.fields()["remedy"] == "" {
		t.Errorf("a full queue is told with %v %s", full.Header(), full.Body)
	}
	s.submit("ben")
	if all := s.ask("amy", "POST", "/api/jobs", `{"workflow": `+graph+`}`).want(http.StatusTooManyRequests); all.fields()["code"] != "max_pending" {
		t.Errorf("a full studio is told with %s", all.Body)
	}
	place := func(id string) any { return s.ask("ann", "GET", "/api/jobs/"+id, "").fields()["position_in_queue"] }
	if place(a) != 1. || place(b) != 2. {
		t.Errorf("the places are %v and %v", place(a), place(b))
	}
	s.ask("ann", "DELETE", "/api/jobs/"+a, "").want(http.StatusNoContent)
	if place(b) != 1. || s.state("ann", a) != "cancelled" {
		t.Errorf("after the first one is cancelled the second is at %v", place(b))
	}
	gone := s.ask("ann", "DELETE", "/api/jobs/"+a, "").want(http.StatusConflict)
	if gone.fields()["code"] != "job_is_over" {
		t.Errorf("got %s", gone.Body)
	}
}

// TestIdempotencyKey: a request that is sent again is the same job.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	var ids []any
	for range 2 {
		a := s.ask("ann", "POST", "/api/jobs", `{"workflow": `+graph+`}`, "Idempotency-Key", "k1").want(201)
		ids = append(ids, a.fields()["id"], a.Header().Get("Idempotent-Replayed"))
	}
	if ids[0] != ids[2] || ids[1] != "" || ids[3] != "true" {
		t.Errorf("got %v", ids)
	}
	s.ask("ann", "POST", "/api/jobs", `{"workflow": {"8": {"class_type": "X", "inputs": {}}}}`, "Idempotency-Key", "k1").want(409)
}

// TestLists: without user_id it gave waiting jobs only, and positions of the first hundred.
func TestLists(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	var all []string
	for i := range 150 {
		all = append(all, s.submit([]string{"ann", "amy", "ben"}[i%3]))
	}
	slices.Reverse(all)
	s.next("w1") // ann's first
	done := all[len(all)-1]
	s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+done, `{}`).want(200)
	running := s.next("w2")
	s.ask("olu", "DELETE", "/api/jobs/"+all[0], "").want(204)
	for query, want := range map[string][]string{
		"?limit=1000": all, "": all[:100], "?limit=3": all[:3], "?status=completed": {done}, "?status=running": {running},
		"?status=cancelled": {all[0]}, "?status=failed": nil, "?user_id=ben&limit=2": {all[0], all[3]}, "?user_id=olu": nil,
		"?status=PENDING&limit=2": all[1:3],
	} {
		if diff := cmp.Diff(want, s.list("olu", query)); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
	}
	if got := s.list("ivy", "?limit=1000"); len(got) != 100 {
		t.Errorf("an instructor sees %d jobs of the group", len(got))
	}
	if got := s.list("ivy", "?limit=4"); !slices.Equal(got, []string{all[1], all[2], all[4], all[5]}) {
		t.Errorf("the newest of the group are %v", got)
	}
	if got := s.ask("olu", "GET", "/api/jobs/"+all[1], "").fields()["position_in_queue"]; got != 147. {
		t.Errorf("the last one is at %v", got)
	}
	st := s.ask("olu", "GET", "/api/queue/status", "").fields()
	want := map[string]any{
		"mode": "fair", "pending_jobs": 147., "running_jobs": 1., "completed_jobs": 1., "failed_jobs": 0., "cancelled_jobs": 1.,
		"total_workers": 4., "active_workers": 3., "queue_depth": 147.,
	}
	if diff := cmp.Diff(want, st); diff != "" {
		t.Error(diff)
	}
	mine := s.ask("ann", "GET", "/api/queue/status", "").fields()
	if mine["pending_jobs"] != 49. || mine["completed_jobs"] != 1. || mine["queue_depth"] != 147. || mine["cancelled_jobs"] != 0. {
		t.Errorf("hers: %v", mine)
	}
}

// TestCountsAreOfWhatIsKept: defect 18, what was over stayed and was counted for ever.
func TestCountsAreOfWhatIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, queueapi.Options{}, queue.Options{KeepPerUser: 1})
		for range 3 {
			s.submit("ann")
			s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+s.next("w"), `{}`).want(200)
			if n := len(s.list("olu", "?status=completed")); s.ask("olu", "GET", "/api/queue/status", "").fields()["completed_jobs"] != float64(n) {
				t.Errorf("%d are over, and the status is another", n)
			}
		}
		n, err := s.queue.Prune(context.Background())
		ok(t, err)
		time.Sleep(time.Minute)
		for _, as := range []string{"olu", "ann"} {
			if got := s.ask(as, "GET", "/api/queue/status", "").fields()["completed_jobs"]; n != 2 || got != 1. || len(s.list(as, "")) != 1 {
				t.Errorf("%d are deleted, and %s sees %v", n, as, got)
			}
		}
	})
}

// TestInstructorsSeeTheirClassOnly: not what somebody did before they came.
func TestInstructorsSeeTheirClassOnly(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	before, _, err := s.queue.Submit(t.Context(), job.Submission{User: "ann", Group: "class-b", Class: 2, Request: job.Request{Prompt: []byte(graph)}})
	ok(t, err)
	now := s.submit("ann")
	if got := s.list("ivy", "?user_id=ann"); !slices.Equal(got, []string{now}) {
		t.Errorf("got %v", got)
	}
	s.ask("ivy", "GET", "/api/jobs/"+string(before.ID), "").want(404)
	s.ask("ian", "GET", "/api/jobs/"+string(before.ID), "").want(200)
}

// TestPromptIDs: a person's own prompt ids lead to their jobs, and to nobody else's.
func TestPromptIDs(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	j, _, err := s.queue.Submit(t.Context(), job.Submission{User: "ann", Group: "class-a", PromptID: "mine", Class: 2, Request: job.Request{Prompt: []byte(graph)}})
	ok(t, err)
	if got := s.ask("ann", "GET", "/api/jobs/mine", "").want(200).fields(); got["id"] != string(j.ID) || got["prompt_id"] != "mine" {
		t.Errorf("got %v", got)
	}
	for _, as := range []string{"ben", "olu", "ivy"} {
		s.ask(as, "DELETE", "/api/jobs/mine", "").want(404)
	}
	s.ask("ann", "DELETE", "/api/jobs/mine", "").want(204)
}

func TestErrorsNameFieldValueAndRemedy(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	large := func(n int) string { return `{"x": "` + strings.Repeat("x", n) + `"}` }
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "", `{`, 422, "body: it is not JSON"},
		{"POST", "", `[]`, 422, "not an object"},
		{"POST", "", `{}`, 422, "workflow: it is missing"},
		{"POST", "", `{"workflow": null}`, 422, "workflow: it is missing"},
		{"POST", "", `{"workflow": {}}`, 422, "workflow: it has no nodes"},
		{"POST", "", `{"workflow": []}`, 422, "workflow: [] is not an object"},
		{"POST", "", `{"workflow": {"nodes": [], "links": []}}`, 422, "as editors save it"},
		{"POST", "", `{"workflow": {"1": {"class_type": "Broken"}}}`, 422, "workflow: Prompt outputs failed validation: Node 1"},
		{"POST", "", `{"workflow": ` + large(10<<20) + `}`, 422, "workflow: it has 10485769 bytes; the limit is 10485760"},
		{"POST", "", `{"workflow": ` + large(12<<20) + `}`, 413, "body: it has more than"},
		{"POST", "", `{"workflow": ` + graph + `, "metadata": ` + large(1<<20) + `}`, 422, "metadata: it has 1048585 bytes; the limit is 1048576"},
		{"POST", "", `{"workflow": ` + graph + `, "metadata": {"deadline": "16:30"}}`, 422, `metadata.deadline: "16:30" is not a time`},
		{"POST", "", `{"workflow": ` + graph + `, "metadata": {"deadline": 7}}`, 422, `metadata.deadline: "7" is not a time`},
		{"POST", "", `{"workflow": ` + graph + `, "metadata": {"deadline": "2020-11-27T16:30:00Z"}}`, 422, "metadata.deadline: 2020-11-27T16:30:00Z is over already"},
		{"POST", "", `{"workflow": ` + graph + `, "metadata": 1}`, 422, "metadata: 1 is not an object"},
		{"POST", "", `{"workflow": ` + graph + `, "priority": 4}`, 422, "priority: 4 is not a priority"},
		{"POST", "", `{"workflow": ` + graph + `, "priority": 1.5}`, 422, "priority: 1.5 is not a priority"},
		{"POST", "", `{"workflow": ` + graph + `, "user_id": "../ann"}`, 422, `user_id: "../ann" has other characters`},
		{"POST", "", `{"workflow": ` + graph + `, "user_id": "` + strings.Repeat("a", 101) + `"}`, 422, "user_id: "},
		{"POST", "", `{"workflow": ` + graph + `, "user_id": 7}`, 422, "user_id: 7 is not a name"},
		{"GET", "?limit=0", "", 422, `limit: "0" is no whole number from 1 to 10000`},
		{"GET", "?limit=x", "", 422, `limit: "x" is no whole number`},
		{"GET", "?status=gone", "", 422, `status: "gone" is not a state`},
		{"GET", "?user_id=a/b", "", 422, `user_id: "a/b"`},
		{"GET", "/nope", "", 404, "There is no job nope"},
		{"PUT", "", "", 405, "There is no PUT"},
		{"GET", "/1/2/3", "", 404, "There is no GET"},
	} {
		a := s.ask("ann", c.method, "/api/jobs"+c.path, c.body)
		p := a.fields()
		if detail, _ := p["detail"].(string); a.Code != c.status || !strings.Contains(detail, c.says) || p["code"] == nil {
			t.Errorf("%s %s %.60s: %d %.300s", c.method, c.path, c.body, a.Code, a.Body)
		}
		if p["remedy"] == nil && c.status != 404 && !strings.Contains(c.says, "failed validation") {
			t.Errorf("%s %s %.60s has no remedy: %.300s", c.method, c.path, c.body, a.Body)
		}
	}
	if counts := s.queue.Counts(); counts.Pending != 0 {
		t.Errorf("%d jobs of refused requests", counts.Pending)
	}
	broken := s.ask("ann", "POST", "/api/jobs", `{"workflow": {"1": {"class_type": "Broken"}}}`).fields()
	if broken["node_errors"] == nil || broken["error"] == nil {
		t.Errorf("ComfyUI's own words are missing: %v", broken)
	}
}

// TestWhatPythonWrites: NaN in what is kept does not make answers that no reader takes.
func TestWhatPythonWrites(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	s.t = t
	j, _, err := s.queue.Submit(t.Context(), job.Submission{User: "ann", Class: 2, Request: job.Request{
		Prompt: []byte(`{"1": {"inputs": {"x": NaN}}}`), ExtraData: []byte(`{"metadata": {"loss": NaN, "most": [-Infinity]}}`), Outputs: []string{"1"},
	}})
	ok(t, err)
	want := map[string]any{"loss": nil, "most": []any{nil}}
	if diff := cmp.Diff(want, s.ask("ann", "GET", "/api/jobs/"+string(j.ID), "").fields()["metadata"]); diff != "" {
		t.Error(diff)
	}
	if s.next("w1") != string(j.ID) {
		t.Fatal("no job")
	}
	s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+string(j.ID), `{"loss": NaN}`).want(200)
	if diff := cmp.Diff(map[string]any{"loss": nil}, s.ask("ann", "GET", "/api/jobs/"+string(j.ID), "").fields()["result"]); diff != "" {
		t.Error(diff)
	}
}

// TestLongListsAreSentAsTheyAreRead: one that is cut short by trouble is not taken for whole.
func TestLongListsAreSentAsTheyAreRead(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	big := `"metadata": {"x": "` + strings.Repeat("x", 100_000) + `"}`
	for range 20 {
		s.submit("ann", big)
	}
	a := s.ask("ann", "GET", "/api/jobs", "").want(200)
	var jobs []struct{ Metadata map[string]string }
	ok(t, json.Unmarshal(a.Body.Bytes(), &jobs))
	if len(jobs) != 20 || len(jobs[19].Metadata["x"]) != 100_000 {
		t.Errorf("%d jobs", len(jobs))
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	s.submit("ann")
	want := map[string]any{
		"status": "healthy", "version": "1.2.3", "inference_mode": "serverless", "active_gpu": "NVIDIA H200", "serverless_endpoint": nil,
		"redis_connected": false, "store": "sqlite", "workers_active": 1., "queue_depth": 1., "uptime_seconds": 60.,
	}
	for _, as := range []string{"", "ann", "olu"} {
		a := s.ask(as, "GET", "/health", "").want(200)
		want["serverless_endpoint"] = nil
		if as == "olu" {
			want["serverless_endpoint"] = "https://containers.example/x"
		}
		if diff := cmp.Diff(want, a.fields()); diff != "" {
			t.Errorf("as %q: %s", as, diff)
		}
		if as == "" && (bytes.Contains(a.Body.Bytes(), []byte("10.0.0.5")) || bytes.Contains(a.Body.Bytes(), []byte("containers"))) {
			t.Errorf("addresses for everybody: %s", a.Body)
		}
	}
	s.facts.Ready = false
	if got := s.ask("", "GET", "/api/health", "").want(http.StatusServiceUnavailable).fields()["status"]; got != "unhealthy" {
		t.Errorf("got %v", got)
	}
	s.facts.Ready, s.facts.Store = true, "redis"
	if got := s.ask("", "GET", "/health", "").want(503).fields(); got["status"] != "unhealthy" || got["redis_connected"] != false {
		t.Errorf("without its Redis: %v", got)
	}
	s.facts.Redis, s.facts.BackEnds = true, nil
	if got := s.ask("", "GET", "/health", "").want(200).fields(); got["inference_mode"] != "redis" || got["active_gpu"] != nil || got["workers_active"] != 0. {
		t.Errorf("with Redis and no back end: %v", got)
	}
}

// TestManyBodies: one person's large requests do not take the memory that others need. They wait for one another, and
// small ones for nobody.
func TestManyBodies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, queueapi.Options{}, queue.Options{})
		end := make(chan struct{})
		codes := make(chan int)
		send := func(as string) { codes <- s.send(as, "POST", "/api/jobs", &slow{end: end}).Code }
		for range 5 { // of a length that nobody knows: each may be the largest
			go send("ann")
		}
		synctest.Wait()
		go send("ann")
		go send("ben")
		synctest.Wait()
		s.submit("ann")
		time.Sleep(20*time.Second - 1)
		select {
		case code := <-codes:
			t.Errorf("one ended with %d", code)
		default:
		}
		if code := <-codes; code != http.StatusTooManyRequests {
			t.Errorf("the sixth ended with %d", code)
		}
		go send("ann")
		synctest.Wait()
		close(end)
		for range 7 {
			if code := <-codes; code != http.StatusUnprocessableEntity { // they were cut
				t.Errorf("got %d", code)
			}
		}
	})
}

// slow is a body that comes when it is told to, and is cut then.
type slow struct{ end chan struct{} }

func (r *slow) Read([]byte) (int, error) {
	<-r.end
	return 0, errors.New("it was cut")
}
