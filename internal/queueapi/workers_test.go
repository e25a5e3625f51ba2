package queueapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queueapi"
)

func bubble(t *testing.T, fn func(s *studio)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, queueapi.Options{}, queue.Options{})
		s.run()
		fn(s)
	})
}

// TestWorkerRunsAJob is the whole way of a worker of old: it fetches a job, sends the bare result, and its owner reads it.
// Defect 5: publishing an event failed after the job was taken, so that it was lost; and what the worker sent did not
// have the form that was asked for.
func TestWorkerRunsAJob(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"the bare result": `{"prompt_id": "p", "status": "completed", "outputs": {"9": {}}, "execution_time": 1.5}`,
		"in an envelope":  `{"result": {"prompt_id": "p", "status": "completed", "outputs": {"9": {}}, "execution_time": 1.5}}`,
	} {
		s := newStudio(t, queueapi.Options{}, queue.Options{})
		s.run()
		id := s.submit("ann", `"metadata": {"batch": [1, 2], "estimated_vram": 8192}`)
		given := s.ask("gpu", "GET", "/api/workers/next-job?worker_id=worker-1", "").want(200).fields()["job"].(map[string]any)
		for key, want := range map[string]any{
			"id": id, "job_id": id, "user_id": "ann", "workflow": map[string]any{"9": map[string]any{"class_type": "SaveImage", "inputs": map[string]any{}}},
			"metadata": map[string]any{"batch": []any{1., 2.}, "estimated_vram": 8192.},
		} {
			if diff := cmp.Diff(want, given[key]); diff != "" {
				t.Errorf("%s of the job given: %s", key, diff)
			}
		}
		if got := s.ask("ann", "GET", "/api/jobs/"+id, "").fields(); got["status"] != "running" || got["worker_id"] != "worker-1" || got["started_at"] == nil {
			t.Errorf("while it runs: %v", got)
		}
		if s.next("worker-2") != "" {
			t.Error("one job went to two workers")
		}
		done := s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+id, body).want(200).fields()
		if diff := cmp.Diff(map[string]any{"status": "success", "job_id": id}, done); diff != "" {
			t.Error(diff)
		}
		got := s.ask("ann", "GET", "/api/jobs/"+id, "").fields()
		want := map[string]any{"prompt_id": "p", "status": "completed", "outputs": map[string]any{"9": map[string]any{}}, "execution_time": 1.5}
		if diff := cmp.Diff(want, got["result"]); diff != "" || got["status"] != "completed" || got["error"] != nil || got["completed_at"] == nil {
			t.Errorf("%s: %v %s", name, got, diff)
		}
	}
}

// TestWorkerFails: defect 13, a failed graph was polled for until a timeout; and the error came in a form that was
// refused. Both forms end the job at once, with its reason.
func TestWorkerFails(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	for _, call := range [][2]string{{"", `{"error": "CUDA out of memory"}`}, {"&error=CUDA+out+of+memory", ""}} {
		id := s.submit("ann")
		if s.next("worker-1") != id {
			t.Fatal("no job")
		}
		s.ask("gpu", "POST", "/api/workers/fail-job?job_id="+id+call[0], call[1]).want(200)
		if got := s.ask("ann", "GET", "/api/jobs/"+id, "").fields(); got["status"] != "failed" || got["error"] != "CUDA out of memory" || got["result"] != nil {
			t.Errorf("%v gives %v", call, got)
		}
	}
	id, text := s.submit("ann"), "RuntimeError: boom\n  in line 5"
	s.next("worker-1")
	s.ask("gpu", "POST", "/api/workers/fail-job?job_id="+id, `{"error": "RuntimeError: boom\n  in line 5"}`).want(200)
	if got := s.ask("ann", "GET", "/api/jobs/"+id, "").fields()["error"]; got != text {
		t.Errorf("of an error of two lines she reads %q", got)
	}
}

// TestDeadWorkersJobWaitsAgain: defect 16, a dead worker's job stayed running for an hour and failed. Its lease ends, it
// waits again, another worker has it, and what the dead one brings after all is kept out and counted.
func TestDeadWorkersJobWaitsAgain(t *testing.T) {
	bubble(t, func(s *studio) {
		id := s.submit("ann")
		if s.next("worker-1") != id {
			s.t.Fatal("no job")
		}
		time.Sleep(16*time.Minute - time.Second)
		s.expire()
		if got := s.state("ann", id); got != "running" {
			s.t.Fatalf("it is %s before its lease is over", got)
		}
		time.Sleep(2 * time.Second)
		s.expire()
		if got := s.state("ann", id); got != "pending" {
			s.t.Fatalf("it is %s after its lease", got)
		}
		late := func(query, code string) {
			s.t.Helper()
			a := s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+id+query, `{"of": "worker-1"}`).want(http.StatusConflict)
			if got := a.fields()["code"]; got != code {
				s.t.Errorf("a late report is refused with %v", got)
			}
		}
		late("&worker_id=worker-1", "stale_fence")
		if s.next("worker-2") != id {
			s.t.Fatal("the second worker gets nothing")
		}
		late("&worker_id=worker-1", "stale_fence")
		late("", "worker_id_needed") // one account, two workers: whose is it?
		s.ask("gpu", "POST", "/api/workers/complete-job?worker_id=worker-2&job_id="+id, `{"of": "worker-2"}`).want(200)
		late("&worker_id=worker-1", "job_is_over")
		late("&worker_id=worker-2", "job_is_over") // twice
		if got := s.ask("ann", "GET", "/api/jobs/"+id, "").fields()["result"]; !cmp.Equal(got, map[string]any{"of": "worker-2"}) {
			s.t.Errorf("the result is %v", got)
		}
		if s.Late() != 5 {
			s.t.Errorf("%d reports were kept out", s.Late())
		}
		if n := strings.Count(s.log.String(), "kept out"); n != 5 {
			s.t.Errorf("%d of them are in the log:\n%s", n, s.log)
		}
	})
}

// TestReportsWithoutWorker: reports of old do not name their worker. As long as it is clear whose they are they
// count, also from another account that has the job by now.
func TestReportsWithoutWorker(t *testing.T) {
	bubble(t, func(s *studio) {
		id := s.submit("ann")
		if s.next("worker-1") != id {
			s.t.Fatal("no job")
		}
		time.Sleep(17 * time.Minute)
		s.expire()
		given := s.ask("olu", "GET", "/api/workers/next-job?worker_id=worker-2", "").fields()["job"].(map[string]any)
		if given["id"] != id || given["attempt"] != 2. {
			s.t.Fatalf("got %v", given)
		}
		s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+id, `{"of": "worker-1"}`).want(409)
		s.ask("ivy", "POST", "/api/workers/complete-job?job_id="+id, `{"of": "nobody"}`).want(409)
		s.ask("olu", "POST", "/api/workers/complete-job?job_id="+id, `{"of": "worker-2"}`).want(200)
	})
}

// TestWorkerThatComesAgain has lost what it had: its job goes on at once, without waiting for the lease.
func TestWorkerThatComesAgain(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	id := s.submit("ann")
	for range 2 {
		if got := s.next("worker-1"); got != id {
			t.Fatalf("got %q", got)
		}
	}
	// One of the same name and another account is another one.
	if given := s.ask("olu", "GET", "/api/workers/next-job?worker_id=worker-1", "").fields()["job"]; given != nil {
		t.Errorf("it took %v away", given)
	}
	if got := s.ask("gpu", "GET", "/api/queue/status", "").fields(); got["running_jobs"] != 1. || got["pending_jobs"] != 0. {
		t.Errorf("counts: %v", got)
	}
}

// TestPoisonousJob: one that worker after worker dies of is given up, so that the others get on.
func TestPoisonousJob(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	id, other := s.submit("ann"), s.submit("ann")
	for range 5 {
		if got := s.next("worker-1"); got != id {
			t.Fatalf("got %q", got)
		}
	}
	if got := s.next("worker-1"); got != other {
		t.Fatalf("got %q after five tries", got)
	}
	if got := s.ask("ann", "GET", "/api/jobs/"+id, "").fields(); got["status"] != "failed" || !strings.Contains(got["error"].(string), "5 times") {
		t.Errorf("it ends as %v", got)
	}
}

// TestHeartbeat keeps a lease, for workers that can.
func TestHeartbeat(t *testing.T) {
	bubble(t, func(s *studio) {
		id := s.submit("ann")
		s.ask("gpu", "GET", "/api/workers/next-job?worker_id=worker-1&lease=10", "").want(200)
		for range 5 {
			time.Sleep(8 * time.Second)
			s.ask("gpu", "POST", "/api/workers/heartbeat?worker_id=worker-1&lease=10&job_id="+id, "").want(200)
			s.expire()
		}
		if got := s.state("ann", id); got != "running" {
			s.t.Fatalf("it is %s", got)
		}
		time.Sleep(11 * time.Second)
		s.expire()
		s.ask("gpu", "POST", "/api/workers/heartbeat?worker_id=worker-1&lease=10&job_id="+id, "").want(409)
	})
}

// TestCancelledOnAWorker: a running job that is cancelled stayed a flag, and the worker's result overwrote it.
func TestCancelledOnAWorker(t *testing.T) {
	bubble(t, func(s *studio) {
		id := s.submit("ann")
		if s.next("worker-1") != id {
			s.t.Fatal("no job")
		}
		s.ask("ann", "DELETE", "/api/jobs/"+id, "").want(204)
		synctest.Wait()
		if got := s.state("ann", id); got != "cancelled" {
			s.t.Errorf("it is %s", got)
		}
		s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+id, `{}`).want(409)
		if got := s.state("ann", id); got != "cancelled" {
			s.t.Errorf("a late result made it %s", got)
		}
		s.ask("ann", "DELETE", "/api/jobs/"+id, "").want(409)
	})
}

// TestNewStart: what was given away before the studio was started anew is still the worker's, and what its owner had
// stopped meanwhile ends.
func TestNewStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, queueapi.Options{}, queue.Options{}) // nobody listens yet
		ids := []string{s.submit("ann"), s.submit("ben")}
		if s.next("worker-1") != ids[0] || s.next("worker-2") != ids[1] {
			s.t.Fatal("no jobs")
		}
		if _, err := s.queue.Cancel(context.Background(), job.ID(ids[1])); err != nil {
			s.t.Fatal(err)
		}
		s.start(queueapi.Options{}, queue.Options{})
		if got := s.ask("ann", "GET", "/api/jobs/"+ids[0], "").fields(); got["status"] != "running" || got["worker_id"] != "worker-1" || got["started_at"] == nil {
			s.t.Errorf("after the start: %v", got)
		}
		s.run()
		synctest.Wait()
		if got := s.state("ben", ids[1]); got != "cancelled" {
			s.t.Errorf("the stopped one is %s", got)
		}
		s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+ids[0], `{"a": 1}`).want(200)
	})
}

// TestNextIsNextInLine: workers take jobs in the order of the schedule, and leave alone what it holds back.
func TestNextIsNextInLine(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	first, second := s.submit("ann"), s.submit("ben")
	low := s.submit("amy", `"priority": 3`)
	high := s.submit("olu", `"priority": 0`)
	held := s.submit("ann", `"priority": 2`)
	if _, err := s.queue.Hold(t.Context(), job.ID(held), true); err != nil {
		t.Fatal(err)
	}
	s.reasons[job.ID(second)] = "paused_group"
	s.submit("ben") // waits for the same reason
	later := s.submit("amy", `"priority": 3`)
	s.reasons[job.ID(later)] = "retry"
	last := s.submit("amy", `"priority": 3`)
	for _, want := range []string{high, first, low, last, ""} {
		if got := s.next("worker-" + want); want != "" && got != want {
			t.Errorf("got %s, want %s", got, want)
		} else if want == "" && s.next("worker-9") != "" {
			t.Error("a held or paused job is given away")
		}
	}
}

// TestCredentialsStayHere: what pays for API nodes never goes to a worker, and the job waits for a back end.
func TestCredentialsStayHere(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	paid := s.ask("ann", "POST", "/api/jobs", `{"workflow": {"9": {"class_type": "Paid", "inputs": {}}}}`).want(201).fields()["id"].(string)
	other := s.submit("ben")
	if got := s.next("worker-1"); got != other {
		t.Errorf("got %s, want the one without credentials", got)
	}
	if got := s.next("worker-2"); got != "" {
		t.Errorf("got %s", got)
	}
	if got := s.state("ann", paid); got != "pending" {
		t.Errorf("it is %s", got)
	}
}

// TestWorkersAreCounted: the counts of workers were always 0.
func TestWorkersAreCounted(t *testing.T) {
	bubble(t, func(s *studio) {
		count := func() [3]any {
			st := s.ask("olu", "GET", "/api/queue/status", "").fields()
			return [3]any{st["total_workers"], st["active_workers"], s.ask("", "GET", "/health", "").fields()["workers_active"]}
		}
		want := func(total, active float64) {
			s.t.Helper()
			if got := count(); got != [3]any{total, active, active} {
				s.t.Errorf("workers: %v, want %v and %v", got, total, active)
			}
		}
		want(2, 1) // back ends: one of two answers
		id := s.submit("ann")
		s.next("worker-1")
		s.next("worker-2")
		want(4, 3)
		time.Sleep(2 * time.Minute) // the second one asks no more, the first one is at work
		want(4, 2)
		time.Sleep(9 * time.Minute)
		want(3, 2)
		s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+id, `{}`).want(200)
		want(2, 1)
	})
}

func TestWorkerCallsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	id := s.submit("ann")
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "next-job", "", 422, "worker_id: it is missing"},
		{"GET", "next-job?worker_id=a%20b", "", 422, `worker_id: "a b" can't be`},
		{"GET", "next-job?worker_id=w&lease=1", "", 422, `lease: "1" is no whole number of seconds from 5 to 3600`},
		{"POST", "complete-job", `{}`, 422, "job_id: it is missing"},
		{"POST", "complete-job?job_id=nope", `{}`, 404, "There is no job nope"},
		{"POST", "complete-job?job_id=" + id, `{}`, 409, "is not this worker's"},
		{"POST", "complete-job?job_id=" + id, `[]`, 422, "not an object"},
		{"POST", "complete-job?job_id=" + id, `{"result": 1}`, 422, "result: 1 is not an object"},
		{"POST", "complete-job?job_id=" + id, `{`, 422, "it is not JSON"},
		{"POST", "complete-job?job_id=" + id, "", 422, "it is not JSON"},
		{"POST", "complete-job?job_id=" + id, `{"result": {"x": "` + strings.Repeat("x", 50<<20) + `"}}`, 422, "the limit is 52428800"},
		{"POST", "fail-job?job_id=" + id, "", 422, "error: it is missing"},
		{"POST", "fail-job?job_id=" + id, `{"error": " "}`, 422, "error: it is missing"},
		{"POST", "fail-job?job_id=" + id, `{"error": 5}`, 422, "error: 5 is not a text"},
		{"POST", "fail-job?job_id=" + id, `{"error": "` + strings.Repeat("é", 10_001) + `"}`, 422, "it has 10001 characters; the limit is 10000"},
		{"POST", "fail-job?job_id=" + id, `{"error": "` + strings.Repeat("é", 10_000) + `"}`, 409, "is not this worker's"},
	} {
		a := s.ask("gpu", c.method, "/api/workers/"+c.path, c.body)
		p := a.fields()
		if detail, _ := p["detail"].(string); a.Code != c.status || !strings.Contains(detail, c.says) || p["remedy"] == nil && c.status != 404 {
			t.Errorf("%s %.60s %.60s: %d %.300s", c.method, c.path, c.body, a.Code, a.Body)
		}
	}
}

// lateLeases says that a fence is stale, whatever is reported.
type lateLeases struct{ queueapi.Leases }

func (lateLeases) Finish(context.Context, job.ID, int64, job.Outcome) error {
	return fault.New(fault.Conflict, "stale")
}

// TestFenceDecides: whatever the face believes, the queue's word on a fence counts.
func TestFenceDecides(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	deps := s.Deps
	deps.Leases = lateLeases{s.queue}
	s.Face = queueapi.New(deps, queueapi.Options{})
	id := s.submit("ann")
	if s.next("worker-1") != id {
		t.Fatal("no job")
	}
	a := s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+id, `{}`).want(409)
	if !json.Valid(a.Body.Bytes()) || s.Late() != 1 {
		t.Errorf("%s, %d", a.Body, s.Late())
	}
}
