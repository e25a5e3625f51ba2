package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/comfyserver/room"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

// pipes is a network inside the process, so that time in a test is the test's own.
type pipes struct {
	conns     chan net.Conn
	done      chan struct{}
	impatient bool // there is a proxy in between
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	mine, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		if p.impatient {
			cut := func() { mine.Close(); theirs.Close() }
			return &impatient{mine, time.AfterFunc(proxyPatience, cut)}, nil
		}
		return mine, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// impatient is a connection through a proxy that cuts what is silent for a minute in both directions, as nginx does if it
// is told nothing else.
type impatient struct {
	net.Conn
	idle *time.Timer
}

const proxyPatience = time.Minute

func (i *impatient) Read(p []byte) (int, error) {
	n, err := i.Conn.Read(p)
	i.idle.Reset(proxyPatience)
	return n, err
}

func (i *impatient) Write(p []byte) (int, error) {
	n, err := i.Conn.Write(p)
	i.idle.Reset(proxyPatience)
	return n, err
}

func (i *impatient) Close() error {
	i.idle.Stop()
	return i.Conn.Close()
}

// bubble is a studio whose network and clock are the test's.
type bubble struct {
	*studio
	client *http.Client
	stop   func()
}

func newBubble(t *testing.T, o room.Options) *bubble {
	t.Helper()
	return newBubbleOn(t, o, &pipes{conns: make(chan net.Conn), done: make(chan struct{})})
}

// newBubbleOn is newBubble with a network of its own.
func newBubbleOn(t *testing.T, o room.Options, network *pipes) *bubble {
	t.Helper()
	s := &studio{t: t, queue: &fakeQueue{}, bus: event.New()}
	s.hub = room.New(s.queue, s.bus, o)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.hub.Serve(w, r, r.URL.Query().Get("user"), r.URL.Query().Get("clientId")); err != nil {
			http.Error(w, err.Error(), http.StatusTooManyRequests)
		}
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(network) }()
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.hub.Run(ctx) }()
	transport := &http.Transport{DialContext: network.dial}
	return &bubble{s, &http.Client{Transport: transport}, func() {
		ended, giveUp := context.WithTimeout(context.Background(), time.Minute)
		defer giveUp()
		if err := s.hub.Close(ended); err != nil {
			t.Error(err)
		}
		cancel()
		<-ran
		transport.CloseIdleConnections()
		_ = server.Close()
		<-served
	}}
}

// TestSilentClientDoesNotHoldUpTheEnd: one whose machine sleeps does not answer our goodbye.
func TestSilentClientDoesNotHoldUpTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		c := b.dial("ann", "silent") // nobody reads from it
		defer c.conn.CloseNow()
		synctest.Wait()
		began := time.Now()
		b.stop()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the end took %v", took)
		}
	})
}

func (b *bubble) dial(user, sid string) *client {
	b.t.Helper()
	c, _, err := websocket.Dial(b.t.Context(), fmt.Sprintf("ws://studio/ws?user=%s&clientId=%s", user, sid),
		&websocket.DialOptions{HTTPClient: b.client})
	if err != nil {
		b.t.Fatal(err)
	}
	c.SetReadLimit(-1)
	return &client{t: b.t, conn: c}
}

// listen reads frames until the socket ends.
func (c *client) listen() <-chan string {
	frames := make(chan string, 4096)
	go func() {
		defer close(frames)
		for {
			typ, b, err := c.conn.Read(context.Background())
			if err != nil {
				return
			}
			if typ == websocket.MessageBinary {
				frames <- fmt.Sprintf("binary %d", b[3])
				continue
			}
			frames <- string(b)
		}
	}()
	return frames
}

// count takes what has come and counts frames that contain part.
func count(frames <-chan string, part string) (n int) {
	synctest.Wait()
	for {
		select {
		case f, ok := <-frames:
			if !ok {
				return n
			}
			if strings.Contains(f, part) {
				n++
			}
		default:
			return n
		}
	}
}

func TestProgramsThatWaitHearASignOfLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		program, page, idle, beside := b.dial("ann", "tab"), b.dial("ann", "tab"), b.dial("bob", "tab"), b.dial("ann", "other")
		if err := page.conn.Write(t.Context(), websocket.MessageText, []byte(`{"type": "feature_flags", "data": {}}`)); err != nil {
			t.Fatal(err)
		}
		heard, seen, quiet, calm := program.listen(), page.listen(), idle.listen(), beside.listen()
		j := annsJob()
		j.State, j.Created = job.Pending, time.Now()
		b.change(job.Submitted, j, nil)
		time.Sleep(time.Second) // the numbers of a job that comes may be told a moment later
		count(heard, "")
		count(seen, "")
		count(quiet, "")
		count(calm, "")
		time.Sleep(31 * time.Second) // the bubble's clock
		if n := count(heard, `"status"`); n < 4 || n > 7 {
			t.Errorf("a program that waits heard %d status frames in 31 s, want one every 5 or 6", n)
		}
		if n := count(seen, `"status"`); n != 0 {
			t.Errorf("a page heard %d status frames while nothing changed: each costs it requests", n)
		}
		if n := count(quiet, `"status"`); n != 0 {
			t.Errorf("somebody without a job heard %d status frames", n)
		}
		if n := count(calm, `"status"`); n != 0 {
			t.Errorf("a session without a job heard %d status frames", n)
		}
	})
}

// TestNumbersOfManyJobsComeTogether: of one job that comes its person hears at once, of many a moment later.
func TestNumbersOfManyJobsComeTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		frames := b.dial("ann", "tab").listen()
		count(frames, "") // it is in
		submit := func(id job.ID) job.Job {
			j := job.Job{ID: id, User: "ann", PromptID: string(id), ClientID: "tab", State: job.Pending, Created: time.Now()}
			b.change(job.Submitted, j, nil)
			return j
		}
		first := submit("00")
		if n := count(frames, `queue_remaining": 1}`); n != 1 {
			t.Fatalf("the number 1 came %d times", n)
		}
		for i := range 20 {
			submit(job.ID(fmt.Sprint(i + 10)))
		}
		if n := count(frames, "status"); n != 0 {
			t.Errorf("%d numbers came one by one", n)
		}
		time.Sleep(50 * time.Millisecond)
		if n := count(frames, `queue_remaining": 21}`); n != 1 {
			t.Errorf("the number 21 came %d times", n)
		}
		submit("40")
		b.frame(first, "execution_start", "", `{}`)
		if n := count(frames, `queue_remaining": 22}`); n != 1 {
			t.Errorf("the number 22 came %d times with a run's frame", n)
		}
		time.Sleep(time.Second)
		if n := count(frames, "status"); n != 0 {
			t.Errorf("%d numbers came again", n)
		}
	})
}

func TestDeadSocketsAreCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		alive := b.dial("ann", "alive")
		frames := alive.listen() // reading answers pings
		dead := b.dial("ann", "dead")
		dead.expect("status 0 sid") // and then it reads no more: a pipe takes nothing that is not read
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if n := b.hub.Sockets(); n != 1 {
			t.Errorf("%d sockets are left, want the one that lives", n)
		}
		if n := count(frames, "status"); n != 1 {
			t.Errorf("the living one got %d status frames, want its first alone", n)
		}
		_ = dead.conn.CloseNow()
	})
}

func TestProxiesThatCutIdleSocketsDoNot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ping time.Duration
		left int
	}{
		"as it is":     {0, 1},
		"without ping": {time.Hour, 0}, // that the proxy of this test does cut
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBubbleOn(t, room.Options{Ping: c.ping},
					&pipes{conns: make(chan net.Conn), done: make(chan struct{}), impatient: true})
				defer b.stop()
				frames := b.dial("ann", "idle").listen() // reading answers pings, as browsers do
				time.Sleep(30 * time.Minute)
				synctest.Wait()
				if n := b.hub.Sockets(); n != c.left {
					t.Errorf("after half an hour without a word %d sockets are open, want %d", n, c.left)
				}
				if n := count(frames, "status"); n != 1 {
					t.Errorf("the page got %d status frames, want its first alone", n)
				}
			})
		})
	}
}

func TestReloadIsToldAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		first := b.dial("ann", "tab")
		frames := first.listen()
		j := b.start(annsJob())
		count(frames, "")
		_ = first.conn.CloseNow()
		synctest.Wait()
		b.hub.PageLoads("ann")
		page := b.dial("ann", "tab").listen()
		if n := count(page, "execution_start"); n != 1 {
			t.Errorf("on connecting: %d, want 1", n)
		}
		b.finish(j) // while the page builds its graph
		count(page, "")
		time.Sleep(4 * time.Second)
		again := 0
		var order []string
		synctest.Wait()
		for done := false; !done; {
			select {
			case f := <-page:
				order = append(order, f)
				if strings.Contains(f, "execution_success") {
					again++
				}
			default:
				done = true
			}
		}
		if again != 1 {
			t.Errorf("4 s later the end of the run was told %d times, want once: %v", again, order)
		}
		b.hub.ListsAsked("ann")
		time.Sleep(3 * time.Second)
		if n := count(page, "execution_success"); n != 1 {
			t.Errorf("after the lists were asked for: %d, want 1", n)
		}
		time.Sleep(time.Minute)
		b.hub.ListsAsked("ann")
		time.Sleep(time.Minute)
		if n := count(page, "execution_success"); n != 0 {
			t.Errorf("long after the page was built: %d, want 0", n)
		}
	})
}

// TestWhatWasHeardIsNotToldAgain: a socket that is cut some time after runs ended had all of them, also of those that
// ended too soon after another for a ping of their own.
func TestWhatWasHeardIsNotToldAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		first := b.dial("ann", "tab")
		frames := first.listen() // reading answers pings
		count(frames, "")        // it is in
		for _, id := range []job.ID{"01-ann", "02-ann", "03-ann"} {
			b.finish(b.start(job.Job{ID: id, User: "ann", PromptID: string(id), ClientID: "tab"}))
			if n := count(frames, "execution_success"); n != 1 {
				t.Fatalf("the end of %s came %d times", id, n)
			}
			time.Sleep(300 * time.Millisecond)
		}
		time.Sleep(time.Second)
		_ = first.conn.CloseNow()
		synctest.Wait()
		if n := count(b.dial("ann", "tab").listen(), "execut"); n != 0 {
			t.Errorf("%d frames of the run came again", n)
		}
	})
}

func TestFinishedJobLingers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		lingering := func() int {
			synctest.Wait()
			n := 0
			for _, k := range b.hub.Shown("ann") {
				if k.Lingering {
					n++
				}
			}
			return n
		}
		hold := b.hub.Hold("ann", "01-ann") // as a POST without any socket does
		j := b.start(annsJob())
		hold.Release()
		b.finish(j)
		if lingering() != 1 {
			t.Error("a finished job without a listening session does not linger")
		}
		time.Sleep(time.Second)
		if lingering() != 0 {
			t.Error("it lingers for ever")
		}
		// With a session it lingers until its status frame is out.
		c := b.dial("ann", "tab")
		c.expect("status 0 sid", "execution_start")
		j.ID, j.PromptID = "02-ann", "p2"
		hold = b.hub.Hold("ann", "02-ann")
		j = b.start(j)
		hold.Release()
		b.finish(j)
		if lingering() != 1 {
			t.Error("a finished job whose end is not written yet does not linger")
		}
		frames := c.listen()
		count(frames, "")
		if lingering() != 0 {
			t.Error("it lingers after its status frame was written")
		}
	})
}

func TestSlowSocketGetsTheTruth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		slow := b.dial("ann", "tab")
		slow.expect("status 0 sid")
		j := b.start(annsJob())
		for i := range 3000 {
			b.frame(j, "progress", "1", fmt.Sprintf(`{"value": %d, "max": 3000, "node": "1"}`, i))
			if i%10 == 0 {
				b.frame(j, "executed", fmt.Sprint(i), fmt.Sprintf(`{"node": "%d", "big": %q}`, i, strings.Repeat("x", 40000)))
				synctest.Wait()
			}
		}
		b.finish(j)
		frames := slow.listen()
		synctest.Wait()
		var progress, executed, over int
		last := ""
		for f := range frames {
			switch {
			case strings.Contains(f, `"progress"`):
				progress++
			case strings.Contains(f, `"executed"`):
				executed++
			case strings.Contains(f, `{"node": null`):
				over++
			}
			last = f
			if over > 0 && len(frames) == 0 {
				break
			}
		}
		if executed < 300 {
			t.Errorf("%d of 300 results came", executed)
		}
		if progress > 1000 {
			t.Errorf("%d progress frames waited for a client that does not read", progress)
		}
		if over != 1 || !strings.Contains(last, `"node": null`) {
			t.Errorf("the end came %d times, last frame %.80s", over, last)
		}
	})
}

func TestRestartTellsWhatEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		j := annsJob()
		j.State, j.Finished = job.Completed, time.Now().Add(-5*time.Second) // just before this process began
		b.queue.put(job.Entry{Job: j, Outcome: &job.Outcome{
			State:    job.Completed,
			Outputs:  json.RawMessage(`{"3": {"images": []}}`),
			Messages: json.RawMessage(`[["execution_success", {"prompt_id": "p1"}]]`),
		}})
		for i := range 100 { // accepted later, and over before
			quick := j
			quick.ID, quick.PromptID, quick.ClientID, quick.Seq = job.ID(fmt.Sprint("quick", i)), fmt.Sprint("quick", i), "batch", j.Seq+int64(i)+1
			quick.Finished = j.Finished.Add(-time.Millisecond)
			b.queue.put(job.Entry{Job: quick, Outcome: &job.Outcome{State: job.Completed}})
		}
		b.dial("ann", "tab").expect("status 0 sid", "executed 3", "execution_success", "executing null")
		other := b.dial("ann", "other").listen()
		if n := count(other, "executed"); n != 0 {
			t.Error("a session got another session's frames")
		}
	})
}

func TestLostEventsAreMadeGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		c := b.dial("ann", "tab")
		c.expect("status 0 sid")
		j := b.start(annsJob())
		c.expect("status 1", "execution_start", "execution_cached", "executing 1")
		// The end is in the store and was never announced.
		j.State, j.Finished = job.Completed, time.Now()
		b.queue.put(job.Entry{Job: j, Outcome: &job.Outcome{
			State: job.Completed, Outputs: json.RawMessage(`{}`),
			Messages: json.RawMessage(`[["execution_success", {"prompt_id": "p1"}]]`),
		}})
		time.Sleep(3 * time.Second)
		c.expect("execution_success", "status 0", "executing null")
	})
}

func TestPreviewsFitTheSocket(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		old, modern := b.dial("ann", "tab"), b.dial("ann", "tab")
		old.expect("status 0 sid")
		modern.expect("status 0 sid")
		if err := modern.conn.Write(t.Context(), websocket.MessageText, []byte(`{"type": "feature_flags", "data": {"supports_preview_metadata": true}}`)); err != nil {
			t.Fatal(err)
		}
		modern.expect("feature_flags")
		j := b.start(annsJob())
		picture := func(typ string, result bool) {
			meta := `{"node_id": "1", "image_type": "` + typ + `"}`
			b.bus.Publish(event.Event{User: "ann", Body: event.RunBinary{
				Job: j.ID, Attempt: 1, ClientID: "tab", Node: "1", Result: result,
				Frame: append([]byte{0, 0, 0, 4, 0, 0, 0, byte(len(meta))}, meta+"picture"...),
			}})
		}
		picture("image/jpeg", false)
		old.expect("status 1", "execution_start", "execution_cached", "executing 1", "binary 1")
		modern.expect("status 1", "execution_start", "execution_cached", "executing 1", "binary 4")
		for range 3 { // results are all given, at the same moment too
			picture("image/png", true)
		}
		old.expect("binary 1", "binary 1", "binary 1")
		modern.expect("binary 4", "binary 4", "binary 4")
		result := []byte{0, 0, 0, 1, 0, 0, 0, 2, 0x89}
		b.bus.Publish(event.Event{User: "ann", Body: event.RunBinary{Job: j.ID, Attempt: 1, ClientID: "tab", Node: "1", Result: true, Frame: result}})
		old.expect("binary 1")
		modern.expect("binary 1")
	})
}

func TestUpgradesThatCannotBeServedAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{SocketsPerUser: 2})
		defer b.stop()
		b.dial("ann", "1").expect("status 0 sid")
		b.dial("ann", "2").expect("status 0 sid")
		_, resp, err := websocket.Dial(t.Context(), "ws://studio/ws?user=ann&clientId=3", &websocket.DialOptions{HTTPClient: b.client})
		if err == nil || resp == nil || resp.StatusCode != http.StatusTooManyRequests {
			t.Errorf("a third socket was not refused: %v", err)
		}
		b.dial("bob", "3").expect("status 0 sid")
	})
}

func TestForgottenWhenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		defer b.stop()
		hold := b.hub.Hold("ann", "01-ann")
		if b.bus.Watched("bob") || !b.bus.Watched("ann") {
			t.Error("ann's room does not listen, or bob has one")
		}
		j := b.start(annsJob())
		hold.Release()
		b.finish(j)
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if b.bus.Watched("ann") {
			t.Error("an empty room is kept")
		}
	})
}

func TestCloseSaysGoodbye(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, room.Options{})
		c := b.dial("ann", "tab")
		c.expect("status 0 sid")
		ended := make(chan error, 1)
		go func() {
			_, _, err := c.conn.Read(context.Background())
			ended <- err
		}()
		b.stop()
		if err := <-ended; websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("the client saw %v, want going away", err)
		}
		if err := b.hub.Serve(nil, &http.Request{}, "ann", ""); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("a closed hub answered %v", err)
		}
	})
}
