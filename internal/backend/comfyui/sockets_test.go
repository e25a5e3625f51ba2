package comfyui_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/job"
)

// core makes a task of nodes that ship with ComfyUI, all of them outputs.
func (b *bench) core(nodes ...string) backend.Task {
	t := b.task(nodes...)
	t.Core = true
	for i := range nodes {
		t.Outputs = append(t.Outputs, string(rune('1'+i)))
	}
	return t
}

// asked counts what runs asked of the server besides posting.
func (b *bench) asked() map[string]int {
	return map[string]int{
		"sockets": b.fake.Requests("GET /ws"), "queue": b.fake.Requests("GET /queue"), "history": b.fake.Requests("GET /history/"),
	}
}

func TestCoreRunsFollowOneAnotherOnOneSocket(t *testing.T) {
	inBubble(t, func(b *bench) {
		if _, err := b.driver.Probe(b.Context()); err != nil {
			b.Fatal(err)
		}
		next := b.prepare(b.core("Text 0", "Text b"))
		for i := range 3 { // each is posted at the end frame of the one before, as the dispatcher does
			a := b.start(b.Context(), next)
			next = b.prepare(b.core("Text "+string(rune('1'+i)), "Text b"))
			<-a.done
			if got, want := string(a.result.Outputs), `{"1": {"text": ["`+string(rune('0'+i))+`"]}, "2": {"text": ["b"]}}`; got != want {
				b.Errorf("run %d gave %s, want %s", i, got, want)
			}
			b.wantState(a, job.Completed)
		}
		if err := next.Close(); err != nil {
			b.Error(err)
		}
		if diff := cmp.Diff(map[string]int{"sockets": 1, "queue": 0, "history": 0}, b.asked()); diff != "" {
			b.Errorf("requests (-want +got):\n%s", diff)
		}
		select {
		case <-b.hints:
			b.Error("one of our own runs was taken for somebody else's")
		default:
		}
		time.Sleep(2 * time.Second)
		if left := b.fake.History(); len(left) != 0 {
			b.Errorf("history entries stay on the server: %v", left)
		}
	})
}

func TestAnswerThatComesAfterTheRunIsWaitedFor(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.fake.LateAnswer = true
		if _, err := b.driver.Probe(b.Context()); err != nil {
			b.Fatal(err)
		}
		dials := b.net.Dials()
		for range 3 {
			b.wantState(b.run(b.core("Text a")), job.Completed)
		}
		if n := b.net.Dials() - dials; n > 0 {
			b.Errorf("%d connections were opened for three runs: an answer was not read", n)
		}
		time.Sleep(2 * time.Second)
		if left := b.fake.History(); len(left) != 0 {
			b.Errorf("history entries stay on the server: %v", left)
		}
	})
}

// TestFramesThatTellHowFarItIsComeTogether: they wait a moment for one another, and for nothing else; what a node gave and
// the end do not wait.
func TestFramesThatTellHowFarItIsComeTogether(t *testing.T) {
	inBubble(t, func(b *bench) {
		began := time.Now()
		a := b.start(b.Context(), b.prepare(b.core("Text a", "Wait")))
		synctest.Wait()
		if got := strings.Join(a.seen(), " "); !strings.HasSuffix(got, "executed") {
			b.Errorf("what a node gave waits: %s", got)
		}
		n := len(a.seen())
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if got := strings.Join(a.seen()[n:], " "); got != "progress_state executing" {
			b.Errorf("after a moment: %q", got)
		}
		b.release(a)
		if took := time.Since(began); took != 2*time.Millisecond {
			b.Errorf("the run took %v longer", took-2*time.Millisecond)
		}
	})
}

func TestFramesBeforeACutAreTold(t *testing.T) {
	inBubble(t, func(b *bench) {
		a := b.start(b.Context(), b.prepare(b.core("Wait")))
		synctest.Wait()
		b.fake.CutSockets()
		synctest.Wait()
		if got := strings.Join(a.seen(), " "); got != "execution_start execution_cached progress_state executing" {
			b.Errorf("told: %q", got)
		}
		b.release(a)
	})
}

// TestFramesTellWhatTheHistoryHas compares a result that frames told with the one that the history has.
func TestFramesTellWhatTheHistoryHas(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.fake.Caching(true)
		results := map[bool][]backend.Result{}
		for _, asks := range []bool{false, true} {
			for range 2 { // the second comes from the cache
				task := b.core("Text same", "Text "+map[bool]string{true: "asked", false: "told"}[asks])
				if asks {
					task.Outputs = nil
				}
				before := b.asked()["history"]
				a := b.run(task)
				b.wantState(a, job.Completed)
				if got := b.asked()["history"] > before; got != asks {
					b.Errorf("the history was asked: %t, want %t", got, asks)
				}
				results[asks] = append(results[asks], a.result)
			}
		}
		for i := range 2 {
			told := strings.ReplaceAll(string(results[false][i].Outputs), "told", "asked")
			if diff := cmp.Diff(string(results[true][i].Outputs), told); diff != "" {
				b.Errorf("outputs of run %d (-history +frames):\n%s", i, diff)
			}
		}
	})
}

func TestHistoryIsAskedWhenFramesMayNotTellAll(t *testing.T) {
	for name, change := range map[string]func(*backend.Task){
		"an output was left out": func(t *backend.Task) { t.Outputs = append(t.Outputs, "9") },
		"outputs are not known":  func(t *backend.Task) { t.Outputs = nil },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				task := b.core("Text a", "Text b")
				change(&task)
				b.wantState(b.run(task), job.Completed)
				if b.asked()["history"] == 0 {
					b.Error("the history was not asked")
				}
			})
		})
	}
}

func TestNodesOfPacksAreTheLastOnTheirSocket(t *testing.T) {
	inBubble(t, func(b *bench) {
		pack := b.start(b.Context(), b.prepare(b.task("Wait")))
		synctest.Wait()
		if got := b.fake.Requests("GET /ws"); got != 2 {
			b.Errorf("%d sockets while it runs, want its own and the next one's", got)
		}
		after := b.prepare(b.core("Text a"))
		b.release(pack)
		synctest.Wait()
		if got := b.fake.Sockets(); got != 1 {
			b.Errorf("%d sockets are open after it", got)
		}
		a := b.start(b.Context(), after)
		<-a.done
		b.wantState(a, job.Completed)
		if got := b.fake.Requests("GET /ws"); got != 2 {
			b.Errorf("%d sockets were opened, want 2", got)
		}
	})
}

// TestRunsPreparedTogetherDoNotShareWhatAPackSays: both were promised the same socket, before it was known that the
// first has nodes of packs.
func TestRunsPreparedTogetherDoNotShareWhatAPackSays(t *testing.T) {
	inBubble(t, func(b *bench) {
		first, second := b.task("Wait"), b.core("Text mine")
		before, behind := b.prepare(first), b.prepare(second)
		one := b.start(b.Context(), before)
		synctest.Wait()
		b.fake.Release()
		<-one.done
		two := b.start(b.Context(), behind)
		<-two.done
		if clients := b.fake.Clients(); len(clients) != 2 || clients[0] == clients[1] {
			b.Errorf("client ids of the two runs: %q", clients)
		}
		b.wantState(one, job.Completed)
		b.wantState(two, job.Completed)
	})
}
