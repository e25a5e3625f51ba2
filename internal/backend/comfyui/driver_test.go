package comfyui_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/job"
)

// bench is one fake server with a driver, inside a synctest bubble.
type bench struct {
	*testing.T
	fake   *backendtest.Fake
	net    *backendtest.Net
	driver *comfyui.Driver
	hints  chan struct{}
	death  func(ctx context.Context, since time.Time) error // as in Options; set before a run needs it

	patience comfyui.Patience // as in Options, set before open
	silent   chan string      // what Options.Silent was told
}

// inBubble runs f with a fake and a driver in virtual time.
func inBubble(t *testing.T, f func(b *bench)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, fake: backendtest.NewFake(), net: backendtest.NewNet(), hints: make(chan struct{}, 100), silent: make(chan string, 100)}
		srv := &http.Server{Handler: b.fake.Handler()}
		var serving sync.WaitGroup
		serving.Go(func() { srv.Serve(b.net) })
		b.driver = b.open()
		f(b)
		if err := b.driver.Close(); err != nil {
			t.Error(err)
		}
		b.fake.Close()
		b.net.Close()
		srv.Close()
		serving.Wait()
	})
}

// newServer serves h on a network of its own.
func newServer(t *testing.T, h http.HandlerFunc) *backendtest.Net {
	t.Helper()
	n := backendtest.NewNet()
	srv := &http.Server{Handler: h}
	var serving sync.WaitGroup
	serving.Go(func() { srv.Serve(n) })
	t.Cleanup(func() {
		n.Close()
		srv.Close()
		serving.Wait()
	})
	return n
}

func (b *bench) open() *comfyui.Driver {
	b.Helper()
	d, err := comfyui.New("http://gpu", comfyui.Options{
		Studio: "test", Dial: b.net.Dial, Patience: b.patience, Silent: func(text string) { b.silent <- text },
		Death: func(ctx context.Context, since time.Time) error {
			if b.death == nil {
				return nil
			}
			return b.death(ctx, since)
		},
		Changed: func() {
			select {
			case b.hints <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// task makes a task of nodes: "Class text", in order.
func (b *bench) task(nodes ...string) backend.Task {
	graph := map[string]any{}
	for i, n := range nodes {
		class, text, _ := strings.Cut(n, " ")
		inputs := map[string]any{"text": text}
		if class == "Load" {
			inputs = map[string]any{"file": text}
		}
		graph[fmt.Sprint(i+1)] = map[string]any{"class_type": class, "inputs": inputs}
	}
	raw, err := json.Marshal(graph)
	if err != nil {
		b.Fatal(err)
	}
	return backend.Task{
		Job: "j", Prompt: raw, ExtraData: json.RawMessage(`{"extra_pnginfo":{"workflow":{}}}`), Previews: true,
		Attempt: job.Attempt{N: 1, RunID: uuid.NewString(), ClientID: b.driver.ClientID()},
	}
}

// attempt is what one Start gave.
type attempt struct {
	run    backend.Run
	posted int
	mu     sync.Mutex
	types  []string // seen tells them while the run goes on
	binary int
	result backend.Result
	err    error
	done   chan struct{}
}

func (b *bench) prepare(t backend.Task) backend.Run {
	b.Helper()
	run, err := b.driver.Prepare(b.Context(), t)
	if err != nil {
		b.Fatal("Prepare:", err)
	}
	return run
}

func (b *bench) start(ctx context.Context, run backend.Run) *attempt {
	a := &attempt{run: run, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.result, a.err = run.Start(ctx, func() { a.posted++ }, func(u backend.Update) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			if u.Binary != nil {
				a.binary++
			} else {
				a.types = append(a.types, u.Type)
			}
			return nil
		})
	}()
	return a
}

// seen returns the types of the frames so far.
func (a *attempt) seen() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.types)
}

// run starts a task and waits for its end.
func (b *bench) run(t backend.Task) *attempt {
	b.Helper()
	a := b.start(b.Context(), b.prepare(t))
	<-a.done
	return a
}

func (b *bench) wantState(a *attempt, want job.State) {
	b.Helper()
	if a.err != nil || a.result.State != want {
		b.Fatalf("run ended as %q, %v; want %q", a.result.State, a.err, want)
	}
	if a.posted != 1 {
		b.Errorf("posted was called %d times", a.posted)
	}
	if err := a.run.Close(); err != nil {
		b.Error(err)
	}
}

// release lets a run that waits go on to its end.
func (b *bench) release(a *attempt) {
	b.Helper()
	b.fake.Release()
	<-a.done
	b.wantState(a, job.Completed)
}

func TestRunFromPostToResult(t *testing.T) {
	inBubble(t, func(b *bench) {
		task := b.task("Step", "Text hello", "Save picture")
		a := b.run(task)
		b.wantState(a, job.Completed)
		want := []string{
			"execution_start", "execution_cached", "progress_state", "executing", "progress",
			"progress_state", "executing", "executed", "progress_state", "executing", "executed", "execution_success",
		}
		if diff := cmp.Diff(want, a.types); diff != "" {
			b.Errorf("frames (-want +got):\n%s", diff)
		}
		if a.binary != 1 {
			b.Errorf("%d previews, want 1", a.binary)
		}
		if !strings.Contains(string(a.result.Outputs), `"hello"`) {
			b.Errorf("outputs: %s", a.result.Outputs)
		}
		r, err := a.run.Fetch(b.Context(), backend.FileRef{Filename: "fake_00001_.png", Type: "output"})
		if err != nil {
			b.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil || string(body) != "picture" {
			b.Errorf("fetched %q, %v", body, err)
		}
		r.Close()
		if _, err := a.run.Fetch(b.Context(), backend.FileRef{Filename: "none.png", Type: "output"}); err == nil {
			b.Error("a missing file was fetched")
		}
		time.Sleep(2 * time.Second)
		if left := b.fake.History(); len(left) != 0 {
			b.Errorf("history entries stay on the server: %v", left)
		}
	})
}

func TestHistoryThatComesLateIsWaitedFor(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.fake.LateHistory = 20
		b.wantState(b.run(b.task("Text a")), job.Completed)
	})
}

func TestHistoryThatNeverComesIsReplacedByFrames(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.fake.LateHistory = 1 << 30
		a := b.run(b.task("Text a", "Text b"))
		b.wantState(a, job.Completed)
		if got, want := string(a.result.Outputs), `{"1": {"text": ["a"]}, "2": {"text": ["b"]}}`; got != want {
			b.Errorf("outputs %s, want %s", got, want)
		}
		if !strings.Contains(string(a.result.Messages), "execution_success") {
			b.Errorf("messages: %s", a.result.Messages)
		}
	})
}

func TestGraphFailureIsAResult(t *testing.T) {
	inBubble(t, func(b *bench) {
		a := b.run(b.task("Text a", "Fail"))
		b.wantState(a, job.Failed)
		if !strings.Contains(string(a.result.Messages), "ValueError") || !strings.Contains(string(a.result.Outputs), `"a"`) {
			b.Errorf("result: %s %s", a.result.Messages, a.result.Outputs)
		}
	})
}

func TestRefusedGraphSaysWhy(t *testing.T) {
	inBubble(t, func(b *bench) {
		a := b.run(b.task("Load nothing.png"))
		refused, ok := errors.AsType[*backend.Refused](a.err)
		if !ok || !strings.Contains(string(refused.Body), "nothing.png") {
			b.Fatalf("err = %v", a.err)
		}
		if a.posted != 0 {
			b.Error("a refused graph counts as posted")
		}
		a.run.Close()
	})
}

func upload(name, content string) backend.Upload {
	return backend.Upload{Name: name, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

func TestInputsAreUploadedOnceAndAgainWhenTheyAreGone(t *testing.T) {
	inBubble(t, func(b *bench) {
		big := strings.Repeat("x", 100<<10)
		for i, want := range []int{3, 3, 5} { // the mark of the start, two inputs; later, both again
			if i == 2 {
				b.fake.DeleteFile("input", "a.png")
			}
			task := b.task("Load a.png", "Load b.png")
			task.Uploads = []backend.Upload{upload("a.png", "a"), upload("b.png", big)}
			b.wantState(b.run(task), job.Completed)
			if got := b.fake.Requests("POST /upload/image"); got != want {
				b.Errorf("run %d: %d uploads, want %d", i, got, want)
			}
		}
		// A new process sends nothing that is there: a run of the one before may be reading it.
		b.driver.Close()
		b.driver = b.open()
		task := b.task("Load a.png", "Load b.png")
		task.Uploads = []backend.Upload{upload("a.png", "a"), upload("b.png", big)}
		b.wantState(b.run(task), job.Completed)
		if got := b.fake.Requests("POST /upload/image"); got != 5 {
			b.Errorf("a file that is there was sent again: %d uploads", got)
		}
	})
}

// TestInputIsNotWrittenTwiceAtOnce: ComfyUI empties a file before it writes it anew, and who was told of the first upload
// may be reading it by then.
func TestInputIsNotWrittenTwiceAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		const runs = 4
		var opened, open atomic.Int32
		errs := make(chan error, runs)
		for range runs {
			task := b.task("Load a.png")
			u := upload("a.png", "a")
			u.Open = func() (io.ReadCloser, error) {
				opened.Add(1)
				if open.Add(1) > 1 {
					b.Error("the file is sent twice at once")
				}
				time.Sleep(time.Second)
				open.Add(-1)
				return io.NopCloser(strings.NewReader("a")), nil
			}
			task.Uploads = []backend.Upload{u}
			go func() {
				run, err := b.driver.Prepare(b.Context(), task)
				if err == nil {
					err = run.Close()
				}
				errs <- err
			}()
		}
		for range runs {
			if err := <-errs; err != nil {
				b.Error(err)
			}
		}
		if n := opened.Load(); n != 1 {
			b.Errorf("the file was sent %d times", n)
		}
	})
}

func TestPreparedRunThatIsNotWantedCostsNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		run := b.prepare(b.task("Text a"))
		if err := errors.Join(run.Close(), run.Close()); err != nil {
			b.Fatal(err)
		}
		before := b.fake.Requests("GET /ws")
		b.wantState(b.run(b.task("Text a")), job.Completed)
		if got := b.fake.Requests("POST /prompt"); got != 1 {
			b.Errorf("%d prompts", got)
		}
		if got := b.fake.Requests("GET /ws"); got > before+1 {
			b.Errorf("the socket of the prepared run was thrown away")
		}
	})
}

func TestInterruptStopsOnlyThisRun(t *testing.T) {
	inBubble(t, func(b *bench) {
		first := b.start(b.Context(), b.prepare(b.task("Wait")))
		synctest.Wait()
		second := b.start(b.Context(), b.prepare(b.task("Wait")))
		synctest.Wait()
		if err := second.run.Interrupt(b.Context()); err != nil { // waiting: taken out of the queue
			b.Fatal(err)
		}
		<-second.done
		b.wantState(second, job.Cancelled)
		select {
		case <-first.done:
			b.Fatal("the running one was stopped instead")
		default:
		}
		if err := first.run.Interrupt(b.Context()); err != nil {
			b.Fatal(err)
		}
		<-first.done
		b.wantState(first, job.Cancelled)
		// Between our look and the interrupt somebody else's run may begin.
		if b.fake.Requests("POST /interrupt for whatever runs") != 0 {
			b.Error("an interrupt named no run")
		}

		third := b.prepare(b.task("Text a"))
		if err := third.Interrupt(b.Context()); err != nil { // not begun: never posted
			b.Fatal(err)
		}
		a := b.start(b.Context(), third)
		<-a.done
		if a.err != nil || a.result.State != job.Cancelled || a.posted != 0 {
			b.Errorf("interrupted before its start: %+v, %v, posted %d", a.result.State, a.err, a.posted)
		}
		a.run.Close()
	})
}

func TestCutSocketIsOpenedAgain(t *testing.T) {
	inBubble(t, func(b *bench) {
		a := b.start(b.Context(), b.prepare(b.task("Wait", "Text after")))
		synctest.Wait()
		b.fake.CutSockets()
		time.Sleep(time.Second)
		b.release(a)
		if !slices.Contains(a.types, "executed") {
			b.Errorf("frames after the cut are missing: %v", a.types)
		}
	})
}

func TestEndIsFoundByPollWhenTheSocketSaysNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		a := b.start(b.Context(), b.prepare(b.task("Wait", "Text after")))
		synctest.Wait()
		b.fake.Mute(true)
		b.release(a)
		if !strings.Contains(string(a.result.Outputs), "after") {
			b.Errorf("outputs: %s", a.result.Outputs)
		}
	})
}

func TestRestartedServerLosesTheRun(t *testing.T) {
	inBubble(t, func(b *bench) {
		before, err := b.driver.Probe(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		a := b.start(b.Context(), b.prepare(b.task("Wait")))
		synctest.Wait()
		b.fake.Restart()
		<-a.done
		if !errors.Is(a.err, backend.ErrLost) {
			b.Errorf("err = %v, want ErrLost", a.err)
		}
		a.run.Close()
		next := b.prepare(b.task("Text a"))
		if next.Epoch() == before.Epoch {
			b.Error("the restart did not change the epoch")
		}
		next.Close()
	})
}

// TestRunThatTheNextStartTook: the server was started anew just before it took the prompt, and nobody had noticed yet.
func TestRunThatTheNextStartTook(t *testing.T) {
	inBubble(t, func(b *bench) {
		run := b.prepare(b.task("Text hello", "Save picture"))
		before := run.Epoch()
		b.fake.Mangle("POST /prompt", func(w http.ResponseWriter, r *http.Request) {
			b.fake.Mangle("POST /prompt", nil)
			b.fake.Restart()
			b.fake.Handler().ServeHTTP(w, r)
		})
		a := b.start(b.Context(), run)
		<-a.done
		b.wantState(a, job.Completed)
		if run.Epoch() == before {
			b.Error("it is said to be of the start before")
		}
		r, err := run.Fetch(b.Context(), backend.FileRef{Filename: "fake_00001_.png", Type: "output"})
		if err != nil {
			b.Fatal(err)
		}
		r.Close()
	})
}

func TestServerThatGoesAwayIsGivenUp(t *testing.T) {
	inBubble(t, func(b *bench) {
		a := b.start(b.Context(), b.prepare(b.task("Wait")))
		synctest.Wait()
		began := time.Now()
		b.net.SetDown(true)
		<-a.done
		if !errors.Is(a.err, backend.ErrLost) {
			b.Errorf("err = %v, want ErrLost", a.err)
		}
		if took := time.Since(began); took < 30*time.Second || took > 40*time.Second {
			b.Errorf("given up after %v", took)
		}
		run, err := b.driver.Prepare(b.Context(), b.task("Text a"))
		if !errors.Is(err, backend.ErrUnreachable) {
			b.Errorf("Prepare on a server that is away: %v, %v", run, err)
		}
		a.run.Close()
	})
}

func TestFrozenServerIsNoticed(t *testing.T) {
	inBubble(t, func(b *bench) {
		a := b.start(b.Context(), b.prepare(b.task("Wait")))
		synctest.Wait()
		began := time.Now()
		b.fake.SetFrozen(true)
		<-a.done
		if !errors.Is(a.err, backend.ErrFrozen) {
			b.Errorf("err = %v, want ErrFrozen", a.err)
		}
		if took := time.Since(began); took < 2*time.Minute || took > 3*time.Minute {
			b.Errorf("noticed after %v", took)
		}
		id, _ := b.fake.Queue()
		a.run.Close()
		b.fake.SetFrozen(false)
		time.Sleep(time.Minute)
		if now, _ := b.fake.Queue(); now == id {
			b.Error("the given-up run goes on after the server came back")
		}
	})
}

func TestQueueClearedByOthersLosesTheRun(t *testing.T) {
	inBubble(t, func(b *bench) {
		first := b.start(b.Context(), b.prepare(b.task("Wait")))
		synctest.Wait()
		second := b.start(b.Context(), b.prepare(b.task("Text a")))
		synctest.Wait()
		b.fake.DropQueue()
		<-second.done
		if !errors.Is(second.err, backend.ErrLost) {
			b.Errorf("err = %v, want ErrLost", second.err)
		}
		second.run.Close()
		b.release(first)
	})
}
