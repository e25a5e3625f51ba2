package tlscert_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/tlscert"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The library keeps its rate limiters for the life of the process, and looks at a lock's file 5 s after it is gone.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
		// The test authority has no end.
		goleak.IgnoreAnyFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"),
		goleak.IgnoreAnyFunction("github.com/letsencrypt/pebble/v2/va.(*VAImpl).processTasks"))
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shake connects to a listener of s under a name, trusts roots, and returns the certificate that came.
func shake(t *testing.T, s *tlscert.Source, name string, roots *x509.CertPool) (*x509.Certificate, error) {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		conn := tls.Server(server, s.TLS())
		if err := conn.Handshake(); err == nil {
			io.Copy(io.Discard, conn) //nolint:errcheck // until the client goes
		}
		server.Close()
	})
	conn := tls.Client(client, &tls.Config{ServerName: name, RootCAs: roots})
	defer client.Close()
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

func pool(t *testing.T, raw []byte) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(raw) {
		t.Fatalf("no certificate in %q", raw)
	}
	return p
}

func TestSelf(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "tls")
	open := func(names ...string) *tlscert.Source {
		s, err := tlscert.Open(t.Context(), tlscert.Options{Mode: tlscert.Self, Folder: folder, Names: names})
		ok(t, err)
		return s
	}
	s := open("Studio.lan", "10.1.2.3", "0.0.0.0", "")
	roots := pool(t, s.Authority())
	for _, name := range []string{"localhost", "127.0.0.1", "studio.lan", "10.1.2.3"} {
		if _, err := shake(t, s, name, roots); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := shake(t, s, "bank.example", roots); err == nil {
		t.Error("the studio passes for a bank")
	}
	if _, err := shake(t, s, "localhost", x509.NewCertPool()); err == nil {
		t.Error("it is trusted without its authority")
	}
	if again := open("studio.lan", "192.168.7.7"); !bytes.Equal(again.Authority(), s.Authority()) {
		t.Error("another private name makes another authority, to be installed again")
	}
	info, err := os.Stat(filepath.Join(folder, "ca-key.pem"))
	ok(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key is readable: %v", info.Mode())
	}
	public := open("studio.example.org")
	if bytes.Equal(public.Authority(), s.Authority()) {
		t.Error("the authority vouches for a name that it is not bound to")
	}
	if _, err := shake(t, public, "studio.example.org", pool(t, public.Authority())); err != nil {
		t.Error(err)
	}
	block, _ := pem.Decode(public.Authority())
	cert, err := x509.ParseCertificate(block.Bytes)
	ok(t, err)
	if !cert.IsCA || !cert.PermittedDNSDomainsCritical || len(cert.PermittedDNSDomains) == 0 || len(cert.PermittedIPRanges) == 0 {
		t.Error("the authority is not bound to the studio's names")
	}
	ok(t, os.WriteFile(filepath.Join(folder, "ca-key.pem"), []byte("x"), 0o600))
	if _, err := tlscert.Open(t.Context(), tlscert.Options{Mode: tlscert.Self, Folder: folder}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a broken key: %v", err)
	}
}

// TestSelfRenews: a leaf is made anew long before it ends.
func TestSelfRenews(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := tlscert.Open(t.Context(), tlscert.Options{Mode: tlscert.Self, Folder: folder})
		ok(t, err)
		roots := pool(t, s.Authority())
		first, err := shake(t, s, "localhost", roots)
		ok(t, err)
		time.Sleep(100 * 24 * time.Hour)
		same, err := shake(t, s, "localhost", roots)
		ok(t, err)
		time.Sleep(50 * 24 * time.Hour)
		next, err := shake(t, s, "localhost", roots)
		ok(t, err)
		if !same.Equal(first) || next.Equal(first) {
			t.Error("the leaf is renewed too early or too late")
		}
	})
}

// pair writes a certificate and its key, of a studio's own authority, to files.
func pair(t *testing.T, folder string) (cert, key string) {
	t.Helper()
	_, err := tlscert.Open(t.Context(), tlscert.Options{Mode: tlscert.Self, Folder: folder})
	ok(t, err)
	return filepath.Join(folder, "ca.pem"), filepath.Join(folder, "ca-key.pem")
}

func TestFiles(t *testing.T) {
	t.Parallel()
	cert, key := pair(t, t.TempDir())
	otherCert, otherKey := pair(t, t.TempDir())
	serial := func(s *tlscert.Source) string {
		c, err := s.TLS().GetCertificate(&tls.ClientHelloInfo{})
		ok(t, err)
		return c.Leaf.SerialNumber.String()
	}
	synctest.Test(t, func(t *testing.T) {
		s, err := tlscert.Open(t.Context(), tlscert.Options{Mode: tlscert.Files, Cert: cert, Key: key})
		ok(t, err)
		first := serial(s)
		replace := func(to, from string) {
			raw, err := os.ReadFile(from)
			ok(t, err)
			ok(t, os.WriteFile(to, raw, 0o600))
			ok(t, os.Chtimes(to, time.Now(), time.Now())) // the bubble's time
		}
		time.Sleep(time.Minute)
		replace(cert, otherCert) // half of a pair
		if serial(s) != first {
			t.Error("half of a pair is used")
		}
		time.Sleep(time.Minute)
		replace(key, otherKey)
		if serial(s) == first {
			t.Error("the new pair is not used")
		}
		time.Sleep(time.Minute)
		ok(t, os.Remove(cert))
		serial(s) // the last one stays
	})
	for _, o := range []tlscert.Options{
		{Mode: tlscert.Files},
		{Mode: tlscert.Files, Cert: otherCert, Key: otherCert},
		{Mode: "on"},
		{Mode: tlscert.ACME},
	} {
		if _, err := tlscert.Open(t.Context(), o); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestOff(t *testing.T) {
	t.Parallel()
	s, err := tlscert.Open(t.Context(), tlscert.Options{Mode: tlscert.Off})
	ok(t, err)
	defer s.Close()
	if err := s.Start(); err != nil || s.TLS() != nil || s.Authority() != nil {
		t.Errorf("off encrypts: %v", err)
	}
}

// everywhere is a name server that knows every name as this machine.
func everywhere(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	s := &dns.Server{Listener: listener, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1),
			})
		}
		if err := w.WriteMsg(m); err != nil {
			t.Error(err)
		}
	})}
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.ActivateAndServe(); err != nil {
			t.Error(err)
		}
	})
	<-started
	t.Cleanup(func() {
		if err := s.Shutdown(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return listener.Addr().String()
}

// TestACME has a test authority on this machine sign a certificate: it connects to the studio's own port to see
// that the studio is there.
func TestACME(t *testing.T) {
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	port := inner.Addr().(*net.TCPAddr).Port
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	front := wfe.New(quiet, store, va.New(quiet, 1, port, false, everywhere(t), store), authority, []string{"ca.test"}, false, false, 1, 1)
	directory := httptest.NewTLSServer(front.Handler())
	t.Cleanup(directory.Close)
	roots := x509.NewCertPool()
	roots.AddCert(directory.Certificate())

	lines := lockedBuffer{text: `a certificate was obtained" domain=studio.example.test`, found: make(chan struct{})}
	var conn *tls.Conn
	s, err := tlscert.Open(t.Context(), tlscert.Options{
		Mode: tlscert.ACME, Domain: "studio.example.test", Mail: "op@example.test", Port: port, Folder: t.TempDir(),
		Directory: directory.URL + wfe.DirectoryPath, Roots: roots,
		Log: slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	ok(t, err)
	t.Cleanup(s.Close)
	server := &http.Server{
		TLSConfig:         s.TLS(),
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "in") }), //nolint:errcheck // a test's client
		ErrorLog:          quiet,
		ReadHeaderTimeout: time.Minute,
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.ServeTLS(inner, "", ""); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() { server.Close(); wg.Wait() })
	ok(t, s.Start())

	trust := x509.NewCertPool()
	trust.AddCert(authority.GetRootCert(0).Cert)
	select {
	case <-lines.found:
	case <-time.After(30 * time.Second):
		t.Fatalf("no certificate came:\n%s", lines.String())
	}
	// The library announces a certificate a moment before it uses it.
	for range 1000 {
		if conn, err = tls.Dial("tcp", inner.Addr().String(), &tls.Config{ServerName: "studio.example.test", RootCAs: trust}); err == nil {
			break
		}
	}
	ok(t, err)
	ok(t, conn.Close())
}

// lockedBuffer is a log that says when a line with a text came.
type lockedBuffer struct {
	mu    sync.Mutex
	b     bytes.Buffer
	text  string
	found chan struct{}
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text != "" && bytes.Contains(p, []byte(l.text)) {
		l.text = ""
		close(l.found)
	}
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
