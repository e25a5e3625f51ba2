package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/bucket/buckettest"
)

// TestMixed has people work at every kind of GPU source at once: a ComfyUI by its address; an agent that dials home
// from a host that nobody can reach, where this machine can make one; serverless endpoints whose results come with the
// answer, through a shared folder, and through a bucket. Each has to do its part, and every job has to be completed
// with its own outputs.
func TestMixed(t *testing.T) {
	t.Setenv("CLOUD_KEY", "the-key-of-the-endpoints")
	t.Setenv("AWS_ACCESS_KEY_ID", buckettest.Key)
	t.Setenv("AWS_SECRET_ACCESS_KEY", buckettest.Secret)
	folder := filepath.Join(t.TempDir(), "handover")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	bucket := newCountedBucket(t)
	far := farHost(t)
	o := studioOptions{
		people: []string{"ann", "bob", "cyd", "dan", "eve", "fay"}, backEnds: 1, host: far.server,
		config: "insecure_lan: true\nqueue: {mode: round_robin, max_running_per_user: 8}\n",
		prepare: func(s *studio) {
			s.extra = "  - {name: lab, driver: agent}\n"
			for name, storage := range map[string]string{"wire": "", "folder": "file://" + folder, "bucket": bucket.Address("runs")} {
				c := startCloud(t, s, name, "--replicas", "2", "--warm", "2", "--agent", "--key", "env:CLOUD_KEY")
				s.extra += fmt.Sprintf("  - {name: %s, driver: serverless, url: %q, key: \"env:CLOUD_KEY\", max_parallel: 2, storage: %q}\n",
					name, c.url, storage)
			}
		},
	}
	s := startStudio(t, o)
	far.joins(t, s)

	people := crowdOf(t, s, o.people)
	for _, l := range people.people {
		l.calm = true
	}
	seen := watchFolder(t, folder)
	people.start(t, 150)
	sum := people.check(t)
	if sum.lostThrice > 0 {
		t.Errorf("%d jobs were not completed", sum.lostThrice)
	}
	ran := ranOn(t, s)
	t.Logf("%v; they ran on %v", sum, ran)
	for _, name := range []string{"gpu0", "lab", "wire", "folder", "bucket"} {
		if ran[name] == 0 {
			t.Errorf("%s ran nothing", name)
		}
	}
	if !seen() {
		t.Error("nothing was left in the shared folder")
	}
	if bucket.puts.Load() == 0 {
		t.Error("nothing was left in the bucket")
	}
}

// ranOn counts the completed jobs of each back end.
func ranOn(t *testing.T, s *studio) map[string]int {
	t.Helper()
	var list struct {
		Jobs []struct {
			Backend string `json:"backend"`
		} `json:"jobs"`
	}
	out := s.command(t, "job", "list", "--state", "completed", "--limit", "1000", "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	ran := map[string]int{}
	for _, j := range list.Jobs {
		ran[j.Backend]++
	}
	return ran
}

// host is where an agent is.
type host struct {
	server  string   // address that the studio has for it
	command []string // what runs a program there
}

// farHost returns a host behind a network of its own, from which it reaches the studio, and where nobody reaches it. Where
// this machine can't make one the agent is beside the studio.
func farHost(t *testing.T) host {
	t.Helper()
	l, why := layLAN(t)
	if why != "" {
		t.Log("the agent is on this host: ", why)
		return host{server: freeAddr(t)}
	}
	return host{server: l.addr(t), command: []string{"ip", "netns", "exec", l.namespace}}
}

// run starts a program there.
func (h host) run(t *testing.T, s *studio, name string, args ...string) *process {
	t.Helper()
	p := newProcess(t, s, name, args)
	p.args = append(h.command[:len(h.command):len(h.command)], p.args...)
	p.start(t)
	return p
}

// joins starts a ComfyUI there that only its own host can reach, and an agent beside it, and waits until it may work.
func (h host) joins(t *testing.T, s *studio) {
	t.Helper()
	comfy := freeAddr(t)
	h.run(t, s, "lab", "sim", "comfyui", "--listen", comfy, "--probe-nodes", "--base-directory", filepath.Join(s.dir, "lab"))
	code := s.command(t, "backend", "join", "lab")
	data := filepath.Join(s.dir, "agent")
	join := h.run(t, s, "join", "agent", "join", code, "--server", "http://"+s.host, "--data", data)
	select {
	case <-join.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the agent does not come to its end with joining")
	}
	h.run(t, s, "agent", "agent", "--server", "http://"+s.host, "--data", data, "--comfyui", "http://"+comfy)
	until(t, "agent at work", 30*time.Second, func() bool { return ready(t, s, "lab") })
	if len(h.command) > 0 {
		c := http.Client{Timeout: time.Second}
		if resp, err := c.Get("http://" + comfy + "/system_stats"); err == nil {
			resp.Body.Close()
			t.Error("the ComfyUI of the agent can be reached from here: the test proves nothing")
		}
	}
}

// ready reports whether a back end takes work.
func ready(t *testing.T, s *studio, name string) bool {
	t.Helper()
	var list []struct{ Name, State string }
	out := s.command(t, "backend", "list", "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, b := range list {
		if b.Name == name {
			return b.State == "ready"
		}
	}
	return false
}

// countedBucket is a simulated S3 server that counts what is left in it.
type countedBucket struct {
	*buckettest.Server
	puts atomic.Int64
	url  string
}

func newCountedBucket(t *testing.T) *countedBucket {
	b := &countedBucket{Server: buckettest.New(t)}
	to, err := url.Parse(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		if r.In.Method == http.MethodPut {
			b.puts.Add(1)
		}
		r.SetURL(to)
	}})
	t.Cleanup(front.Close)
	b.url = front.URL
	return b
}

// Address is that of the counting front.
func (b *countedBucket) Address(prefix string) string {
	return "s3://" + buckettest.Bucket + "/" + prefix + "?endpoint=" + url.QueryEscape(b.url)
}

// watchFolder looks until the test ends whether a run leaves files in a folder. The result says whether one did.
func watchFolder(t *testing.T, folder string) func() bool {
	t.Helper()
	var seen atomic.Bool
	tick := time.NewTicker(20 * time.Millisecond)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop); tick.Stop() })
	go func() {
		for !seen.Load() {
			select {
			case <-stop:
				return
			case <-tick.C:
				files, err := filepath.Glob(filepath.Join(folder, "*", "*"))
				deeper, err2 := filepath.Glob(filepath.Join(folder, "*", "*", "*"))
				seen.Store(err == nil && err2 == nil && len(files)+len(deeper) > 0)
			}
		}
	}()
	return seen.Load
}
