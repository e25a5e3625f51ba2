package backendtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// Opener returns a driver at whose far end server is the ComfyUI, through whatever lies between: an address, a tunnel,
// an agent. The suite closes the driver; what lies between is t.Cleanup's.
type Opener func(t *testing.T, server http.Handler) backend.Driver

// RunOnFake holds a driver to what a well-behaved server can't show: media, files too large for memory, lines that are
// cut, and answers that are wrong or meant to do harm. Each test has a fake of its own.
func RunOnFake(t *testing.T, open Opener) {
	for name, f := range map[string]func(*testing.T, *Fake, backend.Driver){
		"Masked": testMasked, "Previews": testPreviews, "Media": testMedia, "Big": testBig, "ShortFile": testShortFile,
		"CutSockets": testCutSockets, "CutAnswer": testCutAnswer, "Endless": testEndless, "WrongJSON": testWrongJSON,
		"WrongFrames": testWrongFrames, "Paths": testPaths,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := NewFake()
			t.Cleanup(fake.Close) // after what lies between
			d := open(t, fake.Handler())
			t.Cleanup(func() {
				if err := d.Close(); err != nil {
					t.Error("Close:", err)
				}
			})
			f(t, fake, d)
		})
	}
}

func upload(name string, body []byte) backend.Upload {
	return backend.Upload{
		Name: name, Size: int64(len(body)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
	}
}

// testMasked sends a picture and its mask, and wants both to arrive as they are.
func testMasked(t *testing.T, fake *Fake, d backend.Driver) {
	task := NewTask(d, json.RawMessage(`{"1":{"class_type":"Load","inputs":{"file":"picture.png"}},
		"2":{"class_type":"Load","inputs":{"file":"mask.png"}},"3":{"class_type":"Save","inputs":{"text":"painted"}}}`))
	sent := map[string][]byte{"picture.png": bytes.Repeat([]byte("\x89PNG\r\n\x1a\n\x00"), 9000), "mask.png": {0, 0xff, 0, 1}}
	for name, body := range sent {
		task.Uploads = append(task.Uploads, upload(name, body))
	}
	a := Begin(t.Context(), t, d, task)
	a.Wait(t)
	for name, want := range sent {
		if got, there := fake.File("input", name); !there || !bytes.Equal(got, want) {
			t.Errorf("%s arrived as %d bytes, %t; %d were sent", name, len(got), there, len(want))
		}
	}
	if got := fetch(t, a.Run, file(t, a.Result.Outputs)); string(got) != "painted" {
		t.Errorf("the result is %q", got)
	}
	a.Want(t, job.Completed)
}

// testPreviews wants binary frames whole, with their node, in their place between the JSON frames.
func testPreviews(t *testing.T, _ *Fake, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, json.RawMessage(`{"1":{"class_type":"Step","inputs":{}},"2":{"class_type":"Text","inputs":{"text":"hello"}}}`)))
	a.Want(t, job.Completed)
	at := slices.IndexFunc(a.Updates, func(u backend.Update) bool { return u.Binary != nil })
	if at < 1 {
		t.Fatalf("no preview among %d frames, or nothing before it", len(a.Updates))
	}
	if u := a.Updates[at]; u.Node != "1" || !bytes.HasSuffix(u.Binary, []byte{0xff, 0xd8, 0xff}) || u.Binary[3] != 4 {
		t.Errorf("the preview is of node %q: %q", u.Node, u.Binary)
	}
	if before := a.Updates[at-1]; before.Type != "progress" || before.Node != "1" {
		t.Errorf("before the preview came %s of node %q", before.Type, before.Node)
	}
}

// testMedia wants audio and animated outputs with all that is said of them.
func testMedia(t *testing.T, _ *Fake, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, json.RawMessage(`{"1":{"class_type":"Audio","inputs":{"text":"sound"}},
		"2":{"class_type":"Animated","inputs":{"text":"frames","prefix":"clip"}}}`)))
	a.Wait(t)
	var got map[string]struct {
		Audio, Images []backend.FileRef
		Animated      []bool
	}
	if err := json.Unmarshal(a.Result.Outputs, &got); err != nil {
		t.Fatal(err)
	}
	sound, clip := got["1"], got["2"]
	if len(sound.Audio) != 1 || len(clip.Images) != 1 || !slices.Equal(clip.Animated, []bool{true}) {
		t.Fatalf("outputs %s", a.Result.Outputs)
	}
	for want, ref := range map[string]backend.FileRef{"sound": sound.Audio[0], "frames": clip.Images[0]} {
		if body := fetch(t, a.Run, ref); string(body) != want {
			t.Errorf("%s is %q, want %q", ref.Filename, body, want)
		}
	}
	a.Want(t, job.Completed)
}

// testBig reads a file that is larger than a driver may keep. Its end is held back until its beginning was read, so
// that who waits for the whole of it fails.
func testBig(t *testing.T, fake *Fake, d backend.Driver) {
	const size = 96 << 20
	a := Begin(t.Context(), t, d, NewTask(d, fmt.Appendf(nil, `{"1":{"class_type":"Big","inputs":{"size":"%d"}}}`, size)))
	a.Wait(t)
	release := fake.HoldBig()
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	body, err := a.Run.Fetch(ctx, file(t, a.Result.Outputs))
	if err != nil {
		t.Fatal("Fetch: ", err)
	}
	defer body.Close()
	first := make([]byte, 64<<10)
	if _, err := io.ReadFull(body, first); err != nil || !bytes.Equal(first, Content(0, len(first))) {
		t.Fatal("the beginning: ", err)
	}
	release()
	got, want := fnv.New64a(), fnv.New64a()
	n, err := io.Copy(got, body)
	if err != nil || n+int64(len(first)) != size {
		t.Fatalf("%d of %d bytes: %v", n+int64(len(first)), size, err)
	}
	whole(want, int64(len(first)), size)
	if got.Sum64() != want.Sum64() {
		t.Error("the content is another")
	}
	a.Want(t, job.Completed)
}

func whole(h hash.Hash, from, to int64) {
	for at := from; at < to; {
		n := int(min(1<<20, to-at))
		h.Write(Content(at, n))
		at += int64(n)
	}
}

// testShortFile has the server promise more bytes than come: that must not look like the whole file. A driver whose files
// come with the end of the run has it by then.
func testShortFile(t *testing.T, fake *Fake, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, json.RawMessage(`{"1":{"class_type":"Save","inputs":{"text":"pixels"}}}`)))
	a.Wait(t)
	fake.Mangle("GET /view", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		w.Write([]byte("pix"))
	})
	body, err := a.Run.Fetch(t.Context(), file(t, a.Result.Outputs))
	var got []byte
	if err == nil {
		got, err = io.ReadAll(body)
		body.Close()
	}
	if !errors.Is(err, backend.ErrUnreachable) && string(got) != "pixels" {
		t.Errorf("3 of 100,000 bytes: %q, %v, want ErrUnreachable", got, err)
	}
	fake.Mangle("GET /view", nil)
	if got := fetch(t, a.Run, file(t, a.Result.Outputs)); string(got) != "pixels" {
		t.Errorf("afterwards it is %q", got)
	}
	a.Want(t, job.Completed)
}

// testCutSockets cuts the server's sockets in mid-run: the run goes on, and its end arrives.
func testCutSockets(t *testing.T, fake *Fake, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, json.RawMessage(`{"1":{"class_type":"Step","inputs":{}},"2":{"class_type":"Wait","inputs":{}},
		"3":{"class_type":"Text","inputs":{"text":"hello"}}}`)))
	a.Await(t, "progress")
	fake.CutSockets()
	fake.Release()
	a.Want(t, job.Completed)
	if !strings.Contains(string(a.Result.Outputs), "hello") {
		t.Errorf("outputs %s", a.Result.Outputs)
	}
	if n := fake.Requests("POST /prompt"); n != 1 {
		t.Errorf("the prompt was posted %d times", n)
	}
}

// testCutAnswer loses the answer to the prompt: the run happens once, whatever the driver makes of it.
func testCutAnswer(t *testing.T, fake *Fake, d backend.Driver) {
	fake.LoseAnswer("POST /prompt")
	a := Begin(t.Context(), t, d, NewTask(d, json.RawMessage(`{"1":{"class_type":"Save","inputs":{"text":"once"}}}`)))
	a.Want(t, job.Completed)
	if files := fake.Files("output"); len(files) != 1 {
		t.Errorf("the run happened %d times: %v", len(files), files)
	}
}

// endless answers with a body that has no end.
func endless(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	block := bytes.Repeat([]byte(`"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",`), 1000)
	for _, err := w.Write([]byte(`{"system":{"x":[`)); err == nil; {
		_, err = w.Write(block)
	}
}

// testEndless has a light question answered without an end: the driver gives up, with bounded memory.
func testEndless(t *testing.T, fake *Fake, d backend.Driver) {
	var before, after runtime.MemStats
	fake.Mangle("GET /system_stats", endless)
	runtime.ReadMemStats(&before)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := d.Probe(ctx)
	runtime.ReadMemStats(&after)
	if err == nil || ctx.Err() != nil {
		t.Errorf("an answer without end: %v", err)
	}
	if !class(err) {
		t.Errorf("%v is of no class of the contract", err)
	}
	if grown := int64(after.TotalAlloc) - int64(before.TotalAlloc); grown > 1<<30 {
		t.Errorf("%d MB were taken for it", grown>>20)
	}
	fake.Mangle("GET /system_stats", nil)
	if _, err := d.Probe(t.Context()); err != nil {
		t.Error("afterwards: ", err)
	}
}

// class reports whether an error is of the classes of package backend.
func class(err error) bool {
	for _, c := range []error{
		backend.ErrUnreachable, backend.ErrNotComfyUI, backend.ErrTooOld, backend.ErrUnknownRun, backend.ErrLost, backend.ErrFrozen, backend.ErrForeign,
	} {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}

// testWrongJSON answers a probe, each question in turn, with what is none of its answers.
func testWrongJSON(t *testing.T, fake *Fake, d backend.Driver) {
	for _, route := range []string{"GET /system_stats", "GET /prompt", "GET /object_info"} {
		for _, body := range []string{"", "<html>", `[1,`, `{"system": 5}`, "null", `{"exec_info": {"queue_remaining": {}}}`} {
			if route == "GET /prompt" && strings.HasPrefix(body, `{"exec`) {
				continue // no number is no runs
			}
			if route == "GET /object_info" && strings.HasPrefix(body, "{") {
				continue // an object, of which each class is looked at by itself
			}
			fake.Restart() // so that everything is asked for
			fake.Mangle(route, func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, body) })
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if _, err := d.Probe(ctx); !class(err) {
				t.Errorf("%s answered with %q: %v is of no class of the contract", route, body, err)
			}
			cancel()
			fake.Mangle(route, nil)
		}
	}
	waitFor(t, "a probe after wrong answers", func() bool { _, err := d.Probe(t.Context()); return err == nil })
	Begin(t.Context(), t, d, NewTask(d, json.RawMessage(`{"1":{"class_type":"Text","inputs":{"text":"hello"}}}`))).Want(t, job.Completed)
}

// waitFor asks again until it is so: a driver may take a moment to come back from trouble.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !so() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("it did not come to ", what)
		}
	}
}

// testWrongFrames has the server send what no frame is, and frames of other people's runs, into a run.
func testWrongFrames(t *testing.T, fake *Fake, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, json.RawMessage(`{"1":{"class_type":"Step","inputs":{}},"2":{"class_type":"Wait","inputs":{}},
		"3":{"class_type":"Text","inputs":{"text":"hello"}}}`)))
	a.Await(t, "progress")
	for _, frame := range []string{
		"no json", "[1,2]", `{"type": 5, "data": []}`, `{"type": "executed"}`, `{"type": "progress", "data": {"value": {}, "max": "x"}}`,
		`{"type": "execution_success", "data": {"prompt_id": "somebody-else"}}`, `{"type": "executing", "data": {"node": null, "prompt_id": "somebody-else"}}`,
		"\x00\x00", "\x00\x00\x00\x04\xff\xff\xff\xff", "\x00\x00\x00\x63data",
	} {
		fake.Broadcast(frame)
	}
	fake.Release()
	a.Want(t, job.Completed)
	if !strings.Contains(string(a.Result.Outputs), "hello") {
		t.Errorf("outputs %s", a.Result.Outputs)
	}
	for _, u := range a.Updates {
		if strings.Contains(string(u.Data), "somebody-else") {
			t.Errorf("a frame of another run came through: %s %s", u.Type, u.Data)
		}
	}
}

// testPaths asks for files by names that lead elsewhere: nothing outside of the run's files may be opened, here or
// there.
func testPaths(t *testing.T, _ *Fake, d backend.Driver) {
	a := Begin(t.Context(), t, d, NewTask(d, json.RawMessage(`{"1":{"class_type":"Save","inputs":{"text":"pixels"}}}`)))
	a.Wait(t)
	for _, ref := range []backend.FileRef{
		{Filename: "../../../../../../etc/hostname", Type: "output"},
		{Filename: "/etc/hostname", Type: "output"},
		{Filename: "hostname", Subfolder: "/etc", Type: "output"},
		{Filename: "hostname", Subfolder: "../../../../../../etc", Type: "output"},
		{Filename: `..\..\secret`, Type: "output"},
		{Filename: "x.png&type=input", Type: "output"},
		{Filename: "", Type: "output"},
		{Filename: "hostname", Type: "../../etc"},
	} {
		body, err := a.Run.Fetch(t.Context(), ref)
		if err == nil {
			body.Close()
			t.Errorf("%+v was opened", ref)
			continue
		}
		if !fault.Is(err, fault.Missing) && !fault.Is(err, fault.Invalid) && !class(err) {
			t.Errorf("%+v: %v is neither missing, invalid nor of a class of the contract", ref, err)
		}
	}
	a.Want(t, job.Completed)
}
