package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
		return 48
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
	cloud  *cloud
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
		people: people, backEnds: -1, config: "queue: {mode: round_robin, max_running_per_user: 4}\nlimits: {keep_free: 60MB}\n",
		prepare: func(s *studio) { m.studio = s; m.build(t) },
	})
	t.Cleanup(m.wg.Wait)
	for i := range 2 {
		m.joinLab(t, fmt.Sprintf("lab%d", i))
	}
	only := m.only(t)
	rand.Shuffle(len(m.breaks), func(i, j int) { m.breaks[i], m.breaks[j] = m.breaks[j], m.breaks[i] })
	crowd := crowdOf(t, m.studio, people)
	broken := &journal{}
	for _, l := range crowd.people {
		l.journal = broken
	}
	crowd.start(t, 2*n)
	began := time.Now()
	done := map[string]int{}
	for i := range n {
		until(t, "order", 5*time.Minute, func() bool { return crowd.left.Load() <= int64(2*(n-i)) })
		b := m.breaks[i%len(m.breaks)] // each as often
		if rand.IntN(2) == 0 {         // at any instant
			<-time.After(time.Duration(rand.IntN(50)) * time.Millisecond)
		}
		broken.note(b.name)
		b.do(t)
		done[b.name]++
	}
	sum := crowd.check(t)
	again, causes, ran := 0, map[string]int{}, map[string]int{}
	for _, l := range crowd.people {
		again += l.checkAttempts(t, causes, ran)
	}
	for _, name := range slices.Sorted(maps.Keys(done)) {
		t.Logf("%4d times %s", done[name], name)
	}
	if sum.lostThrice > 0 {
		t.Errorf("%d jobs never came to their end", sum.lostThrice)
		for _, l := range crowd.people {
			for _, id := range l.lost {
				t.Logf("%s: job %s never came to its end\n%s", l.name, id, l.story(id))
			}
		}
	}
	for _, name := range []string{"gpu0", "gpu1", "lab0", "lab1", "plain", "cloud"} {
		if ran[name] == 0 && !only {
			t.Errorf("%s ran nothing: its faults proved nothing", name)
		}
	}
	t.Logf("%d faults in %v; %v; %d more attempts, by causes %v; they ran on %v", n, time.Since(began).Round(time.Second), sum, again, causes, ran)
}

// only leaves the kinds of faults whose name matches COMFYUME_FAULTS_OF, to look closer at some (`make faults OF=killed`).
func (m *mixed) only(t *testing.T) bool {
	t.Helper()
	text := os.Getenv("COMFYUME_FAULTS_OF")
	if text == "" {
		return false
	}
	of, err := regexp.Compile(text)
	if err != nil {
		t.Fatalf("COMFYUME_FAULTS_OF: %v", err)
	}
	m.breaks = slices.DeleteFunc(m.breaks, func(b breakage) bool { return !of.MatchString(b.name) })
	if len(m.breaks) == 0 {
		t.Fatalf("COMFYUME_FAULTS_OF is %q, and no fault has such a name", text)
	}
	return true
}

// build starts the GPU sources.
func (m *mixed) build(t *testing.T) {
	t.Helper()
	var yaml strings.Builder
	for i := range 2 {
		addr, base := freeAddr(t), filepath.Join(m.dir, fmt.Sprintf("gpu%d", i))
		if i == 0 {
			m.breakDisk(t, "disk of a ComfyUI full", base)
		}
		p := newProcess(t, m.studio, fmt.Sprintf("gpu%d", i), []string{
			"sim", "comfyui", "--listen", addr, "--probe-nodes", "--base-directory", base,
		})
		p.start(t)
		waitOK(t, p, "http://"+addr+"/system_stats")
		line := newCutter(t, addr)
		fmt.Fprintf(&yaml, "  - {name: gpu%d, driver: comfyui, url: \"http://%s\"}\n", i, line.host())
		m.breakComfyUI(p, line)
	}
	m.plain = startCloud(t, m.studio, "plain", "--replicas", "3", "--warm", "2", "--per-replica", "4", "--free-sockets",
		"--visible-after", "200ms", "--shared", filepath.Join(m.dir, "plain"))
	// The slow ones go first, or the quick ones would leave them nothing.
	yaml.WriteString(strings.Replace(m.plain.plain("plain", 3), "}", ", prefer: 2}", 1))
	m.breakPlain(t)
	m.cloud = startCloud(t, m.studio, "cloud", "--replicas", "3", "--warm", "2", "--agent", "--shared", filepath.Join(m.dir, "cloud"))
	yaml.WriteString(strings.Replace(m.cloud.oneRequest("cloud", "agent", 3), "}", ", prefer: 1}", 1))
	m.breakCloud()
	yaml.WriteString("  - {name: lab0, driver: agent}\n  - {name: lab1, driver: agent}\n")
	m.breakDisk(t, "disk of the studio nearly full", filepath.Join(m.dir, "data"))
	m.extra = yaml.String()
}

// breakDisk gives a folder a small disk of its own, where this machine can make one, and adds that it is full for a
// while. The studio's keeps a rest: below it nothing new begins, and what runs is brought home.
func (m *mixed) breakDisk(t *testing.T, name, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=300m,mode=0700", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Logf("no %s: this machine makes no disks (%v %s)", name, err, out)
		return
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	rest := 0
	if strings.HasSuffix(dir, "data") {
		rest = 30 << 20
	}
	var one sync.Mutex
	m.add(name, func(t *testing.T) {
		m.later(func() {
			one.Lock()
			defer one.Unlock()
			balloon := filepath.Join(dir, "balloon")
			f, err := os.Create(balloon)
			if err != nil {
				t.Error(err)
				return
			}
			block := make([]byte, 1<<20)
			for err == nil {
				_, err = f.Write(block) // until there is no room
			}
			if info, err := f.Stat(); err == nil && rest > 0 {
				if err := f.Truncate(max(0, info.Size()-int64(rest))); err != nil {
					t.Error(err)
				}
			}
			<-time.After(700 * time.Millisecond)
			if err := errors.Join(f.Close(), os.Remove(balloon)); err != nil {
				t.Error(err)
			}
		})
	})
}

// later does what takes a while beside.
func (m *mixed) later(f func()) { m.wg.Go(f) }

// joinLab starts an agent that dials home over a line of its own, and the ComfyUI beside it, and adds what can happen
// to them.
func (m *mixed) joinLab(t *testing.T, name string) {
	t.Helper()
	comfy := freeAddr(t)
	gpu := newProcess(t, m.studio, name+"-gpu", []string{
		"sim", "comfyui", "--listen", comfy, "--probe-nodes", "--base-directory", filepath.Join(m.dir, name),
	})
	gpu.start(t)
	waitOK(t, gpu, "http://"+comfy+"/system_stats")
	data := filepath.Join(m.dir, name+"-agent")
	line := newCutter(t, m.host)
	join := newProcess(t, m.studio, name+"-join", []string{"agent", "join", m.command(t, "backend", "join", name), "--server", "http://" + line.host(), "--data", data})
	join.start(t)
	<-join.done
	agent := newProcess(t, m.studio, name+"-agent", []string{"agent", "--server", "http://" + line.host(), "--data", data, "--comfyui", "http://" + comfy})
	agent.start(t)
	until(t, "agent at work", 30*time.Second, func() bool { return ready(t, m.studio, name) })
	m.add("agent of "+name+" killed", func(t *testing.T) {
		agent.kill()
		agent.start(t)
	})
	m.add("ComfyUI of the agent "+name+" killed", func(t *testing.T) {
		gpu.kill()
		gpu.start(t)
	})
	m.breakLine("line of the agent "+name, line)
}

// breakComfyUI adds what can happen to a ComfyUI by its address.
func (m *mixed) breakComfyUI(p *process, line *cutter) {
	m.add("ComfyUI "+p.name+" killed", func(t *testing.T) {
		p.kill()
		p.start(t)
	})
	m.breakLine("line to "+p.name, line)
}

// breakLine adds what can happen to a line.
func (m *mixed) breakLine(name string, line *cutter) {
	m.add(name+" cut", func(*testing.T) { line.blink() })
	for _, way := range []struct {
		name     string
		up, down bool
	}{{"from who dials", true, false}, {"to who dials", false, true}, {"both ways", true, true}} {
		m.add(name+" deaf "+way.name, func(*testing.T) {
			m.later(func() { line.deaf(way.up, way.down, time.Duration(500+rand.IntN(1000))*time.Millisecond) })
		})
	}
}

// breakCloud adds what can happen to containers that take one request a job.
func (m *mixed) breakCloud() {
	c := m.cloud
	for _, f := range []struct{ name, order string }{
		{"job refused by a busy balancer", `{"kind": "status", "method": "POST", "path": "/run", "status": 503}`},
		{"job refused with 429", `{"kind": "status", "method": "POST", "path": "/run", "status": 429}`},
		{"job answered with a bad gateway", `{"kind": "status", "method": "POST", "path": "/run", "status": 502}`},
		{"job truncated on its way up", `{"kind": "cut-request", "method": "POST", "path": "/run", "after": 600}`},
		{"line cut before the answer to a job", `{"kind": "cut-answer", "method": "POST", "path": "/run"}`},
		{"answer to a job truncated", `{"kind": "truncate", "method": "POST", "path": "/run", "after": 900}`},
		{"answer to a job with a wrong byte", `{"kind": "corrupt", "method": "POST", "path": "/run", "after": 1500}`},
		{"slow loris in the answer to a job", `{"kind": "slow", "method": "POST", "path": "/run", "for": 2000000000}`},
		{"hanging balancer before a job", `{"kind": "hang", "method": "POST", "path": "/run", "for": 2000000000}`},
	} {
		m.add(f.name, func(t *testing.T) { c.order(t, "POST", "/faults", f.order) })
	}
	m.add("spot machine with a job taken back", func(t *testing.T) { c.order(t, "POST", "/lose", `{"replicas": 1}`) })
	m.add("all spot machines taken back", func(t *testing.T) { c.order(t, "POST", "/lose", `{"replicas": -1}`) })
	m.add("balancer of agents swapped", func(t *testing.T) { c.order(t, "POST", "/cut", "") })
	for name, way := range map[string]string{"up": `{"up": true, "for": 1000000000}`, "down": `{"down": true, "for": 1000000000}`} {
		m.add("lines to agents' balancer deaf "+name, func(t *testing.T) { c.order(t, "POST", "/deafen", way) })
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
	if err := merge(dir, away); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if err := os.Rename(away, dir); err != nil {
		t.Error(err)
	}
}

// merge moves what is in a folder, which may not be there, into another one.
func merge(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		source, target := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		if there, lost := os.Stat(target); lost == nil && there.IsDir() && e.IsDir() {
			err = errors.Join(err, merge(source, target))
		} else {
			err = errors.Join(err, os.Rename(source, target))
		}
	}
	return err
}

// checkAttempts reads what became of each attempt of a person's jobs: all but the last have a cause and say why. It
// counts those by causes, and the last ones by back ends, and returns how many there were beyond the first ones.
func (l *loader) checkAttempts(t *testing.T, causes, ran map[string]int) (again int) {
	t.Helper()
	var ids []string
	for more := true; more; {
		var page struct {
			Jobs []struct{ ID string }
		}
		if err := l.call("GET", fmt.Sprintf("/studio/api/v1/jobs?limit=200&offset=%d", len(ids)), nil, &page); err != nil {
			t.Fatal(err)
		}
		for _, j := range page.Jobs {
			ids = append(ids, j.ID)
		}
		more = len(page.Jobs) > 0
	}
	want := 0
	for _, o := range l.acked {
		if !o.asked { // others may have left the queue, and nothing tells of them
			want++
		}
	}
	if len(ids) < want {
		t.Errorf("%s: %d jobs are listed, and %d are to be there", l.name, len(ids), want)
	}
	for _, id := range ids {
		var j struct {
			PromptID string `json:"prompt_id"`
			Attempts []attempt
		}
		if err := l.call("GET", "/studio/api/v1/jobs/"+id, nil, &j); err != nil {
			t.Errorf("%s: %v", l.name, err)
			continue
		}
		for i, a := range j.Attempts {
			last := i == len(j.Attempts)-1
			if a.Backend == "" || a.Cause == "" || !last && a.Reason == "" {
				l.wrong(t, j.PromptID, "tells no cause of its attempt %d", a.N)
			}
			if last {
				ran[a.Backend]++
				continue
			}
			again++
			causes[a.Cause]++
		}
	}
	return again
}
