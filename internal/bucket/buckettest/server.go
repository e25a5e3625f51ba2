// Package buckettest serves S3 for tests: a simulated server (gofakes3) in memory, with one bucket.
package buckettest

import (
	"io"
	"log"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// Bucket is the bucket that is there.
const Bucket = "comfyume-test"

// Keys that the server takes; it takes any others as well.
const (
	Key    = "TESTKEY"
	Secret = "TESTSECRET"
)

// Server is a simulated S3 server.
type Server struct {
	*httptest.Server
}

// New starts a server and stops it with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Start starts a server on a free port of 127.0.0.1. Close stops it.
func Start() (*Server, error) {
	memory := s3mem.New()
	if err := memory.CreateBucket(Bucket); err != nil {
		return nil, err
	}
	s := httptest.NewUnstartedServer(gofakes3.New(memory).Server())
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it answers twice when an upload is damaged
	s.Start()
	return &Server{s}, nil
}

// Address returns the address of prefix in the bucket; keys come from the environment.
func (s *Server) Address(prefix string) string {
	return "s3://" + Bucket + "/" + prefix + "?endpoint=" + url.QueryEscape(s.URL)
}
