// Package queuetest is the suite that every store of the queue passes: conformance, a model-based property test
// over any interleaving of workers, owners and crashes, and benchmarks.
package queuetest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// Open opens a store and returns what closes it. Opening again after that gives the same rows: it stands for a
// restart.
type Open func(t testing.TB) (queue.Store, func())

// Shelf makes an Open over an empty place of its own.
type Shelf func(t testing.TB) Open

// failer is what a test and a property have in common.
type failer interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Context() context.Context
}

// bench is a queue under test with what it announced.
type bench struct {
	*queue.Service
	t     failer
	tb    testing.TB
	store queue.Store
	opts  queue.Options
	open  Open
	shut  func()

	mu   sync.Mutex
	told []job.Changed
}

// start opens the queue and closes it with the test.
func start(t testing.TB, open Open, o queue.Options) *bench {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	sealer, err := queue.NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, tb: t, open: open, opts: o}
	b.opts.Sealer = sealer
	if o.Notify == nil {
		b.opts.Notify = b.hear
	}
	b.boot()
	t.Cleanup(func() { b.shut() })
	return b
}

func (b *bench) boot() {
	b.t.Helper()
	b.store, b.shut = b.open(b.tb)
	service, err := queue.New(b.t.Context(), b.store, b.opts)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Service = service
}

// restart stands for a crash and a new start: everything in memory is gone.
func (b *bench) restart() {
	b.t.Helper()
	b.shut()
	b.boot()
}

func (b *bench) hear(c job.Changed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = append(b.told, c)
}

// heard returns what was announced since the last call.
func (b *bench) heard() []job.Changed {
	b.mu.Lock()
	defer b.mu.Unlock()
	told := b.told
	b.told = nil
	return told
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// submit accepts a job of the user, with changes to the plain submission.
func (b *bench) submit(user string, change ...func(*job.Submission)) job.Job {
	b.t.Helper()
	sub := Submission(user, len(user))
	for _, fn := range change {
		fn(&sub)
	}
	j, existing, err := b.Submit(b.t.Context(), sub)
	b.must(err)
	if existing {
		b.t.Fatalf("a first submission is called existing: %+v", j)
	}
	return j
}

// run claims the job on back end "gpu".
func (b *bench) claim(id job.ID) job.Entry {
	b.t.Helper()
	e, _, err := b.Claim(b.t.Context(), id, Params())
	b.must(err)
	return e
}

// finish claims, posts and finishes the job.
func (b *bench) finish(id job.ID, state job.State) job.Job {
	b.t.Helper()
	e := b.claim(id)
	b.must(b.Posted(id, e.Job.Attempt.Fence))
	b.must(b.Finish(b.t.Context(), id, e.Job.Attempt.Fence, Outcome(state)))
	j, err := b.Get(b.t.Context(), id)
	b.must(err)
	return j
}

// Params are a claim's.
func Params() job.ClaimParams {
	return job.ClaimParams{
		BackEnd: "gpu", RunID: "6f1f8a04-7a53-4c0e-9f4e-0a4e8f6f2b11",
		ClientID: "0b9d6b1e-2f8e-4c6a-8a48-5f0f4d2f7c22", LeaseUntil: time.Now().Add(time.Minute),
	}
}

// Submission is a plain job of the user with a graph of about 2 KiB.
func Submission(user string, seed int) job.Submission {
	return job.Submission{
		User: user, Group: "class-a", ClientID: "session-" + user, Class: job.ClassNormal, WorkflowID: "wf",
		Request: job.Request{
			Prompt:    json.RawMessage(fmt.Sprintf(graph, seed)),
			ExtraData: json.RawMessage(`{"client_id": "session-` + user + `", "create_time": 1764000000000, "odd": NaN}`),
			Outputs:   []string{"9"},
		},
		Created: time.UnixMilli(1764000000000),
	}
}

// Outcome is how a run ended.
func Outcome(state job.State) job.Outcome {
	o := job.Outcome{
		State:       state,
		Outputs:     json.RawMessage(`{"9": {"images": [{"filename": "ComfyUI_00001_.png", "subfolder": "", "type": "output"}]}}`),
		Messages:    json.RawMessage(`[["execution_start", {"prompt_id": "p", "timestamp": 1764000000100}]]`),
		Meta:        json.RawMessage(`{"9": {"node_id": "9", "display_node": "9", "parent_node": null, "real_node_id": "9"}}`),
		ExecSeconds: 1.25,
		Summary:     json.RawMessage(`{"outputs_count":1}`),
	}
	if state == job.Failed {
		o.Error = "CUDA out of memory"
	}
	return o
}

const graph = `{
 "4": {"inputs": {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"}, "class_type": "CheckpointLoaderSimple", "_meta": {"title": "Load Checkpoint"}},
 "5": {"inputs": {"width": 512, "height": 512, "batch_size": 1}, "class_type": "EmptyLatentImage", "_meta": {"title": "Empty Latent Image"}},
 "6": {"inputs": {"text": "beautiful scenery nature glass bottle landscape, purple galaxy bottle,", "clip": ["4", 1]}, "class_type": "CLIPTextEncode", "_meta": {"title": "CLIP Text Encode (Prompt)"}},
 "7": {"inputs": {"text": "text, watermark", "clip": ["4", 1]}, "class_type": "CLIPTextEncode", "_meta": {"title": "CLIP Text Encode (Prompt)"}},
 "3": {"inputs": {"seed": 1844674407370955%04d, "steps": 20, "cfg": 8, "sampler_name": "euler", "scheduler": "normal", "denoise": 1, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}, "class_type": "KSampler", "_meta": {"title": "KSampler"}},
 "8": {"inputs": {"samples": ["3", 0], "vae": ["4", 2]}, "class_type": "VAEDecode", "_meta": {"title": "VAE Decode"}},
 "9": {"inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}, "class_type": "SaveImage", "_meta": {"title": "Save Image"}}
}`
