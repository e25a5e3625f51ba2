package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/sim"
)

// BenchmarkRun takes text jobs through the whole studio: from a person's POST through the queue and a back end to the
// last frame on their socket and the entry in their history. Client, studio and back ends are one process here, so
// that its profile shows all of a job; their shares are told apart by package.
func BenchmarkRun(b *testing.B) {
	for _, load := range []struct {
		name                  string
		users, each, backEnds int
	}{
		{"alone", 1, 1, 1},
		{"busy", 8, 8, 4},
	} {
		b.Run(load.name, func(b *testing.B) {
			studio(b, load.users, load.backEnds, func(address string, tokens []string) {
				people := make([]*editor, load.users)
				for i := range people {
					people[i] = openEditor(b, address, tokens[i])
				}
				people[0].run(b, "first") // connections are open by now
				jobs := make(chan int)
				var work sync.WaitGroup
				for _, p := range people {
					for range load.each {
						work.Go(func() {
							for n := range jobs {
								p.run(b, fmt.Sprintf("job %d", n))
							}
						})
					}
				}
				n := 0
				for b.Loop() {
					jobs <- n
					n++
				}
				close(jobs)
				work.Wait()
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
			})
		})
	}
}

// studio runs a studio with people and simulated back ends and calls fn with its address and a token for each person.
func studio(b testing.TB, users, backEnds int, fn func(address string, tokens []string)) {
	b.Helper()
	src := config.Source{Flags: map[string]string{
		"data": filepath.Join(b.TempDir(), "data"), "listen": "127.0.0.1:0", "metrics": "", "queue_api": "",
		"limits.keep_free": "1MB", "queue.max_running_per_user": "8",
	}}
	for i := range users {
		src.Users = append(src.Users, config.User{Name: fmt.Sprintf("user%d", i), Role: "participant"})
	}
	for range backEnds {
		src.Backends = append(src.Backends, simulated(b))
	}
	settings, err := config.Load(src)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	o := app.Options{Settings: settings, Version: "test", Frontends: b.TempDir(), Log: slog.New(slog.DiscardHandler)}
	err = app.Run(ctx, o, func(s *app.Studio) error {
		defer stop()
		path, err := app.SocketPath(settings.Data, "")
		if err != nil {
			return err
		}
		c := client.Socket(path)
		defer c.Close()
		var tokens []string
		for _, u := range src.Users {
			token, err := c.NewToken(b.Context(), u.Name, api.NewToken{})
			if err != nil {
				return err
			}
			tokens = append(tokens, token.Secret)
		}
		fn(s.Address(), tokens)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// simulated runs a back end that takes no time and returns its address.
func simulated(b testing.TB) string {
	b.Helper()
	return simulatedAs(b, sim.Options{})
}

// simulatedAs is simulated with what is said of it.
func simulatedAs(b testing.TB, o sim.Options) string {
	b.Helper()
	o.Base, o.Probes, o.Log = b.TempDir(), true, slog.New(slog.DiscardHandler)
	gpu, err := sim.NewComfyUI(o)
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := gpu.Run(ctx, l); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(func() {
		stop()
		running.Wait()
		if err := gpu.Close(); err != nil {
			b.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

// editor is one open socket and what it waits for.
type editor struct {
	address, token string
	client         http.Client

	mu   sync.Mutex
	ends map[string]chan string // by prompt id: the type of the frame that ended it
}

func openEditor(b testing.TB, address, token string) *editor {
	b.Helper()
	e := &editor{address: address, token: token, ends: map[string]chan string{}}
	e.client.Transport = &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(e.client.CloseIdleConnections)
	url := "ws" + strings.TrimPrefix(address, "http") + "/ws?clientId=" + token[len(token)-8:]
	conn, _, err := websocket.Dial(b.Context(), url, &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
	if err != nil {
		b.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			_, text, err := conn.Read(context.Background())
			if err != nil {
				return // closed
			}
			e.hear(text)
		}
	})
	b.Cleanup(func() {
		conn.CloseNow()
		reading.Wait()
	})
	return e
}

// end returns the channel for the end of a prompt.
func (e *editor) end(prompt string) chan string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ends[prompt] == nil {
		e.ends[prompt] = make(chan string, 1)
	}
	return e.ends[prompt]
}

func (e *editor) hear(text []byte) {
	var frame struct {
		Type string
		Data struct {
			Prompt string `json:"prompt_id"`
		}
	}
	if json.Unmarshal(text, &frame) != nil {
		return
	}
	switch frame.Type {
	case "execution_success", "execution_error", "execution_interrupted":
		e.end(frame.Data.Prompt) <- frame.Type
	}
}

// run sends one text job, waits for its end and reads its entry.
func (e *editor) run(b testing.TB, text string) {
	body := fmt.Sprintf(`{"client_id": %q, "prompt": {
		"1": {"class_type": "PrimitiveString", "inputs": {"value": %q}},
		"2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}}`, e.token[len(e.token)-8:], text)
	var accepted struct {
		Prompt string `json:"prompt_id"`
	}
	if err := json.Unmarshal(e.ask(b, http.MethodPost, "/prompt", body), &accepted); err != nil {
		b.Error(err)
		return
	}
	if how := <-e.end(accepted.Prompt); how != "execution_success" {
		b.Errorf("%s ended with %s", text, how)
	}
	if entry := e.ask(b, http.MethodGet, "/history/"+accepted.Prompt, ""); !strings.Contains(string(entry), text) {
		b.Errorf("the history of %q says %s", text, entry)
	}
	e.mu.Lock()
	delete(e.ends, accepted.Prompt)
	e.mu.Unlock()
}

func (e *editor) ask(b testing.TB, method, path, body string) []byte {
	req, err := http.NewRequest(method, e.address+path, strings.NewReader(body))
	if err != nil {
		b.Error(err)
		return nil
	}
	req.Header.Set("Authorization", "Bearer "+e.token)
	res, err := e.client.Do(req)
	if err != nil {
		b.Error(err)
		return nil
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		b.Errorf("%s %s: %s %s %v", method, path, res.Status, answer, err)
	}
	return answer
}
