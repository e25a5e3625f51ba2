package room_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/comfyserver/room"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeQueue knows the jobs it is given.
type fakeQueue struct {
	mu   sync.Mutex
	jobs map[string][]job.Entry // by user
}

func (q *fakeQueue) put(e job.Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.jobs == nil {
		q.jobs = map[string][]job.Entry{}
	}
	list := q.jobs[e.Job.User]
	for i := range list {
		if list[i].Job.ID == e.Job.ID {
			list[i] = e
			return
		}
	}
	q.jobs[e.Job.User] = append(list, e)
}

func (q *fakeQueue) Remaining(user string) int {
	open, _ := q.Open(context.Background(), user)
	return len(open)
}

func (q *fakeQueue) Open(_ context.Context, user string) ([]job.Job, error) {
	return q.pick(user, func(j job.Job) bool { return !j.State.Final() }), nil
}

func (q *fakeQueue) pick(user string, want func(job.Job) bool) []job.Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	var jobs []job.Job
	for _, e := range q.jobs[user] {
		if want(e.Job) {
			jobs = append(jobs, e.Job)
		}
	}
	return jobs
}

func (q *fakeQueue) Entry(_ context.Context, user, promptID string) (job.Entry, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.jobs[user] {
		if e.Job.PromptID == promptID {
			return e, nil
		}
	}
	return job.Entry{}, fault.New(fault.Missing, "no such job")
}

func (q *fakeQueue) EachHistory(_ context.Context, user string, hq job.HistoryQuery, fn func(job.Entry) error) error {
	q.mu.Lock()
	past := slices.DeleteFunc(slices.Clone(q.jobs[user]), func(e job.Entry) bool { return !e.Job.State.Final() || e.Job.Hidden })
	q.mu.Unlock()
	slices.SortStableFunc(past, func(a, b job.Entry) int { return a.Job.Finished.Compare(b.Job.Finished) })
	for _, e := range past[max(0, len(past)-hq.MaxItems):] {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// studio is a hub behind a test server.
type studio struct {
	t     *testing.T
	queue *fakeQueue
	bus   *event.Bus
	hub   *room.Hub
	url   string
}

func newStudio(t *testing.T, o room.Options) *studio {
	t.Helper()
	s := &studio{t: t, queue: &fakeQueue{}, bus: event.New()}
	s.hub = room.New(s.queue, s.bus, o)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.hub.Serve(w, r, r.URL.Query().Get("user"), r.URL.Query().Get("clientId")); err != nil {
			http.Error(w, err.Error(), http.StatusTooManyRequests)
		}
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.hub.Run(ctx) }()
	t.Cleanup(func() {
		if err := s.hub.Close(context.Background()); err != nil {
			t.Error(err)
		}
		cancel()
		<-done
		server.Close()
	})
	s.url = "ws" + strings.TrimPrefix(server.URL, "http")
	return s
}

// client is one socket.
type client struct {
	t    *testing.T
	conn *websocket.Conn
}

func (s *studio) dial(user, sid string) *client {
	s.t.Helper()
	c, _, err := websocket.Dial(s.t.Context(), fmt.Sprintf("%s/ws?user=%s&clientId=%s", s.url, user, sid), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	c.SetReadLimit(-1)
	s.t.Cleanup(func() { _ = c.CloseNow() })
	return &client{t: s.t, conn: c}
}

// next reads one frame, in short: its type and what tells it apart.
func (c *client) next() string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	typ, b, err := c.conn.Read(ctx)
	if err != nil {
		c.t.Fatalf("reading a frame: %v", err)
	}
	if typ == websocket.MessageBinary {
		return fmt.Sprintf("binary %d", b[3])
	}
	if !strings.HasPrefix(string(b), `{"type": `) {
		c.t.Errorf("frame does not begin with its type: %s", b)
	}
	var f struct {
		Type string
		Data struct {
			Node   *string
			Status struct {
				Info struct {
					Remaining int `json:"queue_remaining"`
				} `json:"exec_info"`
			}
			SID      string
			PromptID string `json:"prompt_id"`
			Value    int
		}
	}
	if err := json.Unmarshal(b, &f); err != nil {
		c.t.Fatalf("%v in %s", err, b)
	}
	switch f.Type {
	case "status":
		sid := ""
		if f.Data.SID != "" {
			sid = " sid"
		}
		return fmt.Sprintf("status %d%s", f.Data.Status.Info.Remaining, sid)
	case "executing", "executed":
		if f.Data.Node == nil {
			return f.Type + " null"
		}
		return f.Type + " " + *f.Data.Node
	case "progress":
		return fmt.Sprintf("progress %d", f.Data.Value)
	}
	return f.Type
}

func (c *client) expect(want ...string) {
	c.t.Helper()
	var got []string
	for range want {
		got = append(got, c.next())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		c.t.Errorf("frames, -want +got:\n%s", diff)
	}
}

// expectRuns is expect without the frames of numbers, of which several may be one.
func (c *client) expectRuns(want ...string) {
	c.t.Helper()
	var got []string
	for len(got) < len(want) {
		if f := c.next(); !strings.HasPrefix(f, "status") {
			got = append(got, f)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		c.t.Errorf("frames, -want +got:\n%s", diff)
	}
}

// silent checks that nothing but an answer to its own flags comes.
func (c *client) silent() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageText, []byte(`{"type":"feature_flags","data":{}}`)); err != nil {
		c.t.Fatal(err)
	}
	c.expect("feature_flags")
}

func (s *studio) change(what job.Change, j job.Job, o *job.Outcome) {
	s.queue.put(job.Entry{Job: j, Outcome: o})
	s.bus.Publish(event.Event{User: j.User, Body: event.JobChanged{Changed: job.Changed{Change: what, Job: &j, Outcome: o}}})
}

func (s *studio) frame(j job.Job, typ, node, data string) {
	s.bus.Publish(event.Event{User: j.User, Body: event.RunFrame{
		Job: j.ID, Attempt: 1, PromptID: j.PromptID, ClientID: j.ClientID, Type: typ, Node: node, Data: json.RawMessage(data),
	}})
}

// start takes a job from its submission to its first node.
func (s *studio) start(j job.Job) job.Job {
	j.State, j.Created = job.Pending, time.Now()
	s.change(job.Submitted, j, nil)
	j.State, j.Started, j.Attempt = job.Running, time.Now(), job.Attempt{N: 1, Posted: true, BackEnd: "gpu1"}
	s.change(job.Posted, j, nil)
	s.frame(j, "execution_start", "", `{"prompt_id": "`+j.PromptID+`"}`)
	s.frame(j, "execution_cached", "", `{"nodes": []}`)
	s.frame(j, "executing", "1", `{"node": "1", "display_node": "1"}`)
	return j
}

func (s *studio) finish(j job.Job) {
	j.State, j.Finished = job.Completed, time.Now()
	s.change(job.Finished, j, &job.Outcome{
		State:    job.Completed,
		Outputs:  json.RawMessage(`{"3": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}`),
		Messages: json.RawMessage(`[["execution_start", {}], ["execution_success", {"prompt_id": "` + j.PromptID + `", "timestamp": 1}]]`),
	})
}

func annsJob() job.Job {
	return job.Job{ID: "01-ann", User: "ann", PromptID: "p1", ClientID: "tab"}
}

func TestRun(t *testing.T) {
	t.Parallel()
	s := newStudio(t, room.Options{})
	tab, other, bob := s.dial("ann", "tab"), s.dial("ann", "other"), s.dial("bob", "tab")
	for _, c := range []*client{tab, other, bob} {
		c.expect("status 0 sid")
	}
	hold := s.hub.Hold("ann", "01-ann")
	j := s.start(annsJob())
	// Nothing of the run goes out before the answer to its POST.
	s.bus.Publish(event.Event{User: "ann", Body: event.LogLines{Job: "01-ann", Lines: []string{"early"}}})
	tab.silent()
	other.silent()
	if lines := s.hub.Logs("ann"); len(lines) != 0 {
		t.Errorf("lines of the log: %v", lines)
	}
	hold.Release()
	tab.expect("status 1", "execution_start", "execution_cached", "executing 1")
	other.expect("status 1")
	s.frame(j, "executed", "3", `{"node": "3"}`)
	tab.expect("executed 3")
	s.finish(j)
	tab.expect("execution_success", "status 0", "executing null")
	other.expect("status 0")
	bob.silent()
}

// TestFramesOfEverySize: headers have three forms, and long frames are sent apart from the short ones around them.
func TestFramesOfEverySize(t *testing.T) {
	t.Parallel()
	s := newStudio(t, room.Options{})
	tab := s.dial("ann", "tab")
	tab.expect("status 0 sid")
	j := s.start(annsJob())
	tab.expectRuns("execution_start", "execution_cached", "executing 1")
	const around = `{"type": "note", "data": {"text": ""}}`
	var want, got []int
	for _, size := range []int{125, 126, 127, 1<<16 - 1, 1 << 16, 1<<16 + 1, 60, 300_000, 60, 60_000, 60_000, 60} {
		s.frame(j, "note", "1", `{"text": "`+strings.Repeat("x", size-len(around))+`"}`)
		want = append(want, size)
	}
	for range want {
		_, b, err := tab.conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(b), around[:len(around)-3]+"x") || !strings.HasSuffix(string(b), `x"}}`) {
			t.Fatalf("a frame of %d bytes is damaged: %.60s", len(b), b)
		}
		got = append(got, len(b))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sizes, -want +got:\n%s", diff)
	}
}

func TestReconnect(t *testing.T) {
	t.Parallel()
	s := newStudio(t, room.Options{})
	tab := s.dial("ann", "tab")
	tab.expect("status 0 sid")
	j := s.start(annsJob())
	tab.expect("status 1", "execution_start", "execution_cached", "executing 1")
	_ = tab.conn.CloseNow()
	s.frame(j, "executed", "2", `{"node": "2"}`)
	s.frame(j, "executing", "3", `{"node": "3", "display_node": "3"}`)
	s.frame(j, "progress", "3", `{"value": 4, "max": 20, "node": "3"}`)
	again := s.dial("ann", "tab")
	again.expect("status 1 sid", "executing 3", "execution_start", "execution_cached", "executed 2", "executing 3", "progress 4")
	_ = again.conn.CloseNow()
	s.finish(j)
	// The run ended while the socket was away: the session gets all of it, with the results.
	last := s.dial("ann", "tab")
	last.expect("status 0 sid", "execution_start", "execution_cached", "executed 2", "executing 3", "execution_success", "executing null")
}

// TestNextRunGoesOnBesideTheEnd: while results of a run are brought home the next one begins. An editor is told how far
// that is after the first one's end, which it takes for the end of all; a program hears everything once.
func TestNextRunGoesOnBesideTheEnd(t *testing.T) {
	t.Parallel()
	again := []string{"execution_start", "executing 2", "progress 4"}
	for sid, told := range map[string][]string{"editor": again, "program": nil} {
		t.Run(sid, func(t *testing.T) {
			t.Parallel()
			s := newStudio(t, room.Options{})
			c := s.dial("ann", sid)
			c.expect("status 0 sid")
			if sid == "editor" {
				c.silent() // this one sends its flags
			}
			first := s.start(job.Job{ID: "01-ann", User: "ann", PromptID: "p1", ClientID: sid})
			second := s.start(job.Job{ID: "02-ann", User: "ann", PromptID: "p2", ClientID: sid})
			s.frame(second, "executing", "2", `{"node": "2", "display_node": "2"}`)
			s.frame(second, "progress", "2", `{"value": 4, "max": 20, "node": "2"}`)
			c.expectRuns("execution_start", "execution_cached", "executing 1",
				"execution_start", "execution_cached", "executing 1", "executing 2", "progress 4")
			s.finish(first)
			c.expectRuns(append([]string{"execution_success", "executing null"}, told...)...)
			s.finish(second)
			c.expectRuns("execution_success", "executing null")
		})
	}
}

// TestLogsKeepTheLast: of many lines the last ones are kept, in their order.
func TestLogsKeepTheLast(t *testing.T) {
	t.Parallel()
	s := newStudio(t, room.Options{})
	tab := s.dial("ann", "tab")
	tab.expect("status 0 sid")
	s.hub.SubscribeLogs("ann", "tab", true)
	said := 0
	say := func(n int) {
		lines := make([]string, n)
		for i := range lines {
			lines[i] = fmt.Sprint(said)
			said++
		}
		s.bus.Publish(event.Event{User: "ann", Body: event.LogLines{Job: "01-ann", Lines: lines}})
		tab.expect("logs")
	}
	for _, n := range []int{2, 297, 3, 1, 450} {
		say(n)
		var want, got []string
		for i := max(0, said-300); i < said; i++ {
			want = append(want, fmt.Sprintln(i))
		}
		for _, e := range s.hub.Logs("ann") {
			got = append(got, e.M)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("after %d lines, -want +got:\n%s", said, diff)
		}
	}
}

// TestLogsFollowTheSession: a page asks for log lines once, and not again when its socket was cut.
func TestLogsFollowTheSession(t *testing.T) {
	t.Parallel()
	s := newStudio(t, room.Options{})
	stays := s.dial("ann", "other") // the room lives on
	stays.expect("status 0 sid")
	tab := s.dial("ann", "tab")
	tab.expect("status 0 sid")
	s.hub.SubscribeLogs("ann", "tab", true)
	for range 2 {
		_ = tab.conn.CloseNow()
		for s.hub.Watching("ann", "tab") {
			runtime.Gosched()
		}
		tab = s.dial("ann", "tab")
		tab.expect("status 0 sid")
		s.bus.Publish(event.Event{User: "ann", Body: event.LogLines{Lines: []string{"got prompt"}}})
		tab.expect("logs")
	}
	again := s.dial("ann", "tab") // before anybody noticed that the one before is gone
	again.expect("status 0 sid")
	s.bus.Publish(event.Event{User: "ann", Body: event.LogLines{Lines: []string{"got prompt"}}})
	again.expect("logs")
	stays.silent()
}

// TestLogsFollowTheOnlySession: also when nothing else keeps the room, for a while.
func TestLogsFollowTheOnlySession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		for away, want := range map[time.Duration]int{10 * time.Second: 1, 2 * time.Minute: 0} {
			tab := b.dial("ann", "tab")
			count(tab.listen(), "") // it is in
			b.hub.SubscribeLogs("ann", "tab", true)
			_ = tab.conn.CloseNow()
			time.Sleep(away)
			tab = b.dial("ann", "tab")
			frames := tab.listen()
			count(frames, "")
			b.bus.Publish(event.Event{User: "ann", Body: event.LogLines{Lines: []string{"got prompt"}}})
			if n := count(frames, "got prompt"); n != want {
				t.Errorf("%d lines after %s, want %d", n, away, want)
			}
			b.hub.SubscribeLogs("ann", "tab", false)
			_ = tab.conn.CloseNow()
			time.Sleep(2 * time.Second)
		}
	})
}

// TestStudioState: our extension is told where each job stands: running, next on a back end, waiting in its place, held.
func TestStudioState(t *testing.T) {
	t.Parallel()
	s := newStudio(t, room.Options{})
	tab := s.dial("ann", "tab")
	tab.expect("status 0 sid")
	s.hub.Follow("ann", "tab")
	j := func(n int) job.Job {
		return job.Job{ID: job.ID(fmt.Sprint("0", n)), User: "ann", PromptID: fmt.Sprint("p", n), Created: time.UnixMilli(int64(n))}
	}
	running, next, waits, held := j(1), j(2), j(3), j(4)
	running.State, running.Started, running.Attempt = job.Running, time.UnixMilli(9), job.Attempt{N: 1, Posted: true, BackEnd: "gpu1"}
	next.State, next.Attempt = job.Running, job.Attempt{N: 1, BackEnd: "gpu2"}
	waits.State, held.State = job.Pending, job.Pending
	s.change(job.Submitted, held, nil)
	s.change(job.Submitted, waits, nil)
	held.Held = true
	s.change(job.Moved, held, nil)
	s.change(job.Claimed, next, nil)
	s.change(job.Posted, running, nil)
	s.bus.Publish(event.Event{User: "ann", Body: event.Queued{Places: map[job.ID]event.Place{
		waits.ID: {Position: 4, Code: "turn", Reason: "Others come first.", From: 130, To: 230},
		held.ID:  {Code: "held", Reason: "You hold it."},
	}}})
	want := []room.JobState{
		{PromptID: "p1", State: "running", BackEnd: "gpu1", Since: 9},
		{PromptID: "p2", State: "pending", BackEnd: "gpu2", Since: 2},
		{
			PromptID: "p3", State: "pending", Position: 4, Line: "4th in line", Code: "turn", Reason: "Others come first.",
			From: 130, To: 230, Wait: "about 2 to 4 min", Since: 3,
		},
		{PromptID: "p4", State: "pending", Held: true, Code: "held", Reason: "You hold it.", Since: 4},
	}
	for { // until the last of it is told
		_, raw, err := tab.conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var f struct {
			Type string     `json:"type"`
			Data room.State `json:"data"`
		}
		if err := json.Unmarshal(raw, &f); err != nil || f.Type != "comfyume.state" || !strings.Contains(string(raw), "Others") {
			continue
		}
		if d := cmp.Diff(want, f.Data.Jobs); d != "" {
			t.Error(d)
		}
		return
	}
}

// TestSeveralServers: of a run that goes on where another server leads frames may be lost; its results are told all the
// same.
func TestSeveralServers(t *testing.T) {
	t.Parallel()
	s := newStudio(t, room.Options{Several: true})
	tab := s.dial("ann", "tab")
	tab.expect("status 0 sid")
	j := s.start(annsJob())
	tab.expect("status 1", "execution_start", "execution_cached", "executing 1")
	s.finish(j)
	tab.expect("executed 3", "execution_success", "status 0", "executing null")
}
