package client

import (
	"io"
	"net/http"
	"sync"
)

// inside answers requests by calling a handler in this program.
type inside struct{ h http.Handler }

// RoundTrip implements http.RoundTripper. The body is passed on as it is written.
func (i inside) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	read, write := io.Pipe()
	a := &answer{header: http.Header{}, body: write, began: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(a.ended)
		defer r.Body.Close() //nolint:errcheck // it was read
		defer func() {
			if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so, too
				a.WriteHeader(http.StatusOK)
				write.CloseWithError(io.ErrUnexpectedEOF)
			} else if p != nil {
				panic(p)
			}
		}()
		i.h.ServeHTTP(a, r)
		a.WriteHeader(http.StatusOK)
		write.Close() //nolint:errcheck // never fails
	}()
	<-a.began // a handler that is asked to end, by the request's context, ends
	return &http.Response{
		Status: http.StatusText(a.status), StatusCode: a.status, Header: a.sent,
		Proto: r.Proto, ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Body: &insideBody{read, a.ended}, ContentLength: -1,
	}, nil
}

// insideBody waits at its end for the handler: it may stand on what is closed next.
type insideBody struct {
	*io.PipeReader
	ended chan struct{}
}

// Close implements io.Closer.
func (b *insideBody) Close() error {
	err := b.PipeReader.Close()
	<-b.ended
	return err
}

// answer passes on what a handler writes.
type answer struct {
	header, sent http.Header
	status       int
	body         *io.PipeWriter
	once         sync.Once
	began, ended chan struct{}
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

func (a *answer) WriteHeader(status int) {
	a.once.Do(func() {
		a.status, a.sent = status, a.header.Clone()
		close(a.began)
	})
}
