package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
)

// guide is a program that was written for the queue manager from its guide, and knows nothing of this studio.
type guide struct {
	t              *testing.T
	base           string
	user, password string // for Basic; empty: none
	token          string // for Bearer; empty: none
}

// as is the same program for somebody else.
func (g guide) as(user string) guide {
	g.user, g.password, g.token = user, passwordOf(user), ""
	return g
}

func passwordOf(user string) string { return "the-password-of-" + user }

// try asks and returns what came.
func (g guide) try(method, path, body string) (int, []byte) {
	g.t.Helper()
	r, err := http.NewRequest(method, g.base+path, strings.NewReader(body))
	ok(g.t, err)
	switch {
	case g.token != "":
		r.Header.Set("Authorization", "Bearer "+g.token)
	case g.user != "":
		r.SetBasicAuth(g.user, g.password)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	ok(g.t, err)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	ok(g.t, err)
	if len(res.Header.Values("Set-Cookie")) > 0 { // defect 1: a refusal handed the secret out
		g.t.Errorf("%s %s sets a cookie: %v", method, path, res.Header)
	}
	if res.StatusCode >= 500 {
		g.t.Errorf("%s %s: %d %s", method, path, res.StatusCode, answer)
	}
	return res.StatusCode, answer
}

// call asks and expects this status; the answer is an object.
func (g guide) call(want int, method, path, body string) map[string]any {
	g.t.Helper()
	status, answer := g.try(method, path, body)
	if status != want {
		g.t.Fatalf("%s asks %s %s: %d and not %d: %.500s", g.user, method, path, status, want, answer)
	}
	if len(answer) == 0 {
		return nil
	}
	var m map[string]any
	if err := json.Unmarshal(answer, &m); err != nil {
		g.t.Fatalf("%s %s: %v: %.500s", method, path, err, answer)
	}
	return m
}

// list asks for jobs and returns their ids.
func (g guide) list(query string) (ids []string) {
	g.t.Helper()
	status, answer := g.try("GET", "/api/jobs"+query, "")
	var jobs []struct {
		ID    string `json:"id"`
		JobID string `json:"job_id"`
	}
	if err := json.Unmarshal(answer, &jobs); err != nil || status != http.StatusOK {
		g.t.Fatalf("%s lists %s: %d %.500s", g.user, query, status, answer)
	}
	for _, j := range jobs {
		if j.ID != j.JobID {
			g.t.Errorf("the job has two ids: %v", j)
		}
		ids = append(ids, j.ID)
	}
	return ids
}

// workflow makes a picture in so many steps of a fifth of a second.
func workflow(color, steps int) string {
	return fmt.Sprintf(`{"1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": %d}},
		"2": {"class_type": "ProbeSlow", "inputs": {"image": ["1", 0], "steps": %d, "seconds": 0.2, "preview": false}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "guide"}}}`, color, steps)
}

// submit sends a graph and returns its job's id.
func (g guide) submit(color, steps int, more string) string {
	g.t.Helper()
	return g.call(http.StatusCreated, "POST", "/api/jobs", `{"user_id": "`+g.user+`", "workflow": `+workflow(color, steps)+more+`}`)["job_id"].(string)
}

// become polls a job until it has this status.
func (g guide) become(id, status string) map[string]any {
	g.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		j := g.call(http.StatusOK, "GET", "/api/jobs/"+id, "")
		if j["status"] == status {
			return j
		}
		if j["completed_at"] != nil || time.Now().After(deadline) {
			g.t.Fatalf("the job does not become %s: %v", status, j)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// managed is a studio with the queue manager's port, an operator called admin, an instructor and two participants of
// her class, and one of another; each has a password.
func managed(t *testing.T, flags map[string]string, fn func(*app.Studio, *client.Client)) {
	t.Helper()
	all := map[string]string{"limits.keep_free": "1MB", "queue_api": "127.0.0.1:0"}
	for k, v := range flags {
		all[k] = v
	}
	o := options(t, all)
	o.Settings.Users = []config.User{
		{Name: "admin", Role: "operator"},
		{Name: "ivy", Role: "instructor", Group: "class-a"},
		{Name: "ann", Role: "participant", Group: "class-a"},
		{Name: "amy", Role: "participant", Group: "class-a"},
		{Name: "ben", Role: "participant", Group: "class-b"},
	}
	o.Settings.Backends = []config.Back{{Name: "gpu", Driver: "comfyui", URL: simulated(t)}}
	ok(t, run(t, o, func(s *app.Studio) {
		path, err := app.SocketPath(o.Settings.Data, "")
		ok(t, err)
		c := client.Socket(path)
		defer c.Close()
		for _, u := range o.Settings.Users {
			ok(t, c.SetPassword(t.Context(), u.Name, passwordOf(u.Name)))
		}
		_, err = c.TestBackEnd(t.Context(), "gpu", false)
		ok(t, err)
		fn(s, c)
	}))
}

// TestGuide lets the program of the guide do everything at each place where the interface is, with and without rights.
func TestGuide(t *testing.T) {
	t.Parallel()
	managed(t, nil, func(s *app.Studio, _ *client.Client) {
		for _, base := range []string{"http://" + s.QueuePort(), s.Address() + "/qm"} {
			nobody := guide{t: t, base: base}
			ann, ben, ivy, admin := nobody.as("ann"), nobody.as("ben"), nobody.as("ivy"), nobody.as("admin")
			for _, path := range []string{"/health", "/api/health"} {
				h := nobody.call(200, "GET", path, "")
				if h["status"] != "healthy" || h["store"] != "sqlite" || h["inference_mode"] != "local" || h["workers_active"] != 1. || h["active_gpu"] == nil || h["version"] != "test" {
					t.Errorf("health: %v", h)
				}
			}
			for _, c := range [][2]string{
				{"GET", "/api/queue/status"},
				{"GET", "/api/jobs"},
				{"POST", "/api/jobs"},
				{"GET", "/api/jobs/1"},
				{"DELETE", "/api/jobs/1"},
				{"PATCH", "/api/jobs/1/priority?priority=1"},
				{"GET", "/api/workers/next-job?worker_id=w"},
				{"POST", "/api/workers/complete-job?job_id=1"},
				{"POST", "/api/workers/fail-job?job_id=1&error=x"},
				{"GET", "/ws"},
			} { // defect 3: all of it was open to everybody
				nobody.call(401, c[0], c[1], "")
			}
			wrong := nobody.as("ann")
			wrong.password = "guess"
			wrong.call(401, "GET", "/api/queue/status", "")
			for _, g := range []guide{ann, ivy, admin} { // for none of them are workers' calls
				g.call(403, "GET", "/api/workers/next-job?worker_id=w", "")
			}

			done := ann.submit(1, 1, `, "priority": 2, "metadata": {"batch_index": 0}`)
			j := ann.become(done, "completed")
			result, _ := j["result"].(map[string]any)
			if result["status"] != "completed" || !strings.Contains(fmt.Sprint(result["outputs"]), "guide_0000") || j["worker_id"] != "gpu" || j["error"] != nil {
				t.Errorf("the result: %v", j)
			}
			if fmt.Sprint(j["metadata"]) != "map[batch_index:0]" {
				t.Errorf("the metadata: %v", j["metadata"])
			}
			paid := ann.call(201, "POST", "/api/jobs", `{"workflow": `+workflow(6, 1)+`, "metadata": {"api_key_comfy_org": "her-key", "n": 1}}`)
			if again := ann.become(paid["id"].(string), "completed"); strings.Contains(fmt.Sprint(paid, again), "her-key") || fmt.Sprint(again["metadata"]) != "map[n:1]" {
				t.Errorf("what pays for nodes comes back: %v %v", paid, again)
			}
			running := ann.submit(2, 1000, "")
			ann.become(running, "running")
			waiting := ann.submit(3, 1, `, "priority": 3`)
			if w := ann.call(200, "GET", "/api/jobs/"+waiting, ""); w["status"] != "pending" || w["position_in_queue"] != 1. || w["reason"] == "" || w["priority"] != 3. {
				t.Errorf("the waiting one: %v", w)
			}
			st := admin.call(200, "GET", "/api/queue/status", "")
			if st["pending_jobs"] != 1. || st["running_jobs"] != 1. || st["queue_depth"] != 1. || st["total_workers"] != 1. || st["active_workers"] != 1. || st["mode"] != "fair" {
				t.Errorf("the counts: %v", st)
			}
			for _, l := range []struct {
				g     guide
				query string
				want  []string
			}{
				{ann, "?limit=4", []string{waiting, running, paid["id"].(string), done}},
				{ann, "?user_id=ann&status=running", []string{running}},
				{ann, "?status=pending", []string{waiting}},
				{ben, "?status=pending", nil},
				{ivy, "?status=pending", []string{waiting}},
				{admin, "?user_id=ann&status=running", []string{running}},
				{admin, "?limit=1", []string{waiting}},
			} {
				if got := l.g.list(l.query); !slices.Equal(got, l.want) {
					t.Errorf("%s lists %s: %v, want %v", l.g.user, l.query, got, l.want)
				}
			}
			ben.call(403, "GET", "/api/jobs?user_id=ann", "")
			ben.call(403, "POST", "/api/jobs", `{"user_id": "ann", "workflow": `+workflow(4, 1)+`}`)
			ben.call(404, "GET", "/api/jobs/"+waiting, "")
			ben.call(404, "DELETE", "/api/jobs/"+waiting, "")
			ben.call(404, "PATCH", "/api/jobs/"+waiting+"/priority", `{"priority": 3}`)
			ann.call(403, "PATCH", "/api/jobs/"+waiting+"/priority", `{"priority": 0}`)
			if p := ivy.call(200, "PATCH", "/api/jobs/"+waiting+"/priority", `{"priority": 1}`); p["status"] != "success" || p["job_id"] != waiting || p["priority"] != 1. {
				t.Errorf("a new priority is answered with %v", p)
			}
			admin.call(200, "PATCH", "/api/jobs/"+waiting+"/priority?priority=0", "")
			ann.call(204, "DELETE", "/api/jobs/"+waiting, "")
			ann.become(waiting, "cancelled")
			admin.call(204, "DELETE", "/api/jobs/"+running, "") // it is interrupted, not only marked
			ann.become(running, "cancelled")
			ann.call(409, "DELETE", "/api/jobs/"+running, "")
			ann.call(409, "PATCH", "/api/jobs/"+running+"/priority", `{"priority": 3}`)
			ann.call(422, "POST", "/api/jobs", `{"user_id": "ann", "workflow": {"1": {"class_type": "NoSuchNode", "inputs": {}}}}`)
			forHer := admin.call(201, "POST", "/api/jobs", `{"user_id": "ben", "workflow": `+workflow(5, 1)+`}`)["id"].(string)
			ben.become(forHer, "completed")
		}
	})
}

// TestGuideOnTheMainAddress: the guide's addresses are there too, beside ComfyUI's own of the same names, and a job that
// came by the one is found by the other.
func TestGuideOnTheMainAddress(t *testing.T) {
	t.Parallel()
	managed(t, nil, func(s *app.Studio, _ *client.Client) {
		nobody := guide{t: t, base: s.Address()}
		ann, ben, admin := nobody.as("ann"), nobody.as("ben"), nobody.as("admin")
		nobody.call(200, "GET", "/api/health", "")
		nobody.call(401, "GET", "/api/queue/status", "")
		nobody.call(401, "POST", "/api/jobs", "{}")
		nobody.call(401, "DELETE", "/api/jobs/1", "")
		nobody.call(401, "PATCH", "/api/jobs/1/priority", "{}")
		id := ann.submit(1, 1, "")
		guide{t: t, base: "http://" + s.QueuePort()}.as("ann").become(id, "completed")
		history := ann.call(200, "GET", "/history/"+id, "")
		if entry, _ := history[id].(map[string]any); fmt.Sprint(entry["status"]) == "" || !strings.Contains(fmt.Sprint(entry["outputs"]), "guide_0000") {
			t.Errorf("history has %v", history)
		}
		if j := ann.call(200, "GET", "/api/jobs/"+id, ""); j["status"] != "completed" || j["create_time"] == nil { // as ComfyUI answers
			t.Errorf("ComfyUI's jobs have %v", j)
		}
		if l := ann.call(200, "GET", "/api/jobs", ""); l["pagination"] == nil {
			t.Errorf("ComfyUI's list is %v", l)
		}
		running := ann.submit(2, 1000, "")
		waiting := ann.submit(3, 1, "")
		ben.call(404, "DELETE", "/api/jobs/"+waiting, "")
		ben.call(404, "PATCH", "/api/jobs/"+waiting+"/priority", `{"priority": 3}`)
		ann.call(200, "PATCH", "/api/jobs/"+waiting+"/priority", `{"priority": 3}`)
		ann.call(204, "DELETE", "/api/jobs/"+waiting, "")
		ann.call(204, "DELETE", "/api/jobs/"+running, "")
		guide{t: t, base: "http://" + s.QueuePort()}.as("ann").become(running, "cancelled")
		if st := admin.call(200, "GET", "/api/queue/status", ""); st["pending_jobs"] != 0. || st["completed_jobs"] != 1. {
			t.Errorf("the counts: %v", st)
		}
	})
}

// TestWorkerOfTheGuide: a worker with a token of its own takes what the studio's GPUs have no time for, and its job is
// found everywhere; a studio that is started anew still knows it.
func TestWorkerOfTheGuide(t *testing.T) {
	t.Parallel()
	managed(t, nil, func(s *app.Studio, c *client.Client) {
		token, err := c.NewToken(t.Context(), "admin", api.NewToken{Scope: "worker"})
		ok(t, err)
		port := guide{t: t, base: "http://" + s.QueuePort()}
		ann, admin, worker := port.as("ann"), port.as("admin"), port
		worker.token = token.Secret
		for _, path := range []string{"/api/jobs", "/api/queue/status"} {
			worker.call(403, "GET", path, "")
		}
		ws := ann.socket()
		if next := worker.call(200, "GET", "/api/workers/next-job?worker_id=old-1", ""); next["job"] != nil {
			t.Fatalf("there is nothing to do: %v", next)
		}
		running := ann.submit(1, 1000, "")
		ann.become(running, "running")
		var waiting []string
		for n := range 3 {
			waiting = append(waiting, ann.submit(2+n, 1, fmt.Sprintf(`, "metadata": {"n": %d}`, n)))
		}
		// One may be staged behind the run already; she may have two at once.
		next, _ := worker.call(200, "GET", "/api/workers/next-job?worker_id=old-1", "")["job"].(map[string]any)
		if next == nil {
			ann.call(204, "DELETE", "/api/jobs/"+running, "")
			t.Fatal("the worker gets nothing")
		}
		id := next["id"].(string)
		if !slices.Contains(waiting, id) || next["user_id"] != "ann" || next["workflow"] == nil || fmt.Sprint(next["metadata"]) == "map[]" {
			t.Errorf("the worker got %v", next)
		}
		if h := port.call(200, "GET", "/health", ""); h["workers_active"] != 2. {
			t.Errorf("health: %v", h)
		}
		for _, other := range waiting { // what a worker has is no more in anybody's way
			if j := ann.call(200, "GET", "/api/jobs/"+other, ""); other != id && j["status"] != "pending" {
				t.Errorf("%v", j)
			}
		}
		worker.call(200, "POST", "/api/workers/complete-job?job_id="+id, `{"prompt_id": "x", "status": "completed", "outputs": {"3": {"images": [{"filename": "a.png"}]}}}`)
		worker.call(409, "POST", "/api/workers/complete-job?job_id="+id, `{}`)
		if j := ann.become(id, "completed"); !strings.Contains(fmt.Sprint(j["result"]), "a.png") || j["worker_id"] != "old-1" {
			t.Errorf("its owner reads %v", j)
		}
		ws.until(id, "completed")
		main := guide{t: t, base: s.Address()}.as("ann")
		if h := main.call(200, "GET", "/history/"+id, ""); len(h) != 1 {
			t.Errorf("history has %v", h)
		}
		ann.call(204, "DELETE", "/api/jobs/"+running, "")
		for _, other := range waiting {
			ann.become(other, "completed")
		}
		if st := admin.call(200, "GET", "/api/queue/status", ""); st["completed_jobs"] != 3. || st["running_jobs"] != 0. || st["pending_jobs"] != 0. {
			t.Errorf("the counts: %v", st)
		}
	})
}

// ear is a socket of the program.
type ear struct {
	t    *testing.T
	conn *websocket.Conn
}

func (g guide) socket() ear {
	g.t.Helper()
	r, err := http.NewRequest("GET", g.base, nil)
	ok(g.t, err)
	r.SetBasicAuth(g.user, g.password)
	conn, _, err := websocket.Dial(g.t.Context(), g.base+"/ws", &websocket.DialOptions{HTTPHeader: r.Header})
	ok(g.t, err)
	conn.SetReadLimit(1 << 20)
	ok(g.t, conn.Write(g.t.Context(), websocket.MessageText, []byte("ping")))
	return ear{g.t, conn}
}

// until hears until it is told that the job has this status, and that its ping was answered.
func (e ear) until(id, status string) {
	e.t.Helper()
	defer e.conn.CloseNow()
	ctx, cancel := context.WithTimeout(e.t.Context(), 20*time.Second)
	defer cancel()
	pong := false
	for {
		_, text, err := e.conn.Read(ctx)
		ok(e.t, err)
		pong = pong || string(text) == "pong"
		var m struct {
			Type string
			Data struct{ ID, Status string }
		}
		if json.Unmarshal(text, &m) == nil && m.Type == "job_status" && m.Data.ID == id && m.Data.Status == status {
			if !pong {
				e.t.Error("no pong")
			}
			return
		}
	}
}

// TestSocketsEndWithTheirToken: whose token is revoked hears no more, at once.
func TestSocketsEndWithTheirToken(t *testing.T) {
	t.Parallel()
	managed(t, nil, func(s *app.Studio, c *client.Client) {
		token, err := c.NewToken(t.Context(), "ann", api.NewToken{})
		ok(t, err)
		conn, _, err := websocket.Dial(t.Context(), "http://"+s.QueuePort()+"/ws?token="+token.Secret, nil)
		ok(t, err)
		defer conn.CloseNow()
		_, _, err = conn.Read(t.Context())
		ok(t, err)
		ok(t, c.RevokeToken(t.Context(), "ann", token.ID))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, _, err = conn.Read(ctx); err == nil || ctx.Err() != nil {
			t.Errorf("it goes on: %v", err)
		}
	})
}

// TestCountsOutliveARestart: what had ended before is still counted, and still found.
func TestCountsOutliveARestart(t *testing.T) {
	t.Parallel()
	flags := map[string]string{"data": t.TempDir() + "/data"}
	var id string
	managed(t, flags, func(s *app.Studio, _ *client.Client) {
		ann := guide{t: t, base: "http://" + s.QueuePort()}.as("ann")
		id = ann.submit(1, 1, "")
		ann.become(id, "completed")
	})
	managed(t, flags, func(s *app.Studio, _ *client.Client) {
		port := guide{t: t, base: "http://" + s.QueuePort()}
		for user, want := range map[string]float64{"admin": 1, "ann": 1, "ben": 0} {
			if st := port.as(user).call(200, "GET", "/api/queue/status", ""); st["completed_jobs"] != want {
				t.Errorf("%s: %v", user, st)
			}
		}
		ann := port.as("ann")
		ann.become(ann.submit(2, 1, ""), "completed")
		if st := port.as("admin").call(200, "GET", "/api/queue/status", ""); st["completed_jobs"] != 2. {
			t.Errorf("after one more: %v", st)
		}
		if got := ann.list("?status=completed"); len(got) != 2 || got[1] != id {
			t.Errorf("got %v", got)
		}
	})
}

// TestModesOrderAsTheySay: defect 8, fifo went by priority; and what is set is what counts.
func TestModesOrderAsTheySay(t *testing.T) {
	t.Parallel()
	for mode, first := range map[string]string{"fifo": "amy", "priority": "admin"} {
		managed(t, map[string]string{"queue.mode": mode}, func(s *app.Studio, _ *client.Client) {
			port := guide{t: t, base: "http://" + s.QueuePort()}
			ben := port.as("ben")
			running := ben.submit(1, 1000, "")
			ben.become(running, "running")
			port.as("ann").submit(2, 1, "") // it may be staged behind the run
			places := map[string]float64{}
			ids := map[string]string{"amy": port.as("amy").submit(3, 1, "")}
			ids["admin"] = port.as("admin").submit(4, 1, `, "priority": 0`)
			for user, id := range ids {
				places[user], _ = port.as(user).call(200, "GET", "/api/jobs/"+id, "")["position_in_queue"].(float64)
			}
			second := map[string]string{"amy": "admin", "admin": "amy"}[first]
			if st := port.as("admin").call(200, "GET", "/api/queue/status", ""); places[first] >= places[second] || places[first] == 0 || st["mode"] != mode {
				t.Errorf("in mode %s they are at %v, and the status is %v", mode, places, st)
			}
			ben.call(204, "DELETE", "/api/jobs/"+running, "")
		})
	}
}

// TestOneLinersOfTheGuide runs its commands in a shell.
func TestOneLinersOfTheGuide(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	managed(t, nil, func(s *app.Studio, _ *client.Client) {
		for _, c := range []struct{ line, says string }{
			{`curl -s $STUDIO/api/health`, `"status":"healthy"`},
			{`curl -s -u admin:$ADMIN_PASSWORD $STUDIO/api/queue/status`, `"pending_jobs":0`},
			{`curl -s $PORT/health`, `"queue_depth":0`},
			{`curl -s $PORT/api/queue/status`, `Sign in`},
			{`curl -s -u admin:$ADMIN_PASSWORD $PORT/api/queue/status`, `"active_workers":1`},
			{`curl -s -u admin:$ADMIN_PASSWORD $PORT/api/jobs`, `[]`},
			{`curl -s -u admin:$ADMIN_PASSWORD -X POST -H "Content-Type: application/json" $PORT/api/jobs -d '{"user_id": "ann", "workflow": ` + workflow(1, 1) + `}'`, `"job_id":"`},
			{`curl -s $STUDIO/api/health | jq -r .status`, "healthy\n"},
			{`curl -s -u admin:$ADMIN_PASSWORD $STUDIO/api/queue/status | jq -c '[.mode, .running_jobs]'`, `["fair",`},
			{`curl -s -u admin:wrong $PORT/api/queue/status`, `do not fit together`},
		} {
			if _, err := exec.LookPath("jq"); err != nil && strings.Contains(c.line, "jq") {
				continue
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", c.line)
			cmd.Env = append(os.Environ(), "STUDIO="+s.Address(), "PORT="+s.QueuePort(), "ADMIN_PASSWORD="+passwordOf("admin"), "no_proxy=127.0.0.1")
			out, err := cmd.Output()
			if err != nil || !strings.Contains(string(out), c.says) {
				t.Errorf("%s\n%s %v", c.line, out, err)
			}
		}
	})
}

// TestQueuePort: a default port that is taken is a note and no more; one that was set is an error; and beyond this
// machine it wants encryption like the main one.
func TestQueuePort(t *testing.T) {
	t.Parallel()
	ok(t, run(t, options(t, nil), func(s *app.Studio) {
		if s.QueuePort() != "" {
			t.Errorf("it is at %s though it is turned off", s.QueuePort())
		}
		guide{t: t, base: s.Address()}.call(200, "GET", "/qm/health", "")
	}))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer taken.Close()
	if err := run(t, options(t, map[string]string{"queue_api": taken.Addr().String()}), func(*app.Studio) { t.Error("it serves") }); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "--queue-api") {
		t.Errorf("a port that was set and is taken: %v", err)
	}
	if l, err := net.Listen("tcp", config.Default().QueueAPI); err == nil { // else somebody else has it: just as well
		defer l.Close()
	}
	o := options(t, nil)
	o.Settings, err = config.Load(config.Source{Flags: map[string]string{"data": o.Settings.Data, "listen": "127.0.0.1:0", "metrics": ""}})
	ok(t, err)
	ok(t, run(t, o, func(s *app.Studio) {
		if notes := strings.Join(s.Status(t.Context()).Reasons, "\n"); s.QueuePort() != "" || !strings.Contains(notes, "below /qm/ only") {
			t.Errorf("a default port that is taken: %q, %s", s.QueuePort(), notes)
		}
	}))
	if err := run(t, options(t, map[string]string{"queue_api": "0.0.0.0:0"}), func(*app.Studio) { t.Error("it serves") }); err == nil || !strings.Contains(err.Error(), "encryption") {
		t.Errorf("open to the network: %v", err)
	}
	ok(t, run(t, options(t, map[string]string{"queue_api": "127.0.0.1:0", "tls.mode": "self"}), func(s *app.Studio) {
		guide{t: t, base: "http://" + s.QueuePort()}.call(200, "GET", "/health", "") // on this machine programs of old say http
	}))
}
