package tunnel_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/tunnel"
)

func codeOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Code
	}
	return ""
}

// join tries an address and returns the error's code and whole text.
func join(t *testing.T, server string, secure *tls.Config, proxy func(*http.Request) (*url.URL, error)) (code, text string) {
	t.Helper()
	if proxy == nil {
		proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	_, err := tunnel.Join(t.Context(), server, "good", "", tunnel.ThisMachine("v1", "gpu"), secure, proxy)
	if err == nil {
		return "", ""
	}
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Public == "" || e.Remedy == "" && e.Code != "agent_code" {
		t.Errorf("no sentence with a remedy: %v", err)
	}
	return codeOf(err), err.Error()
}

// TestTroublesAreToldApart: each way not to reach a studio has a sentence of its own.
func TestTroublesAreToldApart(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	serve := func(h http.HandlerFunc) string {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		return srv.URL
	}
	other := serve(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>a router</html>") })
	lost := serve(http.NotFound)
	behind := serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	moved := serve(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.example"+r.URL.Path, http.StatusTemporaryRedirect)
	})
	for name, c := range map[string]struct{ server, code, says string }{
		"no address":     {"lab.example", tunnel.CodeAddress, "is not the address of a studio"},
		"other scheme":   {"ws://lab.example", tunnel.CodeAddress, "is not the address of a studio"},
		"no name":        {"http://nowhere.invalid", tunnel.CodeAddress, "can't be looked up"},
		"nobody listens": {"http://127.0.0.1:1", tunnel.CodeAddress, "Nothing listens at"},
		"something else": {other, tunnel.CodeNotStudio, "is not a ComfyuME studio"},
		"wrong path":     {lost, tunnel.CodeNotStudio, "is not a ComfyuME studio"},
		"studio is down": {behind, tunnel.CodeAddress, "does not reach it (502)"},
		"moved":          {moved, tunnel.CodeAddress, "leads on to another one, http://elsewhere.example"},
		"http for https": {strings.Replace(s.server.URL, "http:", "https:", 1), tunnel.CodeAddress, "speaks http and not https"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if code, text := join(t, c.server, nil, nil); code != c.code || !strings.Contains(text, c.says) {
				t.Errorf("%s: %s", code, text)
			}
		})
	}
}

// certified serves a hub with a certificate of its own authority, good in a span.
func certified(t *testing.T, s *studio, from, until time.Time) (address string, authority []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "studio"}, NotBefore: from, NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(s.hub)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	now := time.Now()
	good, authority := certified(t, s, now.Add(-time.Hour), now.Add(time.Hour))
	if code, text := join(t, good, nil, nil); code != tunnel.CodeCertificate || !strings.Contains(text, "does not trust") {
		t.Errorf("an authority that nobody trusts: %s: %s", code, text)
	}
	secure, err := tunnel.WithCA(authority)
	if err != nil {
		t.Fatal(err)
	}
	if code, text := join(t, good, secure, nil); code != "" {
		t.Errorf("an authority that is trusted: %s: %s", code, text)
	}
	if code, text := join(t, strings.Replace(good, "127.0.0.1", "localhost", 1), secure, nil); code != tunnel.CodeCertificate || !strings.Contains(text, "for another name") {
		t.Errorf("another name: %s: %s", code, text)
	}
	for says, span := range map[string][2]time.Time{
		"good from":  {now.Add(time.Hour), now.Add(2 * time.Hour)},
		"good until": {now.Add(-2 * time.Hour), now.Add(-time.Hour)},
	} {
		address, authority := certified(t, s, span[0], span[1])
		secure, err := tunnel.WithCA(authority)
		if err != nil {
			t.Fatal(err)
		}
		if code, text := join(t, address, secure, nil); code != tunnel.CodeClock || !strings.Contains(text, says) || !strings.Contains(text, "this machine's clock says") {
			t.Errorf("%s: %s", code, text)
		}
	}
	if _, err := tunnel.WithCA([]byte("no certificate")); !fault.Is(err, fault.Invalid) {
		t.Errorf("a file that holds none: %v", err)
	}
	h := s.home()
	h.Server, h.TLS = good, secure
	s.run(h)
	s.online("lab-1")
}

// forward is an HTTP proxy that wants a password and gives tunnels.
func forward(t *testing.T) (address *url.URL, tunnels func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	var flows sync.WaitGroup
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("ann:secret")) {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		up, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		n++
		mu.Unlock()
		io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
		flows.Go(func() { io.Copy(up, c); up.Close() })
		io.Copy(c, up)
		c.Close()
	}))
	t.Cleanup(func() { srv.Close(); flows.Wait() })
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("ann", "secret")
	return u, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// TestThroughAProxy goes through a proxy to http and https studios, and says which proxy does not lead there.
func TestThroughAProxy(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	now := time.Now()
	encrypted, authority := certified(t, s, now.Add(-time.Hour), now.Add(time.Hour))
	secure, err := tunnel.WithCA(authority)
	if err != nil {
		t.Fatal(err)
	}
	proxy, tunnels := forward(t)
	by := func(u *url.URL) func(*http.Request) (*url.URL, error) {
		return func(*http.Request) (*url.URL, error) { return u, nil }
	}
	for i, server := range []string{s.server.URL, encrypted} {
		h := s.home()
		h.Server, h.TLS, h.Proxy = server, secure, by(proxy)
		stop := s.run(h)
		s.online("lab-1")
		if n := tunnels(); n != i+1 {
			t.Errorf("%s: the proxy gave %d tunnels", server, n)
		}
		stop()
		s.offline("lab-1")
	}
	nobody, wrong := *proxy, *proxy
	nobody.User = nil
	wrong.Host = "127.0.0.1:1"
	for _, server := range []string{s.server.URL, encrypted} {
		for name, u := range map[string]*url.URL{"no password": &nobody, "nothing listens": &wrong} {
			if code, text := join(t, server, secure, by(u)); code != tunnel.CodeProxy || strings.Contains(text, "secret") {
				t.Errorf("%s, %s: %s: %s", server, name, code, text)
			}
		}
	}
	if code, text := join(t, "http://127.0.0.1:1", nil, by(proxy)); code != tunnel.CodeProxy || !strings.Contains(text, "502") || strings.Contains(text, "secret") {
		t.Errorf("a studio that the proxy does not reach: %s: %s", code, text)
	}
}

// connects returns the first trouble of an agent that tries to connect.
func connects(s *studio, h *tunnel.Home) error {
	s.Helper()
	var heard heardLog
	h.Log = heard.logger()
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	heard.until = cancel
	if err := h.Run(ctx); err != nil {
		return err
	}
	return heard.first()
}

func TestProxiesThatSpoilWebSockets(t *testing.T) {
	t.Parallel()
	drops := newStudio(t, func(hub http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Upgrade")
			r.Header.Del("Connection")
			hub.ServeHTTP(w, r)
		})
	})
	if err := connects(drops, drops.home()); codeOf(err) != tunnel.CodeUpgrade || !strings.Contains(err.Error(), "proxy_set_header Upgrade") {
		t.Errorf("a proxy that drops Upgrade: %v", err)
	}
	changes := newStudio(t, func(hub http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Sec-WebSocket-Key")
			hub.ServeHTTP(w, r)
		})
	})
	if err := connects(changes, changes.home()); codeOf(err) != tunnel.CodeUpgrade || !strings.Contains(err.Error(), "did not take the web socket") {
		t.Errorf("a proxy that drops Sec-WebSocket-Key: %v", err)
	}
	page := newStudio(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>sign in to the network</html>") })
	})
	if err := connects(page, page.home()); codeOf(err) != tunnel.CodeNotStudio {
		t.Errorf("a captive portal: %v", err)
	}
}

func TestOtherVersionsAndBadHellos(t *testing.T) {
	t.Parallel()
	s := newStudio(t, func(hub http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Test-Plain") == "" {
				r.Header.Set("Sec-WebSocket-Protocol", "comfyume.agent.99")
			}
			hub.ServeHTTP(w, r)
		})
	})
	err := s.home().Run(t.Context()) // it ends by itself: nothing is mended by trying again
	if codeOf(err) != tunnel.CodeVersion || !strings.Contains(err.Error(), "same version") {
		t.Errorf("another version: %v", err)
	}
	long := s.home()
	long.Hello.Machine = strings.Repeat("m", 200)
	if err := long.Run(t.Context()); codeOf(err) != tunnel.CodeHello || !strings.Contains(err.Error(), "machine is longer than") {
		t.Errorf("a long name: %v", err)
	}
	for _, hello := range []string{"", "!", base64.RawURLEncoding.EncodeToString([]byte(`{"version":"v1"}`)), strings.Repeat("A", 5000)} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.server.URL+tunnel.Base+"/connect", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Comfyume-Agent", hello)
		req.Header.Set("Authorization", "Bearer key-1")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), tunnel.CodeHello) {
			t.Errorf("hello %.20q gave %s: %s, %v", hello, resp.Status, body, err)
		}
	}
}

// TestTwoAgentsWithOneName: the one that lives keeps the name, and the other is told who has it; a newer line of the same
// process, or of another one when the older is dead, takes over.
func TestTwoAgentsWithOneName(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	first := s.home()
	first.Hello.Machine = "attic"
	stop := s.run(first)
	s.online("lab-1")
	second := s.home()
	second.Hello.Machine = "cellar"
	err := connects(s, second)
	if codeOf(err) != tunnel.CodeTaken || !strings.Contains(err.Error(), "attic") || !strings.Contains(err.Error(), "cellar") {
		t.Errorf("the second of one name: %v", err)
	}
	if p := s.hub.Agent("lab-1"); p.Hello.Machine != "attic" || !p.Online {
		t.Errorf("the first lost its place: %+v", p)
	}
	stop()
	s.offline("lab-1")
	s.run(second)
	s.online("lab-1")
	if p := s.hub.Agent("lab-1"); p.Hello.Machine != "cellar" {
		t.Errorf("the second has no line: %+v", p)
	}
}

// TestDeadLineMakesRoom: an agent whose machine was started anew does not wait until the studio notices the loss.
func TestDeadLineMakesRoom(t *testing.T) {
	t.Parallel()
	s := newStudio(t, nil)
	hole := newHole(t, s.server.Listener.Addr().String())
	first := s.home()
	first.Server, first.Hello.Machine = "http://"+hole.address, "before"
	s.run(first)
	s.online("lab-1")
	hole.swallow(true, true)
	second := s.home()
	second.Hello.Machine = "after"
	began := time.Now()
	s.run(second)
	for s.hub.Agent("lab-1").Hello.Machine != "after" {
		select {
		case <-s.comings:
		case <-time.After(10 * time.Second):
			t.Fatal("the second never came")
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the second came after %v", took)
	}
}

// TestLostLineIsNoticed by both ends within five seconds, whichever direction is lost.
func TestLostLineIsNoticed(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string][2]bool{"both": {true, true}, "from the agent": {true, false}, "to the agent": {false, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStudio(t, nil)
			hole := newHole(t, s.server.Listener.Addr().String())
			h := s.home()
			h.Server = "http://" + hole.address
			lines := make(chan bool, 10)
			h.Connected = func(on bool) { lines <- on }
			s.run(h)
			s.online("lab-1")
			if !<-lines {
				t.Fatal("not connected")
			}
			c := s.dial(tunnel.ComfyUI)
			began := time.Now()
			hole.swallow(lose[0], lose[1])
			read := make(chan error, 1)
			go func() {
				_, err := c.Read(make([]byte, 1))
				read <- err
			}()
			var here, there, stream time.Duration
			for here == 0 || there == 0 || stream == 0 {
				select {
				case <-lines:
					there = time.Since(began)
					lines = nil
				case <-s.comings:
					if !s.hub.Agent("lab-1").Online && here == 0 {
						here = time.Since(began)
					}
				case err := <-read:
					if stream = time.Since(began); err == nil {
						t.Error("a stream of a lost line gave something")
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("not noticed: studio %v, agent %v, stream %v", here, there, stream)
				}
			}
			t.Logf("noticed by the studio after %v, by the agent after %v, by a reader after %v", here, there, stream)
			if max(here, there, stream) > 5*time.Second {
				t.Errorf("noticed by the studio after %v, by the agent after %v, by a reader after %v", here, there, stream)
			}
		})
	}
}

// hole is a relay that can swallow what goes through it, as a network does that is gone: nothing is closed.
type hole struct {
	address string
	mu      sync.Mutex
	up      bool // from who dials
	down    bool
	conns   []net.Conn
}

func newHole(t *testing.T, to string) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{address: l.Addr().String()}
	var flows sync.WaitGroup
	flows.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			h.mu.Lock()
			h.conns = append(h.conns, c, far)
			h.mu.Unlock()
			flows.Go(func() { h.flow(far, c, &h.up) })
			flows.Go(func() { h.flow(c, far, &h.down) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		h.mu.Lock()
		for _, c := range h.conns {
			c.Close()
		}
		h.mu.Unlock()
		flows.Wait()
	})
	return h
}

func (h *hole) swallow(up, down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.up, h.down = up, down
}

func (h *hole) flow(to, from net.Conn, gone *bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		h.mu.Lock()
		lost := *gone
		h.mu.Unlock()
		if lost && err != nil {
			return // the end is lost too
		}
		if err != nil {
			to.Close()
			return
		}
		if !lost {
			if _, err := to.Write(buf[:n]); err != nil {
				from.Close()
				return
			}
		}
	}
}
