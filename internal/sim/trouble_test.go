package sim_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/sim"
)

// textGraph is a graph that shows a text.
func textGraph(text string) string {
	return `{"1": {"class_type": "PrimitiveString", "inputs": {"value": "` + text + `"}}, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}`
}

func status(entry map[string]any) string {
	s, _ := entry["status"].(map[string]any)
	word, _ := s["status_str"].(string)
	return word
}

// TestTroubleOnDemand asks for failures by words in a prompt.
func TestTroubleOnDemand(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{})
	c := dial(t, base, "prepare")
	c.next(t)
	for text, want := range map[string]string{
		"nothing": "success", "please sim:fail here": "error", "sim:oom": "error", "sim:slow=10ms": "success", "sim:": "success",
	} {
		_, entry := run(t, base, c, textGraph(text))
		if status(entry) != want {
			t.Errorf("%q ends in %q, want %q", text, status(entry), want)
		}
	}
	_, entry := run(t, base, c, sampled(checkpointGraph, 1, "a cat, sim:oom"))
	messages := entry["status"].(map[string]any)["messages"].([]any)
	last := messages[len(messages)-1].([]any)[1].(map[string]any)
	if last["node_type"] != "KSampler" || !strings.Contains(last["exception_message"].(string), "ran out of memory") {
		t.Errorf("out of memory is %v", last)
	}
}

// TestBrokenGPU has the GPU fail: the server goes on, and every run fails until it is started anew.
func TestBrokenGPU(t *testing.T) {
	t.Parallel()
	s, base := start(t, sim.Options{})
	c := dial(t, base, "prepare")
	c.next(t)
	for _, text := range []string{"sim:gpu", "an innocent one"} {
		_, entry := run(t, base, c, textGraph(text))
		messages := fmt.Sprint(entry["status"])
		if status(entry) != "error" || !strings.Contains(messages, "CUDA error: device-side assert triggered") {
			t.Errorf("%q ends in %s", text, messages)
		}
	}
	s.Crash()
	if _, entry := run(t, base, dialUntil(t, base), textGraph("after")); status(entry) != "success" {
		t.Errorf("after a new start: %v", entry)
	}
}

// TestCrash has the server die in mid-run and come back without memory.
func TestCrash(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{})
	c := dial(t, base, "prepare")
	c.next(t)
	run(t, base, c, textGraph("before"))
	submit(t, base, `{"client_id": "prepare", "prompt": `+textGraph("sim:crash")+`}`)
	ended := time.After(patience)
	for open := true; open; {
		select {
		case _, open = <-c.in:
		case <-ended:
			t.Fatal("the socket survived the crash")
		}
	}
	back := dialUntil(t, base)
	var history map[string]any
	fetch(t, base+"/history", &history)
	if len(history) != 0 {
		t.Errorf("the history survived the crash: %v", history)
	}
	if _, entry := run(t, base, back, textGraph("after")); status(entry) != "success" {
		t.Errorf("after the crash: %v", entry)
	}
}

// dialUntil connects to a server that is coming back.
func dialUntil(t *testing.T, base string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/prompt", nil)
		if err != nil {
			t.Fatal(err)
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
			c := dial(t, base, "prepare")
			c.next(t)
			return c
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the server did not come back")
		}
	}
}

// TestDownAfterCrash sees that a server that is gone does not answer.
func TestDownAfterCrash(t *testing.T) {
	t.Parallel()
	s, base := start(t, sim.Options{RestartAfter: time.Hour})
	s.Crash()
	response, err := http.Get(base + "/prompt")
	if err == nil {
		response.Body.Close()
		t.Fatalf("a dead server answers %s", response.Status)
	}
}

// TestFreeze has the server stop answering until it thaws.
func TestFreeze(t *testing.T) {
	t.Parallel()
	s, base := start(t, sim.Options{})
	c := dial(t, base, "prepare")
	c.next(t)
	s.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/queue", nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := http.DefaultClient.Do(request); err == nil {
		response.Body.Close()
		t.Fatal("a frozen server answers")
	} else if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	s.Thaw()
	if _, entry := run(t, base, c, textGraph("thawed")); status(entry) != "success" {
		t.Errorf("after the freeze: %v", entry)
	}
}

// TestChances are repeatable with a seed.
func TestChances(t *testing.T) {
	t.Parallel()
	outcomes := func() string {
		_, base := start(t, sim.Options{FailRate: 0.5, Seed: 42})
		c := dial(t, base, "prepare")
		c.next(t)
		var b strings.Builder
		for i := range 24 {
			_, entry := run(t, base, c, textGraph(strings.Repeat("x", i+1)))
			b.WriteString(status(entry) + " ")
		}
		return b.String()
	}
	first := outcomes()
	if second := outcomes(); first != second {
		t.Errorf("the same seed gives\n%s\n%s", first, second)
	}
	if n := strings.Count(first, "error"); n == 0 || n == 24 {
		t.Errorf("%d of 24 runs fail at a chance of one half", n)
	}
}

// TestSmallDevice runs out of memory on pictures that are too large for it.
func TestSmallDevice(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{VideoMemory: 1 << 20})
	c := dial(t, base, "prepare")
	c.next(t)
	if _, entry := run(t, base, c, sampled(checkpointGraph, 1, "x")); status(entry) != "error" {
		t.Errorf("a picture fits in 1 MiB: %v", entry["status"])
	}
}

// TestHugePictures are refused as memory that is not there, and the server lives.
func TestHugePictures(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{})
	c := dial(t, base, "prepare")
	c.next(t)
	for _, graph := range []string{
		`"1": {"class_type": "EmptyImage", "inputs": {"width": 16384, "height": 16384, "batch_size": 4096, "color": 0}}`,
		`"1": {"class_type": "RepeatImageBatch", "inputs": {"image": ["0", 0], "amount": 4096}}`,
		`"1": {"class_type": "ImageScale", "inputs": {"image": ["0", 0], "upscale_method": "lanczos", "width": 16384, "height": 16384, "crop": "disabled"}}`,
		`"1": {"class_type": "ImagePadForOutpaint", "inputs": {"image": ["0", 0], "left": 16384, "top": 16384, "right": 16384, "bottom": 16384, "feathering": 0}}`,
	} {
		_, entry := run(t, base, c, `{"0": {"class_type": "EmptyImage", "inputs": {"width": 512, "height": 512, "batch_size": 1, "color": 0}}, `+
			graph+`, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}`)
		if status(entry) != "error" {
			t.Errorf("%s: %v", graph, entry["status"])
		}
	}
}

// TestInterruptSlowRun stops a run between two slow steps, and Close does not wait for the rest.
func TestInterruptSlowRun(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{StepTime: 20 * time.Millisecond, Probes: true})
	c := dial(t, base, "prepare")
	c.next(t)
	id := submit(t, base, `{"client_id": "prepare", "prompt": `+strings.Replace(sampled(checkpointGraph, 1, "x"), `"steps": 20`, `"steps": 10000`, 1)+`}`)
	for !strings.Contains(string(c.next(t).body), `"progress", "data"`) {
	}
	response, err := http.Post(base+"/interrupt", "", strings.NewReader(`{"prompt_id": "`+id+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	for !strings.Contains(string(c.next(t).body), `"execution_interrupted"`) {
	}
	submit(t, base, `{"client_id": "prepare", "prompt": `+strings.Replace(sampled(checkpointGraph, 2, "x"), `"steps": 20`, `"steps": 10000`, 1)+`}`)
	// The clean-up of the test closes the server in mid-run.
}

// TestRun serves on a listener and ends with its context.
func TestRun(t *testing.T) {
	t.Parallel()
	s, err := sim.NewComfyUI(sim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	base := "http://" + l.Addr().String()
	c := dialUntil(t, base)
	run(t, base, c, textGraph("x"))
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("Run did not end")
	}
}

// TestCloseTwice is what happens when both Run and its caller tidy up.
func TestCloseTwice(t *testing.T) {
	t.Parallel()
	s, err := sim.NewComfyUI(sim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSlowNetwork holds answers back.
func TestSlowNetwork(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{BytesPerSecond: 1 << 20, Latency: 10 * time.Millisecond})
	begin := time.Now()
	var info map[string]any
	fetch(t, base+"/object_info", &info)
	if d := time.Since(begin); d < 60*time.Millisecond { // some 75 KB
		t.Errorf("object_info took %v at 1 MiB a second", d)
	}
}
