package app_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/agent/modelstore"
	"github.com/ahelme/comfyume/internal/agent/nodepacks"
	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/sim"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// TestMachinesOfAgents: an operator adds a back end that dials home, has a model brought to it over its line with
// progress, people see it at once, and what its machine does not allow is refused with its own words.
func TestMachinesOfAgents(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	comfy, err := sim.NewComfyUI(sim.Options{Base: base, Probes: true})
	ok(t, err)
	mux := http.NewServeMux()
	mux.Handle("/", comfy.Handler())
	mux.HandleFunc("GET /models/loras", func(w http.ResponseWriter, _ *http.Request) { // the simulator reads models at its start only
		names := []string{}
		files, err := filepath.Glob(filepath.Join(base, "loras", "[^.]*"))
		if err != nil {
			t.Error(err)
		}
		for _, f := range files {
			names = append(names, filepath.Base(f))
		}
		if err := json.NewEncoder(w).Encode(names); err != nil {
			t.Error(err)
		}
	})
	beside := httptest.NewServer(mux)
	t.Cleanup(func() {
		beside.Close()
		ok(t, comfy.Close())
	})
	content := []byte(strings.Repeat("weights ", 1<<17))
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(content) }))
	t.Cleanup(host.Close)
	sum := sha256.Sum256(content)

	models := modelstore.New(modelstore.Options{Folders: func() (map[string][]string, error) {
		return map[string][]string{"loras": {filepath.Join(base, "loras")}}, nil
	}})
	nodes := nodepacks.New(nodepacks.Options{Dir: t.TempDir(), State: t.TempDir()})
	control := http.NewServeMux()
	control.Handle("/models", models.Handler())
	control.Handle("/models/", models.Handler())
	control.Handle("/nodes", nodes.Handler())
	control.Handle("/nodes/", nodes.Handler())

	o := options(t, map[string]string{"limits.keep_free": "1MB"})
	bySocket(t, o, func(s *app.Studio, c *client.Client) {
		_, err := c.AddBackEnd(t.Context(), api.NewBackEnd{Name: "lab", Driver: "agent"})
		ok(t, err)
		if tested, err := c.TestBackEnd(t.Context(), "lab", true); err != nil || tested.OK || !strings.Contains(tested.Steps[0].Remedy, "backend join lab") {
			t.Errorf("before it joined: %+v, %v", tested.Steps, err)
		}
		code, err := c.NewAgentCode(t.Context(), "lab", time.Hour)
		ok(t, err)
		keys, err := tunnel.Join(t.Context(), s.Address(), code.Code, "", tunnel.Hello{Version: "test"}, nil, nil)
		ok(t, err)
		up := make(chan bool, 10)
		home := &tunnel.Home{
			Server: s.Address(), Key: keys.Key, Hello: tunnel.Hello{Version: "test"}, Control: control, Connected: func(is bool) { up <- is },
			ComfyUI: func(ctx context.Context) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", beside.Listener.Addr().String())
			},
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- home.Run(ctx) }()
		defer func() {
			stop()
			<-ended
		}()
		for there := false; !there; {
			select {
			case there = <-up:
			case err := <-ended:
				t.Fatal("the agent ended: ", err)
			}
		}
		tested, err := c.TestBackEnd(t.Context(), "lab", true)
		for err == nil && strings.Contains(tested.Steps[0].Text, "has not dialled home") { // the agent knows of its line a moment before the studio
			tested, err = c.TestBackEnd(t.Context(), "lab", true)
		}
		ok(t, err)
		if want := []string{"address", "stats", "nodes", "input", "run", "result", "afterwards"}; !tested.OK || !slices.Equal(stepsOf(tested), want) {
			t.Errorf("tested: %+v", tested.Steps)
		}

		var states []string
		n := api.NewModel{Folder: "loras", URL: host.URL + "/new.safetensors", SHA256: hex.EncodeToString(sum[:])}
		m, err := c.GetModel(t.Context(), "lab", n, func(e report.Event) { states = append(states, e.State) })
		if err != nil || m.Size != int64(len(content)) || !slices.Contains(states, "fetching") {
			t.Errorf("brought: %+v, %v, told %v", m, err, states)
		}
		list, err := c.Models(t.Context(), "lab", true, nil)
		if err != nil || len(list) != 1 || list[0].SHA256 != n.SHA256 {
			t.Errorf("listed: %+v, %v", list, err)
		}
		made, err := c.NewToken(t.Context(), "ann", api.NewToken{})
		ok(t, err)
		sees := func() string {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Address()+"/models/loras", nil)
			ok(t, err)
			req.Header.Set("Authorization", "Bearer "+made.Secret)
			res, err := http.DefaultClient.Do(req)
			ok(t, err)
			defer res.Body.Close()
			text := make([]byte, 1<<16)
			k, _ := res.Body.Read(text)
			return string(text[:k])
		}
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(sees(), "new.safetensors"); <-tick.C {
			if time.Now().After(deadline) {
				t.Fatalf("people do not see the new model: %s", sees())
			}
		}
		n.Folder = "../etc"
		if _, err := c.GetModel(t.Context(), "lab", n, nil); !fault.Is(err, fault.Invalid) || !strings.Contains(fmt.Sprint(err), "loras") {
			t.Errorf("into no model folder: %v", err)
		}
		if _, err := c.ChangeNodes(t.Context(), "lab", "install", api.NodeChange{URL: "https://h.invalid/x/Pack", Commit: strings.Repeat("a", 40)}, nil); !fault.Is(err, fault.Denied) {
			t.Errorf("custom nodes without leave of the machine's owner: %v", err)
		}
		if packs, err := c.NodePacks(t.Context(), "lab"); err != nil || len(packs) != 0 {
			t.Errorf("packs: %+v, %v", packs, err)
		}
		_, err = c.RemoveModel(t.Context(), "lab", "loras", "new.safetensors")
		ok(t, err)
		ok(t, c.RemoveBackEnd(t.Context(), "lab", true))
		if agents, err := c.Agents(t.Context()); err != nil || len(agents) != 0 {
			t.Errorf("the key of a back end that is gone still opens: %+v, %v", agents, err)
		}
	})
}
