package queueapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queueapi"
)

// listener is an open socket.
type listener struct {
	*websocket.Conn
	t *testing.T
}

// listen serves the studio and returns who opens sockets to it as a person.
func (s *studio) listen() func(as string, want int) *listener {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := everybody[r.URL.Query().Get("as")]; ok {
			r = r.WithContext(identity.With(r.Context(), p))
		}
		s.ServeHTTP(w, r)
	}))
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			s.t.Error(err)
		}
		srv.Close()
	})
	return func(as string, want int) *listener {
		s.t.Helper()
		c, res, err := websocket.Dial(s.t.Context(), srv.URL+"/ws?as="+as, nil)
		if res == nil || res.StatusCode != want {
			s.t.Fatalf("a socket as %q: %v", as, err)
		}
		if err != nil {
			return nil
		}
		s.t.Cleanup(func() { c.CloseNow() })
		return &listener{c, s.t}
	}
}

// read returns the next message.
func (l *listener) read() string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	_, text, err := l.Read(ctx)
	ok(l.t, err)
	return string(text)
}

// all says something and returns what came until it is answered: the answer comes after all that was on its way.
func (l *listener) all() (messages []string) {
	l.t.Helper()
	ok(l.t, l.Write(l.t.Context(), websocket.MessageText, []byte("ping")))
	for {
		m := l.read()
		if m == "pong" {
			return messages
		}
		messages = append(messages, m)
	}
}

// until reads messages up to the first that has the text, and returns it.
func (l *listener) until(text string) string {
	l.t.Helper()
	for {
		if m := l.read(); strings.Contains(m, text) {
			return m
		}
	}
}

// TestSocket: defect 5, events of jobs could not be encoded and none got out; and every client was meant to get every job
// with its workflow. Each hears of what they may see, and of nothing else.
func TestSocket(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	s.run()
	open := s.listen()
	open("", http.StatusUnauthorized)
	sockets := map[string]*listener{}
	for _, as := range []string{"ann", "amy", "ben", "ivy", "ian", "lea", "olu"} {
		sockets[as] = open(as, http.StatusSwitchingProtocols)
		first := sockets[as].read()
		var m struct {
			Type      string
			Data      queueapi.Status
			Timestamp time.Time
		}
		if err := json.Unmarshal([]byte(first), &m); err != nil || m.Type != "queue_status" || m.Data.Mode != "fair" || m.Timestamp.IsZero() {
			t.Errorf("%s is greeted with %s: %v", as, first, err)
		}
	}
	id := s.submit("ann", `"metadata": {"secret": "hers"}`)
	s.next("w1")
	s.ask("gpu", "POST", "/api/workers/complete-job?job_id="+id, `{"secret": "hers"}`).want(200)
	s.bus.Publish(event.Event{User: "ann", Body: event.Queued{Places: map[job.ID]event.Place{job.ID(id): {Position: 1}}}}) // of old
	waiting := s.submit("amy")
	s.bus.Publish(event.Event{User: "amy", Body: event.Queued{Places: map[job.ID]event.Place{job.ID(waiting): {Position: 7, From: 10, To: 30}}}})
	for as, want := range map[string][]string{
		"ann": {"job_status pending", "job_status pending", "job_status running", "job_status completed"},
		"amy": {"job_status pending", "queue_position"},
		"ben": nil, "ian": nil, "lea": nil,
		"ivy": {"job_status pending", "job_status pending", "job_status running", "job_status completed", "job_status pending", "queue_position"},
		"olu": {"job_status pending", "job_status pending", "job_status running", "job_status completed", "job_status pending", "queue_position"},
	} {
		if n := len(want); n > 0 && want[n-1] == "queue_position" {
			if last := sockets[as].until("queue_position"); !strings.Contains(last, `"position_in_queue":7,"estimated_wait_time":20`) || !strings.Contains(last, waiting) {
				t.Errorf("%s hears of places %s", as, last)
			}
			continue
		}
		if len(want) > 0 {
			sockets[as].until(`"completed"`)
		}
		if rest := sockets[as].all(); len(rest) > 0 {
			t.Errorf("%s hears more: %v", as, rest)
		}
	}
	again := open("ann", http.StatusSwitchingProtocols)
	again.read()
	var got []string
	other := s.submit("ann", `"metadata": {"secret": "hers"}`)
	for m := again.until(other); ; m = again.read() {
		var e struct {
			Type string
			Data queueapi.Job
		}
		ok(t, json.Unmarshal([]byte(m), &e))
		if got = append(got, e.Type+" "+string(e.Data.Status)); e.Data.Status == job.Pending {
			s.ask("ann", "DELETE", "/api/jobs/"+other, "").want(204)
		}
		if strings.Contains(m, "secret") || strings.Contains(m, "SaveImage") || e.Data.JobID != job.ID(other) {
			t.Errorf("an event has more than it should: %s", m)
		}
		if e.Data.Status.Final() {
			break
		}
	}
	if !slices.Equal(got, []string{"job_status pending", "job_status cancelled"}) {
		t.Errorf("got %v", got)
	}
}

// TestSlowClientHoldsUpNobody: defect 17, one client at the socket slowed every other request down.
func TestSlowClientHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	open := s.listen()
	stuck := open("olu", http.StatusSwitchingProtocols) // reads nothing
	other := open("olu", http.StatusSwitchingProtocols)
	other.SetReadLimit(1 << 20)
	other.read()
	for range 300 { // far more than the system's buffers hold
		s.bus.Publish(event.Event{User: "ann", Body: event.JobChanged{Changed: job.Changed{
			Change: job.Finished, Job: &job.Job{ID: "x", User: "ann", State: job.Failed, Error: strings.Repeat("x", 100_000)},
		}}})
	}
	last := s.submit("ann")
	other.until(last)
	if got := s.list("ann", "?limit=1"); !slices.Equal(got, []string{last}) {
		t.Errorf("got %v", got)
	}
	stuck.CloseNow()
}

func TestSocketsOfOnePerson(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{SocketsPerUser: 2}, queue.Options{})
	open := s.listen()
	first := open("ann", http.StatusSwitchingProtocols)
	open("ann", http.StatusSwitchingProtocols)
	open("ann", http.StatusTooManyRequests)
	open("ben", http.StatusSwitchingProtocols)
	ok(t, first.Close(websocket.StatusNormalClosure, ""))
	for s.Sockets("ann") > 1 { // its end is noticed a moment later
		runtime.Gosched()
	}
	open("ann", http.StatusSwitchingProtocols)
}

// TestSocketsEndWithTheStudio tells clients that it goes away.
func TestSocketsEndWithTheStudio(t *testing.T) {
	t.Parallel()
	s := newStudio(t, queueapi.Options{}, queue.Options{})
	open := s.listen()
	l := open("ann", http.StatusSwitchingProtocols)
	l.read()
	closed := make(chan error, 1)
	go func() { closed <- s.Close(context.Background()) }()
	_, _, err := l.Read(t.Context())
	if websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("got %v", err)
	}
	ok(t, <-closed)
	open("ann", http.StatusServiceUnavailable)
}
