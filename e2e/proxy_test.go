package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nginx starts Debian's nginx with one server block and returns its address.
func nginx(t *testing.T, block string) string {
	t.Helper()
	bin, err := exec.LookPath("nginx")
	if err != nil {
		bin = "/usr/sbin/nginx"
	}
	if _, err := os.Stat(bin); err != nil {
		t.Skip("no nginx on this machine; `make test` installs Debian's where it may")
	}
	addr, dir := freeAddr(t), t.TempDir()
	// Workers run as another user when nginx is started by root: let them reach their folders.
	conf := fmt.Sprintf(`pid %[1]s/nginx.pid; error_log stderr warn; worker_processes 1; daemon off; user root;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  server { listen %[2]s; %[3]s }
}`, dir, addr, block)
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

// goodBlock is the tried block of the README: the raw path goes through, sockets are upgraded.
const goodBlock = `
    location /studio/ {
      proxy_pass http://%s;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_request_buffering off;
      proxy_buffering off;
      proxy_read_timeout 60s;
      client_max_body_size %s;
    }
    location = /studio { return 308 /studio/; }`

// TestBehindNginx uses the studio under a path prefix, behind the block that the README shows.
func TestBehindNginx(t *testing.T) {
	const version = "1.58.1"
	s, addr := behindNginx(t, version, func(host string) string { return fmt.Sprintf(goodBlock, host, "0") })
	b := startBrowser(t)
	p := b.profile(t)
	// The editor asks for the small pictures of the browser's tab at the root of the site, wherever it lives itself.
	// There is somebody else there.
	p.allow = []string{"404 http://" + addr + "/assets/images/favicon_progress_16x16/", "404 http://" + addr + "/assets/favicon.ico"}
	e := openEditor(t, p, s.prefixLink(t, "ann", addr), version)
	firstRun(t, e)
	saveAndReopen(t, e)
	uploadAndUse(t, e)
}

// TestBehindDecodingNginx has a proxy that decodes the path: saving can't work, and the answer says why.
func TestBehindDecodingNginx(t *testing.T) {
	s, addr := behindNginx(t, "", func(host string) string {
		return strings.Replace(fmt.Sprintf(goodBlock, host, "0"), "proxy_pass http://"+host+";", "proxy_pass http://"+host+"/;", 1)
	})
	body := askAs(t, s, "ann", http.MethodPost, "http://"+addr+"/studio/api/userdata/workflows%2Fa.json?overwrite=true&full_info=true", "{}", http.StatusBadRequest)
	for _, word := range []string{"proxy", "%2F"} {
		if !strings.Contains(body, word) {
			t.Errorf("the answer does not name the cause (%q): %s", word, body)
		}
	}
}

// TestBehindNginxBodyLimit has a proxy that takes 1 MB: small things work, a large upload is the proxy's 413.
func TestBehindNginxBodyLimit(t *testing.T) {
	s, addr := behindNginx(t, "", func(host string) string { return fmt.Sprintf(goodBlock, host, "1m") })
	base := "http://" + addr + "/studio"
	askAs(t, s, "ann", http.MethodPost, base+"/api/userdata/workflows%2Fa.json?overwrite=true&full_info=true", "{}", http.StatusOK)
	askAs(t, s, "ann", http.MethodPost, base+"/api/userdata/workflows%2Fb.json", strings.Repeat(" ", 2<<20), http.StatusRequestEntityTooLarge)
	askAs(t, s, "ann", http.MethodGet, base+"/api/userdata?dir=workflows", "", http.StatusOK)
}

// behindNginx starts a studio and an nginx in front of it at /studio/.
func behindNginx(t *testing.T, frontend string, block func(host string) string) (*studio, string) {
	t.Helper()
	host := freeAddr(t)
	addr := nginx(t, block(host))
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
		t.Errorf("%s %s: %d, want %d: %s", method, url, resp.StatusCode, want, tail(raw, 300))
	}
	return string(raw)
}
