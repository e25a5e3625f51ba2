package dialhome_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/backend/dialhome"
	"github.com/ahelme/comfyume/internal/benchtest"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sim"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// roleVariable makes the test binary a ComfyUI or an agent, so that memory is told for each end alone.
const roleVariable = "COMFYUME_TEST_ROLE"

const bigSize = 200 << 20

func TestMain(m *testing.M) {
	role, rest, _ := strings.Cut(os.Getenv(roleVariable), " ")
	var err error
	switch role {
	case "":
		goleak.VerifyTestMain(m)
		return
	case "comfyui":
		err = beComfyUI(rest)
	case "agent":
		server, comfy, _ := strings.Cut(rest, " ")
		err = beAgent(server, comfy)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// beComfyUI serves the simulator until standard input ends, and in its name one large file.
func beComfyUI(file string) error {
	dir, err := os.MkdirTemp("", "sim")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := sim.NewComfyUI(sim.Options{Version: sim.Modern, Base: dir, Probes: true})
	if err != nil {
		return err
	}
	inner := server.Handler()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:errcheck // ends with the process
		if r.URL.Path == "/view" && r.FormValue("filename") == "big.mp4" {
			http.ServeFile(w, r, file)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// beAgent dials home until standard input ends.
func beAgent(server, comfy string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	fmt.Println("agent")
	return (&tunnel.Home{
		Server: server, Key: "k", Hello: tunnel.ThisMachine("v1", "gpu"), Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		ComfyUI: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", comfy)
		},
	}).Run(ctx)
}

// process starts the test binary in a role and returns its first line and its process id.
func process(b *testing.B, role string) (line string, pid int) {
	b.Helper()
	said, pid := benchtest.Process(b, roleVariable+"="+role, 1)
	return said[0], pid
}

// sides are a driver of a ComfyUI by its address, and one of the same ComfyUI over an agent in a process of its own.
func sides(b *testing.B) (direct *comfyui.Driver, over *dialhome.Driver, agent int) {
	b.Helper()
	file := filepath.Join(b.TempDir(), "big.mp4")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, bigSize)); err != nil {
		b.Fatal(err)
	}
	comfy, _ := process(b, "comfyui "+file)
	hub := tunnel.NewHub(tunnel.HubOptions{Studio: "s1", Check: func(context.Context, string) (string, error) { return "lab-1", nil }})
	srv := httptest.NewServer(hub)
	b.Cleanup(func() { hub.Close(); srv.Close() })
	_, agent = process(b, "agent "+srv.URL+" "+comfy)
	waiting, stop := context.WithTimeout(b.Context(), 20*time.Second)
	defer stop()
	if err := hub.Wait(waiting, "lab-1"); err != nil {
		b.Fatal(err)
	}
	direct, err := comfyui.New("http://"+comfy, comfyui.Options{Studio: "direct"})
	if err != nil {
		b.Fatal(err)
	}
	over, err = dialhome.New("lab-1", hub, dialhome.Options{Comfy: comfyui.Options{Studio: "over"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { direct.Close(); over.Close() })
	return direct, over, agent
}

func median[T int64 | time.Duration | float64](all []T) T {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkTrivialJob runs a text by a ComfyUI's address and over an agent, in turns. added-µs is what the agent adds at p50.
func BenchmarkTrivialJob(b *testing.B) {
	direct, over, _ := sides(b)
	took := map[bool][]time.Duration{}
	for i := 0; b.Loop(); i++ {
		for _, agent := range []bool{i%2 == 0, i%2 != 0} {
			d := backend.Driver(direct)
			if agent {
				d = over
			}
			took[agent] = append(took[agent], trivial(b, d, i))
		}
	}
	plain, tunnelled := median(took[false]), median(took[true])
	b.ReportMetric(float64(plain.Microseconds()), "direct-p50-µs")
	b.ReportMetric(float64(tunnelled.Microseconds()), "agent-p50-µs")
	b.ReportMetric(float64((tunnelled - plain).Microseconds()), "added-µs")
}

// trivial runs a text and returns how long it took. The ComfyUI may still be putting the other side's run away.
func trivial(b *testing.B, d backend.Driver, n int) time.Duration {
	b.Helper()
	for {
		task := backendtest.NewTask(d, json.RawMessage(fmt.Sprintf(`{"1":{"class_type":"PrimitiveString","inputs":{"value":"%d %d"}},
			"2":{"class_type":"PreviewAny","inputs":{"source":["1",0]}}}`, n, time.Now().UnixNano())))
		task.Core, task.Outputs = true, []string{"2"}
		began := time.Now()
		run, err := d.Prepare(b.Context(), task)
		if err != nil {
			b.Fatal(err)
		}
		r, err := run.Start(b.Context(), func() {}, func(backend.Update) error { return nil })
		took := time.Since(began)
		if closed := run.Close(); closed != nil {
			b.Error(closed)
		}
		if errors.Is(err, backend.ErrForeign) {
			continue
		}
		if err != nil || r.State != job.Completed {
			b.Fatal(r.State, err)
		}
		return took
	}
}

// BenchmarkBigOutput fetches 200 MB by a ComfyUI's address and over an agent, in turns. ratio is the median of what the
// agent reaches of the plain rate, hashed-ratio the same when the bytes are hashed as delivery does; agent-MB and studio-MB are the most memory that each end had meanwhile.
func BenchmarkBigOutput(b *testing.B) {
	direct, over, agent := sides(b)
	runs := map[bool]backend.Run{}
	for isAgent, d := range map[bool]backend.Driver{false: direct, true: over} {
		run, err := d.Prepare(b.Context(), backendtest.NewTask(d, json.RawMessage(`{}`)))
		if err != nil {
			b.Fatal(err)
		}
		runs[isAgent] = run
		defer run.Close()
	}
	debug.FreeOSMemory() // what other benchmarks left is not meant
	for _, pid := range []int{agent, os.Getpid()} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			b.Log("the peak is that since the start:", err)
		}
	}
	var plain, tunnelled, ratio, hashed []float64
	for b.Loop() {
		p, t := rate(b, runs[false], io.Discard), rate(b, runs[true], io.Discard)
		plain, tunnelled, ratio = append(plain, p), append(tunnelled, t), append(ratio, t/p)
		p, t = rate(b, runs[false], sha256.New()), rate(b, runs[true], sha256.New())
		hashed = append(hashed, t/p)
	}
	b.ReportMetric(median(plain), "direct-MB/s")
	b.ReportMetric(median(tunnelled), "agent-MB/s")
	b.ReportMetric(median(ratio), "ratio")
	b.ReportMetric(median(hashed), "hashed-ratio")
	b.ReportMetric(peak(b, agent), "agent-MB")
	b.ReportMetric(peak(b, os.Getpid()), "studio-MB")
}

// rate fetches the large file and returns MB/s.
func rate(b *testing.B, run backend.Run, to io.Writer) float64 {
	b.Helper()
	began := time.Now()
	body, err := run.Fetch(b.Context(), backend.FileRef{Filename: "big.mp4", Type: "output"})
	if err != nil {
		b.Fatal(err)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{body}, make([]byte, 64<<10))
	if err != nil || n != bigSize {
		b.Fatal(n, err)
	}
	body.Close()
	return bigSize / 1e6 / time.Since(began).Seconds()
}

// peak is the most memory that a process had resident, in MB.
func peak(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(kb)[0])
			if err != nil {
				b.Fatal(err)
			}
			return float64(n) / 1000
		}
	}
	b.Fatal("no VmHWM")
	return 0
}
