package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
)

// readme returns the README's block in this language, with the studio's address in place of the one it shows.
func readme(t *testing.T, language, upstream string) string {
	t.Helper()
	raw, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(raw), "```"+language+"\n")
	block, _, ended := strings.Cut(rest, "```")
	if !found || !ended || !strings.Contains(block, "127.0.0.1:8080") {
		t.Fatalf("README.md has no block in %s for a studio at 127.0.0.1:8080", language)
	}
	return strings.ReplaceAll(block, "127.0.0.1:8080", upstream)
}

// nginx starts Debian's nginx with the README's block, changed by edit, and returns its address.
func nginx(t *testing.T, upstream string, edit func(block string) string) string {
	t.Helper()
	bin, err := exec.LookPath("nginx")
	if err != nil {
		bin = "/usr/sbin/nginx"
	}
	if _, err := os.Stat(bin); err != nil {
		t.Skip("no nginx on this machine; `make test` installs Debian's where it may")
	}
	addr, dir := freeAddr(t), t.TempDir()
	shared, server, found := strings.Cut(edit(readme(t, "nginx", upstream)), "\n\n")
	if !found {
		t.Fatal("the README's block for nginx has no empty line between what belongs in http and in server")
	}
	// Workers run as another user when nginx is started by root: let them reach their folders.
	conf := fmt.Sprintf(`pid %[1]s/nginx.pid; error_log stderr warn; worker_processes 1; daemon off; user root;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  %[3]s
  server { listen %[2]s; %[4]s }
}`, dir, addr, shared, server)
	if os.Getuid() != 0 {
		conf = strings.Replace(conf, " user root;", "", 1)
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newProcess(t, &studio{bin: bin}, "nginx", []string{"-c", file, "-p", dir})
	p.start(t)
	waitAnswer(t, p, "http://"+addr+"/")
	return addr
}

// caddy starts Caddy with the README's block and returns its address.
func caddy(t *testing.T, upstream string) string {
	t.Helper()
	bin, err := exec.LookPath("caddy")
	if err != nil {
		t.Skip("no caddy on this machine; Debian's package of that name has it")
	}
	addr := freeAddr(t)
	block := readme(t, "caddyfile", upstream)
	if !strings.HasPrefix(block, "lab.example {") {
		t.Fatal("the README's block for Caddy is not for lab.example")
	}
	file := filepath.Join(t.TempDir(), "Caddyfile")
	text := "{\n\tadmin off\n\tauto_https off\n}\n" + strings.Replace(block, "lab.example", "http://"+addr, 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newProcess(t, &studio{bin: bin}, "caddy", []string{"run", "--config", file, "--adapter", "caddyfile"})
	p.start(t)
	waitAnswer(t, p, "http://"+addr+"/")
	return addr
}

// waitAnswer waits until the address answers anything.
func waitAnswer(t *testing.T, p *process, url string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if resp, err := http.Get(url); err == nil {
			resp.Body.Close()
			return
		}
		select {
		case <-p.done:
			t.Fatalf("%s ended", p.name)
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not answer", p.name)
}

// TestBehindProxy uses the studio under a path prefix, behind the proxies that the README shows.
func TestBehindProxy(t *testing.T) {
	const version = "1.58.1"
	for name, start := range map[string]func(t *testing.T, studio string) string{
		"nginx": func(t *testing.T, studio string) string { return nginx(t, studio, asItIs) },
		"caddy": caddy,
	} {
		t.Run(name, func(t *testing.T) {
			s, addr := behind(t, version, start)
			p := startBrowser(t).profile(t)
			// The editor asks for the small pictures of the browser's tab at the root of the site, wherever it lives itself.
			// There is somebody else there.
			p.allow = []string{"404 http://" + addr + "/assets/images/favicon_progress_16x16/", "404 http://" + addr + "/assets/favicon.ico"}
			e := openEditor(t, p, s.prefixLink(t, "ann", addr), version)
			firstRun(t, e)
			saveAndReopen(t, e)
			uploadAndUse(t, e)
			reloadMidRun(t, e)
			signOutBehind(t, e.page, "http://"+addr+"/studio")
		})
	}
}

// signOutBehind signs out through the pages' own links, and ends below the prefix.
func signOutBehind(t *testing.T, p *page, base string) {
	p.do(t, 30*time.Second, chromedp.Navigate(base+"/me"), chromedp.Click(`//a[contains(., "Sign out")]`),
		chromedp.Click(`//button[contains(., "Sign out")]`), chromedp.Click(`//a[contains(., "Sign in again")]`))
	p.until(t, 10*time.Second, "the sign-in page", `document.querySelector('input[name=password]')`)
	if got := js[string](t, p, `location.href`); got != base+"/signin" {
		t.Errorf("signing out leads to %s, want %s/signin", got, base)
	}
	p.clean(t)
}

func asItIs(block string) string { return block }

// TestBehindDecodingNginx has a proxy that decodes the path: saving can't work, and the answer says why.
func TestBehindDecodingNginx(t *testing.T) {
	for name, edit := range map[string]func(block string) string{
		"slash": func(block string) string {
			return regexp.MustCompile(`(proxy_pass [^;]*)`).ReplaceAllString(block, "$1/")
		},
		"rewrite": func(block string) string {
			return strings.Replace(block, "proxy_pass", "rewrite ^/studio(/.*)$ $1 break; proxy_pass", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, addr := behind(t, "", func(t *testing.T, studio string) string { return nginx(t, studio, edit) })
			body := askAs(t, s, "ann", http.MethodPost, "http://"+addr+"/studio/api/userdata/workflows%2Fa.json?overwrite=true&full_info=true", "{}", http.StatusBadRequest)
			for _, word := range []string{"proxy", "%2F"} {
				if !strings.Contains(body, word) {
					t.Errorf("the answer does not name the cause (%q): %s", word, body)
				}
			}
			log, err := os.ReadFile(s.server.log.Name())
			if err != nil || !strings.Contains(string(log), "a proxy in front decodes") {
				t.Errorf("the operator's log does not name the cause (%v)", err)
			}
		})
	}
}

// TestBehindNginxBodyLimit has a proxy that takes 1 MB: small things work, a large upload is the proxy's 413, and
// nothing of it is kept, whether its size is told before or not.
func TestBehindNginxBodyLimit(t *testing.T) {
	s, addr := behind(t, "", func(t *testing.T, studio string) string {
		return nginx(t, studio, func(block string) string {
			limited := strings.Replace(block, "client_max_body_size 0;", "client_max_body_size 1m;", 1)
			if limited == block {
				t.Fatal("the README's block for nginx says nothing of client_max_body_size")
			}
			return limited
		})
	})
	base, large := "http://"+addr+"/studio", strings.Repeat(" ", 2<<20)
	askAs(t, s, "ann", http.MethodPost, base+"/api/userdata/workflows%2Fa.json?overwrite=true&full_info=true", "{}", http.StatusOK)
	askAs(t, s, "ann", http.MethodPost, base+"/api/userdata/workflows%2Fb.json", large, http.StatusRequestEntityTooLarge)
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	if part, err := w.CreateFormFile("image", "large.png"); err != nil {
		t.Fatal(err)
	} else if _, err := io.WriteString(part, large); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	unsized := struct{ io.Reader }{&form} // sent in pieces
	req, err := http.NewRequest(http.MethodPost, base+"/upload/image", unsized)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", w.FormDataContentType())
	s.ask(t, "ann", req, http.StatusRequestEntityTooLarge)
	if list := askAs(t, s, "ann", http.MethodGet, base+"/api/userdata?dir=workflows", "", http.StatusOK); list != `["a.json"]` {
		t.Errorf("documents: %s, want a.json alone", list)
	}
	if list := askAs(t, s, "ann", http.MethodGet, base+"/internal/files/input", "", http.StatusOK); list != `[]` {
		t.Errorf("uploads: %s, want none", list)
	}
}

// TestBehindNginxIdle has a proxy that cuts idle sockets: one on which nothing is said stays open, because the studio
// pings. One to a server that does not is cut by the same proxy.
func TestBehindNginxIdle(t *testing.T) {
	const idle = 30 * time.Second // nginx's own is 60 s; pings go out every 25 s
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Errorf("accept the other socket: %v", err)
			return
		}
		_, _, _ = ws.Read(r.Context()) // until it is cut
	}))
	t.Cleanup(silent.Close)
	s, addr := behind(t, "", func(t *testing.T, studio string) string {
		return nginx(t, studio, func(block string) string {
			_, location, _ := strings.Cut(block, "\n\n")
			other := strings.NewReplacer("/studio", "/silent", studio, silent.Listener.Addr().String()).Replace(location)
			return fmt.Sprintf("proxy_read_timeout %[1]v; proxy_send_timeout %[1]v;\n%[2]s\n%[3]s", idle, block, other)
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), 4*idle)
	defer cancel()
	pings, ended := make(chan struct{}, 16), make(chan error, 1)
	ws, _, err := websocket.Dial(ctx, "ws://"+addr+"/studio/ws", &websocket.DialOptions{
		HTTPHeader:     http.Header{"Authorization": {"Bearer " + s.token(t, "ann")}},
		OnPingReceived: func(context.Context, []byte) bool { pings <- struct{}{}; return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := websocket.Dial(ctx, "ws://"+addr+"/silent/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	go func() {
		var err error
		for n := 0; err == nil; n++ {
			if n > 1 { // after the status that each begins with
				err = errors.New("it was told something: it is not idle")
				break
			}
			_, _, err = ws.Read(ctx)
		}
		ended <- err
	}()
	if _, _, err := other.Read(ctx); ctx.Err() != nil || time.Since(start) < idle-time.Second {
		t.Fatalf("the socket without pings ended after %v (%v), want it cut after %v", time.Since(start), err, idle)
	}
	for range 2 { // whatever their period, the proxy had its chance between them
		select {
		case <-pings:
		case err := <-ended:
			t.Fatalf("the idle socket ended after %v: %v", time.Since(start), err)
		}
	}
	if err := ws.Ping(ctx); err != nil {
		t.Errorf("the idle socket does not answer after %v: %v", time.Since(start), err)
	}
}

// behind starts a studio and a proxy in front of it at /studio/.
func behind(t *testing.T, frontend string, proxy func(t *testing.T, studio string) string) (*studio, string) {
	t.Helper()
	host := freeAddr(t)
	addr := proxy(t, host)
	s := startStudio(t, studioOptions{
		frontend: frontend, host: host,
		config: fmt.Sprintf("public_url: http://%s/studio\ntrusted_proxies: [127.0.0.1]\n", addr),
	})
	return s, addr
}

// prefixLink makes a sign-in link that goes through the proxy.
func (s *studio) prefixLink(t *testing.T, name, addr string) string {
	t.Helper()
	link := s.command(t, "user", "link", name)
	if !strings.HasPrefix(link, "http://"+addr+"/studio/link/") {
		t.Errorf("the link %s does not begin with the public address", link)
	}
	return link
}

// askAs makes one request with a personal token and checks its status.
func askAs(t *testing.T, s *studio, name, method, url, body string, want int) string {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return s.ask(t, name, req, want)
}

// ask makes a request with a personal token, checks its status and returns the body.
func (s *studio) ask(t *testing.T, name string, req *http.Request, want int) string {
	t.Helper()
	req.Header.Set("Authorization", "Bearer "+s.token(t, name))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != want {
		t.Errorf("%s %s: %d, want %d: %s", req.Method, req.URL, resp.StatusCode, want, tail(raw, 300))
	}
	return string(raw)
}
