package deliver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
)

// Steps of a delivery, in their order.
const (
	begin     = "begin"
	looked    = "looked"    // the slot is known to be empty
	opened    = "opened"    // the back end gives the file
	halfway   = "halfway"   // half of the bytes came
	stored    = "stored"    // the bytes are durable, and nobody knows their key
	committed = "committed" // the name is durable, and the caller does not know
	dropped   = "dropped"   // what was replaced is gone
)

var steps = []string{begin, looked, opened, halfway, stored, committed, dropped}

// crashPlan tells the process that is going to be killed what to do.
const crashPlan = "COMFYUME_TEST_DELIVER"

type plan struct {
	Dir   string
	Job   job.ID
	Fence int64
	Body  string
	Name  string
	Step  string
}

// TestCrash kills the process between any two steps of a delivery and repeats it: by the same attempt, by another
// one with the same bytes, and by another one with other bytes. There is one file with one name in the end.
func TestCrash(t *testing.T) {
	if raw := os.Getenv(crashPlan); raw != "" {
		die(t, raw)
		return
	}
	t.Parallel()
	for _, step := range steps {
		for _, then := range []string{"same attempt", "same bytes", "other bytes", "killed again"} {
			t.Run(step+"/"+then, func(t *testing.T) {
				t.Parallel()
				crash(t, step, then)
			})
		}
	}
}

func crash(t *testing.T, step, then string) {
	dir := t.TempDir()
	s := openStudio(t, dir)
	before := s.submit(t, "ann")
	s.bring(t, output("ann", before, 0, out("ComfyUI_00001_.png"), "earlier"))
	s.finish(t, before)
	f := s.submit(t, "ann")
	s.close(t)

	p := plan{Dir: dir, Job: f.Job, Fence: f.N, Body: "picture", Name: "ComfyUI_00002_.png", Step: step}
	if status := kill(t, p); status == done {
		t.Fatalf("the delivery did not come to %s", step)
	}
	body := p.Body
	s = openStudio(t, dir)
	switch then {
	case "same attempt":
	case "same bytes":
		f = s.again(t, f)
	case "other bytes":
		f, body = s.again(t, f), "other picture"
	case "killed again":
		f, body = s.again(t, f), "another picture"
		s.close(t)
		p.Fence, p.Body = f.N, body
		kill(t, p)
		s = openStudio(t, dir)
	}
	defer func() { s.close(t) }()
	for range 2 {
		if info := s.bring(t, output("ann", f, 0, out("ComfyUI_00002_.png"), body)); info.Name != "ComfyUI_00002_.png" {
			t.Errorf("the output is called %q", info.Name)
		}
	}
	s.finish(t, f)
	s.is(t, "ann", map[string]string{"output/ComfyUI_00001_.png": "earlier", "output/ComfyUI_00002_.png": body})
	if _, err := s.files.Sweep(t.Context(), time.Now().Add(48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n := s.keys(t); n != 2 {
		t.Errorf("after a sweep two files have %d blobs", n)
	}
	// No number was lost on the way.
	next := s.submit(t, "ann")
	if info := s.bring(t, output("ann", next, 0, out("ComfyUI_00003_.png"), "next")); info.Name != "ComfyUI_00003_.png" {
		t.Errorf("the next picture is called %q", info.Name)
	}
}

// done is the status of a process that came to the end without meeting its step.
const done = 3

// kill runs the plan in a process of its own that ends in the middle, and returns its status.
func kill(t *testing.T, p plan) int {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrash$")
	cmd.Env = append(os.Environ(), crashPlan+"="+string(raw))
	answer, err := cmd.CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || !strings.Contains(string(answer), "dies at "+p.Step) {
		t.Fatalf("the process was not killed at %s: %v\n%s", p.Step, err, answer)
	}
	return exit.ExitCode()
}

// die delivers and kills its own process at the step of the plan.
func die(t *testing.T, raw string) {
	var p plan
	if err := json.Unmarshal([]byte(raw), &p); err != nil {
		t.Fatal(err)
	}
	at := func(step string) {
		if step != p.Step {
			return
		}
		fmt.Println("dies at", step)
		self, err := os.FindProcess(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if err := self.Kill(); err != nil {
			t.Fatal(err)
		}
		select {} // the signal is on its way
	}
	s := openStudio(t, p.Dir)
	service := deliver.New(stopStore{s.names, at}, stopBlobs{s.blobs, at}, nil)
	o := output("ann", job.Fence{Job: p.Job, N: p.Fence}, 0, out(p.Name), p.Body)
	o.Open = func(context.Context) (io.ReadCloser, error) {
		at(opened)
		half := strings.NewReader(p.Body[:len(p.Body)/2])
		rest := strings.NewReader(p.Body[len(p.Body)/2:])
		return io.NopCloser(io.MultiReader(half, readerFunc(func([]byte) (int, error) { at(halfway); return 0, io.EOF }), rest)), nil
	}
	at(begin)
	if _, err := service.Deliver(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	at(dropped)
	// Where the slot was full already some steps do not come; the end is as good.
	fmt.Println("dies at", p.Step)
	os.Exit(done)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type stopStore struct {
	deliver.Store
	at func(string)
}

func (s stopStore) Delivered(ctx context.Context, user string, fence int64, slot deliver.Slot, from deliver.Origin) (file.Info, error) {
	info, err := s.Store.Delivered(ctx, user, fence, slot, from)
	s.at(looked)
	return info, err
}

func (s stopStore) Deliver(ctx context.Context, d deliver.Delivery) (file.Info, []string, error) {
	info, unused, err := s.Store.Deliver(ctx, d)
	s.at(committed)
	return info, unused, err
}

type stopBlobs struct {
	blob.Store
	at func(string)
}

func (s stopBlobs) Put(ctx context.Context, key string, r io.Reader) (blob.Sum, error) {
	sum, err := s.Store.Put(ctx, key, r)
	s.at(stored)
	return sum, err
}
