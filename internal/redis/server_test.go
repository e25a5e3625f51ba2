package redis_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/redis"
)

// server is a redis-server of a test's own.
type server struct {
	t      testing.TB
	dir    string
	socket string
	args   []string
	cmd    *exec.Cmd
	out    *bytes.Buffer
}

// startServer starts a redis-server with an append-only file of the policy (always, everysec), in a folder of its own.
func startServer(t testing.TB, fsync string, args ...string) *server {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("there is no redis-server here; `make deps` brings it")
	}
	dir := t.TempDir()
	short, err := os.MkdirTemp("", "redis") // sockets have short names
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(short)) })
	s := &server{t: t, dir: dir, socket: filepath.Join(short, "s")}
	s.args = append([]string{
		program, "--port", "0", "--unixsocket", s.socket, "--dir", dir, "--appendonly", "yes", "--appendfsync", fsync,
		"--save", "", "--maxmemory-policy", "noeviction", "--loglevel", "warning",
	}, args...)
	t.Cleanup(func() { s.kill() })
	s.start()
	return s
}

// start starts the server, for the first time or after kill.
func (s *server) start() {
	s.t.Helper()
	s.out = &bytes.Buffer{}
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	must(s.t, s.cmd.Start())
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		// It answers PONG from the moment it has read its data.
		out, err := exec.CommandContext(ctx, "redis-cli", "-s", s.socket, "ping").Output()
		if err == nil && bytes.HasPrefix(out, []byte("PONG")) {
			return
		}
		if ctx.Err() != nil {
			s.t.Fatalf("redis-server does not start: %s", s.out)
		}
	}
}

// kill ends the server at once, as a crash does.
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// cli runs a command of redis-cli.
func (s *server) cli(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("redis-cli", append([]string{"-s", s.socket}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("redis-cli %v: %v %s", args, err, out)
	}
	return string(bytes.TrimSpace(out))
}

func (s *server) url() string { return "unix://" + s.socket }

// open opens a place on the server.
func (s *server) open(t testing.TB, o redis.Options) *redis.DB {
	t.Helper()
	db, err := redis.Open(context.WithoutCancel(t.Context()), s.url(), o)
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
	server *server
	dir    string
	spaces int
	mu     sync.Mutex
}

// space returns the shared server and a name for a place of the test's own.
func space(t testing.TB) (*server, string) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("there is no redis-server here; `make deps` brings it")
	}
	common.once.Do(func() {
		s := &server{t: t, dir: common.dir, socket: filepath.Join(common.dir, "s")}
		program, err := exec.LookPath("redis-server")
		must(t, err)
		s.args = []string{
			program, "--port", "0", "--unixsocket", s.socket, "--dir", s.dir, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
		}
		s.start()
		common.server = s
	})
	common.mu.Lock()
	defer common.mu.Unlock()
	common.spaces++
	return common.server, fmt.Sprint("test", common.spaces)
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
		common.server.kill()
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
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
