package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// faults says how much is broken; COMFYUME_FAULTS overrides it (`make faults`).
func faults(t *testing.T) int {
	t.Helper()
	text := os.Getenv("COMFYUME_FAULTS")
	if text == "" {
		return 24
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("COMFYUME_FAULTS is %q, want a number from 1", text)
	}
	return n
}

// mixed is a studio of mixed GPU sources, and what can break of each.
type mixed struct {
	*studio
	plain  *cloud
	breaks []breakage
	wg     sync.WaitGroup
	folder sync.Mutex // held while the shared folder is away
}

// breakage is one kind of fault.
type breakage struct {
	name string
	do   func(t *testing.T)
}

// TestFaults breaks one thing after the other under load, every second job one: programs are killed, lines cut in each
// direction, answers truncated, requests refused. Every job has to be completed once, with its own outputs, and what
// became of each attempt has to be readable afterwards.
func TestFaults(t *testing.T) {
	n := faults(t)
	people := names(8)
	m := &mixed{}
	m.studio = startStudio(t, studioOptions{
		people: people, backEnds: -1, config: "queue: {mode: round_robin, max_running_per_user: 4}\n",
		prepare: func(s *studio) { m.studio = s; m.build(t) },
	})
	t.Cleanup(m.wg.Wait)
	crowd := crowdOf(t, m.studio, people)
	crowd.start(t, 2*n)
	began := time.Now()
	done := map[string]int{}
	for i := range n {
		until(t, "order", 5*time.Minute, func() bool { return crowd.left.Load() <= int64(2*(n-i)) })
		b := m.breaks[i%len(m.breaks)] // each as often
		if rand.IntN(2) == 0 {         // at any instant
			<-time.After(time.Duration(rand.IntN(50)) * time.Millisecond)
		}
		b.do(t)
		done[b.name]++
	}
	sum := crowd.check(t)
	for _, l := range crowd.people {
		m.checkAttempts(t, l)
	}
	for _, name := range slices.Sorted(maps.Keys(done)) {
		t.Logf("%4d times %s", done[name], name)
	}
	if sum.lostThrice > 0 {
		t.Errorf("%d jobs never came to their end", sum.lostThrice)
	}
	t.Logf("%d faults in %v; %v", n, time.Since(began).Round(time.Second), sum)
}

// build starts the GPU sources.
func (m *mixed) build(t *testing.T) {
	t.Helper()
	var yaml strings.Builder
	for i := range 2 {
		addr := freeAddr(t)
		p := newProcess(t, m.studio, fmt.Sprintf("gpu%d", i), []string{
			"sim", "comfyui", "--listen", addr, "--probe-nodes", "--base-directory", filepath.Join(m.dir, fmt.Sprintf("gpu%d", i)),
		})
		p.start(t)
		waitOK(t, p, "http://"+addr+"/system_stats")
		line := newCutter(t, addr)
		fmt.Fprintf(&yaml, "  - {name: gpu%d, driver: comfyui, url: \"http://%s\"}\n", i, line.host())
		m.breakComfyUI(p, line)
	}
	m.plain = startCloud(t, m.studio, "plain", "--replicas", "3", "--warm", "2", "--per-replica", "4", "--free-sockets",
		"--visible-after", "200ms", "--shared", filepath.Join(m.dir, "plain"))
	yaml.WriteString(m.plain.plain("plain", 3))
	m.breakPlain(t)
	m.extra = yaml.String()
}

// later does what takes a while beside.
func (m *mixed) later(f func()) { m.wg.Go(f) }

// breakComfyUI adds what can happen to a ComfyUI by its address.
func (m *mixed) breakComfyUI(p *process, line *cutter) {
	m.add("ComfyUI killed", func(t *testing.T) {
		p.kill()
		p.start(t)
	})
	m.add("line cut", func(*testing.T) { line.blink() })
	for name, way := range map[string][2]bool{"line deaf from the studio": {true, false}, "line deaf to the studio": {false, true}, "line deaf both ways": {true, true}} {
		m.add(name, func(*testing.T) {
			m.later(func() { line.deaf(way[0], way[1], time.Duration(500+rand.IntN(1000))*time.Millisecond) })
		})
	}
}

// breakPlain adds what can happen to plain ComfyUI behind a balancer.
func (m *mixed) breakPlain(t *testing.T) {
	t.Helper()
	c := m.plain
	for _, f := range []struct{ name, order string }{
		{"prompt refused by a busy balancer", `{"kind": "status", "method": "POST", "path": "/prompt", "status": 503}`},
		{"prompt refused with 429", `{"kind": "status", "method": "POST", "path": "/prompt", "status": 429, "times": 2}`},
		{"line cut while the prompt went up", `{"kind": "cut-request", "method": "POST", "path": "/prompt", "after": 100}`},
		{"line cut before the answer to the prompt", `{"kind": "cut-answer", "method": "POST", "path": "/prompt"}`},
		{"bad gateway for looks", `{"kind": "status", "path": "/history", "status": 502, "times": 10}`},
		{"truncated history", `{"kind": "truncate", "path": "/history/", "after": 200, "times": 5}`},
		{"slow loris", `{"kind": "slow", "path": "/history", "times": 3, "for": 2000000000}`},
		{"hanging balancer", `{"kind": "hang", "path": "/queue", "times": 3, "for": 2000000000}`},
		{"truncated file", `{"kind": "truncate", "path": "/view", "after": 50, "times": 3}`},
	} {
		m.add(f.name, func(t *testing.T) { c.order(t, "POST", "/faults", f.order) })
	}
	m.add("balancer swapped", func(t *testing.T) { c.order(t, "POST", "/cut", "") })
	m.add("balancer's lines deaf", func(t *testing.T) { c.order(t, "POST", "/deafen", `{"up": true, "down": true, "for": 1000000000}`) })
	m.add("shared folder gone for a while", func(t *testing.T) {
		m.later(func() {
			m.folder.Lock()
			defer m.folder.Unlock()
			hideFolder(t, filepath.Join(c.shared, "outputs"), time.Second)
		})
	})
	if faults(t) > 100 { // it takes a while until a run is given up that nobody knows any more
		m.add("spot machine taken back", func(t *testing.T) { c.order(t, "POST", "/lose", `{"replicas": 1}`) })
	}
}

func (m *mixed) add(name string, do func(t *testing.T)) {
	m.breaks = append(m.breaks, breakage{name, do})
}

// hideFolder takes a shared folder away as a network disk that is not mounted, and brings it back with what was
// written meanwhile.
func hideFolder(t *testing.T, dir string, d time.Duration) {
	away := dir + ".away"
	if err := os.Rename(dir, away); err != nil {
		t.Error(err)
		return
	}
	<-time.After(d)
	entries, _ := os.ReadDir(dir) // nobody may have written
	for _, e := range entries {
		if err := os.Rename(filepath.Join(dir, e.Name()), filepath.Join(away, e.Name())); err != nil {
			t.Error(err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if err := os.Rename(away, dir); err != nil {
		t.Error(err)
	}
}

// checkAttempts holds the log against a person's jobs: what became of each attempt but the last is told, with a reason.
func (m *mixed) checkAttempts(t *testing.T, l *loader) {
	t.Helper()
	f, err := os.Open(m.server.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct {
			Msg, User, Job, Reason, Backend string
			Attempt                         int
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.User != l.name || e.Msg != "a job is pending again" {
			continue
		}
		if e.Reason == "" || e.Job == "" || e.Backend == "" || e.Attempt == 0 {
			t.Errorf("an attempt ended without a cause: %s", lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		t.Error(err)
	}
}
