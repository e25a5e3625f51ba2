package queueapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// Bounds of a socket.
const (
	pingEvery    = 25 * time.Second
	writeWithin  = 10 * time.Second
	mostIncoming = 64 << 10
)

// Message is what a socket sends: job_status with a job, queue_status with the counts, queue_position with places, and
// resync when messages were missed and the state is to be read anew.
type Message struct {
	Type      string    `json:"type"`
	Data      any       `json:"data"`
	Timestamp time.Time `json:"timestamp"`
}

// socket answers GET /ws: what happens to jobs that the person may see, as it happens. What a client says is answered
// with "pong".
func (f *Face) socket(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	if r.Header.Get("Sec-Websocket-Key") == "" {
		return fault.New(fault.Invalid, "This address takes WebSocket connections only.").
			WithRemedy("Open it as ws:// or wss://; a proxy in between has to pass Upgrade on.").WithCode("no_websocket")
	}
	if err := f.lounge.enter(p.Name, f.o.SocketsPerUser); err != nil {
		return err
	}
	defer f.lounge.leave(p.Name)
	sub := f.Bus.Subscribe(topic(p), event.Options{OnlyState: true})
	defer sub.Close()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the door looked at the origin
	if err != nil {
		f.log.Debug("an upgrade came to nothing", "user", p.Name, "err", err)
		return nil // Accept has answered
	}
	defer conn.CloseNow() //nolint:errcheck // it may be closed already
	if !f.lounge.add(conn) {
		return nil
	}
	defer f.lounge.remove(conn)
	conn.SetReadLimit(mostIncoming)
	ctx, stop := context.WithCancelCause(context.WithoutCancel(r.Context())) // the request ends when it is taken over
	defer stop(nil)
	f.lounge.wg.Go(func() { stop(hear(ctx, conn)) })
	f.lounge.wg.Go(func() { stop(keep(ctx, conn)) })
	err = f.tell(ctx, conn, sub, p)
	f.log.Debug("a socket ended", "user", p.Name, "err", err, "why", context.Cause(ctx))
	return nil
}

// topic is whose events a person's socket hears; empty: everybody's, of which it passes on what they may see.
func topic(p identity.Person) string {
	if p.Role == identity.Operator || teaches(p, p.Group) {
		return ""
	}
	return p.Name
}

// hear answers what the client says until the socket ends.
func hear(ctx context.Context, conn *websocket.Conn) error {
	for {
		if _, _, err := conn.Read(ctx); err != nil {
			return err
		}
		if err := send(ctx, conn, []byte("pong")); err != nil {
			return err
		}
	}
}

// keep pings a client, so that one that is gone is noticed.
func keep(ctx context.Context, conn *websocket.Conn) error {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		late, cancel := context.WithTimeout(ctx, 2*pingEvery)
		err := conn.Ping(late)
		cancel()
		if err != nil {
			return fmt.Errorf("ping: %w", err)
		}
	}
}

func send(ctx context.Context, conn *websocket.Conn, text []byte) error {
	late, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	return conn.Write(late, websocket.MessageText, text)
}

// tell passes on what happens until the socket ends.
func (f *Face) tell(ctx context.Context, conn *websocket.Conn, sub *event.Subscription, p identity.Person) error {
	say := func(kind string, data any) error {
		var b bytes.Buffer
		if err := encode(&b, Message{kind, data, time.Now().UTC()}); err != nil {
			return err
		}
		return send(ctx, conn, bytes.TrimSpace(b.Bytes()))
	}
	if s, err := f.statusFor(ctx, p); err == nil {
		if err := say("queue_status", s); err != nil {
			return err
		}
	}
	var events []event.Event
	for {
		var err error
		if events, err = sub.Batch(ctx, events[:0]); err != nil {
			return err
		}
		for _, e := range events {
			if kind, data := f.news(ctx, p, e); kind != "" {
				if err := say(kind, data); err != nil {
					return err
				}
			}
		}
	}
}

// news returns what an event is to a person; kind is empty where it is nothing.
func (f *Face) news(ctx context.Context, p identity.Person, e event.Event) (kind string, data any) {
	switch b := e.Body.(type) {
	case event.JobChanged:
		switch {
		case b.Change == job.HistoryChanged, !sees(p, *b.Job):
		case b.Job.User == p.Name:
			return "job_status", f.shape(ctx, *b.Job)
		default: // where each of everybody's jobs stands is too much to ask for with every change
			return "job_status", shape(*b.Job)
		}
	case event.Queued:
		if places := f.places(ctx, p, b); len(places) > 0 {
			return "queue_position", places
		}
	case event.Lagged:
		return "resync", map[string]int{"missed": b.Dropped}
	}
	return "", nil
}

// places returns where jobs stand that the person may see.
func (f *Face) places(ctx context.Context, p identity.Person, q event.Queued) map[job.ID]Job {
	out := map[job.ID]Job{}
	for id, place := range q.Places {
		j, err := f.Queue.Get(ctx, id)
		if err != nil || visible(j) != job.Pending || !sees(p, j) {
			continue
		}
		shown := shape(j)
		shown.place(place)
		out[id] = shown
	}
	return out
}

// lounge knows the open sockets. It is safe for concurrent use.
type lounge struct {
	wg     sync.WaitGroup
	mu     sync.Mutex
	people map[string]int
	conns  map[*websocket.Conn]bool
	closed bool
}

func newLounge() *lounge {
	return &lounge{people: make(map[string]int), conns: make(map[*websocket.Conn]bool)}
}

// enter takes one of the person's sockets. leave gives it back.
func (l *lounge) enter(user string, most int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return fault.New(fault.Unavailable, "The studio is going down.").WithRemedy("Try again in a moment.")
	case l.people[user] >= most:
		return fault.New(fault.Busy, "You have %d sockets open here, and that is the limit.", most).
			WithRemedy("Close some.").WithCode("sockets_per_user")
	}
	l.people[user]++
	l.wg.Add(1)
	return nil
}

func (l *lounge) leave(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.people[user]--; l.people[user] == 0 {
		delete(l.people, user)
	}
	l.wg.Done()
}

// add notes a connection, and reports whether there is still time for it.
func (l *lounge) add(conn *websocket.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.conns[conn] = true
	}
	return !l.closed
}

func (l *lounge) remove(conn *websocket.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}

// Close ends all sockets and waits for them, at most until ctx ends.
func (f *Face) Close(ctx context.Context) error {
	l := f.lounge
	l.mu.Lock()
	l.closed = true
	for conn := range l.conns {
		l.wg.Go(func() { _ = conn.Close(websocket.StatusGoingAway, "the studio is going down") }) // it may be gone
	}
	l.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		l.wg.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
