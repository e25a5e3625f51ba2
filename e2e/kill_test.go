package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// kills says how often each of server and back end is killed; COMFYUME_KILLS overrides it (`make kill`).
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv("COMFYUME_KILLS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("COMFYUME_KILLS is %q, want a number from 1", text)
	}
	return n
}

// TestKill kills the server and the back ends at random instants under the load of five people. Every
// acknowledged job has to be finished exactly once, with its own outputs; no file may be missing, there twice, or
// left without a name; whatever else was acknowledged (uploads, documents, deletions) has to hold; and a browser
// that only ever connects again has to hear the end of every job.
func TestKill(t *testing.T) {
	people := []string{"ann", "bob", "cyd", "dan", "eve"}
	s := startStudio(t, studioOptions{people: people, backEnds: 2, config: "queue: {mode: round_robin}\n"})
	c := crowdOf(t, s, people)
	c.start(t, 0)
	killAtRandom(t, s, kills(t))
	s.waitReady(t)
	sum := c.check(t)
	t.Logf("%d kills each of %s; %v", kills(t), s.mortals(), sum)
}

// tally sums up what was checked.
type tally struct {
	jobs, unasked, deleted, cut, interrupted, lostThrice, files, shared int
}

func (s tally) String() string {
	return fmt.Sprintf("%d acknowledged jobs (%d deleted, %d more perhaps, %d interrupted, %d lost too often), %d more whose answer was cut, %d files (%d shown again from a cache)",
		s.jobs, s.deleted, s.cut, s.interrupted, s.lostThrice, s.unasked, s.files, s.shared)
}

// killAtRandom kills and restarts server and back ends, n times each: in any order, at any instant, now and then both
// at once or in the middle of a start.
func killAtRandom(t *testing.T, s *studio, n int) {
	t.Helper()
	servers, backEnds, stores := n, n, 0
	if s.redis != nil {
		stores = n
	}
	if len(s.backEnds) == 0 {
		backEnds = 0 // a real one, which is not ours to kill
	}
	for servers+backEnds+stores > 0 {
		if rand.IntN(8) > 0 { // the instant has to be random
			pause := time.NewTimer(time.Duration(rand.IntN(800)) * time.Millisecond)
			<-pause.C
		}
		which := rand.IntN(servers + backEnds + stores)
		if which >= servers+backEnds {
			stores--
			s.redis.kill()
			s.redis.start(t)
			continue
		}
		if which >= servers {
			backEnds--
			p := s.backEnds[rand.IntN(len(s.backEnds))]
			p.kill()
			p.start(t)
			continue
		}
		servers--
		s.server.kill()
		s.server.start(t)
		if rand.IntN(4) > 0 {
			s.waitReady(t)
		}
	}
}

// loader is one person who keeps a few jobs in the queue.
type loader struct {
	name, base, token, sid string
	others                 []string     // more servers of the studio, for when the one that is used does not answer
	moves                  atomic.Int64 // how often that happened
	calm                   bool         // nobody takes back what they asked for
	http                   *http.Client
	left                   *atomic.Int64 // orders that nobody of all has sent yet; nil: without end
	colours                *atomic.Int64 // the last one that was used, by anybody
	watch                  *watcher
	log                    string   // file of the server's log
	journal                *journal // what is broken meanwhile; nil: nobody notes it

	// Of the load alone, until it has ended.
	acked    map[string]*order // what was acknowledged, by prompt id
	repeated []order           // some of them, to be asked for again
	uploads  map[string]int    // colour of each acknowledged input, by name
	saved    int               // version of the document that was acknowledged last
	tried    int               // and sent last
	named    int               // outputs and temp files that history shows
	lost     []string          // jobs that were given up
}

// load does what people do, at most four jobs open at a time, until ctx ends. A failed request is no
// acknowledgement.
func (l *loader) load(ctx context.Context, t *testing.T) {
	for ctx.Err() == nil {
		if n, err := l.remaining(); err != nil || n >= 4 {
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond): // the server may be away just now
			}
			continue
		}
		switch rand.IntN(40) {
		case 0:
			l.save()
		case 1:
			l.upload()
		}
		if l.left != nil && l.left.Add(-1) < 0 {
			return
		}
		o := l.newOrder()
		// Half of the jobs have an id of their own. Those are sent until they are acknowledged, as a careful program
		// does, and must run once all the same.
		if rand.IntN(2) == 0 {
			o.id = uuid.NewString()
		}
		if !l.submit(ctx, t, &o) {
			continue
		}
		switch n := rand.IntN(60); {
		case l.calm:
		case n == 0:
			o.asked = true
			o.deleted = l.call(http.MethodPost, "/queue", []byte(`{"delete": ["`+o.id+`"]}`), nil) == nil
		case n < 20 && o.kind == slowly: // most are on their way by then
			<-time.After(time.Duration(rand.IntN(200)) * time.Millisecond)
			o.asked = true
			o.interrupted = l.call(http.MethodPost, "/interrupt", []byte(`{"prompt_id": "`+o.id+`"}`), nil) == nil
		}
	}
}

// submit sends an order and notes it when it was acknowledged.
func (l *loader) submit(ctx context.Context, t *testing.T, o *order) bool {
	message := map[string]any{"prompt": o.graph(), "client_id": l.sid}
	if o.id != "" {
		message["prompt_id"] = o.id
	}
	body, err := json.Marshal(message)
	if err != nil {
		t.Error(err)
		return false
	}
	var answer struct {
		PromptID string `json:"prompt_id"`
	}
	for {
		err := l.call(http.MethodPost, "/prompt", body, &answer)
		if err == nil {
			break
		}
		if o.id == "" {
			return false
		}
		if ctx.Err() != nil && t.Context().Err() != nil {
			return false
		}
		<-time.After(10 * time.Millisecond) // the server is away just now
	}
	if answer.PromptID == "" || o.id != "" && answer.PromptID != o.id {
		t.Errorf("%s: the job %q was acknowledged as %q", l.name, o.id, answer.PromptID)
		return false
	}
	o.id = answer.PromptID
	if _, twice := l.acked[o.id]; twice {
		t.Errorf("%s: prompt id %s was given twice", l.name, o.id)
	}
	l.acked[o.id] = o
	if o.kind == picture && len(l.repeated) < 20 {
		l.repeated = append(l.repeated, *o)
	}
	return true
}

// server is the address that is used now.
func (l *loader) server() string {
	if n := l.moves.Load() % int64(1+len(l.others)); n > 0 {
		return l.others[n-1]
	}
	return l.base
}

// gone notes that an address does not answer.
func (l *loader) gone(address string) {
	if n := l.moves.Load(); l.server() == address {
		l.moves.CompareAndSwap(n, n+1)
	}
}

// save writes the next version of a document.
func (l *loader) save() {
	l.tried++
	body := fmt.Appendf(nil, `{"version": %d}`, l.tried)
	if l.call(http.MethodPost, "/userdata/kill.json?overwrite=true", body, nil) == nil {
		l.saved = l.tried
	}
}

func (l *loader) remaining() (int, error) {
	var answer struct {
		Exec struct {
			Queue int `json:"queue_remaining"`
		} `json:"exec_info"`
	}
	err := l.call(http.MethodGet, "/prompt", nil, &answer)
	return answer.Exec.Queue, err
}

// settle waits until this person's queue is empty.
func (l *loader) settle(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		n, err := l.remaining()
		if err == nil && n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d jobs are still open (%v)", l.name, n, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// call makes one request. out is decoded from JSON, or filled when it is a buffer; nil: the answer does not matter.
func (l *loader) call(method, path string, body []byte, out any) error {
	return l.send(method, path, "application/json", body, out)
}

func (l *loader) send(method, path, kind string, body []byte, out any) error {
	at := l.server()
	req, err := http.NewRequest(method, at+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+l.token)
	req.Header.Set("Content-Type", kind)
	resp, err := l.http.Do(req)
	if err != nil {
		l.gone(at)
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, tail(raw, 1000))
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *bytes.Buffer:
		out.Write(raw)
		return nil
	}
	return json.Unmarshal(raw, out)
}
