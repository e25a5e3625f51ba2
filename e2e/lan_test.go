package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// lan is a second host on this machine: a network namespace joined to ours by a cable.
type lan struct {
	namespace string
	ours      string // our address on the cable
}

// newLAN lays the cable, or skips where that takes rights that this user does not have.
func newLAN(t *testing.T) lan {
	t.Helper()
	l, why := layLAN(t)
	if why != "" {
		t.Skip(why)
	}
	return l
}

// layLAN lays the cable, or says why this machine can't.
func layLAN(t *testing.T) (l lan, why string) {
	t.Helper()
	if os.Getuid() != 0 {
		return l, "network namespaces need root"
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return l, "no `ip` on this machine; `make test` installs Debian's iproute2 where it may"
	}
	id := fmt.Sprintf("cme%d", os.Getpid()%100000)
	cable := fmt.Sprintf("10.213.%d.", os.Getpid()%250)
	l = lan{namespace: id, ours: cable + "1"}
	for _, args := range [][]string{
		{"netns", "add", id},
		{"link", "add", id + "a", "type", "veth", "peer", "name", id + "b", "netns", id},
		// No IPv6: an address that comes by itself a second later makes Chromium give up what it is loading.
		{"link", "set", id + "a", "addrgenmode", "none"},
		{"-n", id, "link", "set", id + "b", "addrgenmode", "none"},
		{"addr", "add", l.ours + "/24", "dev", id + "a"},
		{"link", "set", id + "a", "up"},
		{"-n", id, "addr", "add", cable + "2/24", "dev", id + "b"},
		{"-n", id, "link", "set", id + "b", "up"},
		{"-n", id, "link", "set", "lo", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			if args[0] == "netns" {
				return l, fmt.Sprintf("this machine makes no network namespaces: %s", out)
			}
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		if args[0] == "netns" {
			t.Cleanup(func() {
				if out, err := exec.Command("ip", "netns", "del", id).CombinedOutput(); err != nil {
					t.Logf("ip netns del: %v\n%s", err, out)
				}
			})
		}
	}
	return l, ""
}

// addr returns a free address on our end of the cable.
func (l lan) addr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", l.ours+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// browser starts Chromium on the other host.
func (l lan) browser(t *testing.T) *browser {
	t.Helper()
	script := filepath.Join(t.TempDir(), "chromium")
	text := fmt.Sprintf("#!/bin/sh\nexec ip netns exec %s %s \"$@\"\n", l.namespace, chromium(t))
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return startBrowserAt(t, script)
}

// TestOverTheNetwork uses the studio from another host, by http as the operator allowed it and by https with the
// studio's own authority. Without https a browser has no caches, and forgets nothing because a header says so: what
// the next person must not find is emptied by our page alone.
func TestOverTheNetwork(t *testing.T) {
	const version = "1.58.1"
	l := newLAN(t)
	b := l.browser(t)
	for name, config := range map[string]string{
		"http with insecure_lan": "insecure_lan: true\n",
		"https":                  "tls: {mode: self}\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := startStudio(t, studioOptions{frontend: version, host: l.addr(t), config: config})
			if s.scheme == "https" {
				t.Run("own authority", func(t *testing.T) { trustAuthority(t, s) })
			}
			t.Run("editor", func(t *testing.T) {
				e := openEditor(t, b.profile(t), s.link(t, "ann", s.host), version)
				if secure := js[bool](t, e.page, `window.isSecureContext`); secure != (s.scheme == "https") {
					t.Errorf("the page's context is secure: %t", secure)
				}
				firstRun(t, e)
				saveAndReopen(t, e)
				reloadMidRun(t, e)
			})
			t.Run("two people", func(t *testing.T) { shareBrowser(t, s, b, version, s.host) })
		})
	}
}

// trustAuthority takes the certificate that the sign-in page offers, and then trusts nothing else.
func trustAuthority(t *testing.T, s *studio) {
	get := func(c *http.Client, path string) string {
		t.Helper()
		resp, err := c.Get("https://" + s.host + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, resp.Status, err)
		}
		return string(body)
	}
	if !strings.Contains(get(s.client(), "/signin"), `"/signin/ca.crt"`) {
		t.Error("the sign-in page does not offer the certificate")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(get(s.client(), "/signin/ca.crt"))) {
		t.Fatal("what the sign-in page offers is no certificate")
	}
	strict := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer strict.CloseIdleConnections()
	get(&http.Client{Timeout: 10 * time.Second, Transport: strict}, "/healthz")
}

// TestRefusesOpenNetwork starts a server beyond loopback without TLS: it refuses and names both remedies.
func TestRefusesOpenNetwork(t *testing.T) {
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", "--data", t.TempDir(), "--listen", "0.0.0.0:0")
	done := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() }) // a server that does not refuse must not hang the test
	defer done.Stop()
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d, want 1", cmd.ProcessState.ExitCode())
	}
	for _, word := range []string{"tls", "insecure_lan"} {
		if !strings.Contains(string(out), word) {
			t.Errorf("the refusal does not name %s:\n%s", word, out)
		}
	}
}
