package comfyserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// nowhere is a ResponseWriter that counts.
type nowhere struct {
	header http.Header
	status int
	n      int
}

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) WriteHeader(status int)      { w.status = status }
func (w *nowhere) Write(b []byte) (int, error) { w.n += len(b); return len(b), nil }
func (w *nowhere) Flush()                      {}

// ask answers one request without a network.
func (s *studio) ask(b *testing.B, method, target, body string) {
	r := httptest.NewRequestWithContext(identity.With(context.Background(), identity.Person{Name: "ann"}), method, target, strings.NewReader(body))
	w := &nowhere{header: http.Header{}}
	s.server.ServeHTTP(w, r)
	if w.status != 0 && w.status != http.StatusOK {
		b.Fatalf("%s %s: %d", method, target, w.status)
	}
}

// prompt is a graph of about 2 KiB.
var prompt = func() string {
	nodes := map[string]any{}
	for i := range 14 {
		nodes[fmt.Sprint(i)] = map[string]any{"class_type": "KSampler", "inputs": map[string]any{
			"seed": uint64(18446744073709551615), "steps": 20, "cfg": 7.5, "sampler_name": "euler", "model": []any{"4", 0}, "text": "a lighthouse",
		}}
	}
	b, _ := json.Marshal(map[string]any{"prompt": nodes, "client_id": "tab"})
	return string(b)
}()

func BenchmarkQueue(b *testing.B) {
	s := newStudio(b, comfyserver.Options{})
	for range 50 {
		s.ask(b, "POST", "/prompt", prompt)
	}
	b.ReportAllocs()
	for b.Loop() {
		s.ask(b, "GET", "/queue", "")
	}
}

func BenchmarkHistory10000(b *testing.B) {
	s := newStudio(b, comfyserver.Options{})
	s.queue.entries = make([]job.Entry, 10_000)
	for i := range s.queue.entries {
		id := fmt.Sprintf("id-%d", i)
		o := success(id)
		s.queue.entries[i] = job.Entry{
			Job:     job.Job{ID: job.ID(id), User: "ann", PromptID: id, State: job.Completed},
			Request: job.Request{Prompt: json.RawMessage(prompt), ExtraData: json.RawMessage(`{}`), Outputs: []string{"3"}},
			Outcome: &o,
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		out := 0
		w := &nowhere{header: http.Header{}}
		d := listQueue{s.queue}
		srv, err := comfyserver.New(comfyserver.Deps{
			Queue: d, Bus: s.bus, Files: s.files, Home: &fakeHome{}, Pictures: fakePictures{}, Catalog: always(fakeCatalog{}), Checker: s.checker,
		}, comfyserver.Options{})
		if err != nil {
			b.Fatal(err)
		}
		r := httptest.NewRequestWithContext(identity.With(context.Background(), identity.Person{Name: "ann"}), "GET", "/history", nil)
		srv.ServeHTTP(w, r)
		if out = w.n; out < 10_000*len(prompt)/2 {
			b.Fatalf("%d bytes", out)
		}
		b.SetBytes(int64(out))
	}
}

// listQueue gives all entries as history, so that the benchmark measures our side.
type listQueue struct{ *fakeQueue }

func (q listQueue) EachHistory(_ context.Context, _ string, _ job.HistoryQuery, fn func(job.Entry) error) error {
	for _, e := range q.entries {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func BenchmarkPrompt(b *testing.B) {
	s := newStudio(b, comfyserver.Options{})
	b.ReportAllocs()
	for b.Loop() {
		s.ask(b, "POST", "/prompt", prompt)
		if len(s.queue.entries) >= 64 {
			b.StopTimer()
			s.do("ann", "POST", "/queue", `{"clear": true}`)
			s.queue.mu.Lock()
			s.queue.entries, s.queue.keys = nil, nil
			s.queue.mu.Unlock()
			b.StartTimer()
		}
	}
}

func BenchmarkView(b *testing.B) {
	s := newStudio(b, comfyserver.Options{})
	body, typ := form(b, "image:a.png", strings.Repeat("x", 35<<10), "type", "output")
	s.do("ann", "POST", "/upload/image", body, "Content-Type", typ)
	b.ReportAllocs()
	b.SetBytes(35 << 10)
	for b.Loop() {
		s.ask(b, "GET", "/view?filename=a.png&type=output&subfolder=", "")
	}
}

// rawSocket opens a WebSocket by hand, so that the client costs next to nothing.
func (s *studio) rawSocket(user, sid string) net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	fmt.Fprintf(c, "GET /ws?clientId=%s HTTP/1.1\r\nHost: studio\r\nPerson: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", sid, user)
	r := bufio.NewReaderSize(c, 512)
	for { // headers, then the first frame
		line, err := r.ReadString('\n')
		if err != nil {
			s.t.Fatal(err)
		}
		if line == "\r\n" {
			break
		}
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, int64(head[1])); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// BenchmarkIdleSocket reports what one connected person who does nothing costs, the client's side included.
func BenchmarkIdleSocket(b *testing.B) {
	s := newStudio(b, comfyserver.Options{})
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	for b.Loop() {
		const people = 500
		before := memory()
		conns := make([]net.Conn, people)
		for i := range conns {
			conns[i] = s.rawSocket(fmt.Sprintf("p%d", i), "tab")
		}
		for s.server.Sockets() < people {
			runtime.Gosched()
		}
		b.ReportMetric(float64(memory()-before)/people/1024, "KB/socket")
		for _, c := range conns {
			_ = c.Close()
		}
		for s.server.Sockets() > 0 {
			runtime.Gosched()
		}
	}
}

// BenchmarkFanOut measures a whole run of a text job, told to the one socket that submitted it while 200 others
// of other people are idle.
func BenchmarkFanOut(b *testing.B) {
	s := newStudio(b, comfyserver.Options{})
	for i := range 200 {
		s.rawSocket(fmt.Sprintf("p%d", i), "tab")
	}
	c := s.rawSocket("ann", "tab")
	read := make(chan int, 1)
	go func() {
		n, _ := io.Copy(io.Discard, c)
		read <- int(n)
	}()
	frame := func(j job.Job, typ, node, data string) {
		s.bus.Publish(event.Event{User: "ann", Body: event.RunFrame{
			Job: j.ID, Attempt: 1, PromptID: j.PromptID, ClientID: "tab", Type: typ, Node: node, Data: json.RawMessage(data),
		}})
	}
	b.ReportAllocs()
	for b.Loop() {
		s.ask(b, "POST", "/prompt", prompt)
		s.queue.mu.Lock()
		id := s.queue.entries[0].Job.PromptID
		s.queue.mu.Unlock()
		j := s.queue.post("ann", id)
		frame(j, "execution_start", "", `{"prompt_id": "`+id+`"}`)
		frame(j, "execution_cached", "", `{"nodes": []}`)
		frame(j, "executing", "3", `{"node": "3", "display_node": "3"}`)
		frame(j, "executed", "3", `{"node": "3", "output": {"text": ["x"]}}`)
		s.queue.finish("ann", id, success(id))
		s.queue.mu.Lock()
		s.queue.entries, s.queue.keys, s.queue.done = nil, nil, nil
		s.queue.mu.Unlock()
	}
	b.StopTimer()
	_ = c.Close()
	<-read
}
