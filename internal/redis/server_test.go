package redis_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/redis"
	"github.com/ahelme/comfyume/internal/redis/redistest"
)

// server is a redis-server and the test that it belongs to, or that shares it.
type server struct {
	*redistest.Server
	t testing.TB
}

// startServer starts a redis-server with an append-only file of the policy (always, everysec), in a folder of its own.
func startServer(t testing.TB, fsync string, args ...string) *server {
	t.Helper()
	return &server{redistest.Start(t, fsync, args...), t}
}

// start starts the server again after kill.
func (s *server) start() {
	s.t.Helper()
	must(s.t, s.Restart())
}

// kill ends the server at once, as a crash does.
func (s *server) kill() { s.Kill() }

// cli runs a command of redis-cli.
func (s *server) cli(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("redis-cli", append([]string{"-s", s.Socket}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("redis-cli %v: %v %s", args, err, out)
	}
	return string(bytes.TrimSpace(out))
}

// open opens a place on the server.
func (s *server) open(t testing.TB, o redis.Options) *redis.DB {
	t.Helper()
	db, err := redis.Open(context.WithoutCancel(t.Context()), s.URL(), o)
	must(t, err)
	return db
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// common is the server that tests share which do not hurt it: each has a space of its own.
var common struct {
	once   sync.Once
	server *redistest.Server
	err    error
	dir    string
	mu     sync.Mutex
	spaces int
}

// space returns the shared server and a name for a place of the test's own.
func space(t testing.TB) (*server, string) {
	t.Helper()
	common.once.Do(func() { common.server, common.err = redistest.Launch(common.dir, "everysec") })
	if errors.Is(common.err, exec.ErrNotFound) {
		t.Skip("there is no redis-server here; `make deps` brings it")
	}
	must(t, common.err)
	common.mu.Lock()
	defer common.mu.Unlock()
	common.spaces++
	return &server{common.server, t}, fmt.Sprint("test", common.spaces)
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	common.dir = dir
	code := m.Run()
	if common.server != nil {
		common.server.Kill()
	}
	if code == 0 {
		// The library looks at a cluster's nodes again after a while, also when the client is closed.
		library := goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1")
		if err := goleak.Find(library); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
