package e2e

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/sim/fleet"
)

// realComfyUI is the folder of a real ComfyUI that TestDrivers starts in place of the simulator; empty: none.
func realComfyUI() string { return os.Getenv("COMFYUME_E2E_COMFYUI") }

// gpuSource is a kind of GPU source: prepare adds it to the settings, started has it join the running studio.
type gpuSource struct {
	prepare, started func(*testing.T, *studio)
	hurt             bool // its ComfyUI is killed and frozen as well, where something starts it again
}

// TestDrivers has each kind of GPU source paint over an uploaded picture where an uploaded mask says so, and make sounds
// and films. What comes back has to be what a ComfyUI gives to whoever asks it directly. COMFYUME_E2E_COMFYUI names the
// folder of a real ComfyUI, which agents then start and watch; COMFYUME_E2E_PYTHON the Python that runs it.
func TestDrivers(t *testing.T) {
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	alone := &studio{bin: bin, dir: t.TempDir()}
	direct := connect(t, startComfyUI(t, alone, "direct"), "", "e2e-direct-"+uuid.NewString())
	for name, from := range map[string]gpuSource{
		"address":      {prepare: byAddress},
		"dials home":   {prepare: named("lab"), started: dialsHome, hurt: realComfyUI() != ""},
		"one request":  {prepare: behindBalancer("agent")},
		"asynchronous": {prepare: behindBalancer("async")},
		"plain":        {prepare: behindBalancer("plain")},
	} {
		t.Run(name, func(t *testing.T) {
			o := studioOptions{backEnds: -1, prepare: func(s *studio) { from.prepare(t, s) }}
			if from.started != nil {
				o.started = func(s *studio) { from.started(t, s) }
			}
			s := startStudio(t, o)
			ann, bob := s.person(t, "ann"), s.person(t, "bob")
			t.Run("painted by a mask", func(t *testing.T) { paintedOutput(t, ann, direct) })
			for name, m := range results {
				t.Run(name, func(t *testing.T) { m.skip(t, direct); fileOutput(t, m, ann, bob, direct) })
			}
			if from.hurt {
				t.Run("killed in mid-run", func(t *testing.T) { hurtMidRun(t, s, ann, syscall.SIGKILL) })
				t.Run("frozen in mid-run", func(t *testing.T) { hurtMidRun(t, s, ann, syscall.SIGSTOP) })
			}
		})
	}
}

// comfyCommand is the command line of a ComfyUI at addr that has its folders below base, and says its address on its
// standard output.
func comfyCommand(t *testing.T, bin, addr, base string) []string {
	t.Helper()
	if realComfyUI() == "" {
		return []string{bin, "sim", "comfyui", "--listen", addr, "--probe-nodes", "--base-directory", base}
	}
	args := []string{comfyPython(), filepath.Join(realComfyUI(), "main.py"), "--base-directory", base, "--log-stdout"}
	for _, a := range realFlags(t, addr, base) {
		args = append(args, "--"+a)
	}
	return args
}

func comfyPython() string {
	if p := os.Getenv("COMFYUME_E2E_PYTHON"); p != "" {
		return p
	}
	return "python3"
}

// realFlags are flags of a real ComfyUI, whose folders are made.
func realFlags(t *testing.T, addr, base string) []string {
	t.Helper()
	for _, d := range []string{"models", "custom_nodes", "input", "output", "temp", "user"} {
		if err := os.MkdirAll(filepath.Join(base, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"cpu", "port=" + port, "disable-auto-launch", "database-url=sqlite:///:memory:"}
}

// startComfyUI starts a ComfyUI as a process of its own and returns its address.
func startComfyUI(t *testing.T, s *studio, name string) string {
	t.Helper()
	addr := freeAddr(t)
	p := newProcess(t, s, name, nil)
	p.args = comfyCommand(t, s.bin, addr, filepath.Join(s.dir, name))
	p.start(t)
	waitOK(t, p, "http://"+addr+"/system_stats")
	return "http://" + addr
}

func byAddress(t *testing.T, s *studio) {
	s.extra = fmt.Sprintf("  - {name: gpu, driver: comfyui, url: %q}\n", startComfyUI(t, s, "gpu"))
}

func named(name string) func(*testing.T, *studio) {
	return func(_ *testing.T, s *studio) { s.extra = fmt.Sprintf("  - {name: %s, driver: agent}\n", name) }
}

// dialsHome has an agent join. It starts a real ComfyUI itself; a simulated one runs beside it.
func dialsHome(t *testing.T, s *studio) {
	t.Helper()
	data := filepath.Join(s.dir, "agent")
	join := newProcess(t, s, "join", []string{"agent", "join", s.command(t, "backend", "join", "lab"), "--server", "http://" + s.host, "--data", data})
	join.start(t)
	<-join.done
	args := []string{"agent", "--server", "http://" + s.host, "--data", data}
	if realComfyUI() == "" {
		args = append(args, "--comfyui", startComfyUI(t, s, "gpu"))
	} else {
		args = append(args, supervised(t, freeAddr(t), filepath.Join(s.dir, "gpu"))...)
	}
	p := newProcess(t, s, "agent", args)
	p.gentle = true // killed, it would leave its ComfyUI behind
	p.start(t)
	until(t, "agent at work", 90*time.Second, func() bool { return ready(t, s, "lab") })
}

// supervised are the flags of an agent that starts a real ComfyUI at addr.
func supervised(t *testing.T, addr, base string) []string {
	t.Helper()
	args := []string{"--comfyui-dir", realComfyUI(), "--python", comfyPython(), "--comfyui-base-directory", base}
	for _, a := range realFlags(t, addr, base) {
		args = append(args, "--comfyui-"+a)
	}
	return args
}

// behindBalancer is an endpoint of two replicas behind a balancer without affinity, whose containers have an agent, or
// plain ComfyUIs on a shared disk.
func behindBalancer(mode string) func(*testing.T, *studio) {
	return func(t *testing.T, s *studio) {
		t.Helper()
		shared := filepath.Join(s.dir, "shared")
		outputs, inputs := filepath.Join(shared, "outputs"), filepath.Join(shared, "inputs")
		for _, dir := range []string{outputs, inputs} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		logs, err := os.Create(filepath.Join(t.ArtifactDir(), "replicas.log"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { logs.Close() })
		o := fleet.Options{Replicas: 2, Warm: 2, PerReplica: 1, FreeSockets: true, Deployment: "studio", Dir: filepath.Join(s.dir, "replicas")}
		program := func(args func(id int, dir, before string) []string) fleet.Program {
			return fleet.Program{Path: "env", Logs: logs, Args: args}
		}
		comfy := program(func(_ int, dir, _ string) []string {
			args := comfyCommand(t, s.bin, freeAddr(t), dir)
			if mode == "plain" {
				args = append(args, "--output-directory", outputs, "--input-directory", inputs)
			}
			return args
		})
		agent := program(func(_ int, dir, before string) []string {
			args := []string{s.bin, "agent", "--listen", "127.0.0.1:0"}
			if realComfyUI() == "" {
				return append(args, "--comfyui", before)
			}
			return append(args, supervised(t, freeAddr(t), dir)...)
		})
		switch {
		case mode == "plain":
			o.Launch = fleet.Programs(comfy)
		case realComfyUI() == "":
			o.Launch = fleet.Programs(comfy, agent)
		default:
			o.Launch = fleet.Programs(agent)
		}
		f, err := fleet.New(o)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- f.Serve(ctx, l) }()
		t.Cleanup(func() {
			stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
		s.extra = fmt.Sprintf("  - {name: cloud, driver: serverless, mode: %s, url: \"http://%s/studio\", max_parallel: 2", mode, l.Addr())
		if mode == "plain" {
			s.extra += fmt.Sprintf(", storage: \"file://%s?inputs=%s\"", outputs, inputs)
		}
		s.extra += "}\n"
	}
}

// paintedOutput loads a photo whose mask was drawn in the mask editor, and paints over it there.
func paintedOutput(t *testing.T, ann, direct *client) {
	content, drawn := photo(t), maskOf(t)
	graph := func(c *client) node {
		original := c.upload(t, "/upload/image", "photo to paint.jpg", content, map[string]string{"overwrite": "true"})
		masked := c.upload(t, "/upload/mask", "mask drawn.png", drawn, map[string]string{
			"overwrite": "true", "subfolder": "clipspace", "original_ref": fmt.Sprintf(`{"filename":%q,"type":"input","subfolder":%q}`, original.Filename, original.Subfolder),
		})
		return node{
			"1": class("LoadImage", node{"image": masked.Subfolder + "/" + masked.Filename + " [input]"}),
			"2": class("EmptyImage", node{"width": 601, "height": 397, "batch_size": 1, "color": 0xc02040}),
			"3": class("ImageCompositeMasked", node{
				"destination": []any{"1", 0}, "source": []any{"2", 0}, "x": 0, "y": 0, "resize_source": false, "mask": []any{"1", 1},
			}),
			"4": class("SaveImage", node{"images": []any{"3", 0}, "filename_prefix": "drivers/painted"}),
		}
	}
	mine, theirs := graph(ann), graph(direct)
	if diff := cmp.Diff(theirs, mine); diff != "" {
		t.Fatalf("the picture is called otherwise (-direct +studio):\n%s", diff)
	}
	through, straight := ann.run(t, mine, workflow("ann")), direct.run(t, theirs, workflow("ann"))
	sameOutputs(t, straight, through)
	a, d := ann.read(t, through.files(t, "4", "images")[0]), direct.read(t, straight.files(t, "4", "images")[0])
	if realComfyUI() != "" { // the simulator reads a JPEG in its own way; two programs differ in roundings
		samePixels(t, a, d, 4)
	}
	if texts, err := pngTexts(a); err != nil || !strings.Contains(texts["workflow"], `"id": "ann"`) {
		t.Errorf("the workflow in the picture is %q (%v)", texts["workflow"], err)
	}
	img := decodePNG(t, a)
	if r, g, b, _ := img.At(300, 200).RGBA(); r>>8 != 0xc0 || g>>8 != 0x20 || b>>8 != 0x40 {
		t.Errorf("under the mask the picture is %02x%02x%02x, want c02040", r>>8, g>>8, b>>8)
	}
	if r, g, b, _ := img.At(5, 5).RGBA(); r>>8 == 0xc0 && g>>8 == 0x20 && b>>8 == 0x40 {
		t.Error("beside the mask the picture is painted over")
	}
}

// maskOf is a mask as the mask editor sends it: transparent in the middle of the photo, where it was drawn.
func maskOf(t *testing.T) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 601, 397))
	for y := range 397 {
		for x := range 601 {
			c := color.NRGBA{A: 255}
			if x > 200 && x < 400 && y > 100 && y < 300 {
				c.A = 0
			}
			img.Set(x, y, c)
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// hurtMidRun sends a signal to the ComfyUI that an agent started, while it works: the job has to come to its end all the
// same, with a picture.
func hurtMidRun(t *testing.T, s *studio, ann *client, signal syscall.Signal) {
	ann.seen = nil
	id := ann.send(t, node{
		"1": class("EmptyImage", node{"width": 2048, "height": 2048, "batch_size": 4, "color": int(signal)}),
		"2": class("ImageBlur", node{"image": []any{"1", 0}, "blur_radius": 31, "sigma": 10.0}),
		"3": class("ImageScale", node{"image": []any{"2", 0}, "upscale_method": "area", "width": 64, "height": 64, "crop": "disabled"}),
		"4": class("SaveImage", node{"images": []any{"3", 0}, "filename_prefix": "drivers/hurt"}),
	}, nil)
	ann.wait(t, id, "work at the node that takes long", func(f wireFrame) bool {
		return f.Type == "executing" && strings.Contains(string(f.Data), `"2"`)
	})
	pid := comfyProcess(t, filepath.Join(s.dir, "gpu"))
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ann.wait(t, id, "end", over)
	e := ann.entry(t, id)
	t.Logf("%v after the signal: %s; %s", time.Since(began).Round(time.Second), e.Status.Str, s.command(t, "job", "show", id))
	if n := len(ann.read(t, e.files(t, "4", "images")[0])); n == 0 {
		t.Error("the picture is empty")
	}
	if now := comfyProcess(t, filepath.Join(s.dir, "gpu")); now == pid {
		t.Errorf("process %d goes on: it was not started anew", pid)
	}
}

// comfyProcess finds the process of the real ComfyUI that has its folders below base.
func comfyProcess(t *testing.T, base string) int {
	t.Helper()
	out, err := exec.Command("pgrep", "-o", "-f", "main.py.*"+base).Output()
	if err != nil {
		t.Fatalf("no process of a ComfyUI below %s: %v", base, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}
