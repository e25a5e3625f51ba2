package app_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/fault"
)

// startRedis starts a redis-server of the test's own and returns its address.
func startRedis(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("there is no redis-server here; `make deps` brings it")
	}
	dir, err := os.MkdirTemp("", "redis") // sockets have short names
	ok(t, err)
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(program, "--port", "0", "--unixsocket", socket, "--dir", dir, "--appendonly", "yes", "--save", "")
	ok(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		ok(t, os.RemoveAll(dir))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		out, err := exec.CommandContext(ctx, "redis-cli", "-s", socket, "ping").Output()
		if err == nil && strings.HasPrefix(string(out), "PONG") {
			return "unix://" + socket
		}
		if ctx.Err() != nil {
			t.Fatal("redis-server does not start")
		}
	}
}

// code returns the code of a fault.
func code(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Code
	}
	return ""
}

// TestTwoServersAreOneStudio: who signs in at one server is signed in at the other, and is signed out of both.
func TestTwoServersAreOneStudio(t *testing.T) {
	t.Parallel()
	flags := map[string]string{"data": filepath.Join(t.TempDir(), "data"), "store": startRedis(t)}
	one := options(t, flags)
	err := run(t, one, func(a *app.Studio) {
		err := run(t, options(t, flags), func(b *app.Studio) {
			cookie, _, err := a.SignIn(t.Context(), "ann")
			ok(t, err)
			status := func(s *app.Studio) int {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Address()+"/studio/api/v1/me", nil)
				ok(t, err)
				req.AddCookie(&http.Cookie{Name: s.CookieName(), Value: cookie})
				res, err := http.DefaultClient.Do(req)
				ok(t, err)
				ok(t, res.Body.Close())
				return res.StatusCode
			}
			if got := []int{status(a), status(b)}; got[0] != 200 || got[1] != 200 {
				t.Errorf("signed in at one server, the two answer %d", got)
			}
			ok(t, a.SignOut(t.Context(), cookie))
			until := func(status func(*app.Studio) int, s *app.Studio, why string) {
				deadline := time.Now().Add(5 * time.Second) // what a server believes from memory it believes for half a minute
				for status(s) == 200 {
					if time.Now().After(deadline) {
						t.Fatalf("%s, a person is let in by the other server", why)
					}
				}
			}
			until(status, b, "signed out at one server")
			commandsWork(t, one)
			cookie, _, err = a.SignIn(t.Context(), "ann")
			ok(t, err)
			if got := status(b); got != 200 {
				t.Errorf("signed in anew, the other server answers %d", got)
			}
			h, closeStudio, err := app.Open(t.Context(), one)
			ok(t, err)
			off := true
			_, err = client.Handler(h).ChangeUser(t.Context(), "ann", api.UserChange{Suspended: &off})
			ok(t, err)
			ok(t, closeStudio())
			until(status, b, "switched off by a command")
		})
		ok(t, err)
	})
	ok(t, err)
}

// commandsWork holds that commands need no server, and none of them for itself.
func commandsWork(t *testing.T, o app.Options) {
	t.Helper()
	h, closeStudio, err := app.Open(t.Context(), o)
	ok(t, err)
	c := client.Handler(h)
	users, err := c.Users(t.Context(), "")
	if err != nil || len(users) != 1 || users[0].Name != "ann" {
		t.Errorf("a command sees the people %v, %v", users, err)
	}
	ok(t, closeStudio())
	if _, err := app.ImportQueue(t.Context(), o, strings.NewReader("")); code(err) != "data_in_use" {
		t.Errorf("a queue is brought in while servers run: %v", err)
	}
}

// TestServersShareTheirFolders: a server with a folder of its own has half of the files, and is refused.
func TestServersShareTheirFolders(t *testing.T) {
	t.Parallel()
	store, data := startRedis(t), filepath.Join(t.TempDir(), "data")
	first := options(t, map[string]string{"data": data, "store": store})
	ok(t, run(t, first, func(*app.Studio) {
		if err := run(t, options(t, map[string]string{"data": data}), func(*app.Studio) {}); code(err) != "data_in_use" {
			t.Errorf("a server on SQLite in the same folder: %v", err)
		}
	}))
	if err := run(t, options(t, map[string]string{"store": store}), func(*app.Studio) {}); code(err) != "redis_other_studio" {
		t.Errorf("a server of another studio: %v", err)
	}
	other := filepath.Join(t.TempDir(), "data")
	ok(t, os.Mkdir(other, 0o700))
	for _, name := range []string{"studio.json", "key"} {
		text, err := os.ReadFile(filepath.Join(data, name))
		ok(t, err)
		ok(t, os.WriteFile(filepath.Join(other, name), text, 0o600))
	}
	if err := run(t, options(t, map[string]string{"data": other, "store": store}), func(*app.Studio) {}); code(err) != "other_folder" {
		t.Errorf("a server with another data folder: %v", err)
	}
	elsewhere := map[string]string{"data": data, "store": store, "blob": "file://" + t.TempDir()}
	if err := run(t, options(t, elsewhere), func(*app.Studio) {}); code(err) != "other_folder" {
		t.Errorf("a server with another folder of files: %v", err)
	}
	ok(t, run(t, first, func(*app.Studio) {}))
	ok(t, os.WriteFile(filepath.Join(data, "users", "flow.json"), []byte("{}"), 0o600))
	ok(t, os.Remove(filepath.Join(data, "redis")))
	if err := run(t, first, func(*app.Studio) {}); code(err) != "redis_without_files" {
		t.Errorf("a folder with files of another store, which would be swept away: %v", err)
	}
}
