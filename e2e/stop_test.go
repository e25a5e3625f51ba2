package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
)

// signal asks the process to end, as an operator does.
func (p *process) signal(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("stop %s: %v", p.name, err)
	}
}

// ends fails the test when the process does not end within a time with an exit code.
func (p *process) ends(t *testing.T, within time.Duration, code int) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatalf("%s has not ended after %v", p.name, within)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%s ended with %d, want %d", p.name, got, code)
	}
}

// end stops the process cleanly.
func (p *process) end(t *testing.T, within time.Duration) {
	t.Helper()
	p.signal(t)
	p.ends(t, within, 0)
}

// newLoader is a person who asks for jobs by hand.
func (s *studio) newLoader(t *testing.T, name string) *loader {
	t.Helper()
	return &loader{name: name, base: s.scheme + "://" + s.host, token: s.token(t, name), sid: uuid.NewString(), http: s.client()}
}

// ask submits a graph and returns its id.
func (l *loader) ask(t *testing.T, graph node) string {
	t.Helper()
	var answer struct {
		PromptID string `json:"prompt_id"`
	}
	if err := l.post("/prompt", map[string]any{"prompt": graph, "client_id": l.sid}, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.PromptID
}

// entry waits for a job's history.
func (l *loader) entry(t *testing.T, id string, within time.Duration) finished {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		var history map[string]finished
		err := l.call(http.MethodGet, "/history/"+id, nil, &history)
		if e, ok := history[id]; ok {
			return e
		}
		if time.Now().After(deadline) {
			t.Fatalf("job %s is not over after %v (%v)", id, within, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// running waits until a job of this person runs.
func (l *loader) running(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		var queue struct {
			Running []any `json:"queue_running"`
		}
		err := l.call(http.MethodGet, "/queue", nil, &queue)
		if len(queue.Running) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing runs (%v)", err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// stuckUpload opens an upload that never goes on, and returns when the server waits for its body.
func (l *loader) stuckUpload(t *testing.T, host string) {
	t.Helper()
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_, err = fmt.Fprintf(conn, "POST /upload/image HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: multipart/form-data; boundary=x\r\n"+
		"Content-Length: 100000\r\nExpect: 100-continue\r\n\r\n", host, l.token)
	if err != nil {
		t.Fatal(err)
	}
	// A connection that the server has not accepted yet would not hold up its end.
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("an upload was answered with %q (%v), want that it goes on", line, err)
	}
	if _, err := io.WriteString(conn, "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

// TestCleanStop stops the server while a job runs, another one waits, a socket sleeps and an upload stands still. It
// ends within seconds, and afterwards the run goes on where it was.
func TestCleanStop(t *testing.T) {
	t.Parallel()
	s := startStudio(t, studioOptions{})
	l := s.newLoader(t, "ann")
	conn, _, err := websocket.Dial(t.Context(), "ws://"+s.host+"/ws?clientId="+l.sid,
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + l.token}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow() // and nobody reads
	first, second := l.ask(t, slow(30, 6)), l.ask(t, plain(0x123456))
	l.running(t)
	l.stuckUpload(t, s.host)
	s.server.end(t, 9*time.Second)
	s.server.start(t)
	s.waitReady(t)
	for _, id := range []string{first, second} {
		if e := l.entry(t, id, 30*time.Second); !e.Status.Completed {
			t.Errorf("after the stop a job ended as %s: %s", e.Status.Str, e.Status.Messages)
		}
	}
	s.server.has(t, "taken up after a restart")
}

// TestSecondSignal: whoever asks twice means at once.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := startStudio(t, studioOptions{})
	l := s.newLoader(t, "ann")
	l.stuckUpload(t, s.host)
	s.server.signal(t)
	s.server.says(t, `"msg":"stopping"`)
	s.server.signal(t)
	s.server.ends(t, time.Second, -1) // by the signal
}

// TestClosedTerminal: who closes the window in which a studio runs means to stop it, and it stops in good order.
func TestClosedTerminal(t *testing.T) {
	t.Parallel()
	s := startStudio(t, studioOptions{})
	if err := s.server.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.server.ends(t, 9*time.Second, 0)
	s.server.has(t, `"msg":"stopping"`)
}
