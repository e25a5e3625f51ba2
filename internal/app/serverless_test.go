package app_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// containerOf serves an agent beside a simulated ComfyUI, as an endpoint of one container. What its provider's queue
// would do, it does not: mode async falls back to the answer at once.
func containerOf(t *testing.T) string {
	t.Helper()
	driver, err := comfyui.New(simulated(t), comfyui.Options{Studio: "agent"})
	ok(t, err)
	jobs := oneshot.Handler(driver, oneshot.HandlerOptions{Version: "test", Dir: t.TempDir()})
	srv := httptest.NewServer(jobs)
	t.Cleanup(func() {
		ok(t, jobs.Close())
		srv.CloseClientConnections()
		srv.Close()
		ok(t, driver.Close())
	})
	return srv.URL
}

// TestServerlessBackEnds runs people's jobs in containers of both modes, each of which calls back at the studio's public
// address, and tries that address with wrong tokens and as other people.
func TestServerlessBackEnds(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var studio *url.URL
	told := map[string]int{} // answers to call-backs, by status
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			mu.Lock()
			defer mu.Unlock()
			p.SetURL(studio)
			p.Out.Host = p.In.Host
		},
		ModifyResponse: func(r *http.Response) error {
			mu.Lock()
			defer mu.Unlock()
			told[r.Status]++
			return nil
		},
	}
	public := httptest.NewServer(proxy)
	defer public.Close()
	o := options(t, map[string]string{"limits.keep_free": "1MB", "queue_api": "127.0.0.1:0", "public_url": public.URL})
	o.Settings.Users = []config.User{
		{Name: "ann", Role: "participant", Group: "class-a"}, {Name: "ben", Role: "participant", Group: "class-b"},
	}
	o.Settings.Backends = []config.Back{
		{Name: "open", Driver: "serverless", URL: containerOf(t), Mode: "agent", MaxParallel: 2, Groups: []string{"class-a"}},
		{Name: "later", Driver: "serverless", URL: containerOf(t), Mode: "async", MaxParallel: 2, Groups: []string{"class-b"}},
	}
	ok(t, run(t, o, func(s *app.Studio) {
		address, err := url.Parse(s.Listens())
		ok(t, err)
		mu.Lock()
		studio = address
		mu.Unlock()
		path, err := app.SocketPath(o.Settings.Data, "")
		ok(t, err)
		c := client.Socket(path)
		defer c.Close()
		for _, u := range o.Settings.Users {
			ok(t, c.SetPassword(t.Context(), u.Name, passwordOf(u.Name)))
			_, err := c.TestBackEnd(t.Context(), map[string]string{"ann": "open", "ben": "later"}[u.Name], false)
			ok(t, err)
		}
		g := guide{t: t, base: "http://" + s.QueuePort()}
		for i, name := range []string{"ann", "ben"} {
			of := g.as(name)
			id := of.submit(1000*i, 10, "")
			job := of.become(id, "completed")
			if job["worker_id"] != map[string]string{"ann": "open", "ben": "later"}[name] {
				t.Errorf("%s's job ran on %v", name, job["worker_id"])
			}
		}
		mu.Lock()
		delete(told, "404 Not Found") // one that comes when the result is here finds nobody who waits
		if told["200 OK"] < 2 || len(told) != 1 {
			t.Errorf("call-backs: %v", told)
		}
		mu.Unlock()
		for what, header := range map[string]string{"nobody": "", "a wrong token": "Bearer x", "a person": "Basic YmVuOnRoZS1wYXNzd29yZC1vZi1iZW4="} {
			req, err := http.NewRequest("POST", s.Listens()+"/studio/agents/v1/runs/x/updates", strings.NewReader("x"))
			ok(t, err)
			if header != "" {
				req.Header.Set("Authorization", header)
			}
			res, err := http.DefaultTransport.RoundTrip(req)
			ok(t, err)
			body, err := io.ReadAll(res.Body)
			ok(t, err)
			res.Body.Close()
			if res.StatusCode != http.StatusForbidden {
				t.Errorf("%s: %s %s", what, res.Status, body)
			}
		}
	}))
}
