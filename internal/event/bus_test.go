package event_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func notice(user, text string) event.Event {
	return event.Event{User: user, Body: event.Notice{Severity: "info", Text: text}}
}

func progress(user string, id job.ID, node, data string) event.Event {
	return event.Event{User: user, Body: event.RunFrame{Job: id, Type: "progress", Node: node, Data: []byte(data)}}
}

func TestEventsReachThoseTheyConcern(t *testing.T) {
	t.Parallel()
	bus := event.New()
	ann, bob, all := bus.Subscribe("ann", event.Options{}), bus.Subscribe("bob", event.Options{}), bus.Subscribe("", event.Options{})
	for _, s := range []*event.Subscription{ann, bob, all} {
		defer s.Close()
	}
	bus.Publish(notice("ann", "1"))
	bus.Publish(notice("", "2"))
	bus.Publish(notice("bob", "3"))
	bus.Publish(notice("carl", "4"))

	for name, c := range map[string]struct {
		sub  *event.Subscription
		want []event.Event
	}{
		"ann": {ann, []event.Event{notice("ann", "1"), notice("", "2")}},
		"bob": {bob, []event.Event{notice("", "2"), notice("bob", "3")}},
		"all": {all, []event.Event{notice("ann", "1"), notice("", "2"), notice("bob", "3"), notice("carl", "4")}},
	} {
		if diff := cmp.Diff(c.want, c.sub.TryBatch(nil)); diff != "" {
			t.Errorf("%s got other events (-want +got):\n%s", name, diff)
		}
	}
}

func TestLatestPreviewWinsInItsOwnPlace(t *testing.T) {
	t.Parallel()
	bus := event.New()
	sub := bus.Subscribe("ann", event.Options{})
	defer sub.Close()
	bus.Publish(progress("ann", "j", "3", "1"))
	bus.Publish(notice("ann", "between"))
	bus.Publish(progress("ann", "j", "3", "2"))
	bus.Publish(progress("ann", "j", "4", "1"))
	bus.Publish(progress("ann", "j", "3", "3"))
	want := []event.Event{notice("ann", "between"), progress("ann", "j", "4", "1"), progress("ann", "j", "3", "3")}
	var got []event.Event
	for range want {
		e, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestResultFramesAreNeverReplaced(t *testing.T) {
	t.Parallel()
	bus := event.New()
	sub := bus.Subscribe("ann", event.Options{OnlyState: true})
	defer sub.Close()
	for i := range 3 {
		bus.Publish(event.Event{User: "ann", Body: event.RunBinary{Job: "j", Node: "9", Result: true, Frame: []byte{byte(i)}}})
		bus.Publish(event.Event{User: "ann", Body: event.RunBinary{Job: "j", Node: "9", Frame: []byte{byte(i)}}})
	}
	if got := sub.TryBatch(nil); len(got) != 3 {
		t.Errorf("got %d frames, want the 3 results and no preview", len(got))
	}
}

func TestLaggingSubscriberIsToldAndBlocksNobody(t *testing.T) {
	t.Parallel()
	bus := event.New()
	slow, quick := bus.Subscribe("ann", event.Options{State: 4}), bus.Subscribe("ann", event.Options{})
	defer slow.Close()
	defer quick.Close()
	for i := range 11 {
		bus.Publish(notice("ann", fmt.Sprint(i)))
		bus.Publish(progress("ann", "j", "3", fmt.Sprint(i)))
	}
	got := slow.TryBatch(nil)
	want := []event.Event{
		{User: "ann", Body: event.Lagged{Dropped: 8}},
		notice("ann", "8"), notice("ann", "9"), notice("ann", "10"), progress("ann", "j", "3", "10"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("slow (-want +got):\n%s", diff)
	}
	if got := quick.TryBatch(nil); len(got) != 12 {
		t.Errorf("the quick one got %d events, want 12", len(got))
	}
	bus.Publish(notice("ann", "after"))
	if diff := cmp.Diff([]event.Event{notice("ann", "after")}, slow.TryBatch(nil)); diff != "" {
		t.Errorf("after the lag (-want +got):\n%s", diff)
	}
}

func TestWakeComesOncePerBatch(t *testing.T) {
	t.Parallel()
	bus := event.New()
	var woken atomic.Int32
	sub := bus.Subscribe("ann", event.Options{Wake: func() { woken.Add(1) }})
	defer sub.Close()
	for range 2 {
		bus.Publish(notice("ann", "a"))
		bus.Publish(notice("ann", "b"))
		sub.TryBatch(nil)
	}
	if n := woken.Load(); n != 2 {
		t.Errorf("woken %d times, want 2", n)
	}
}

func TestReaderWaitsAndIsReleased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := event.New()
		sub := bus.Subscribe("ann", event.Options{})
		if !bus.Watched("ann") || bus.Watched("bob") {
			t.Error("Watched does not tell who is watched")
		}
		var got []event.Event
		ended := make(chan error, 1)
		go func() {
			for {
				batch, err := sub.Batch(t.Context(), nil)
				if err != nil {
					ended <- err
					return
				}
				got = append(got, batch...)
			}
		}()
		synctest.Wait()
		bus.Publish(notice("ann", "1"))
		synctest.Wait()
		bus.Publish(notice("ann", "2"))
		synctest.Wait()
		sub.Close()
		sub.Close()
		if err := <-ended; !errors.Is(err, event.ErrClosed) {
			t.Errorf("reader ended with %v, want ErrClosed", err)
		}
		if diff := cmp.Diff([]event.Event{notice("ann", "1"), notice("ann", "2")}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if bus.Watched("ann") {
			t.Error("still watched after Close")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		other := bus.Subscribe("ann", event.Options{})
		defer other.Close()
		if _, err := other.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Next with a cancelled context: %v", err)
		}
	})
}

// TestStreamMatchesModel compares a subscription with the plainest thing that could be right: a list from which
// the earlier event of the same key is deleted.
func TestStreamMatchesModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 12).Draw(t, "limit")
		bus := event.New()
		sub := bus.Subscribe("u", event.Options{State: limit})
		defer sub.Close()
		var model []event.Event
		state, dropped := 0, 0
		isState := func(e event.Event) bool { _, ok := e.Body.(event.Notice); return ok }
		read := func(n int) {
			for range n {
				e, err := sub.Next(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(model[0], e); diff != "" {
					t.Fatalf("(-want +got):\n%s", diff)
				}
				if isState(e) {
					state--
				} else if _, ok := e.Body.(event.Lagged); ok {
					dropped = 0
				}
				model = model[1:]
			}
		}
		for i := range rapid.IntRange(1, 300).Draw(t, "events") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1, 2:
				e := notice("u", fmt.Sprint(i))
				if state >= limit {
					dropped += state
					state, model = 0, []event.Event{{User: "u", Body: event.Lagged{Dropped: dropped}}}
				}
				bus.Publish(e)
				model, state = append(model, e), state+1
			case 9:
				read(rapid.IntRange(0, len(model)).Draw(t, "read"))
			default:
				e := progress("u", "j", fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "node")), fmt.Sprint(i))
				bus.Publish(e)
				var kept []event.Event
				for _, m := range model {
					if f, ok := m.Body.(event.RunFrame); !ok || f.Node != e.Body.(event.RunFrame).Node {
						kept = append(kept, m)
					}
				}
				model = append(kept, e)
			}
		}
		read(len(model))
		if rest := sub.TryBatch(nil); len(rest) != 0 {
			t.Fatalf("%d events too many", len(rest))
		}
	})
}

func TestDeadReaderCostsBoundedMemory(t *testing.T) {
	t.Parallel()
	bus := event.New()
	sub := bus.Subscribe("ann", event.Options{State: 8})
	defer sub.Close()
	for i := range 20_000 {
		bus.Publish(progress("ann", "j", fmt.Sprint(i), "x"))
	}
	if n := len(sub.TryBatch(nil)); n > 512 {
		t.Errorf("%d previews waited for a reader that reads nothing", n)
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct {
		name string
		subs int
	}{{"nobody", 0}, {"own1_foreign1000", 1000}} {
		b.Run(c.name, func(b *testing.B) {
			bus := event.New()
			for i := range c.subs {
				defer bus.Subscribe(fmt.Sprint("foreign", i), event.Options{}).Close()
			}
			sub := bus.Subscribe("ann", event.Options{})
			if c.subs == 0 {
				sub.Close()
			}
			defer sub.Close()
			var buf []event.Event
			e := progress("ann", "j", "3", `{"value":1}`)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				bus.Publish(e)
				if i%16 == 0 {
					buf = sub.TryBatch(buf[:0])
				}
			}
		})
	}
}
