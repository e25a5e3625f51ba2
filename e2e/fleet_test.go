package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// fleetSize says how many jobs go to how many replicas; COMFYUME_FLEET is the number of jobs (`make fleet`).
func fleetSize(t *testing.T) (replicas, jobs int) {
	t.Helper()
	text := os.Getenv("COMFYUME_FLEET")
	if text == "" {
		return 5, 60
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 20 {
		t.Fatalf("COMFYUME_FLEET is %q, want a number from 20", text)
	}
	return 20, n
}

// TestFleet has people work at an endpoint of many replicas behind a balancer without affinity. Every job has to be
// completed, with its own outputs, and to have run once: with an agent in each container, at once or by the provider's
// queue, and with plain ComfyUI servers that share a folder.
func TestFleet(t *testing.T) {
	for _, mode := range []struct {
		name string
		args []string // of the simulated fleet
	}{
		{"agent", []string{"--agent"}},
		{"async", []string{"--agent", "--deployment", "flux"}},
		{"plain", []string{"--free-sockets"}},
	} {
		t.Run(mode.name, func(t *testing.T) { fleetOf(t, mode.name, mode.args) })
	}
}

func fleetOf(t *testing.T, mode string, args []string) {
	replicas, jobs := fleetSize(t)
	people := names(max(4, replicas/2))
	var c *cloud
	s := startStudio(t, studioOptions{people: people, backEnds: -1, config: "queue: {mode: round_robin}\n", prepare: func(s *studio) {
		// Containers that share their folder of outputs would all number their files alike.
		c = startCloud(t, s, "cloud", append(args, "--replicas", fmt.Sprint(replicas), "--warm", fmt.Sprint(replicas), "--shared", s.dir+"/cloud")...)
		until(t, "fleet", time.Minute, func() bool { return c.counters(t).Replicas == replicas })
		s.extra = c.plain("cloud", replicas)
		if mode != "plain" {
			s.extra = c.oneRequest("cloud", mode, replicas)
		}
	}})
	began := time.Now()
	crowd := crowdOf(t, s, people)
	for _, l := range crowd.people {
		l.calm = true
	}
	crowd.start(t, jobs)
	sum := crowd.check(t)
	took := time.Since(began)
	n := c.counters(t)
	if sum.lostThrice > 0 || len(n.Doubles) > 0 || n.Runs != sum.jobs+sum.unasked {
		t.Errorf("%d jobs were not completed, %d runs were begun twice, and there were %d runs of %d jobs", sum.lostThrice, len(n.Doubles), n.Runs, sum.jobs)
	}
	t.Logf("mode %s, %d replicas: %v; %d runs in %v with %d requests", mode, replicas, sum, n.Runs, took.Round(time.Second), n.Requests)
}

// TestFleetTheOldWay measures what the studio is held against: a client that posts a prompt and then asks through the
// balancer, and gives up when it is told that nobody knows of it.
func TestFleetTheOldWay(t *testing.T) {
	replicas, jobs := fleetSize(t)
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	s := &studio{bin: bin, dir: t.TempDir()}
	c := startCloud(t, s, "cloud", "--replicas", fmt.Sprint(replicas), "--warm", fmt.Sprint(replicas))
	until(t, "fleet", time.Minute, func() bool { return c.counters(t).Replicas == replicas })
	var wg sync.WaitGroup
	var left, completed, brought atomic.Int64
	left.Store(int64(jobs))
	for range 10 {
		wg.Go(func() {
			o := &oldWay{base: c.url, http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
			for n := left.Add(-1); n >= 0; n = left.Add(-1) {
				found, file := o.run(t, int(n)+1)
				if found {
					completed.Add(1)
				}
				if file {
					brought.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if int(completed.Load()) == jobs {
		t.Error("every job was found: this balancer has affinity, and the tests of fleets prove nothing")
	}
	t.Logf("the old way, %d replicas: of %d jobs %d were found completed, and of %d the picture was had", replicas, jobs, completed.Load(), brought.Load())
}

// oldWay is a client as scripts around one ComfyUI have it.
type oldWay struct {
	base string
	http *http.Client
}

func (o *oldWay) get(path string, out any) error {
	resp, err := o.http.Get(o.base + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d", path, resp.StatusCode)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// run makes one picture, and reports whether its result and its file were found.
func (o *oldWay) run(t *testing.T, colour int) (found, file bool) {
	id := uuid.NewString()
	body, err := json.Marshal(map[string]any{"prompt": plain(colour), "prompt_id": id})
	if err != nil {
		t.Error(err)
		return false, false
	}
	resp, err := o.http.Post(o.base+"/prompt", "application/json", strings.NewReader(string(body)))
	if err != nil {
		return false, false
	}
	resp.Body.Close()
	for resp.StatusCode == http.StatusOK {
		var history map[string]finished
		if err := o.get("/history/"+id, &history); err != nil {
			return false, false
		}
		if e, ok := history[id]; ok {
			for _, n := range e.Outputs {
				for _, f := range n.Images {
					return true, o.get(fileRef(f).view(), nil) == nil
				}
			}
			return true, false
		}
		var queue map[string]json.RawMessage
		if err := o.get("/queue", &queue); err != nil {
			return false, false
		}
		if !strings.Contains(string(queue["queue_running"])+string(queue["queue_pending"]), id) {
			return false, false // nobody knows of it
		}
	}
	return false, false
}
