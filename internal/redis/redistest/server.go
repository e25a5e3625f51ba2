// Package redistest gives tests a redis-server of their own.
package redistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Server is a redis-server with an append-only file in a folder of its own. It is owned by who launched it.
type Server struct {
	Dir    string
	Socket string
	args   []string
	cmd    *exec.Cmd
}

// Start starts a redis-server that waits for its disk as the policy says (always, everysec), and ends it with the test.
// Where there is no redis-server the test is skipped.
func Start(t testing.TB, fsync string, args ...string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s, err := Launch(dir, fsync, args...)
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("there is no redis-server here; `make deps` brings it")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// Launch starts a redis-server in a folder. Its caller kills it. exec.ErrNotFound: there is none on this machine.
func Launch(dir, fsync string, args ...string) (*Server, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, Socket: filepath.Join(dir, "s")}
	s.args = append([]string{
		program, "--port", "0", "--unixsocket", s.Socket, "--dir", dir, "--appendonly", "yes", "--appendfsync", fsync,
		"--save", "", "--maxmemory-policy", "noeviction", "--loglevel", "warning",
	}, args...)
	return s, s.Restart()
}

// Restart starts the server again after Kill, and returns when it has read its data.
func (s *Server) Restart() error {
	var out bytes.Buffer
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	if err := s.cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		answer, err := exec.CommandContext(ctx, "redis-cli", "-s", s.Socket, "ping").Output()
		if err == nil && bytes.HasPrefix(answer, []byte("PONG")) {
			return nil
		}
		if ctx.Err() != nil {
			s.Kill()
			return fmt.Errorf("redis-server does not start: %s", out.String())
		}
	}
}

// Process is the server's, while it runs.
func (s *Server) Process() *os.Process { return s.cmd.Process }

// Kill ends the server at once, as a crash does.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// URL is the server's address for redis.Open.
func (s *Server) URL() string { return "unix://" + s.Socket }
