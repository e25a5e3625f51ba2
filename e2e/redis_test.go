package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// redisServer is a Redis of a test's own.
type redisServer struct {
	*process
	socket string
}

// startRedis starts a redis-server that keeps what it acknowledges as the policy says.
func startRedis(t *testing.T, fsync string) *redisServer {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("there is no redis-server here; `make deps` brings it")
	}
	dir, err := os.MkdirTemp("", "redis") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.ArtifactDir(), "redis.log"))
	if err != nil {
		t.Fatal(err)
	}
	r := &redisServer{socket: filepath.Join(dir, "s")}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a leftover folder in the temporary directory harms nobody
	r.process = &process{name: "redis", log: log, args: []string{
		program, "--port", "0", "--unixsocket", r.socket, "--dir", dir, "--appendonly", "yes", "--appendfsync", fsync,
		"--save", "", "--maxmemory-policy", "noeviction", "--loglevel", "warning",
	}}
	r.clean(t)
	r.start(t)
	return r
}

func (r *redisServer) url() string { return "unix://" + r.socket }

// start starts the Redis and waits until it has read its data.
func (r *redisServer) start(t *testing.T) {
	t.Helper()
	r.process.start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		out, err := exec.CommandContext(ctx, "redis-cli", "-s", r.socket, "ping").Output()
		if err == nil && bytes.HasPrefix(out, []byte("PONG")) {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("redis-server does not start")
		}
	}
}

// ask runs a command of Redis; what goes wrong is an empty answer.
func (r *redisServer) ask(args ...string) string {
	out, _ := exec.Command("redis-cli", append([]string{"-s", r.socket}, args...)...).Output()
	return strings.TrimSpace(string(out))
}

// mortals names what is killed.
func (s *studio) mortals() string {
	if s.redis != nil {
		return "server, back ends and Redis"
	}
	return "server and back ends"
}
