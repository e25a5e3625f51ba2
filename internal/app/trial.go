package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/job"
)

// How long a test waits: for an answer, for its small run (behind what runs there, and behind a cold start), and for
// the back end to forget the run.
const (
	trialProbe  = 90 * time.Second
	trialRun    = 15 * time.Minute
	trialForget = 5 * time.Second
)

// trial is one test of a back end.
type trial struct {
	s     *Studio
	b     gpu
	d     backend.Driver
	steps []api.TestStep
}

// Test asks a back end now who it is and what it can run and, with run, has it run something small. Without a server it
// is connected for this one question.
func (f fleetFace) Test(ctx context.Context, name string, run bool) (api.BackEndTest, error) {
	s := f.s
	b, ok := s.gpus.named(name)
	if !ok {
		return api.BackEndTest{}, noGPU(name)
	}
	live, sizes := s.fleet, s.catalog
	if live == nil {
		var err error
		if b.driver, err = s.driver(b.Back); err != nil {
			return api.BackEndTest{}, err
		}
		defer b.driver.Close()
		if sizes, err = catalog.New(ctx, forgetful{}, catalog.Options{Members: []catalog.Member{{Name: name}}}); err != nil {
			return api.BackEndTest{}, err
		}
		if live, err = fleet.New([]fleet.Member{{Name: name, Driver: b.driver, Drained: b.drained}}, sizes, fleet.Options{Log: s.log}); err != nil {
			return api.BackEndTest{}, err
		}
	}
	t := &trial{s: s, b: b, d: b.driver}
	probing, cancel := context.WithTimeout(ctx, trialProbe)
	defer cancel()
	began := time.Now()
	k, err := live.Test(probing, name)
	if err != nil {
		return api.BackEndTest{}, err
	}
	out := api.BackEndTest{BackEnd: backEndOf(b, k)}
	size := sizes.Known()[name]
	out.Classes, out.Models = size.Classes, size.Models
	if usable := t.answers(k, size, time.Since(began)); usable && run {
		t.run(ctx)
	}
	out.Steps, out.OK = t.steps, true
	for _, step := range t.steps {
		out.OK = out.OK && step.OK
	}
	return out, nil
}

// forgetful is a store for a question whose answer is not kept.
type forgetful struct{}

func (forgetful) SaveSnapshot(context.Context, string, []byte) error       { return nil }
func (forgetful) LoadSnapshots(context.Context) (map[string][]byte, error) { return nil, nil }

// good and bad note a step.
func (t *trial) good(name string, took time.Duration, format string, args ...any) {
	t.steps = append(t.steps, api.TestStep{Name: name, OK: true, Text: fmt.Sprintf(format, args...), Took: took.Seconds()})
}

func (t *trial) bad(name string, took time.Duration, why why) {
	t.steps = append(t.steps, api.TestStep{Name: name, Text: why.text, Cause: why.cause, Remedy: why.remedy, Took: took.Seconds()})
}

// answers notes what a look at the back end told, and reports whether it can run something.
func (t *trial) answers(k fleet.BackEnd, size catalog.Size, took time.Duration) bool {
	switch k.State {
	case fleet.Unreachable, fleet.Refused, fleet.Unknown:
		why := explain(k.Cause, t.b)
		if why.step != "address" {
			t.good("address", took, "Something answers.")
		}
		t.bad(why.step, took, why)
		return false
	case fleet.Quarantined:
		t.bad("health", took, why{text: k.Reason, cause: k.Cause, remedy: "See the causes of its last runs with: comfyume job list. It is tried again by itself."})
		return false
	case fleet.Drained:
		if k.Cause != "" && k.Version == "" {
			why := explain(k.Cause, t.b)
			t.bad(why.step, took, why)
			return false
		}
	}
	if t.b.URL != "" {
		t.good("address", took, "%s answers.", withoutPassword(t.b.URL))
	} else {
		t.good("address", took, "Its agent is connected.")
	}
	if t.b.Key.IsSet() {
		t.good("key", 0, "The key is taken, or not asked for.")
	}
	if k.Cold != "" {
		t.good("stats", 0, "%s", k.Cold)
	} else {
		t.good("stats", 0, "ComfyUI %s, %s.", k.Version, devices(k.Devices))
	}
	if size.Classes == 0 && k.Cold == "" {
		t.bad("nodes", 0, why{text: "It lists no nodes.", remedy: "See ComfyUI's log for what kept it from loading its nodes."})
		return false
	}
	t.good("nodes", 0, "%d node classes, %d model files.", size.Classes, size.Models)
	if size.Models == 0 && k.Cold == "" {
		t.steps[len(t.steps)-1].Remedy = "Without models little can be made. See its folder models, and extra_model_paths.yaml."
	}
	if k.QueueOther > 0 {
		t.good("queue", 0, "%d runs in its queue are not this studio's. It gets work when they are over.", k.QueueOther)
	}
	return true
}

func devices(list []backend.Device) string {
	if len(list) == 0 {
		return "no device"
	}
	names := make([]string, 0, len(list))
	for _, d := range list {
		names = append(names, fmt.Sprintf("%s with %.1f GB", d.Name, float64(d.VRAMTotal)/(1<<30)))
	}
	return strings.Join(names, ", ")
}

// trialGraph is of nodes that ship with every ComfyUI. Its first picture has another colour each time, so that nothing
// of it comes from a cache; its second one is an input that is sent along.
func trialGraph(input string) json.RawMessage {
	return fmt.Appendf(nil, `{"1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": %d}},
		"2": {"class_type": "LoadImage", "inputs": {"image": %q}},
		"3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
		"4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}`, rand.IntN(1<<24), input) //nolint:gosec // a colour
}

// trialInput is the picture that is sent along.
func trialInput() (string, []byte, error) {
	var b bytes.Buffer
	err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 16, 16)))
	return "comfyume-test.png", b.Bytes(), err
}

// run has the back end run something small and looks at what it keeps of it.
func (t *trial) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, trialRun)
	defer cancel()
	name, input, err := trialInput()
	if err != nil {
		t.bad("run", 0, explainRun(err))
		return
	}
	task := backend.Task{
		Job: "test", Attempt: job.Attempt{N: 1, RunID: uuid.NewString(), ClientID: t.d.ClientID()},
		Prompt: trialGraph(name), ExtraData: json.RawMessage(`{}`), Outputs: []string{"3", "4"}, Core: true,
		Uploads: []backend.Upload{{Name: name, Size: int64(len(input)), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(input)), nil
		}}},
	}
	began := time.Now()
	run, err := t.d.Prepare(ctx, task)
	if err != nil {
		t.bad("input", time.Since(began), explainRun(err))
		return
	}
	t.good("input", time.Since(began), "A picture of %d bytes was sent to it.", len(input))
	began = time.Now()
	result, err := run.Start(ctx, func() {}, func(backend.Update) error { return nil })
	took := time.Since(began)
	if err == nil && result.State != job.Completed {
		err = fmt.Errorf("the run ended as %s: %s", result.State, clip(string(result.Messages)))
	}
	if err != nil {
		t.bad("run", took, explainRun(err))
		if err := run.Close(); err != nil {
			t.s.log.Warn("a trial run can't be closed", "backend", t.b.Name, "err", err)
		}
		return
	}
	t.good("run", took, "A small graph ran in %s.", took.Round(time.Millisecond))
	kept := t.fetch(ctx, run, result)
	if err := run.Close(); err != nil {
		t.s.log.Warn("a trial run can't be closed", "backend", t.b.Name, "err", err)
	}
	t.afterwards(ctx, task, kept)
}

func clip(s string) string { return s[:min(len(s), 500)] }

// fetch takes the pictures from the back end and returns which of them it still has.
func (t *trial) fetch(ctx context.Context, run backend.Run, result backend.Result) (kept []string) {
	began := time.Now()
	var nodes map[string]struct{ Images []backend.FileRef }
	if err := json.Unmarshal(result.Outputs, &nodes); err != nil {
		t.bad("result", 0, explainRun(err))
		return nil
	}
	n := 0
	for _, id := range []string{"3", "4"} {
		for _, ref := range nodes[id].Images {
			err := t.picture(ctx, run, ref)
			if err != nil {
				t.bad("result", time.Since(began), explainRun(err))
				return kept
			}
			n++
			if body, err := run.Fetch(ctx, ref); err == nil {
				body.Close() //nolint:errcheck // nothing of it was wanted
				kept = append(kept, ref.Type+"/"+strings.TrimPrefix(ref.Subfolder+"/"+ref.Filename, "/"))
			}
		}
	}
	if n != 2 {
		t.bad("result", time.Since(began), why{text: fmt.Sprintf("It reports %d pictures in place of 2.", n), cause: clip(string(result.Outputs))})
		return kept
	}
	t.good("result", time.Since(began), "2 pictures came back whole.")
	return kept
}

// picture reads one picture to its end.
func (t *trial) picture(ctx context.Context, run backend.Run, ref backend.FileRef) error {
	body, err := run.Fetch(ctx, ref)
	if err != nil {
		return err
	}
	_, err = png.Decode(io.LimitReader(body, 1<<20))
	if err = errors.Join(err, body.Close()); err != nil {
		return fmt.Errorf("%s: %w", ref.Filename, err)
	}
	return nil
}

// afterwards says what the back end keeps of the run once it is closed.
func (t *trial) afterwards(ctx context.Context, task backend.Task, files []string) {
	began := time.Now()
	gone := false
	for wait := 50 * time.Millisecond; !gone && time.Since(began) < trialForget; wait *= 2 {
		run, err := t.d.Resume(ctx, task)
		if errors.Is(err, backend.ErrUnknownRun) {
			gone = true
			break
		}
		if err == nil {
			err = run.Close()
		}
		if err != nil {
			t.bad("afterwards", time.Since(began), explainRun(err))
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
	if !gone {
		t.bad("afterwards", time.Since(began), why{
			text:   "The run is still in its history a while after it was deleted there.",
			remedy: "Whoever reaches this back end can read people's graphs there. See whether another server answers for it, such as behind a balancer.",
		})
		return
	}
	text := "No history entry stays."
	if len(files) > 0 {
		text += " Of files stay: " + strings.Join(files, ", ") + " (files in temp until ComfyUI starts anew), and the input comfyume-test.png."
	} else {
		text += " The input comfyume-test.png stays in its input folder."
	}
	t.good("afterwards", time.Since(began), "%s", text)
}

// explainRun says why a trial run did not do.
func explainRun(err error) why {
	w := why{text: "It did not run a small graph.", cause: err.Error()}
	switch f, known := errors.AsType[*fault.Error](err); {
	case errors.Is(err, context.DeadlineExceeded):
		w.text, w.remedy = fmt.Sprintf("It did not come to an end within %v.", trialRun), "See what runs there now, and its log."
	case errors.Is(err, backend.ErrForeign):
		w.text, w.remedy = "It is busy with runs that are not this studio's.", "Try again when they are over."
	case errors.Is(err, backend.ErrLost), errors.Is(err, backend.ErrFrozen):
		w.text, w.remedy = "It lost the run, or stopped answering in the middle of it.", "See ComfyUI's log for a crash, and the memory of its machine."
	case errors.Is(err, backend.ErrMemory):
		w.text, w.remedy = "It has no memory for a picture of 16 by 16.", "See what else has its GPU: nvidia-smi"
	case errors.Is(err, backend.ErrUnreachable):
		w.text, w.remedy = "It stopped answering.", "See whether a proxy between here and there cuts long requests or web sockets."
	case known && f.Public != "":
		w.text, w.remedy = f.Public, f.Remedy
	}
	if refused, ok := errors.AsType[*backend.Refused](err); ok {
		w.text, w.cause = "It refuses a graph of nodes that ship with ComfyUI.", clip(string(refused.Body))
		w.remedy = "See whether its core nodes were replaced or switched off."
	}
	return w
}
