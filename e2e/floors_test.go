package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestFloors measures the studio beside its peers (`make floors BACKEND=address of a real ComfyUI`), in turns, with the
// programs of shared/bench, and prints the figures of each turn, and their medians. It judges nothing: a machine's speed
// moves more than the figures are apart, so that ratios count, and only those of one turn.
//
// All of it shares the machine. Where chrt is there, generators and simulators run in the batch class, as if they were
// somewhere else: a client that wakes up does not push the server off its processor then.
func TestFloors(t *testing.T) {
	real := strings.TrimSuffix(os.Getenv("COMFYUME_FLOORS"), "/")
	if real == "" {
		t.Skip("COMFYUME_FLOORS names no ComfyUI to measure with: make floors BACKEND=http://127.0.0.1:8188")
	}
	turns, err := strconv.Atoi(os.Getenv("COMFYUME_TURNS"))
	if err != nil || turns < 1 {
		t.Fatalf("COMFYUME_TURNS is %q, want a number from 1", os.Getenv("COMFYUME_TURNS"))
	}
	b := bench{dir: t.TempDir()}
	b.build(t, "load")
	b.build(t, "queues")
	const plenty = "limits: {keep_free: 1MB, sockets_per_user: 200}\nqueue: {max_pending: 1000000, max_pending_per_user: 1000000, max_running_per_user: 100}\n"
	people := []string{"u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"}
	fakes := b.fakes(t, 8)
	ours := startStudio(t, studioOptions{people: people, urls: fakes, config: plenty})
	front := startStudio(t, studioOptions{people: people, urls: []string{real}, config: plenty})
	all, one := b.tokens(t, ours, people)
	frontAll, frontOne := b.tokens(t, front, people)
	base := func(s *studio) string { return "http://" + s.host }
	pid := strconv.Itoa(ours.server.cmd.Process.Pid)
	its := listener(real)

	text := []string{"-users", "8", "-conc", "8"}
	single := []string{"-jobs", "300", "-warmup", "1"}
	b.load(t, base(ours), append(slices.Clip(text), "-jobs", "300", "-tokens", all)...) // so that everything is warm
	var measured [][]figure
	for range turns {
		fake := b.load(t, base(ours), append(slices.Clip(text), "-jobs", "2500", "-pid", pid, "-tokens", all)...)
		direct := b.load(t, real, append(slices.Clip(text), "-jobs", "250", "-pid", its)...)
		through := b.load(t, base(front), append(slices.Clip(text), "-jobs", "250", "-tokens", frontAll)...)
		alone := b.load(t, base(ours), append(slices.Clip(single), "-tokens", one)...)
		leave := b.crowd(t, ours.host, all, 1000)
		crowd := b.load(t, base(ours), append(slices.Clip(single), "-tokens", one)...)
		leave()
		directOne := b.load(t, real, single...)
		throughOne := b.load(t, base(front), append(slices.Clip(single), "-tokens", frontOne)...)
		goqite := b.goqite(t)
		exchange, disk := b.exchange(t, base(ours)), b.disk(t)
		turn := []figure{
			{"G1 ack ms", alone.ack},
			{"exchange + disk ms", exchange + disk},
			{"ack of ComfyUI ms", directOne.ack},
			{"G1 x ComfyUI", alone.ack / directOne.ack},
			{"G3 jobs/s", fake.rate},
			{"G3 x goqite", fake.rate / goqite},
			{"G3 x ComfyUI", fake.rate / direct.rate},
			{"G4 ms", throughOne.whole},
			{"direct ms", directOne.whole},
			{"G4 + ms", throughOne.whole - directOne.whole},
			{"G4 x direct", throughOne.whole / directOne.whole},
			{"G5 jobs/s", through.rate},
			{"G5 x direct", through.rate / direct.rate},
			{"G14", crowd.whole / alone.whole},
			{"G18 ms", fake.processor},
		}
		if its != "" {
			turn = append(turn, figure{"G18 x ComfyUI", fake.processor / direct.processor})
		}
		t.Log(turn)
		measured = append(measured, turn)
	}
	for i := range measured[0] {
		of := make([]float64, 0, turns)
		for _, turn := range measured {
			of = append(of, turn[i].value)
		}
		slices.Sort(of)
		t.Logf("%-20s median %.2f of %d turns, %.2f to %.2f", measured[0][i].name, of[len(of)/2], turns, of[0], of[len(of)-1])
	}
}

// figure is one of a turn's.
type figure struct {
	name  string
	value float64
}

func (f figure) String() string { return fmt.Sprintf("%s %.2f", f.name, f.value) }

// listener is the process of this machine that listens at a URL's port; empty where that can't be told.
func listener(address string) string {
	u, err := url.Parse(address)
	if err != nil || !net.ParseIP(u.Hostname()).IsLoopback() && u.Hostname() != "localhost" {
		return "" // whoever has that port here is somebody else
	}
	out, err := exec.Command("ss", "-Hltnp", "sport = :"+u.Port()).Output()
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(out), "pid=")
	pid, _, _ := strings.Cut(rest, ",")
	return pid
}

// TestSize holds the program, as it is given out, to 40 MB. It passes that at once where anything in it looks up methods by names that
// are known only when it runs: then the linker leaves out none.
func TestSize(t *testing.T) {
	t.Parallel()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(40_000_000); info.Size() > most {
		t.Errorf("the program has %d bytes, more than %d", info.Size(), most)
	}
}

// bench are the programs of shared/bench.
type bench struct{ dir string }

func (b bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b bench) build(t *testing.T, name string) {
	t.Helper()
	source := filepath.Join("..", "..", "shared", "bench", name)
	if _, err := os.Stat(source); err != nil {
		t.Skipf("the programs to measure with are not here: %v", err)
	}
	cmd := exec.Command("go", "build", "-o", b.path(name), ".")
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
}

// asBatch is how a program of this host is started in the batch class.
func asBatch(args ...string) []string {
	if chrt, err := exec.LookPath("chrt"); err == nil {
		return append([]string{chrt, "-b", "0"}, args...)
	}
	return args
}

// fakes starts one program with n simulated servers and returns their addresses.
func (b bench) fakes(t *testing.T, n int) (urls []string) {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"sim", "comfyui"}
	for range n {
		addr := freeAddr(t)
		urls = append(urls, "http://"+addr)
		args = append(args, "--listen", addr)
	}
	p := newProcess(t, &studio{bin: bin}, "fakes", args)
	p.args = asBatch(p.args...)
	p.start(t)
	for _, url := range urls {
		waitOK(t, p, url+"/system_stats")
	}
	return urls
}

// tokens writes a token for each of the people into one file, and that of the first into another.
func (b bench) tokens(t *testing.T, s *studio, people []string) (all, one string) {
	t.Helper()
	var list bytes.Buffer
	for _, name := range people {
		fmt.Fprintln(&list, s.token(t, name))
	}
	all, one = filepath.Join(s.dir, "tokens"), filepath.Join(s.dir, "token")
	first, _, _ := bytes.Cut(list.Bytes(), []byte("\n"))
	for file, content := range map[string][]byte{all: list.Bytes(), one: first} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return all, one
}

// crowd opens n sockets that only listen, of all people of the file but the first, and returns what closes them.
func (b bench) crowd(t *testing.T, host, tokens string, n int) (leave func()) {
	t.Helper()
	content, err := os.ReadFile(tokens)
	if err != nil {
		t.Fatal(err)
	}
	others := strings.Fields(string(content))[1:]
	open := make([]*websocket.Conn, n)
	for i := range open {
		header := http.Header{"Authorization": {"Bearer " + others[i%len(others)]}}
		url := fmt.Sprintf("ws://%s/ws?clientId=crowd%d", host, i)
		if open[i], _, err = websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: header}); err != nil {
			t.Fatal(err)
		}
		go func(c *websocket.Conn) {
			for err := error(nil); err == nil; {
				_, _, err = c.Read(t.Context())
			}
		}(open[i])
	}
	return func() {
		for _, c := range open {
			c.CloseNow() //nolint:errcheck // the server notices either way
		}
	}
}

// figures are what one run of load gives: medians, milliseconds but for the rate.
type figures struct{ ack, whole, rate, processor float64 }

// load runs the generator and fails on anything that it calls bad: that is no measurement.
func (b bench) load(t *testing.T, base string, args ...string) figures {
	t.Helper()
	args = asBatch(append([]string{b.path("load"), "-brief", "-base", base}, args...)...)
	var got struct {
		Bad     int
		Medians map[string]struct{ Median float64 }
	}
	b.run(t, &got, args...)
	if got.Bad != 0 || got.Medians["jobs_per_s"].Median == 0 {
		t.Errorf("%v: %d jobs went wrong", args, got.Bad)
	}
	m := func(name string) float64 { return got.Medians[name].Median }
	return figures{ack: m("ack_p50_ms"), whole: m("e2e_p50_ms"), rate: m("jobs_per_s"), processor: m("cpu_ms_job")}
}

// exchange is how long a request takes that nothing is done for, and disk how long one append does until it is there for good,
// medians in milliseconds: no durable answer comes sooner than their sum.
func (b bench) exchange(t *testing.T, base string) float64 {
	t.Helper()
	took := make([]time.Duration, 500)
	for i := range took {
		began := time.Now()
		resp, err := http.Get(base + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return float64(took[len(took)/2].Microseconds()) / 1000
}

func (b bench) disk(t *testing.T) float64 {
	t.Helper()
	var got struct {
		P50 struct{ Median float64 } `json:"p50_ms"`
	}
	b.run(t, &got, b.path("queues"), "disk", "-dir", t.TempDir(), "-n", "300", "-runs", "3")
	return got.P50.Median
}

// goqite is how many jobs a second eight workers take from a queue of 1,000 in a SQLite file, as durable as ours.
func (b bench) goqite(t *testing.T) float64 {
	t.Helper()
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "maragu.dev/goqite")
	cmd.Dir = filepath.Join("..", "..", "shared", "bench", "queues")
	module, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Workers int
		PerS    struct{ Median float64 } `json:"per_s"`
	}
	b.run(t, &got, b.path("queues"), "bench", "-dir", t.TempDir(), "-kind", "goqite", "-phases", "drain", "-depths", "1000", "-runs", "5",
		"-schema", filepath.Join(strings.TrimSpace(string(module)), "schema_sqlite.sql"))
	if got.Workers != 8 {
		t.Fatalf("goqite was measured with %d workers", got.Workers)
	}
	return got.PerS.Median
}

// run runs a program and reads the last JSON document that it prints.
func (b bench) run(t *testing.T, into any, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, &errs)
	}
	read := json.NewDecoder(&out)
	for read.More() {
		if err := read.Decode(into); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
}
