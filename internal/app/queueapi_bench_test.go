package app_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
)

// BenchmarkQueueAPI asks the queue manager's interface with many jobs waiting, a hundred of each person: what it costs
// must not follow from how many there are.
func BenchmarkQueueAPI(b *testing.B) {
	for _, people := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("waiting=%d", 100*people), func(b *testing.B) { benchQueueAPI(b, people) })
	}
}

func benchQueueAPI(b *testing.B, people int) {
	users := []config.User{{Name: "olu", Role: "operator"}}
	for i := range people {
		users = append(users, config.User{Name: fmt.Sprintf("user%d", i), Role: "participant"})
	}
	settings, err := config.Load(config.Source{Users: users, Flags: map[string]string{
		"data": filepath.Join(b.TempDir(), "data"), "listen": "127.0.0.1:0", "metrics": "", "queue_api": "", "limits.keep_free": "1MB", "queue.max_pending": "20000", "queue.max_pending_per_user": "200",
	}})
	need(b, err)
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	o := app.Options{Settings: settings, Version: "test", Frontends: b.TempDir(), Log: slog.New(slog.DiscardHandler)}
	need(b, app.Run(ctx, o, func(s *app.Studio) error {
		defer stop()
		path, err := app.SocketPath(settings.Data, "")
		need(b, err)
		c := client.Socket(path)
		defer c.Close()
		token := func(user, scope string) string {
			t, err := c.NewToken(b.Context(), user, api.NewToken{Scope: scope})
			need(b, err)
			return t.Secret
		}
		operator, worker, ann := token("olu", ""), token("olu", "worker"), token("user0", "")
		ask := func(token, method, path, body string, want int) string {
			r, err := http.NewRequest(method, s.Address()+"/qm"+path, strings.NewReader(body))
			need(b, err)
			r.Header.Set("Authorization", "Bearer "+token)
			res, err := http.DefaultClient.Do(r)
			need(b, err)
			defer res.Body.Close()
			answer, err := io.ReadAll(res.Body)
			need(b, err)
			if res.StatusCode != want {
				b.Fatalf("%s %s: %d %.300s", method, path, res.StatusCode, answer)
			}
			return string(answer)
		}
		var work sync.WaitGroup
		for part := range 8 {
			work.Go(func() {
				for n := part; n < 100*people; n += 8 {
					ask(operator, "POST", "/api/jobs", fmt.Sprintf(`{"user_id": "user%d", "workflow": %s}`, n%people, workflow(n, 1)), http.StatusCreated)
				}
			})
		}
		work.Wait()
		for _, call := range [][3]string{
			{"status", operator, "/api/queue/status"},
			{"own", ann, "/api/jobs"},
			{"list", operator, "/api/jobs"},
			{"next", worker, "/api/workers/next-job?worker_id=w"}, // and gives the one before back
		} {
			b.Run(call[0], func(b *testing.B) {
				for b.Loop() {
					ask(call[1], "GET", call[2], "", http.StatusOK)
				}
			})
		}
		return nil
	}))
}

func need(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
