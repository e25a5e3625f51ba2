package app_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
)

// bySocket runs a studio with somebody's client of its control socket.
func bySocket(t *testing.T, o app.Options, fn func(*app.Studio, *client.Client)) {
	t.Helper()
	err := run(t, o, func(s *app.Studio) {
		path, err := app.SocketPath(o.Settings.Data, "")
		ok(t, err)
		c := client.Socket(path)
		defer c.Close()
		fn(s, c)
	})
	ok(t, err)
}

// inFolder asks a studio that does not run.
func inFolder(t *testing.T, o app.Options, fn func(*client.Client)) {
	t.Helper()
	h, closed, err := app.Open(t.Context(), o)
	ok(t, err)
	c := client.Handler(h)
	fn(c)
	c.Close()
	ok(t, closed())
}

func stepsOf(b api.BackEndTest) (names []string) {
	for _, s := range b.Steps {
		name := s.Name
		if !s.OK {
			name += " FAILED"
		}
		names = append(names, name)
	}
	return names
}

// TestBackEndsComeAndGo: an operator adds one while the studio runs, takes it out, and lets go of it; all of it holds
// over a restart, and works in a folder without server too.
func TestBackEndsComeAndGo(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]string{"limits.keep_free": "1MB"})
	o.Settings.Backends = []config.Back{{Name: "fixed", Driver: "comfyui", URL: simulated(t)}}
	gpu := simulated(t)
	state := func(c *client.Client, want ...string) {
		t.Helper()
		list, err := c.BackEnds(t.Context())
		ok(t, err)
		var got []string
		for _, b := range list {
			got = append(got, b.Name+" "+b.State)
		}
		if !slices.Equal(got, want) {
			t.Errorf("back ends %v, want %v", got, want)
		}
	}
	bySocket(t, o, func(s *app.Studio, c *client.Client) {
		_, err := c.AddGroup(t.Context(), "red", "")
		ok(t, err)
		_, err = c.AddBackEnd(t.Context(), api.NewBackEnd{Name: "late", URL: gpu, Groups: []string{"red"}, Price: 1.5})
		ok(t, err)
		tested, err := c.TestBackEnd(t.Context(), "late", true)
		ok(t, err)
		if want := []string{"address", "stats", "nodes", "input", "run", "result", "afterwards"}; !tested.OK || !slices.Equal(stepsOf(tested), want) || tested.Classes == 0 {
			t.Errorf("tested: %t, %+v", tested.OK, tested.Steps)
		}
		for what, n := range map[string]api.NewBackEnd{
			"name_taken": {Name: "late", URL: gpu}, "bad_backend": {Name: "Bad Name", URL: "nowhere", Driver: "magic"},
		} {
			if _, err := c.AddBackEnd(t.Context(), n); fault.KindOf(err) == fault.Internal || !strings.Contains(fmt.Sprintf("%#v", err), what) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := c.RemoveBackEnd(t.Context(), "fixed", true); !fault.Is(err, fault.Conflict) {
			t.Errorf("one of the settings is removed: %v", err)
		}
		_, err = c.MaintainBackEnd(t.Context(), "fixed", "New models are copied.", time.Hour)
		ok(t, err)
		state(c, "fixed drained", "late ready")
	})
	bySocket(t, o, func(_ *app.Studio, c *client.Client) {
		list, err := c.BackEnds(t.Context())
		ok(t, err)
		i := slices.IndexFunc(list, func(b api.BackEnd) bool { return b.Name == "fixed" })
		if why := list[i].Reason; !strings.Contains(why, "New models are copied. Until ") || list[i].Until == nil {
			t.Errorf("after a restart: %q until %v", why, list[i].Until)
		}
		_, err = c.TestBackEnd(t.Context(), "late", false)
		ok(t, err)
		state(c, "fixed drained", "late ready")
		_, err = c.DrainBackEnd(t.Context(), "fixed", false)
		ok(t, err)
		state(c, "fixed ready", "late ready")
	})
	inFolder(t, o, func(c *client.Client) {
		state(c, "fixed unknown", "late unknown")
		tested, err := c.TestBackEnd(t.Context(), "late", true)
		if err != nil || !tested.OK || tested.Classes == 0 {
			t.Errorf("tested without a server: %+v, %v", tested, err)
		}
		_, err = c.DrainBackEnd(t.Context(), "late", true)
		ok(t, err)
		ok(t, c.RemoveBackEnd(t.Context(), "late", false))
		if err := c.RemoveBackEnd(t.Context(), "late", false); !fault.Is(err, fault.Missing) {
			t.Errorf("removed twice: %v", err)
		}
		_, err = c.AddBackEnd(t.Context(), api.NewBackEnd{Name: "next", URL: gpu, Key: "env:NOT_SET_HERE"})
		ok(t, err)
		ok(t, c.RemoveBackEnd(t.Context(), "next", false))
		state(c, "fixed unknown")
	})
}

// TestTestTellsTroubleApart: each thing that can be wrong has its step, its cause and a remedy.
func TestTestTellsTroubleApart(t *testing.T) {
	t.Parallel()
	serve := func(h http.HandlerFunc) string {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		return srv.URL
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	secure := httptest.NewTLSServer(nil)
	t.Cleanup(secure.Close)
	o := options(t, nil)
	want := map[string]string{}
	for name, c := range map[string]struct{ url, step, says string }{
		"nobody":  {gone.URL, "address", "nothing listens"},
		"unknown": {"http://no-such-machine.invalid:1", "address", ""},
		"door":    {serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }), "key", "who asks"},
		"page":    {serve(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }), "comfyui", "no ComfyUI"},
		"old": {serve(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"system": {"comfyui_version": "0.2.0"}, "devices": []}`)
		}), "version", "too old"},
		"cert":  {secure.URL, "certificate", "authority"},
		"plain": {"https" + strings.TrimPrefix(serve(func(http.ResponseWriter, *http.Request) {}), "http"), "address", "without encryption"},
	} {
		o.Settings.Backends = append(o.Settings.Backends, config.Back{Name: name, Driver: "comfyui", URL: c.url})
		want[name] = c.step + "|" + c.says
	}
	inFolder(t, o, func(c *client.Client) {
		for name, w := range want {
			step, says, _ := strings.Cut(w, "|")
			got, err := c.TestBackEnd(t.Context(), name, true)
			ok(t, err)
			last := got.Steps[len(got.Steps)-1]
			if got.OK || last.OK || last.Name != step || !strings.Contains(last.Text, says) || last.Cause == "" || last.Remedy == "" {
				t.Errorf("%s: %+v", name, got.Steps)
			}
		}
	})
}

// TestWhatGroupsCanRun: people see the nodes and models of their group's back ends, what none of these can run is refused
// at once, and what lacks is on the operator's list, with who asked by group and count.
func TestWhatGroupsCanRun(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]string{"limits.keep_free": "1MB"})
	o.Settings.Backends = []config.Back{{Name: "gpu1", Driver: "comfyui", URL: simulated(t), Groups: []string{"red"}}}
	o.Settings.Users = []config.User{{Name: "ann", Role: "participant", Group: "red"}, {Name: "ben", Role: "participant", Group: "blue"}, {Name: "ivy", Role: "instructor", Group: "blue"}}
	bySocket(t, o, func(s *app.Studio, c *client.Client) {
		_, err := c.TestBackEnd(t.Context(), "gpu1", false)
		ok(t, err)
		tokens := map[string]string{}
		ask := func(who, method, path, body string) (int, string) {
			t.Helper()
			if tokens[who] == "" {
				made, err := c.NewToken(t.Context(), who, api.NewToken{})
				ok(t, err)
				tokens[who] = made.Secret
			}
			req, err := http.NewRequestWithContext(t.Context(), method, s.Address()+path, strings.NewReader(body))
			ok(t, err)
			req.Header.Set("Authorization", "Bearer "+tokens[who])
			res, err := http.DefaultClient.Do(req)
			ok(t, err)
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			ok(t, err)
			return res.StatusCode, string(text)
		}
		if code, text := ask("ben", "POST", "/prompt", `{"prompt": {"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}}`); code != 400 || !strings.Contains(text, "No GPU runs jobs of your group") {
			t.Errorf("of a group that no back end serves: %d %s", code, text)
		}
		if _, info := ask("ann", "GET", "/object_info", ""); !strings.Contains(info, "KSampler") {
			t.Errorf("ann sees %.100s", info)
		}
		if _, info := ask("ben", "GET", "/object_info", ""); info != "{}" {
			t.Errorf("ben sees %.100s", info)
		}
		graph := func(model string) string {
			return fmt.Sprintf(`{"prompt": {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": %q}},
				"2": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}}, "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
				"4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}}`, model)
		}
		for range 3 { // once counted: the same person asks for the same
			if code, text := ask("ann", "POST", "/prompt", graph("nobody-has.safetensors")); code != 400 || !strings.Contains(text, "value_not_in_list") || !strings.Contains(text, "nobody-has.safetensors") {
				t.Errorf("a model that nobody has: %d %s", code, text)
			}
		}
		if code, text := ask("ann", "POST", "/prompt", `{"prompt": {"1": {"class_type": "Nobody", "inputs": {"image": "ann-private.png"}}}}`); code != 400 || !strings.Contains(text, "Nobody") {
			t.Errorf("a node that nobody has: %d %s", code, text)
		}
		list, err := c.Requests(t.Context())
		ok(t, err)
		if len(list) != 2 || list[0].Name != "nobody-has.safetensors" || list[0].Folder != "checkpoints" || list[0].Count != 1 || list[0].Groups[0].Group != "red" ||
			list[1].Kind != "node" || list[1].Name != "Nobody" || strings.Contains(fmt.Sprint(list), "private") || strings.Contains(fmt.Sprint(list), "ann") {
			t.Errorf("requests %+v", list)
		}
		if code, text := ask("ivy", "GET", "/studio/api/v1/requests", ""); code != 200 || text != "[]\n" {
			t.Errorf("ivy of another group sees %d %s", code, text)
		}
		if code, _ := ask("ann", "GET", "/studio/api/v1/requests", ""); code != 403 {
			t.Errorf("ann sees the list: %d", code)
		}
		ok(t, c.DropRequest(t.Context(), "node", "", "Nobody"))
		if list, err = c.Requests(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("after one was dropped: %+v, %v", list, err)
		}
		// Ben's group gets a back end of its own while he waits.
		_, err = c.AddBackEnd(t.Context(), api.NewBackEnd{Name: "gpu2", URL: simulated(t), Groups: []string{"blue"}})
		ok(t, err)
		deadline := time.Now().Add(20 * time.Second)
		for info := "{}"; info == "{}"; _, info = ask("ben", "GET", "/object_info", "") {
			if time.Now().After(deadline) {
				t.Fatal("ben does not see what his back end can run")
			}
			_, err = c.TestBackEnd(t.Context(), "gpu2", false)
			ok(t, err)
		}
	})
}

// TestMachinesOfAgentsOnly: models and custom nodes beside a plain ComfyUI are not the studio's to change.
func TestMachinesOfAgentsOnly(t *testing.T) {
	t.Parallel()
	o := options(t, nil)
	o.Settings.Backends = []config.Back{{Name: "plain", Driver: "comfyui", URL: "http://127.0.0.1:1"}}
	inFolder(t, o, func(c *client.Client) {
		for what, err := range map[string]error{
			"list": second(c.Models(t.Context(), "plain", false, nil)), "remove": second(c.RemoveModel(t.Context(), "plain", "loras", "x")),
			"get":     second(c.GetModel(t.Context(), "plain", api.NewModel{Folder: "loras", URL: "https://h/x"}, nil)),
			"install": second(c.ChangeNodes(t.Context(), "plain", "install", api.NodeChange{URL: "https://h/x"}, nil)),
		} {
			if sentence, remedy := fault.Public(err); !strings.Contains(sentence, "no agent") || remedy == "" {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := c.NodePacks(t.Context(), "none"); !fault.Is(err, fault.Missing) {
			t.Errorf("of no back end: %v", err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// TestServersFollowOneAnother: a back end that is added, taken out or removed at one server of a studio is so at the
// others.
func TestServersFollowOneAnother(t *testing.T) {
	t.Parallel()
	flags := map[string]string{"data": filepath.Join(t.TempDir(), "data"), "store": startRedis(t)}
	gpu := simulated(t)
	bySocket(t, options(t, flags), func(_ *app.Studio, c *client.Client) {
		_, err := c.AddUser(t.Context(), api.NewUser{Name: "olu", Role: "operator"})
		ok(t, err)
		made, err := c.NewToken(t.Context(), "olu", api.NewToken{})
		ok(t, err)
		ok(t, run(t, options(t, flags), func(other *app.Studio) {
			there, err := client.Over(other.Address(), made.Secret)
			ok(t, err)
			defer there.Close()
			until := func(want string) {
				t.Helper()
				tick := time.NewTicker(50 * time.Millisecond)
				defer tick.Stop()
				got := ""
				for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
					list, err := there.BackEnds(t.Context())
					ok(t, err)
					if got = ""; len(list) > 0 {
						got = list[0].Name + " " + list[0].State
					}
					if got == want {
						return
					}
				}
				t.Fatalf("the other server has %q, want %q", got, want)
			}
			_, err = c.AddBackEnd(t.Context(), api.NewBackEnd{Name: "late", URL: gpu})
			ok(t, err)
			until("late ready")
			_, err = there.DrainBackEnd(t.Context(), "late", true)
			ok(t, err)
			until("late drained")
			ok(t, there.RemoveBackEnd(t.Context(), "late", true))
			if _, err := there.AddBackEnd(t.Context(), api.NewBackEnd{Name: "spy", URL: gpu, Key: "env:HOME"}); !fault.Is(err, fault.Denied) {
				t.Errorf("a key named from elsewhere: %v", err)
			}
			until("")
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
				if list, err := c.BackEnds(t.Context()); err == nil && len(list) == 0 {
					return
				} else if time.Now().After(deadline) {
					t.Fatalf("the first server still has %v, %v", list, err)
				}
			}
		}))
	})
}

// TestRemovedWhileItRuns: a back end that is removed at once has its run begin anew elsewhere, and nothing is lost; one
// that is not has it end first.
func TestRemovedWhileItRuns(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]string{"limits.keep_free": "1MB"})
	o.Settings.Backends = []config.Back{{Name: "fixed", Driver: "comfyui", URL: simulated(t)}}
	bySocket(t, o, func(s *app.Studio, c *client.Client) {
		_, err := c.AddBackEnd(t.Context(), api.NewBackEnd{Name: "late", URL: simulated(t)})
		ok(t, err)
		for _, name := range []string{"late", "fixed"} {
			_, err = c.TestBackEnd(t.Context(), name, false)
			ok(t, err)
		}
		_, err = c.DrainBackEnd(t.Context(), "fixed", true)
		ok(t, err)
		made, err := c.NewToken(t.Context(), "ann", api.NewToken{})
		ok(t, err)
		body := `{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 7}},
			"2": {"class_type": "ProbeSlow", "inputs": {"image": ["1", 0], "steps": 30, "seconds": 0.05, "preview": false}},
			"3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}}`
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Address()+"/prompt", strings.NewReader(body))
		ok(t, err)
		req.Header.Set("Authorization", "Bearer "+made.Secret)
		res, err := http.DefaultClient.Do(req)
		ok(t, err)
		text, err := io.ReadAll(res.Body)
		ok(t, errors.Join(err, res.Body.Close()))
		if res.StatusCode != 200 {
			t.Fatalf("%d %s", res.StatusCode, text)
		}
		until := func(what string, so func(api.Job) bool) api.Job {
			t.Helper()
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for deadline := time.Now().Add(30 * time.Second); ; <-tick.C {
				jobs, err := c.Jobs(t.Context(), client.JobFilter{})
				ok(t, err)
				if len(jobs.Jobs) == 1 && so(jobs.Jobs[0]) {
					return jobs.Jobs[0]
				}
				if time.Now().After(deadline) {
					t.Fatalf("it did not come to %s: %+v", what, jobs.Jobs)
				}
			}
		}
		until("a run", func(j api.Job) bool { return j.State == "running" && !j.Staged && j.BackEnd == "late" })
		if err := c.RemoveBackEnd(t.Context(), "late", false); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "runs 1 jobs") {
			t.Errorf("removed while it runs: %v", err)
		}
		_, err = c.DrainBackEnd(t.Context(), "fixed", false)
		ok(t, err)
		ok(t, c.RemoveBackEnd(t.Context(), "late", true))
		if j := until("an end", func(j api.Job) bool { return j.Finished != nil }); j.State != "completed" || j.BackEnd != "fixed" || j.Attempt != 2 {
			t.Errorf("the job ended as %+v", j)
		}
	})
}
