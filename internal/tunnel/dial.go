package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/fault"
)

// WithCA returns a TLS setting that trusts the authorities of a PEM file beside the system's: the studio's own, which
// its sign-in page gives.
func WithCA(pem []byte) (*tls.Config, error) {
	pool, err := x509.SystemCertPool()
	if err != nil { // a system without authorities
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fault.New(fault.Invalid, "The file of the studio's authority holds no certificate.").
			WithRemedy("Give the file that the studio's sign-in page offers; it begins with -----BEGIN CERTIFICATE-----.")
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}

// ThisMachine returns what Hello says of the machine that the program runs on.
func ThisMachine(version, host string) Hello {
	return Hello{Version: version, Machine: host, OS: runtime.GOOS + "/" + runtime.GOARCH}
}

// dialer reaches a studio.
type dialer struct {
	base    *url.URL
	proxied func(*http.Request) (*url.URL, error)
	through *http.Transport
}

func newDialer(server string, secure *tls.Config, proxy func(*http.Request) (*url.URL, error)) (*dialer, error) {
	base, err := url.Parse(strings.TrimRight(strings.TrimSpace(server), "/"))
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" || base.RawQuery != "" || base.User != nil {
		return nil, fault.New(fault.Invalid, "%q is not the address of a studio.", bare(server)).WithCode(CodeAddress).
			WithRemedy("Write it as people type it, such as https://lab.example or https://lab.example/studio.")
	}
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	d := &dialer{base: base, proxied: proxy}
	d.through = &http.Transport{
		Proxy: d.proxyFor, DialContext: d.dial, TLSClientConfig: secure,
		TLSHandshakeTimeout: greetWithin, ResponseHeaderTimeout: greetWithin, DisableKeepAlives: true,
		MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: false, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	return d, nil
}

// tunnelled reports whether we ask the proxy for a tunnel ourselves: to an http address http.Transport would send it the
// request itself, and web sockets get lost there (RFC 6455, 4.1 wants a tunnel too).
func (d *dialer) tunnelled(proxy *url.URL) bool {
	return proxy != nil && d.base.Scheme == "http" && (proxy.Scheme == "http" || proxy.Scheme == "https")
}

func (d *dialer) proxyFor(r *http.Request) (*url.URL, error) {
	proxy, err := d.proxied(r)
	if err != nil || d.tunnelled(proxy) {
		return nil, err
	}
	return proxy, nil
}

// dial opens a connection, through the proxy where that is ours to do.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	plain := net.Dialer{Timeout: greetWithin}
	proxy, err := d.proxied(&http.Request{URL: d.base})
	if err != nil || !d.tunnelled(proxy) {
		return plain.DialContext(ctx, network, address)
	}
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	}
	conn, err := plain.DialContext(ctx, network, net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, proxyTrouble(proxy, err.Error(), err)
	}
	if proxy.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: proxy.Hostname()})
	}
	if err := ask(ctx, conn, proxy, address); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// ask asks a proxy for a tunnel to address.
func ask(ctx context.Context, conn net.Conn, proxy *url.URL, address string) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() }) //nolint:errcheck // it ends the exchange
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(greetWithin)); err != nil {
		return err
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return proxyTrouble(proxy, err.Error(), err)
	}
	// One byte at a time: what follows the head is the studio's.
	resp, err := http.ReadResponse(bufio.NewReaderSize(io.LimitReader(single{conn}, maxAnswer), 16), req)
	if err != nil {
		return proxyTrouble(proxy, err.Error(), err)
	}
	if resp.StatusCode != http.StatusOK {
		return proxyTrouble(proxy, "it answered "+resp.Status, nil)
	}
	return conn.SetDeadline(time.Time{})
}

// single reads one byte at a time.
type single struct{ io.Reader }

func (s single) Read(p []byte) (int, error) { return s.Reader.Read(p[:min(len(p), 1)]) }

// address of a route, with the scheme as it is.
func (d *dialer) address(route string) string { return d.base.String() + Base + route }

// close gives back what the dialer holds.
func (d *dialer) close() { d.through.CloseIdleConnections() }

// upgrade keeps hold of the connection below a WebSocket.
type upgrade struct {
	*http.Transport
	held *held
}

func (u *upgrade) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := u.Transport.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		if rwc, ok := resp.Body.(io.ReadWriteCloser); ok {
			u.held = newHeld(rwc)
			resp.Body = u.held
		}
	}
	return resp, err
}

// connect opens the line. clock is how far the studio's clock is ahead of this one.
func (d *dialer) connect(ctx context.Context, key string, hello Hello) (l *line, clock time.Duration, err error) {
	defer d.close()
	greeting, cancel := context.WithTimeoutCause(ctx, 2*greetWithin, errSlow)
	defer cancel()
	below := &upgrade{Transport: d.through}
	sent := time.Now()
	socket, resp, err := websocket.Dial(greeting, d.address("/connect"), &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: below, CheckRedirect: follow},
		HTTPHeader:   http.Header{"Authorization": {"Bearer " + key}, headerHello: {hello.encode()}, "User-Agent": {"comfyume/" + hello.Version}},
		Subprotocols: []string{protocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if cause := context.Cause(greeting); cause != nil && ctx.Err() == nil {
			err = errors.Join(cause, err)
		}
		return nil, 0, d.trouble(resp, err)
	}
	if resp.Header.Get(headerStudio) == "" || below.held == nil || socket.Subprotocol() != protocol {
		socket.CloseNow() //nolint:errcheck // it is no line
		return nil, 0, d.notStudio("it took the web socket but does not speak with agents")
	}
	l, err = newLine(socket, below.held, true)
	return l, offset(resp, sent), err
}

var errSlow = errors.New("no answer within 20 seconds")

// follow follows redirects on the same host, such as from http to https. The key goes nowhere else.
func follow(r *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("the studio's address leads in a circle")
	}
	if r.URL.Hostname() != via[0].URL.Hostname() || (via[0].URL.Scheme == "https" && r.URL.Scheme != "https") {
		return elsewhere{r.URL}
	}
	return nil
}

// elsewhere is the error of a redirect to another host.
type elsewhere struct{ to *url.URL }

func (e elsewhere) Error() string {
	return "the address leads on to " + e.to.Scheme + "://" + e.to.Host
}

// offset is how far the clock of who answered is ahead of this one, by its Date header. Within two seconds: 0.
func offset(resp *http.Response, sent time.Time) time.Duration {
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0
	}
	now := time.Now()
	off := at.Sub(sent.Add(now.Sub(sent) / 2))
	if off.Abs() <= 2*time.Second { // the header counts in seconds
		return 0
	}
	return off
}

// Join uses a one-time code: the studio gives the agent its key. name is what the operator called the back end, for a
// check; empty: whatever the code is for. secure and proxy are as in Home.
func Join(ctx context.Context, server, code, name string, hello Hello, secure *tls.Config, proxy func(*http.Request) (*url.URL, error)) (Credentials, error) {
	d, err := newDialer(server, secure, proxy)
	if err != nil {
		return Credentials{}, err
	}
	defer d.close()
	hello.Instance, hello.Time = "join", time.Now()
	body, err := json.Marshal(joinRequest{Code: code, Name: name, Hello: hello})
	if err != nil {
		return Credentials{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*greetWithin, errSlow)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.address("/join"), bytes.NewReader(body))
	if err != nil {
		return Credentials{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: d.through, CheckRedirect: follow}
	resp, err := client.Do(req)
	if err != nil {
		return Credentials{}, d.trouble(nil, err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	if resp.StatusCode != http.StatusOK {
		return Credentials{}, d.trouble(resp, fmt.Errorf("it answered %s", resp.Status))
	}
	var c Credentials
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&c); err != nil || c.Key == "" || c.Name == "" {
		return Credentials{}, d.notStudio("its answer to the code can't be read")
	}
	return c, nil
}

// joinRequest is the body of POST join.
type joinRequest struct {
	Code  string `json:"code"`
	Name  string `json:"name,omitempty"`
	Hello Hello  `json:"hello"`
}
