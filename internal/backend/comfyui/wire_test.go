package comfyui_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/job"
)

// TestServerBehindADoor: https, below a path, with a password and a header.
func TestServerBehindADoor(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "studio" || password != "se:cret" || r.Header.Get("X-Door") != "open" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.StripPrefix("/gpu1", fake.Handler()).ServeHTTP(w, r)
	}))
	defer srv.Close()
	defer fake.Close()
	transport, ok := srv.Client().Transport.(*http.Transport)
	if !ok {
		t.Fatal("the test server's client has another transport")
	}
	open := func(address string) *comfyui.Driver {
		d, err := comfyui.New(address, comfyui.Options{
			TLS: &tls.Config{RootCAs: transport.TLSClientConfig.RootCAs}, Header: http.Header{"X-Door": {"open"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open(strings.Replace(srv.URL, "https://", "https://studio:se%3Acret@", 1) + "/gpu1/")
	defer d.Close()
	if _, err := d.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, []byte(`{"1":{"class_type":"Text","inputs":{"text":"a"}}}`)))
	a.Want(t, job.Completed)

	wrong := open(strings.Replace(srv.URL, "https://", "https://studio:guess@", 1) + "/gpu1")
	defer wrong.Close()
	if _, err := wrong.Probe(t.Context()); !errors.Is(err, backend.ErrNotComfyUI) || strings.Contains(err.Error(), "guess") {
		t.Errorf("with a wrong password: %v", err)
	}
}

func TestKeptConnectionsThatTheServerClosedAreReplaced(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	srv := httptest.NewServer(fake.Handler())
	defer srv.Close()
	defer fake.Close()
	d, err := comfyui.New(srv.URL, comfyui.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for range 3 {
		if _, err := d.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		srv.CloseClientConnections()
	}
	a := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, []byte(`{"1":{"class_type":"Text","inputs":{"text":"a"}}}`)))
	a.Want(t, job.Completed)
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	var opened atomic.Int64
	srv := httptest.NewUnstartedServer(fake.Handler())
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	defer fake.Close()
	d, err := comfyui.New(srv.URL, comfyui.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const runs = 10
	for range runs {
		task := backendtest.NewTask(d, []byte(`{"1":{"class_type":"Text","inputs":{"text":"a"}}}`))
		backendtest.Begin(t.Context(), t, d, task).Want(t, job.Completed)
	}
	// A socket each, one ahead, and some for requests that met; more than three each when none is kept.
	if n := opened.Load(); n > 2*runs+5 {
		t.Errorf("%d connections for %d runs", n, runs)
	}
}

func TestInputThatIsTooLargeIsTheOwnersToKnow(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/upload/image" && r.ContentLength > 1<<20 {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusRequestEntityTooLarge) // and reads nothing of it
			return
		}
		fake.Handler().ServeHTTP(w, r)
	}))
	defer srv.Close()
	defer fake.Close()
	d, err := comfyui.New(srv.URL, comfyui.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	task := backendtest.NewTask(d, []byte(`{}`))
	big := strings.Repeat("x", 8<<20)
	task.Uploads = []backend.Upload{upload("big.mp4", big)}
	_, err = d.Prepare(t.Context(), task)
	if refused, ok := errors.AsType[*backend.Refused](err); !ok || !strings.Contains(string(refused.Body), "input_too_large") {
		t.Errorf("err = %v", err)
	}
}

func TestRequestsEndWithTheirContext(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	n := newServer(t, func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
	})
	d, err := comfyui.New("http://gpu", comfyui.Options{Dial: n.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-began
		cancel(io.ErrClosedPipe)
	}()
	if _, err := d.Probe(ctx); !errors.Is(err, backend.ErrUnreachable) || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("err = %v", err)
	}
	timed, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	silent := newServer(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	quiet, err := comfyui.New("http://gpu", comfyui.Options{Dial: silent.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	if _, err := quiet.Probe(timed); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v", err)
	}
}

// TestHeadsWithoutEndAreCut: a server that never comes to the end of its headers fills no memory.
func TestHeadsWithoutEndAreCut(t *testing.T) {
	t.Parallel()
	for what, line := range map[string]string{
		"headers":     "X-A: " + strings.Repeat("a", 1<<10) + "\r\n",
		"early hints": "\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var sent atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				c, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				_, err = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n")
				for err == nil && sent.Load() < 256<<20 {
					var n int
					n, err = io.WriteString(c, strings.Repeat(line, 64))
					sent.Add(int64(n))
				}
			}))
			defer srv.Close()
			d, err := comfyui.New(srv.URL, comfyui.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if _, err := d.Probe(t.Context()); err == nil {
				t.Error("such a server was taken for a good one")
			}
			if n := sent.Load(); n > 64<<20 {
				t.Errorf("%d MB of a head were read", n>>20)
			}
		})
	}
}
