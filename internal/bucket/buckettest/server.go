// Package buckettest serves S3 for tests: a simulated server (gofakes3) in memory, with one bucket.
package buckettest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
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
	fault atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

// Fault has each request handed to f first, which answers it and returns true, or leaves it to the server; nil: none.
func (s *Server) Fault(f func(w http.ResponseWriter, r *http.Request) bool) {
	if f == nil {
		s.fault.Store(nil)
		return
	}
	s.fault.Store(&f)
}

// SlowDown answers as a server that has too much to do.
func SlowDown(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>") // who asked may be gone
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
	s := &Server{}
	fake := gofakes3.New(memory).Server()
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.fault.Load(); f == nil || !(*f)(w, r) {
			fake.ServeHTTP(w, r)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it answers twice when an upload is damaged
	s.Start()
	return s, nil
}

// Address returns the address of prefix in the bucket; keys come from the environment.
func (s *Server) Address(prefix string) string {
	return "s3://" + Bucket + "/" + prefix + "?endpoint=" + url.QueryEscape(s.URL)
}
