package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// has fails the test when the process has not said something.
func (p *process) has(t *testing.T, text string) {
	t.Helper()
	if b, err := os.ReadFile(p.log.Name()); err != nil || !bytes.Contains(b, []byte(text)) {
		t.Errorf("%s has not said %q (%v)", p.name, text, err)
	}
}

// says waits until the process says something.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if b, err := os.ReadFile(p.log.Name()); err == nil && bytes.Contains(b, []byte(text)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not say %q", p.name, text)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// post sends a value as JSON.
func (l *loader) post(path string, value, out any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return l.call(http.MethodPost, path, body, out)
}

// refused makes a request that must be answered with a status and a body of ComfyUI's error form that says something.
func (l *loader) refused(t *testing.T, status int, says, path, kind string, body []byte) {
	t.Helper()
	err := l.send(http.MethodPost, path, kind, body, nil)
	if !refusal(err, status, says) {
		t.Errorf("POST %s: %v, want %d with %q", path, err, status, says)
	}
}

// refusal reports whether err is an answer of this status in ComfyUI's error form whose message says something.
func refusal(err error, status int, says string) bool {
	if err == nil {
		return false
	}
	_, raw, found := strings.Cut(err.Error(), fmt.Sprintf(": %d {", status))
	var body struct {
		Error struct{ Type, Message string }
	}
	return found && json.Unmarshal([]byte("{"+raw), &body) == nil && body.Error.Type != "" && strings.Contains(body.Error.Message, says)
}

// refusedJob asks for a job that must be refused.
func (l *loader) refusedJob(t *testing.T, status int, says string, colour int) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"prompt": plain(colour)})
	if err != nil {
		t.Fatal(err)
	}
	l.refused(t, status, says, "/prompt", "application/json", body)
}

// form is an upload of size bytes.
func form(size int) (kind string, body []byte) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part, _ := w.CreateFormFile("image", "large.png") // it writes to memory
	_, _ = part.Write(make([]byte, size))
	_ = w.Close()
	return w.FormDataContentType(), b.Bytes()
}

// mountSmall puts a small file system of its own at a folder that it makes.
func mountSmall(t *testing.T, dir string, megabytes int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm,mode=700", megabytes), "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a small file system can't be mounted here: %v, %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v, %s", err, out)
		}
	})
}

// fill leaves so many megabytes of a file system, and returns how to give the rest back.
func fill(t *testing.T, dir string, leave int64) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	size := int64(st.Bavail)*int64(st.Bsize) - leave<<20
	block := make([]byte, 64<<10)
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for size > 0 && err == nil {
		n := min(size, int64(len(block)))
		_, err = f.Write(block[:n])
		size -= n
	}
	if err != nil && leave > 0 {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// TestFullDisk fills the disk while a job runs and others wait: what is new is refused with the reason, what was
// acknowledged is done once there is room again, also when the server is killed meanwhile.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := startStudio(t, studioOptions{
		config:  "limits: {keep_free: 0MB}\n",
		prepare: func(s *studio) { mountSmall(t, filepath.Join(s.dir, "data"), 48) },
	})
	l := s.newLoader(t, "ann")
	jobs := map[string]int{}
	jobs[l.ask(t, slow(20, 2))] = -1
	for i := range 5 {
		jobs[l.ask(t, plain(0x445500+i))] = 0x445500 + i
	}
	l.running(t)
	empty := fill(t, filepath.Join(s.dir, "data"), 0)
	l.refusedJob(t, http.StatusInsufficientStorage, "full", 1)
	kind, body := form(1 << 20)
	l.refused(t, http.StatusInsufficientStorage, "full", "/upload/image", kind, body)
	l.refused(t, http.StatusInsufficientStorage, "full", "/userdata/large.json", "application/json", body)
	s.server.says(t, "could not be brought home yet")
	if n, err := l.remaining(); err != nil || n == 0 {
		t.Errorf("with a full disk %d jobs are open (%v)", n, err)
	}
	s.server.kill()
	s.server.start(t) // it serves, or says in one sentence why not
	select {
	case <-s.server.done:
		s.server.has(t, "comfyume: The disk with the studio's")
		empty()
		s.server.start(t)
	case <-time.After(2 * time.Second):
		empty()
	}
	s.waitReady(t)
	for id, colour := range jobs {
		e := l.entry(t, id, time.Minute)
		if !e.Status.Completed {
			t.Errorf("a job ended as %s: %s", e.Status.Str, e.Status.Messages)
			continue
		}
		for _, out := range e.Outputs {
			for _, f := range out.Images {
				if colour >= 0 {
					l.checkPicture(t, f, order{id: id, colour: colour})
				}
			}
		}
	}
}

// TestKeepFree leaves less than keep_free: nothing new comes in and no run starts, but the one that runs is finished.
func TestKeepFree(t *testing.T) {
	t.Parallel()
	s := startStudio(t, studioOptions{
		config:  "limits: {keep_free: 32MB}\nqueue: {mode: round_robin}\n",
		prepare: func(s *studio) { mountSmall(t, filepath.Join(s.dir, "data"), 64) },
	})
	l := s.newLoader(t, "ann")
	first, second := l.ask(t, slow(30, 4)), l.ask(t, plain(0x0000ff))
	l.running(t)
	empty := fill(t, filepath.Join(s.dir, "data"), 16)
	kind, body := form(1 << 20)
	l.refused(t, http.StatusInsufficientStorage, "are kept free", "/upload/image", kind, body)
	if e := l.entry(t, first, 30*time.Second); !e.Status.Completed {
		t.Errorf("the running job ended as %s: %s", e.Status.Str, e.Status.Messages)
	}
	s.server.says(t, "no new run starts")
	if n, err := l.remaining(); err != nil || n != 1 {
		t.Errorf("%d jobs are open (%v), want the one that waits", n, err)
	}
	empty()
	if e := l.entry(t, second, 30*time.Second); !e.Status.Completed {
		t.Errorf("the job that waited ended as %s: %s", e.Status.Str, e.Status.Messages)
	}
}

// TestReadOnlyData starts on a data folder that can't be written.
func TestReadOnlyData(t *testing.T) {
	t.Parallel()
	s := startStudio(t, studioOptions{
		config:  "limits: {keep_free: 0MB}\n",
		prepare: func(s *studio) { mountSmall(t, filepath.Join(s.dir, "data"), 32) },
	})
	l := s.newLoader(t, "ann")
	id := l.ask(t, plain(0x00ff00))
	l.entry(t, id, 20*time.Second)
	data := filepath.Join(s.dir, "data")
	s.server.end(t, 5*time.Second)
	remount := func(mode string) {
		t.Helper()
		if out, err := exec.Command("mount", "-o", "remount,"+mode, data).CombinedOutput(); err != nil {
			t.Fatalf("remount: %v, %s", err, out)
		}
	}
	remount("ro")
	s.server.start(t)
	s.server.ends(t, 10*time.Second, 1)
	s.server.has(t, "comfyume: The data folder "+data+" can't be written.")
	s.server.has(t, "Try: ")
	remount("rw")
	s.server.start(t)
	s.waitReady(t)
	if e := l.entry(t, id, 5*time.Second); !e.Status.Completed {
		t.Errorf("the job of before is %+v", e.Status)
	}
}

// TestLimits goes beyond each limit: the answer names it.
func TestLimits(t *testing.T) {
	t.Parallel()
	s := startStudio(t, studioOptions{
		config: "limits: {upload: 2MB, disk_per_user: 5MB, keep_free: 0MB}\nqueue: {mode: round_robin, max_pending_per_user: 3, max_pending: 5}\n",
	})
	ann, bob := s.newLoader(t, "ann"), s.newLoader(t, "bob")
	kind, body := form(3 << 20)
	ann.refused(t, http.StatusRequestEntityTooLarge, "2 MB", "/upload/image", kind, body)
	ann.refused(t, http.StatusRequestEntityTooLarge, "2 MB", "/userdata/large.json", "application/json", body)
	var refused error
	for i := 0; i < 5 && refused == nil; i++ {
		kind, body := form(1<<20 + 400_000 + i) // different ones: equal uploads are one file
		refused = ann.send(http.MethodPost, "/upload/image", kind, body, nil)
	}
	if refused == nil || !strings.Contains(refused.Error(), "5 MB") {
		t.Errorf("more than one may have: %v", refused)
	}
	ann.ask(t, slow(30, 5))
	ann.running(t)
	var last error
	for i := 0; i < 6 && last == nil; i++ {
		last = ann.post("/prompt", map[string]any{"prompt": plain(i)}, nil)
	}
	if !refusal(last, http.StatusTooManyRequests, "3") {
		t.Errorf("more jobs than one may have waiting: %v", last)
	}
	last = nil
	for i := 0; i < 6 && last == nil; i++ {
		last = bob.post("/prompt", map[string]any{"prompt": plain(100 + i)}, nil)
	}
	if !refusal(last, http.StatusTooManyRequests, "") {
		t.Errorf("more jobs than the studio takes: %v", last)
	}
	bob.settle(t) // what was taken is done
}

// needSimulator skips what a real back end must not be asked for.
func needSimulator(t *testing.T) {
	t.Helper()
	if os.Getenv("COMFYUME_E2E_BACKEND") != "" {
		t.Skip("this is about simulated back ends, and COMFYUME_E2E_BACKEND names a real one")
	}
}

// gpu is a back end as `backend list` shows it.
type gpu struct{ Name, State, Reason, Cause string }

func (s *studio) gpus(t *testing.T) map[string]gpu {
	t.Helper()
	var list []gpu
	if err := json.Unmarshal([]byte(s.command(t, "backend", "list", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]gpu{}
	for _, g := range list {
		all[g.Name] = g
	}
	return all
}

// TestBackEndsInTrouble gives the studio back ends that can't be used beside one that can: each is named with what is
// wrong with it, and jobs go where they can run.
func TestBackEndsInTrouble(t *testing.T) {
	t.Parallel()
	needSimulator(t)
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	var frozen atomic.Int64
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		frozen.Add(1)
		<-r.Context().Done()
	}))
	defer silent.Close()
	defer silent.CloseClientConnections()
	var old *process
	s := startStudio(t, studioOptions{prepare: func(s *studio) {
		addr := freeAddr(t)
		old = newProcess(t, s, "old", []string{"sim", "comfyui", "--listen", addr, "--identity", "0.3.10"})
		old.start(t)
		s.extra = fmt.Sprintf("  - {name: nobody, driver: comfyui, url: \"http://%s\"}\n  - {name: page, driver: comfyui, url: %q}\n"+
			"  - {name: old, driver: comfyui, url: \"http://%s\"}\n  - {name: silent, driver: comfyui, url: %q}\n", freeAddr(t), page.URL, addr, silent.URL)
	}})
	l := s.newLoader(t, "ann")
	for i := range 5 {
		if e := l.entry(t, l.ask(t, plain(i)), 20*time.Second); !e.Status.Completed {
			t.Errorf("a job ended as %s: %s", e.Status.Str, e.Status.Messages)
		}
	}
	want := map[string]gpu{
		"gpu0":   {State: "ready"},
		"nobody": {State: "unreachable", Reason: "does not answer"},
		"page":   {State: "refused", Reason: "ComfyUI"},
		"old":    {State: "refused", Reason: "0.3.10"},
		"silent": {State: "unreachable", Reason: "does not answer"},
	}
	deadline := time.Now().Add(40 * time.Second)
	for {
		got, wrong := s.gpus(t), ""
		for name, w := range want {
			if g := got[name]; g.State != w.State || !strings.Contains(g.Reason, w.Reason) {
				wrong += fmt.Sprintf("\n%+v, want %+v", g, w)
			}
		}
		if wrong == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("back ends are told as%s", wrong)
		}
		<-time.After(50 * time.Millisecond)
	}
	if frozen.Load() == 0 {
		t.Error("the silent back end was never asked")
	}
}

// TestBackEndDiesUnderItsJob has graphs ask for trouble: jobs that crash every back end are stopped after two, and named,
// and those of others are done.
func TestBackEndDiesUnderItsJob(t *testing.T) {
	t.Parallel()
	needSimulator(t)
	s := startStudio(t, studioOptions{backEnds: 2, simArgs: []string{"--restart-after", "300ms"}})
	ann, bob := s.newLoader(t, "ann"), s.newLoader(t, "bob")
	ann.log = s.server.log.Name()
	var deadly []string
	for _, word := range []string{"crash", "crash-mute", "crash-post"} { // it may not get to say that it began
		deadly = append(deadly, ann.ask(t, node{
			"1": class("PrimitiveString", node{"value": "sim:" + word}),
			"2": class("PreviewAny", node{"source": []any{"1", 0}}),
		}))
	}
	failing := ann.ask(t, node{
		"1": class("PrimitiveString", node{"value": "sim:fail"}),
		"2": class("PreviewAny", node{"source": []any{"1", 0}}),
	})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for i := 0; i < 10 && ctx.Err() == nil; i++ {
		if e := bob.entry(t, bob.ask(t, slow(2, 0.05)), 60*time.Second); !e.Status.Completed {
			t.Errorf("bob's job ended as %s: %s", e.Status.Str, e.Status.Messages)
		}
	}
	for _, id := range deadly {
		e := ann.entry(t, id, 60*time.Second)
		if e.Status.Completed || !bytes.Contains(e.Status.Messages, []byte("died while working at it")) || !bytes.Contains(e.Status.Messages, []byte("The job was stopped")) {
			ann.wrong(t, id, "is deadly and ended as %s: %s", e.Status.Str, e.Status.Messages)
		}
	}
	if e := ann.entry(t, failing, 60*time.Second); e.Status.Completed || !bytes.Contains(e.Status.Messages, []byte("execution_error")) {
		t.Errorf("the failing job ended as %s: %s", e.Status.Str, e.Status.Messages)
	}
}
