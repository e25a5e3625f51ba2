package redis_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/redis"
)

// startRelay runs a relay until the test ends, and returns it with its bus.
func startRelay(t testing.TB, s *server, o redis.Options) (*redis.Relay, *event.Bus) {
	t.Helper()
	db, bus := s.open(t, o), event.New()
	all := bus.Subscribe("", event.Options{})
	defer all.Close()
	r := redis.NewRelay(db, bus)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { must(t, r.Run(ctx)) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		must(t, db.Close())
	})
	if e, err := all.Next(t.Context()); err != nil || e.Body != (event.Lagged{}) {
		t.Fatalf("the first word is %+v %v: who comes late looks at the state", e, err)
	}
	return r, bus
}

func TestRelay(t *testing.T) {
	t.Parallel()
	s, name := space(t)
	a, busA := startRelay(t, s, redis.Options{Space: name})
	_, busB := startRelay(t, s, redis.Options{Space: name})
	_, other := startRelay(t, s, redis.Options{Space: name + "other"})
	here, there, elsewhere := busA.Subscribe("", event.Options{}), busB.Subscribe("ann", event.Options{}), other.Subscribe("", event.Options{})
	defer here.Close()
	defer there.Close()
	defer elsewhere.Close()
	all := []event.Event{
		{User: "ann", Body: event.RunFrame{Job: "j", Attempt: 2, PromptID: "p", ClientID: "c", Type: "executed", Node: "9", Data: []byte(`{"a":1}`)}},
		{User: "ann", Body: event.RunBinary{Job: "j", Attempt: 2, PromptID: "p", ClientID: "c", Node: "9", Result: true, Frame: []byte{0, 0, 0, 1, 0xff}}},
		{User: "ann", Body: event.LogLines{Job: "j", Lines: []string{"one", ""}}},
		{User: "ann", Body: event.Notice{Severity: "warn", Text: "t"}},
		{Body: event.FleetChanged{}},
		{User: "ann", Body: event.Queued{Places: map[job.ID]event.Place{"j": {Position: 1, Code: "busy", Reason: "r", From: 1.5, To: 2}}}},
		{User: "ann", Body: event.SignedOut{ID: "s1"}},
		{User: "ann", Body: event.Notice{Text: "last"}},
	}
	a.Publish(event.Event{User: "ann", Body: event.JobChanged{Changed: job.Changed{Change: job.Submitted, Job: &job.Job{ID: "j"}}}})
	a.Publish(event.Event{User: "bob", Body: event.Notice{Text: "bob's"}})
	for _, e := range all {
		a.Publish(e)
	}
	var got []event.Event
	for range all {
		e, err := there.Next(t.Context())
		must(t, err)
		got = append(got, e)
	}
	if diff := cmp.Diff(all, got); diff != "" {
		t.Errorf("there (-want +got)\n%s", diff)
	}
	if n := len(here.TryBatch(nil)); n != len(all)+2 {
		t.Errorf("%d events here, want %d", n, len(all)+2)
	}
	if more := append(there.TryBatch(nil), elsewhere.TryBatch(nil)...); len(more) != 0 {
		t.Errorf("too many: %+v", more)
	}
}

// TestRelayMisses cuts the connections of Redis while events travel: whoever may have missed some is told so.
func TestRelayMisses(t *testing.T) {
	t.Parallel()
	s := startServer(t, "everysec")
	a, _ := startRelay(t, s, redis.Options{})
	_, bus := startRelay(t, s, redis.Options{})
	sub := bus.Subscribe("ann", event.Options{})
	defer sub.Close()
	next := func() event.Event {
		t.Helper()
		e, err := sub.Next(t.Context())
		must(t, err)
		return e
	}
	last := 0
	for round := range 5 {
		s.cli("client", "kill", "type", "pubsub")
		a.Publish(event.Event{User: "ann", Body: event.Notice{Text: fmt.Sprint(2*round + 1)}}) // nobody may hear it
		lagged := false
		for !lagged {
			switch body := next().Body.(type) {
			case event.Lagged:
				lagged = true
			case event.Notice:
				last = number(t, body)
			default:
				t.Fatalf("%+v", body)
			}
		}
		a.Publish(event.Event{User: "ann", Body: event.Notice{Text: fmt.Sprint(2*round + 2)}})
		for last != 2*round+2 {
			if body, ok := next().Body.(event.Notice); ok {
				last = number(t, body)
			}
		}
	}
}

func number(t testing.TB, n event.Notice) (i int) {
	t.Helper()
	if _, err := fmt.Sscan(n.Text, &i); err != nil {
		t.Fatal(errors.Join(err, fmt.Errorf("notice %q", n.Text)))
	}
	return i
}
