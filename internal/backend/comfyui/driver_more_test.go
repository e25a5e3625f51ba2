package comfyui_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

func TestProbeTellsWhoTheServerIs(t *testing.T) {
	inBubble(t, func(b *bench) {
		s, err := b.driver.Probe(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if s.Version != "0.3.64" || s.Epoch == "" || len(s.Devices) != 1 || s.Devices[0].VRAMFree != 5 {
			b.Errorf("snapshot: %+v", s)
		}
		if !bytes.Contains(s.ObjectInfo, []byte("1e308")) || len(s.Models["checkpoints"]) != 1 || len(s.Extensions) != 1 {
			b.Errorf("abilities: %s %v %v", s.ObjectInfo, s.Models, s.Extensions)
		}
		if _, ok := s.WebTexts["i18n"]; !ok || len(s.WebTexts) != 1 {
			b.Errorf("web texts: %v", s.WebTexts)
		}
		again, err := b.driver.Probe(b.Context())
		if err != nil || again.ObjectInfo != nil || again.Models != nil || again.Epoch != s.Epoch {
			b.Errorf("second probe: %+v, %v", again, err)
		}
		if n := b.fake.Requests("GET /object_info"); n != 1 {
			b.Errorf("object_info was read %d times", n)
		}
		b.fake.Restart()
		if again, err = b.driver.Probe(b.Context()); err != nil || again.Epoch == s.Epoch || again.ObjectInfo != nil {
			b.Errorf("after a restart with the same nodes: %+v, %v", again, err)
		}
		// A driver of a later process knows the start again.
		second := b.open()
		defer second.Close()
		if other, err := second.Probe(b.Context()); err != nil || other.Epoch != again.Epoch {
			b.Errorf("a later process sees epoch %q, %v; want %q", other.Epoch, err, again.Epoch)
		}
	})
}

func TestProbeNamesWhatIsWrong(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.fake.Version = "0.3.44"
		if _, err := b.driver.Probe(b.Context()); !errors.Is(err, backend.ErrTooOld) || !strings.Contains(err.Error(), comfyui.Oldest) {
			b.Errorf("too old: %v", err)
		}
		for _, v := range []string{"0.3.45", "v0.4.0", "0.3.100-3-gabcdef", "1.0", "main"} {
			b.fake.Version = v
			if _, err := b.driver.Probe(b.Context()); err != nil {
				b.Errorf("version %s: %v", v, err)
			}
		}
		b.net.SetDown(true)
		if _, err := b.driver.Probe(b.Context()); !errors.Is(err, backend.ErrUnreachable) {
			b.Errorf("down: %v", err)
		}
	})
}

func TestProbeOfSomethingElse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"page":        {200, "<html>", backend.ErrNotComfyUI},
		"other json":  {200, `{"a":1}`, backend.ErrNotComfyUI},
		"not found":   {404, "", backend.ErrNotComfyUI},
		"locked":      {401, "", backend.ErrNotComfyUI},
		"bad gateway": {502, "", backend.ErrUnreachable},
		"ancient":     {200, `{"system":{"os":"posix"},"devices":[]}`, backend.ErrTooOld},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			d, err := comfyui.New("http://gpu/", comfyui.Options{Dial: n.Dial})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			_, err = d.Probe(t.Context())
			for _, class := range []error{backend.ErrNotComfyUI, backend.ErrUnreachable, backend.ErrTooOld} {
				if errors.Is(err, class) != (class == c.want) {
					t.Errorf("err = %v, want exactly %v", err, c.want)
				}
			}
		})
	}
}

func TestAddressesAreChecked(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "gpu1", "gpu1:8188", "ftp://gpu1", "http://", "http://gpu1?x=1", "http://%zz"} {
		if _, err := comfyui.New(bad, comfyui.Options{}); !fault.Is(err, fault.Invalid) {
			t.Errorf("New(%q): %v", bad, err)
		}
	}
}

func TestForeignRunsCountAsBusyAndAreLeftAlone(t *testing.T) {
	inBubble(t, func(b *bench) {
		if _, err := b.driver.Probe(b.Context()); err != nil {
			b.Fatal(err)
		}
		other := b.open() // somebody else's program
		defer other.Close()
		task := b.task("Wait")
		run, err := other.Prepare(b.Context(), task)
		if err != nil {
			b.Fatal(err)
		}
		foreign := b.start(b.Context(), run)
		synctest.Wait()
		select {
		case <-b.hints:
		default:
			b.Error("the driver did not notice foreign work")
		}
		s, err := b.driver.Probe(b.Context())
		if err != nil || s.QueueOther != 1 {
			b.Errorf("QueueOther = %d, %v; want 1", s.QueueOther, err)
		}
		mine := b.run(b.task("Text a"))
		if !errors.Is(mine.err, backend.ErrForeign) || mine.posted != 0 {
			b.Errorf("started beside foreign work: %v", mine.err)
		}
		if err := mine.run.Interrupt(b.Context()); err != nil {
			b.Error(err)
		}
		mine.run.Close()
		if running, _ := b.fake.Queue(); running != task.Attempt.RunID {
			b.Error("the foreign run was touched")
		}
		b.release(foreign)
		b.wantState(b.run(b.task("Text a")), job.Completed)
		if s, err := b.driver.Probe(b.Context()); err != nil || s.QueueOther != 0 {
			b.Errorf("QueueOther = %d, %v; want 0", s.QueueOther, err)
		}
	})
}

func TestFramesOfOthersDoNotPass(t *testing.T) {
	inBubble(t, func(b *bench) {
		a := b.start(b.Context(), b.prepare(b.task("Wait")))
		time.Sleep(10 * time.Millisecond) // frames that tell how far the run is may come together
		synctest.Wait()
		n := len(a.seen())
		b.fake.Broadcast(`{"type": "progress", "data": {"value": 1, "max": 2, "prompt_id": "else", "node": "1"}}`)
		b.fake.Broadcast(`{"type": "executing", "data": {"node": null, "prompt_id": "else"}}`)
		b.fake.Broadcast(`not json`)
		b.fake.Broadcast(`{"type": "monitor", "data": [1, NaN]}`)
		synctest.Wait()
		if got := a.seen()[n:]; len(got) != 1 || got[0] != "monitor" {
			b.Errorf("passed: %v; want only the custom node's, which names nobody", got)
		}
		b.release(a)
	})
}

func TestIdleSocketsDoNotHoldUpTheServer(t *testing.T) {
	inBubble(t, func(b *bench) {
		if _, err := b.driver.Probe(b.Context()); err != nil { // opens the spare socket
			b.Fatal(err)
		}
		staged := b.prepare(b.task("Text a"))
		for range 1000 {
			b.fake.Broadcast(`{"type": "monitor", "data": {}}`)
		}
		synctest.Wait()
		if n := b.fake.Unsent(); n != 0 {
			b.Errorf("%d frames are stuck in sockets nobody reads", n)
		}
		staged.Close()
	})
}

func TestResumeTakesUpWhatRunsOrRan(t *testing.T) {
	inBubble(t, func(b *bench) {
		over := b.task("Text ready")
		a := b.start(b.Context(), b.prepare(over))
		<-a.done // not closed: the process dies before it can be
		running := b.task("Wait", "Text later")
		unknown := b.task("Text never")
		ctx, die := context.WithCancel(b.Context())
		c := b.start(ctx, b.prepare(running))
		synctest.Wait()
		die()
		<-c.done
		if !errors.Is(c.err, context.Canceled) {
			b.Errorf("Start with a cancelled context: %v", c.err)
		}
		b.driver.Close()
		b.driver = b.open()

		resume := func(t backend.Task) *attempt {
			run, err := b.driver.Resume(b.Context(), t)
			if err != nil {
				b.Fatal("Resume:", err)
			}
			return b.start(b.Context(), run)
		}
		again := resume(over)
		<-again.done
		b.wantState(again, job.Completed)
		if !strings.Contains(string(again.result.Outputs), "ready") {
			b.Errorf("outputs: %s", again.result.Outputs)
		}
		again = resume(running)
		synctest.Wait()
		b.release(again)
		if !strings.Contains(strings.Join(again.types, " "), "executed") {
			b.Errorf("frames after taking up: %v", again.types)
		}
		if _, err := b.driver.Resume(b.Context(), unknown); !errors.Is(err, backend.ErrUnknownRun) {
			b.Errorf("Resume of an unknown run: %v", err)
		}
		b.net.SetDown(true)
		if _, err := b.driver.Resume(b.Context(), running); !errors.Is(err, backend.ErrUnreachable) {
			b.Errorf("Resume on a server that is away: %v", err)
		}
	})
}

// TestTakenUpRunOutlastsAServerThatIsAway: between taking a run up and following it the server goes away for a while.
func TestTakenUpRunOutlastsAServerThatIsAway(t *testing.T) {
	inBubble(t, func(b *bench) {
		task := b.task("Wait", "Text later")
		ctx, die := context.WithCancel(b.Context())
		a := b.start(ctx, b.prepare(task))
		synctest.Wait()
		die()
		<-a.done
		b.driver.Close()
		b.driver = b.open()
		run, err := b.driver.Resume(b.Context(), task)
		if err != nil {
			b.Fatal("Resume:", err)
		}
		b.net.SetDown(true)
		synctest.Wait()
		again := b.start(b.Context(), run)
		time.Sleep(10 * time.Second)
		b.net.SetDown(false)
		b.release(again)
	})
}

func TestCancelTakesARunOffTheServerOnceItAnswers(t *testing.T) {
	inBubble(t, func(b *bench) {
		task := b.task("Wait")
		ctx, die := context.WithCancel(b.Context())
		a := b.start(ctx, b.prepare(task))
		synctest.Wait()
		die()
		<-a.done
		b.net.SetDown(true)
		b.driver.Cancel(task.Attempt.RunID)
		time.Sleep(time.Minute)
		b.net.SetDown(false)
		time.Sleep(time.Minute)
		if running, _ := b.fake.Queue(); running != "" || len(b.fake.History()) != 0 {
			b.Errorf("it is still there: running %q, history %v", running, b.fake.History())
		}
	})
}

func TestLostAnswerToThePostIsNoLostRun(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.fake.LoseAnswer("POST /prompt")
		a := b.run(b.task("Text a"))
		b.wantState(a, job.Completed)
		if n := b.fake.Requests("POST /prompt"); n != 1 {
			b.Errorf("posted %d times", n)
		}
	})
}

func TestWebFilesAreReadAndNothingElse(t *testing.T) {
	inBubble(t, func(b *bench) {
		r, kind, err := b.driver.WebFile(b.Context(), "/extensions/pack/a%20b.js")
		if err != nil {
			b.Fatal(err)
		}
		defer r.Close()
		if body, err := io.ReadAll(r); err != nil || string(body) != "export {}" || kind == "" {
			b.Errorf("%q %q %v", body, kind, err)
		}
		for _, bad := range []string{"/queue", "/extensions/../queue", "/extensions/%2e%2e/queue", "/extensions/a?b", "extensions/a"} {
			if _, _, err := b.driver.WebFile(b.Context(), bad); !fault.Is(err, fault.Invalid) {
				b.Errorf("WebFile(%q): %v", bad, err)
			}
		}
		if err := b.driver.Free(b.Context(), true, true); err != nil {
			b.Error(err)
		}
	})
}
