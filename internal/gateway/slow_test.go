package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/gateway"
)

// pipe is a listener with one connection.
type pipe struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p pipe) Close() error   { close(p.done); return nil }
func (p pipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// TestStrangersSendInTime: who is not signed in and sends a body slowly is answered and lets go of the connection, and
// who is signed in takes as long as it takes.
func TestStrangersSendInTime(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{
		"a graph":    "POST /prompt HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100\r\n\r\n{",
		"chunks":     "POST /prompt HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
		"a probe":    "GET /healthz HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100\r\n\r\n{",
		"nothing":    "POST /me/no HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100\r\n\r\n{",
		"a sign-in":  "POST /signin HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nname=",
		"the editor": "POST /assets/app.js HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { sendSlowly(t, head, false) })
		})
	}
	t.Run("signed in", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { sendSlowly(t, "", true) })
	})
}

func sendSlowly(t *testing.T, head string, signedIn bool) {
	b := setup(t, gateway.Options{})
	if signedIn {
		head = "POST /prompt HTTP/1.1\r\nHost: example.com\r\nX-API-Key: " + b.token + "\r\nContent-Length: 5\r\n\r\n1"
	}
	l := pipe{make(chan net.Conn), make(chan struct{})}
	server := &http.Server{Handler: b.Gateway, IdleTimeout: time.Minute}
	stopped := make(chan error)
	go func() { stopped <- server.Serve(l) }()
	here, there := net.Pipe()
	l.conns <- there
	_, err := io.WriteString(here, head)
	ok(t, err)
	began := time.Now()
	if signedIn {
		time.Sleep(time.Hour) // of the test's clock
		_, err = io.WriteString(here, "2345")
		ok(t, err)
	}
	answers := bufio.NewReader(here)
	res, err := http.ReadResponse(answers, nil)
	ok(t, err)
	_, err = io.Copy(io.Discard, res.Body)
	ok(t, err)
	if signedIn {
		if res.StatusCode != http.StatusOK {
			t.Error(res.Status)
		}
	} else {
		_, err := answers.ReadByte()
		if took := time.Since(began); err != io.EOF || took > 21*time.Second {
			t.Errorf("%s, and then %v, after %s", res.Status, err, took)
		}
	}
	ok(t, here.Close())
	ok(t, server.Close())
	<-stopped
}
