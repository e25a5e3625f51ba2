package fleet

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// Handler answers what clients of the endpoint ask.
func (f *Fleet) Handler() http.Handler { return http.HandlerFunc(f.serveHTTP) }

func (f *Fleet) serveHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	if f.closed.Err() != nil {
		f.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	f.parts.Add(1) // never after end has begun to wait
	f.counts.Requests++
	f.mu.Unlock()
	defer f.parts.Done()
	if f.o.Key != "" && r.Header.Get("Authorization") != "Bearer "+f.o.Key {
		http.Error(w, "This simulated endpoint asks for its key.", http.StatusUnauthorized)
		return
	}
	if pause(r.Context(), f.o.Latency) != nil {
		return
	}
	if f.o.Deployment != "" {
		switch rest, ok := strings.CutPrefix(r.URL.Path, "/"+f.o.Deployment); {
		case r.URL.Path == "/status/"+f.o.Deployment:
			f.asyncStatus(w, r)
			return
		case r.URL.Path == "/result/"+f.o.Deployment:
			f.asyncResult(w, r)
			return
		case !ok || rest != "" && rest[0] != '/':
			http.Error(w, "There is no such deployment in this simulated cloud.", http.StatusNotFound)
			return
		}
		// Cut from the path as it was sent: an encoded slash stays one.
		r.URL.RawPath = strings.TrimPrefix(r.URL.EscapedPath(), "/"+f.o.Deployment)
		r.URL.Path = strings.TrimPrefix(r.URL.Path, "/"+f.o.Deployment)
	}
	trouble := f.pick(r)
	if trouble != nil && f.refuse(w, r, trouble) {
		return
	}
	if r.Header.Get("Prefer") == "respond-async" {
		f.takeLater(w, r, trouble)
		return
	}
	f.forward(w, r, trouble)
}

// pause lets time pass, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errNoReplica is what ends a request's waiting.
var errNoReplica = errors.New("no replica was free")

// forward gives a request to a replica once one is free, and its answer back.
func (f *Fleet) forward(w http.ResponseWriter, r *http.Request, trouble *Fault) {
	socket := strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
	ctx, cancel := context.WithTimeoutCause(r.Context(), f.o.QueueFor, errNoReplica)
	rep, err := f.acquire(ctx, socket)
	cancel()
	if err != nil {
		f.mu.Lock()
		f.counts.TimedOut++
		f.mu.Unlock()
		http.Error(w, "No simulated replica was free in time.", http.StatusGatewayTimeout)
		return
	}
	defer f.release(rep, socket)
	f.mu.Lock()
	f.counts.Forwarded++
	if in := f.later[r.Header.Get("X-Inference-Id")]; in != nil {
		in.state = "Inference"
	}
	f.mu.Unlock()
	to, err := url.Parse(rep.unit.Address())
	if err != nil {
		http.Error(w, "A simulated replica has no address.", http.StatusBadGateway)
		return
	}
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // broken lines are what it is for
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Host = p.In.Host
			p.Out.Header.Del("Authorization")
		},
		ModifyResponse: func(resp *http.Response) error { return trouble.spoil(resp) },
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, errCut) {
				panic(http.ErrAbortHandler)
			}
			http.Error(w, "The simulated replica is gone.", http.StatusBadGateway)
		},
	}
	if trouble.is(CutRequest) {
		r.Body = &cutBody{ReadCloser: r.Body, left: trouble.After}
	}
	proxy.ServeHTTP(w, r)
}

// errCut is how a simulated line breaks.
var errCut = errors.New("the simulated line was cut")

// cutBody is a body of which only the beginning arrives.
type cutBody struct {
	io.ReadCloser
	left int64
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errCut
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if errors.Is(err, io.EOF) { // it was shorter than what was to arrive
		return n, errCut
	}
	return n, err
}
