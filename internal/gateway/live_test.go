package gateway_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/gateway"
	"github.com/ahelme/comfyume/internal/identity"
)

// TestRevocationCutsSockets: a socket ends with the session or token that opened it, and no other one does.
func TestRevocationCutsSockets(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	taken := make(chan struct{}, 3)
	comfy := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"); err != nil {
			t.Error(err)
		}
		if err := rw.Flush(); err != nil {
			t.Error(err)
		}
		t.Cleanup(func() { conn.Close() })
		taken <- struct{}{}
	})
	g, err := gateway.New(b.accounts, gateway.Faces{Comfy: comfy}, gateway.Options{Studio: "s1", Live: b.live})
	ok(t, err)
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	open := func(header string) net.Conn {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		ok(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"+header+"\r\n\r\n")
		ok(t, err)
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		ok(t, err)
		if r.StatusCode != 101 {
			t.Fatalf("status %d", r.StatusCode)
		}
		<-taken
		return conn
	}
	byCookie := open("Cookie: comfyume-s1=" + b.cookie)
	byToken := open("X-API-Key: " + b.token)
	open("Authorization: " + basic("ben", "correct horse"))
	same(t, []int{b.live.Connections("ann"), b.live.Connections("ben")}, []int{2, 1})
	ok(t, b.accounts.RevokeToken(t.Context(), "ann", b.tokenID))
	if _, err := byToken.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the token's socket: %v", err)
	}
	same(t, b.live.Connections("ann"), 1)
	ok(t, b.accounts.SignOut(t.Context(), b.cookie))
	if _, err := byCookie.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the session's socket: %v", err)
	}
	same(t, []int{b.live.Connections("ann"), b.live.Connections("ben")}, []int{0, 1})
}

// filed is a writer that can send files, as a server's is.
type filed struct {
	http.ResponseWriter
	sent bool
}

func (f *filed) ReadFrom(r io.Reader) (int64, error) {
	f.sent = true
	return io.Copy(f.ResponseWriter, r)
}

// TestFilesAreSent: the server's way to send a file without copying it survives the door.
func TestFilesAreSent(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	name := filepath.Join(t.TempDir(), "a.png")
	ok(t, os.WriteFile(name, []byte(strings.Repeat("x", 100_000)), 0o600))
	comfy := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) })
	g, err := gateway.New(b.accounts, gateway.Faces{Comfy: comfy}, gateway.Options{Studio: "s1"})
	ok(t, err)
	w := &filed{ResponseWriter: httptest.NewRecorder()}
	r := httptest.NewRequest("GET", "/view", nil)
	r.Header.Set("X-API-Key", b.token)
	g.ServeHTTP(w, r)
	if !w.sent {
		t.Error("the file was copied through the program")
	}
}

// FuzzDoor: whatever the address, nobody who brings nothing reaches a face with a person, and nothing panics.
func FuzzDoor(f *testing.F) {
	for _, path := range []string{
		"/", "/u/ann/", "/u/ann%2F/", "/k/cm_x/", "/me/%2e%2e/", "/studio/u/../api", "/join/%00", "/link/a/b", "//", "/signin/../api/queue",
		"/assets/app.js", "/assets/..%2f..%2fapi/queue", "/%75/ann/x", "/u//", "/k//", "/studio/studio/",
	} {
		f.Add(path)
	}
	b := setup(f, gateway.Options{})
	var reached string
	g, err := gateway.New(b.accounts, gateway.Faces{
		Static: static{"/assets/app.js": true, "/": true},
		Comfy: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			p, _ := identity.From(r.Context())
			reached = "comfy as " + p.Name
		}),
	}, gateway.Options{Studio: "s1", PublicURL: "https://lab.example/studio"})
	ok(f, err)
	f.Fuzz(func(t *testing.T, path string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		if err != nil {
			return
		}
		reached = ""
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		if reached != "" || w.Code >= 500 {
			t.Errorf("%q: status %d, reached %q", path, w.Code, reached)
		}
	})
}

// blank is the cheapest writer.
type blank struct{ h http.Header }

func (b *blank) Header() http.Header         { return b.h }
func (b *blank) Write(p []byte) (int, error) { return len(p), nil }
func (b *blank) WriteHeader(int)             {}

// BenchmarkDoor is what the door adds to a request of somebody who is signed in.
func BenchmarkDoor(b *testing.B) {
	s := setup(b, gateway.Options{})
	comfy := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusOK) })
	g, err := gateway.New(s.accounts, gateway.Faces{Comfy: comfy, Static: static{}}, gateway.Options{Studio: "s1"})
	ok(b, err)
	for name, headers := range map[string][2]string{
		"token":  {"X-API-Key", s.token},
		"cookie": {"Cookie", "comfyume-s1=" + s.cookie},
	} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "/api/queue", nil)
			r.Header.Set(headers[0], headers[1])
			w := &blank{h: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				g.ServeHTTP(w, r)
			}
		})
	}
}
