package sim

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/jpeg"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/image/draw"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/executor"
	"github.com/ahelme/comfyume/internal/sim/folders"
	"github.com/ahelme/comfyume/internal/sim/media"
	"github.com/ahelme/comfyume/internal/sim/nodes"
)

// work runs one prompt after the other until the life ends.
func (l *life) work() {
	defer close(l.done)
	for {
		it, unload, forget, ok := l.queue.next()
		if !ok {
			return
		}
		if it != nil {
			if !l.run(it) {
				return
			}
			continue
		}
		if unload {
			l.machine.Unload()
		}
		if forget {
			l.runs.Reset()
		}
	}
}

// run runs one prompt; ok is false when the life ended meanwhile.
func (l *life) run(it *item) (ok bool) {
	begin := time.Now()
	if l.server.opts.OnRun != nil {
		l.server.opts.OnRun(it.id)
	}
	l.sockets.serves(it)
	l.machine.begin(it)
	if l.machine.plan.kind == crashMute {
		l.server.Crash()
		return false
	}
	out, err := l.runs.Run(l.ctx, executor.Job{
		ID: it.id, Graph: it.graph, Outputs: it.outputs, Extra: it.pnginfo, Client: it.hasClient,
	})
	if err != nil {
		return false
	}
	it.graph = nil // its nodes are not needed any more
	l.queue.finish(it, out)
	if it.hasClient {
		l.sockets.send(it.client, jsonFrame("executing", fmt.Appendf(nil, `{"node": null, "prompt_id": %s}`, pyjson.Quote(it.id))))
	}
	l.print(fmt.Sprintf("Prompt executed in %.2f seconds\n", time.Since(begin).Seconds()))
	return true
}

// machine is what the executor and the nodes see of a life. It belongs to the worker.
type machine struct {
	life   *life
	item   *item
	plan   trouble
	loaded map[string]int64 // bytes by model
	recent []string         // models, the one used last at the end
}

// Crashes of which a server says less than that it began the run.
const (
	crashMute = "crash-mute" // it had not told that the run began
	crashPost = "crash-post" // nor that it took it
)

// trouble is what is to happen in a run.
type trouble struct {
	kind string // fail, oom, gpu, crash, crashMute, crashPost, freeze; empty: nothing
	node string // where; empty: at the first sampler, or the first node when there is none
	slow time.Duration
	late bool // wait for the sampler
}

func (m *machine) begin(it *item) {
	m.life.stop.Store(false) // a real server forgets wishes to stop that came after the run before
	m.item = it
	m.plan = m.life.server.plan(it)
}

// asked reads from the texts of a graph what trouble it asks for.
func (s *ComfyUI) asked(it *item) (t trouble) {
	if s.opts.NoTriggers {
		return t
	}
	it.graph.Texts(func(node, text string) {
		_, word, found := strings.Cut(text, "sim:")
		if !found {
			return
		}
		if end := strings.IndexFunc(word, func(r rune) bool { return unicode.IsSpace(r) || r == ',' || r == ')' }); end >= 0 {
			word = word[:end]
		}
		if pause, ok := strings.CutPrefix(word, "slow="); ok {
			if d, err := time.ParseDuration(pause); err == nil {
				t.slow = d
			}
			return
		}
		if slices.Contains([]string{"fail", "oom", "gpu", "crash", crashMute, crashPost, "freeze"}, word) {
			t.kind, t.node = word, node
		}
	})
	return t
}

// plan decides what trouble a run gets into.
func (s *ComfyUI) plan(it *item) trouble {
	t := s.asked(it)
	if t.kind == "" {
		o := s.opts
		for _, c := range []struct {
			kind string
			rate float64
		}{{"crash", o.CrashRate}, {"freeze", o.FreezeRate}, {"oom", o.OOMRate}, {"fail", o.FailRate}} {
			if s.chance(c.rate) {
				t.kind = c.kind
				break
			}
		}
	}
	if t.late = it.graph.Samples(); t.late {
		t.node = ""
	}
	return t
}

// gpuFailed is what torch raises once a kernel has failed, in the run in which it did and in all later ones of the program.
func (l *life) gpuFailed() error {
	f := nodes.Raise("RuntimeError", "CUDA error: device-side assert triggered\n"+
		"CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.")
	l.print("!!! Exception during processing !!! " + f.Message + "\n")
	return f
}

// Before makes the trouble that is due at a node.
func (m *machine) Before(ctx context.Context, node string, class *nodes.Class) error {
	s := m.life.server
	if err := s.breathe(ctx); err != nil {
		return err
	}
	if m.life.broken.Load() { // whatever touches the GPU
		return m.life.gpuFailed()
	}
	if slices.Contains(s.opts.FailNodes, class.Name) {
		return nodes.Raise("RuntimeError", "simulated failure of %s", class.Name)
	}
	if m.plan.late && !class.Simulated || m.plan.node != "" && m.plan.node != node {
		return nil
	}
	kind, slow := m.plan.kind, m.plan.slow
	m.plan.kind, m.plan.slow = "", 0
	if err := s.pause(ctx, slow); err != nil {
		return err
	}
	switch kind {
	case "fail":
		return nodes.Raise("RuntimeError", "simulated failure")
	case "oom":
		return nodes.OutOfMemory()
	case "gpu":
		m.life.broken.Store(true)
		return m.life.gpuFailed()
	case "crash":
		s.Crash()
		<-ctx.Done()
	case "freeze":
		s.Freeze()
		return s.breathe(ctx)
	}
	return ctx.Err()
}

// Frame sends a message of the run to its client, or to everybody when it has none.
func (m *machine) Frame(event string, data []byte, _ bool) {
	f := jsonFrame(event, data)
	if m.item.hasClient {
		m.life.sockets.send(m.item.client, f)
		return
	}
	m.life.sockets.broadcast(f)
}

// Picture encodes and sends a preview.
func (m *machine) Picture(p *nodes.Preview, metadata []byte) {
	picture := p.Picture
	if p.Max > 0 {
		picture = contained(picture, p.Max)
	}
	body, err := encodePreview(picture, p.PNG)
	if err != nil {
		m.life.server.log.Warn("preview not encoded", "job", m.item.id, "err", err)
		return
	}
	var f message
	switch {
	case metadata != nil:
		f = binaryFrame(4, uint32(len(metadata)), metadata, body)
	case p.PNG:
		f = binaryFrame(1, 2, nil, body)
	default:
		f = binaryFrame(1, 1, nil, body)
	}
	if m.item.hasClient {
		m.life.sockets.send(m.item.client, f)
		return
	}
	m.life.sockets.broadcast(f)
}

// contained brings a picture's longer side to max.
func contained(m image.Image, side int) image.Image {
	w, h := m.Bounds().Dx(), m.Bounds().Dy()
	if w >= h {
		w, h = side, max(1, h*side/w)
	} else {
		w, h = max(1, w*side/h), side
	}
	if n, ok := m.(*image.NRGBA); ok && n.Opaque() {
		m = &image.RGBA{Pix: n.Pix, Stride: n.Stride, Rect: n.Rect} // the same bytes, and much faster
	}
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.ApproxBiLinear.Scale(out, out.Rect, m, m.Bounds(), draw.Src, nil)
	return out
}

func encodePreview(m image.Image, asPNG bool) ([]byte, error) {
	if asPNG {
		return media.PNG(m, nil, true)
	}
	var buf bytes.Buffer
	err := jpeg.Encode(&buf, m, &jpeg.Options{Quality: 95})
	return buf.Bytes(), err
}

// SendText shows text on a node, on every socket: a real server does not say whose it is.
func (m *machine) SendText(node, text string) {
	m.life.sockets.broadcast(binaryFrame(3, uint32(len(node)), []byte(node), []byte(text)))
}

// WantsMetadata reports whether the run's client asked for descriptions of previews.
func (m *machine) WantsMetadata() bool {
	return m.item.hasClient && m.life.sockets.wantsMetadata(m.item.client)
}

// Watched reports whether anybody would get a message of the run.
func (m *machine) Watched() bool {
	if m.item.hasClient {
		return m.life.sockets.has(m.item.client)
	}
	return m.life.sockets.has("")
}

// Interrupted reports whether the run is to stop, and forgets it.
func (m *machine) Interrupted() bool { return m.life.stop.Swap(false) }

// Working names the node that runs.
func (m *machine) Working(node string) { m.life.sockets.working(node) }

// Folders returns the server's folders.
func (m *machine) Folders() *folders.Folders { return m.life.server.folders }

// Previews reports whether samplers send previews in this run.
func (m *machine) Previews() bool { return m.item.previews }

// Sleep lets simulated time pass.
func (m *machine) Sleep(ctx context.Context, d time.Duration) error {
	if err := m.life.server.pause(ctx, d); err != nil {
		return err
	}
	return m.life.server.breathe(ctx)
}

// StepTime is how long a step of a sampler takes.
func (m *machine) StepTime() time.Duration { return m.life.server.opts.StepTime }

// Load brings a model into memory. What was not used for longest makes room.
func (m *machine) Load(ctx context.Context, name string) error {
	size := modelSize(name)
	m.recent = append(slices.DeleteFunc(m.recent, func(n string) bool { return n == name }), name)
	if m.loaded[name] > 0 {
		return nil
	}
	m.life.print("Requested to load " + name + "\n")
	if err := m.Sleep(ctx, m.life.server.opts.LoadTime); err != nil {
		return err
	}
	m.loaded[name] = size
	for m.used() > m.life.server.opts.VideoMemory && len(m.recent) > 1 {
		delete(m.loaded, m.recent[0])
		m.recent = m.recent[1:]
	}
	m.life.sockets.memory(m.used())
	return nil
}

func (m *machine) used() int64 {
	var n int64
	for _, size := range m.loaded {
		n += size
	}
	return n
}

// Unload drops all loaded models.
func (m *machine) Unload() {
	clear(m.loaded)
	m.recent = nil
	m.life.sockets.memory(0)
}

// Fits returns an out-of-memory failure when that many bytes are more than the device has.
func (m *machine) Fits(bytes float64) error {
	if bytes > float64(m.life.server.opts.VideoMemory) {
		return nodes.OutOfMemory()
	}
	return nil
}

// MaxValues is how many numbers one batch of pictures may hold.
func (m *machine) MaxValues() float64 { return m.life.server.opts.MaxValues }

// Now is the time of day.
func (m *machine) Now() time.Time { return time.Now() }

// Millis is the time of day in milliseconds.
func (m *machine) Millis() int64 { return time.Now().UnixMilli() }

// Letters are random small letters.
func (m *machine) Letters(n int) string { return m.life.server.letters(n) }

var _ executor.Machine = (*machine)(nil)
