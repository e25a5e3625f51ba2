package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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

// loader is one person who keeps a few jobs in the queue.
type loader struct {
	base, token string
	http        *http.Client

	mu    sync.Mutex
	acked map[string]int // colour of each acknowledged job, by prompt id
}

// TestKill kills the server and the back ends at random instants under the load of five people. Every
// acknowledged job has to be finished exactly once, with its own picture, and no picture may be missing or
// there twice.
func TestKill(t *testing.T) {
	people := []string{"ann", "bob", "cyd", "dan", "eve"}
	s := startStudio(t, studioOptions{people: people, backEnds: 2, config: "queue: {mode: round_robin}\n"})
	loaders := make([]*loader, len(people))
	for i, name := range people {
		loaders[i] = &loader{base: "http://" + s.host, token: s.token(t, name), http: &http.Client{Timeout: 10 * time.Second}, acked: map[string]int{}}
	}
	ctx, stop := context.WithCancel(t.Context())
	var colours atomic.Int64
	var wg sync.WaitGroup
	for _, l := range loaders {
		wg.Go(func() { l.load(ctx, t, &colours) })
	}
	killAtRandom(t, s, kills(t))
	stop()
	wg.Wait()

	total := 0
	for i, l := range loaders {
		l.settle(t)
		l.check(t, people[i])
		total += len(l.acked)
	}
	if total == 0 {
		t.Fatal("no job was acknowledged: the test proved nothing")
	}
	t.Logf("%d kills of the server, %d of back ends, %d acknowledged jobs", kills(t), kills(t), total)
}

// killAtRandom kills and restarts server and back ends in turn, n times each.
func killAtRandom(t *testing.T, s *studio, n int) {
	t.Helper()
	for i := range 2 * n {
		pause := time.NewTimer(time.Duration(50+rand.IntN(700)) * time.Millisecond) // the instant has to be random
		<-pause.C
		p := s.server
		if i%2 == 1 {
			p = s.backEnds[rand.IntN(len(s.backEnds))]
		}
		p.kill()
		p.start(t)
		if p == s.server {
			s.waitReady(t)
		}
	}
}

// load submits jobs, at most four open at a time, until ctx ends. A failed request is no acknowledgement.
func (l *loader) load(ctx context.Context, t *testing.T, colours *atomic.Int64) {
	for ctx.Err() == nil {
		if n, err := l.remaining(); err != nil || n >= 4 {
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond): // the server may be away just now
			}
			continue
		}
		colour := int(colours.Add(1))
		id, err := l.submit(colour)
		if err != nil {
			continue
		}
		l.mu.Lock()
		if _, twice := l.acked[id]; twice {
			t.Errorf("prompt id %s was given twice", id)
		}
		l.acked[id] = colour
		l.mu.Unlock()
	}
}

func (l *loader) submit(colour int) (string, error) {
	graph := plain(colour)
	body, err := json.Marshal(map[string]any{"prompt": graph, "client_id": "kill"})
	if err != nil {
		return "", err
	}
	var answer struct {
		PromptID string `json:"prompt_id"`
	}
	if err := l.call(http.MethodPost, "/prompt", body, &answer); err != nil {
		return "", err
	}
	if answer.PromptID == "" {
		return "", errors.New("no prompt id")
	}
	return answer.PromptID, nil
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
			t.Fatalf("%d jobs are still open (%v)", n, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// check holds what the studio has of this person against what was acknowledged.
func (l *loader) check(t *testing.T, name string) {
	t.Helper()
	var history map[string]struct {
		Outputs map[string]struct {
			Images []struct{ Filename, Subfolder, Type string }
		}
		Status struct {
			Completed bool
			Str       string `json:"status_str"`
			Messages  json.RawMessage
		}
	}
	if err := l.call(http.MethodGet, "/history", nil, &history); err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for id, colour := range l.acked {
		entry, ok := history[id]
		if !ok {
			t.Errorf("%s: acknowledged job %s is lost", name, id)
			continue
		}
		if !entry.Status.Completed {
			t.Errorf("%s: job %s ended as %s: %s", name, id, entry.Status.Str, entry.Status.Messages)
			continue
		}
		images := entry.Outputs["2"].Images
		if len(images) != 1 {
			t.Errorf("%s: job %s has %d pictures, want 1", name, id, len(images))
			continue
		}
		file := images[0].Filename
		if other, twice := seen[file]; twice {
			t.Errorf("%s: jobs %s and %s share the file %s", name, id, other, file)
		}
		seen[file] = id
		l.checkPicture(t, file, colour)
	}
	var files []string
	if err := l.call(http.MethodGet, "/internal/files/output", nil, &files); err != nil {
		t.Fatal(err)
	}
	// A request that was cut may have been accepted without its answer coming through: such jobs are in history
	// too and have their own pictures.
	if len(files) != len(history) {
		t.Errorf("%s: %d output files for %d finished jobs", name, len(files), len(history))
	}
}

func (l *loader) checkPicture(t *testing.T, file string, colour int) {
	t.Helper()
	var raw bytes.Buffer
	if err := l.call(http.MethodGet, "/view?type=output&filename="+file, nil, &raw); err != nil {
		t.Errorf("%s: %v", file, err)
		return
	}
	img, err := png.Decode(&raw)
	if err != nil {
		t.Errorf("%s: %v", file, err)
		return
	}
	r, g, b, _ := img.At(0, 0).RGBA()
	if got := int(r>>8)<<16 | int(g>>8)<<8 | int(b>>8); got != colour {
		t.Errorf("%s shows colour %06x, want %06x", file, got, colour)
	}
}

// call makes one request. out is decoded from JSON, or filled when it is a buffer.
func (l *loader) call(method, path string, body []byte, out any) error {
	req, err := http.NewRequest(method, l.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+l.token)
	resp, err := l.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, tail(raw, 300))
	}
	if buf, ok := out.(*bytes.Buffer); ok {
		buf.Write(raw)
		return nil
	}
	return json.Unmarshal(raw, out)
}
