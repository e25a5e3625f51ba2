package queueapi_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queueapi"
)

// askers are who tries every address: nobody, the owner, another of her group, a stranger, an instructor of her group, of
// another group and of none, and an operator.
var askers = []string{"", "ann", "amy", "ben", "ivy", "ian", "lea", "olu"}

// TestWhoMayDoWhat tries every address of the table with a job of ann's as everybody. An address that is not here fails
// the test.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	table := map[string]struct {
		path, body string
		want       [8]int // in the order of askers
	}{
		"GET /health":                    {"/health", "", [8]int{200, 200, 200, 200, 200, 200, 200, 200}},
		"GET /api/health":                {"/api/health", "", [8]int{200, 200, 200, 200, 200, 200, 200, 200}},
		"GET /api/queue/status":          {"/api/queue/status", "", [8]int{401, 200, 200, 200, 200, 200, 200, 200}},
		"GET /api/jobs":                  {"/api/jobs?user_id=ann", "", [8]int{401, 200, 403, 403, 200, 403, 403, 200}},
		"POST /api/jobs":                 {"/api/jobs", `{"user_id": "ann", "workflow": ` + graph + `}`, [8]int{401, 201, 403, 403, 201, 403, 403, 201}},
		"GET /api/jobs/{id}":             {"/api/jobs/ID", "", [8]int{401, 200, 404, 404, 200, 404, 404, 200}},
		"DELETE /api/jobs/{id}":          {"/api/jobs/ID", "", [8]int{401, 204, 404, 404, 204, 404, 404, 204}},
		"PATCH /api/jobs/{id}/priority":  {"/api/jobs/ID/priority", `{"priority": 3}`, [8]int{401, 200, 404, 404, 200, 404, 404, 200}},
		"GET /ws":                        {"/ws", "", [8]int{401, 422, 422, 422, 422, 422, 422, 422}}, // no upgrade: see TestSocket
		"GET /api/workers/next-job":      {"/api/workers/next-job", "", [8]int{401}},                  // who may is the door's matter
		"POST /api/workers/complete-job": {"/api/workers/complete-job", `{}`, [8]int{401}},
		"POST /api/workers/fail-job":     {"/api/workers/fail-job", `{}`, [8]int{401}},
		"POST /api/workers/heartbeat":    {"/api/workers/heartbeat", "", [8]int{401}},
	}
	for _, route := range queueapi.Routes() {
		name := route.Method + " " + route.Path
		row, known := table[name]
		if !known {
			t.Errorf("%s is not in the table: say who may", name)
			continue
		}
		delete(table, name)
		for i, as := range askers {
			if row.want[i] == 0 {
				continue
			}
			s := newStudio(t, queueapi.Options{}, queue.Options{})
			id := s.submit("ann", `"metadata": {"secret": "hers"}`)
			a := s.ask(as, route.Method, strings.ReplaceAll(row.path, "ID", id), row.body)
			if a.Code != row.want[i] {
				t.Errorf("%s as %q gave %d, want %d: %s", name, as, a.Code, row.want[i], a.Body)
			}
			if refused := a.Code >= 400; refused && (strings.Contains(a.Body.String(), "hers") || a.fields()["detail"] == "") {
				t.Errorf("%s as %q: the refusal is %s", name, as, a.Body)
			}
			hers := s.ask("ann", "GET", "/api/jobs/"+id, "").fields()
			if a.Code >= 400 && (hers["status"] != "pending" || hers["priority"] != 2.) {
				t.Errorf("%s as %q is refused and changed the job: %v", name, as, hers)
			}
		}
	}
	for name := range table {
		t.Errorf("%s is in the table and not in the interface", name)
	}
}

// TestOthersLeaveNoTrace: neither lists nor counts nor refusals tell of other people's jobs.
func TestOthersLeaveNoTrace(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	id := s.submit("ann", `"metadata": {"secret": "hers"}`)
	own := s.submit("ben")
	for as, sees := range map[string]bool{"ben": false, "ian": false, "lea": false, "amy": false, "ivy": true, "olu": true, "ann": true} {
		for _, path := range []string{"/api/jobs", "/api/jobs?status=pending", "/api/jobs?limit=1000"} {
			if got := strings.Contains(s.ask(as, "GET", path, "").want(200).Body.String(), id); got != sees {
				t.Errorf("%s sees ann's job at %s: %v", as, path, got)
			}
		}
	}
	if got := s.ask("ben", "GET", "/api/jobs", "").Body.String(); !strings.Contains(got, own) {
		t.Errorf("ben does not see his own: %s", got)
	}
	if got := s.ask("amy", "GET", "/api/queue/status", "").fields(); got["pending_jobs"] != 0. || got["queue_depth"] != 2. {
		t.Errorf("a participant's counts: %v", got)
	}
	if got := s.ask("olu", "GET", "/api/queue/status", "").fields(); got["pending_jobs"] != 2. {
		t.Errorf("an operator's counts: %v", got)
	}
	// A name that nobody has and one that is somebody's are refused alike.
	for _, as := range []string{"ben", "ian"} {
		a := s.ask(as, "GET", "/api/jobs?user_id=ann", "").want(403).Body.String()
		b := s.ask(as, "GET", "/api/jobs?user_id=zoe", "").want(403).Body.String()
		if strings.ReplaceAll(a, "ann", "zoe") != b {
			t.Errorf("%s can tell who there is: %s %s", as, a, b)
		}
	}
}

// TestOthersJobsAreLikeNone: what is somebody else's and what is not there give the same answer after the same time.
func TestOthersJobsAreLikeNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStudio(t, queueapi.Options{}, queue.Options{})
		waiting, over := s.submit("ann"), s.submit("ann")
		s.ask("ann", "DELETE", "/api/jobs/"+over, "").want(204)
		for _, c := range [][2]string{{"GET", ""}, {"DELETE", ""}, {"PATCH", "/priority?priority=3"}} {
			var texts []string
			for _, id := range []string{waiting, over, "01900000-0000-7000-8000-000000000000"} {
				began := time.Now()
				a := s.ask("ben", c[0], "/api/jobs/"+id+c[1], "").want(http.StatusNotFound)
				if took := time.Since(began); took != 20*time.Millisecond {
					t.Errorf("%s %s took %v", c[0], id, took)
				}
				texts = append(texts, strings.ReplaceAll(a.Body.String(), id, "ID"))
			}
			if diff := cmp.Diff([]string{texts[2], texts[2], texts[2]}, texts); diff != "" {
				t.Errorf("%s tells others' jobs from none:\n%s", c[0], diff)
			}
		}
	})
}

// TestPriorityRights: participants only let others go first; who looks after them may do both.
func TestPriorityRights(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	for as, highest := range map[string]int{"ann": 2, "ivy": 0, "olu": 0} {
		for class := range 4 {
			want := map[bool]int{true: 201, false: 403}[class >= highest]
			if a := s.ask(as, "POST", "/api/jobs", `{"workflow": `+graph+`, "priority": `+string(rune('0'+class))+`}`); a.Code != want {
				t.Errorf("%s submits with %d: %d %s", as, class, a.Code, a.Body)
			}
		}
	}
	id := s.submit("ann")
	for _, c := range []struct {
		as, body, query string
		want            int
	}{
		{"ann", `{"priority": 1}`, "", 403},
		{"ann", `{"priority": 2}`, "", 200},
		{"ann", `{"priority": 3}`, "", 200},
		{"ann", "", "?priority=2", 403}, // not even back
		{"ivy", "", "?priority=1", 200},
		{"olu", `{"priority": 0}`, "?priority=0", 200},
		{"olu", `{"priority": 0}`, "?priority=1", 422},
		{"olu", "", "", 422},
		{"olu", `{"priority": 4}`, "", 422},
		{"olu", `{"priority": "high"}`, "", 422},
	} {
		if a := s.ask(c.as, "PATCH", "/api/jobs/"+id+"/priority"+c.query, c.body); a.Code != c.want {
			t.Errorf("%s sets %s%s: %d %s", c.as, c.body, c.query, a.Code, a.Body)
		}
	}
	want := map[string]any{"status": "success", "id": id, "job_id": id, "priority": 1.}
	if diff := cmp.Diff(want, s.ask("ivy", "PATCH", "/api/jobs/"+id+"/priority?priority=1", "").fields()); diff != "" {
		t.Error(diff)
	}
}
