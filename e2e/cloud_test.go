package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/sim/fleet"
)

// cloud is a simulated serverless endpoint, as a process with processes of its own.
type cloud struct {
	*process
	url, control string
	shared       string // folder of outputs and inputs that its replicas share
}

// startCloud starts an endpoint.
func startCloud(t *testing.T, s *studio, name string, args ...string) *cloud {
	t.Helper()
	c := &cloud{shared: filepath.Join(s.dir, name)}
	for _, dir := range []string{"outputs", "inputs"} {
		if err := os.MkdirAll(filepath.Join(c.shared, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	listen, control := freeAddr(t), freeAddr(t)
	c.url, c.control = "http://"+listen, "http://"+control
	all := append([]string{"sim", "fleet", "--listen", listen, "--control", control, "--sim=--probe-nodes"}, args...)
	if i := slices.Index(args, "--deployment"); i >= 0 {
		c.url += "/" + args[i+1]
	}
	c.process = newProcess(t, s, name, all)
	c.gentle = true // killed, it would leave its replicas behind
	c.start(t)
	waitOK(t, c.process, c.control+"/counters")
	return c
}

// plain is the YAML of a back end of plain ComfyUI servers.
func (c *cloud) plain(name string, parallel int) string {
	return fmt.Sprintf("  - {name: %s, driver: serverless, mode: plain, url: %q, max_parallel: %d, storage: \"file://%s/outputs?inputs=%s/inputs\"}\n",
		name, c.url, parallel, c.shared, c.shared)
}

// oneRequest is the YAML of a back end whose containers have an agent.
func (c *cloud) oneRequest(name, mode string, parallel int) string {
	return fmt.Sprintf("  - {name: %s, driver: serverless, mode: %s, url: %q, max_parallel: %d}\n", name, mode, c.url, parallel)
}

// order has trouble made, or asks.
func (c *cloud) order(t *testing.T, method, path, body string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.control+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s of the simulated fleet: %d %s %v", method, path, resp.StatusCode, raw, err)
	}
	return raw
}

func (c *cloud) counters(t *testing.T) (n fleet.Counters) {
	t.Helper()
	if err := json.Unmarshal(c.order(t, http.MethodGet, "/counters", ""), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// until waits for what has to come.
func until(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("there was no %s within %v", what, limit)
		}
	}
}
