package comfyui_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/job"
)

// wantLost waits for the end of a run that is lost, and checks whether the server died at it.
func (b *bench) wantLost(what string, a *attempt, crashed bool) {
	b.Helper()
	<-a.done
	if !errors.Is(a.err, backend.ErrLost) || errors.Is(a.err, backend.ErrCrashed) != crashed {
		b.Errorf("%s: %v; want that the server died at it: %t", what, a.err, crashed)
	}
	if err := a.run.Close(); err != nil {
		b.Error(err)
	}
}

// begin hands over a run and lets it get as far as it gets.
func (b *bench) begin(nodes ...string) *attempt {
	b.Helper()
	a := b.start(b.Context(), b.prepare(b.task(nodes...)))
	time.Sleep(10 * time.Millisecond)
	synctest.Wait()
	return a
}

// TestDeathAccusesTheRunThatWasAtWork: a server that dies may not have said what it was at. It works at one run after the
// other, so that it was at the first one that was not over.
func TestDeathAccusesTheRunThatWasAtWork(t *testing.T) {
	t.Run("it had said so", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			a := b.begin("Wait")
			b.fake.Restart()
			b.wantLost("the only one", a, true)
		})
	})
	t.Run("it said nothing, and others waited behind", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.fake.Mute(true)
			first, second, third := b.begin("Wait"), b.begin("Wait"), b.begin("Wait")
			b.fake.Restart()
			b.wantLost("the first", first, true)
			b.wantLost("the second", second, false)
			b.wantLost("the third", third, false)
		})
	})
	t.Run("the one before had ended", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.fake.Mute(true)
			first, second := b.begin("Wait"), b.begin("Wait")
			b.release(first)
			b.wantState(first, job.Completed)
			b.fake.Restart()
			b.wantLost("the second", second, true)
		})
	})
	t.Run("one that nobody holds any more was before it", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.fake.Mute(true)
			ctx, leave := context.WithCancel(b.Context())
			left := b.start(ctx, b.prepare(b.task("Wait")))
			time.Sleep(10 * time.Millisecond)
			leave()
			<-left.done
			if err := left.run.Close(); err != nil {
				b.Error(err)
			}
			a := b.begin("Wait")
			b.fake.Restart()
			b.wantLost("the one behind", a, false)
		})
	})
	t.Run("it did not even answer", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			posts := 0
			b.fake.Mangle("POST /prompt", func(http.ResponseWriter, *http.Request) {
				posts++
				b.fake.Restart()
				panic(http.ErrAbortHandler)
			})
			a := b.run(b.task("Wait"))
			b.wantLost("the one that was handed over", a, true)
			if posts != 1 || a.posted != 0 {
				b.Errorf("handed over %d times, told %d times", posts, a.posted)
			}
		})
	})
	t.Run("it had another and did not answer", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			first := b.begin("Wait")
			posts := 0
			b.fake.Mangle("POST /prompt", func(http.ResponseWriter, *http.Request) {
				if posts++; posts == 1 {
					b.fake.Restart()
				}
				panic(http.ErrAbortHandler)
			})
			second := b.run(b.task("Wait"))
			b.wantLost("the first", first, true)
			if !errors.Is(second.err, backend.ErrUnreachable) || errors.Is(second.err, backend.ErrLost) || posts != 2 {
				b.Errorf("the second: %v, handed over %d times", second.err, posts)
			}
			if err := second.run.Close(); err != nil {
				b.Error(err)
			}
		})
	})
	t.Run("it does not come back", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			first, second := b.begin("Wait"), b.begin("Wait")
			b.net.SetRefusing(true)
			b.wantLost("the first", first, true)
			b.wantLost("the second", second, false)
		})
	})
	t.Run("its host is away", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			a := b.begin("Wait")
			b.net.SetDown(true)
			b.wantLost("the only one", a, false)
		})
	})
}

// TestWhoKeepsTheServerKnowsWhyItEnded: what is known goes before what it looks like.
func TestWhoKeepsTheServerKnowsWhyItEnded(t *testing.T) {
	for _, c := range []struct {
		name          string
		known         error
		first, second error
	}{
		{"it died by itself", backend.ErrCrashed, backend.ErrCrashed, backend.ErrLost},
		{"it was ended on purpose", backend.ErrLost, backend.ErrLost, backend.ErrLost},
		{"it was ended since it stood still", backend.ErrFrozen, backend.ErrFrozen, backend.ErrFrozen},
		{"nobody knows", nil, backend.ErrCrashed, backend.ErrLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var since time.Time
				b.death = func(_ context.Context, at time.Time) error {
					since = at
					return c.known
				}
				began := time.Now()
				first, second := b.begin("Wait"), b.begin("Wait")
				time.Sleep(time.Minute)
				b.fake.Restart()
				for _, x := range []struct {
					a    *attempt
					want error
				}{{first, c.first}, {second, c.second}} {
					<-x.a.done
					for _, class := range []error{backend.ErrCrashed, backend.ErrFrozen} {
						if errors.Is(x.a.err, class) != (class == x.want) {
							b.Errorf("%v, want %v", x.a.err, x.want)
						}
					}
					if err := x.a.run.Close(); err != nil {
						b.Error(err)
					}
				}
				if since.Before(began) || time.Since(since) < time.Minute {
					b.Errorf("asked for what happened since %v, it began at %v", since, began)
				}
			})
		})
	}
}

// TestWhoKeepsTheServerIsAsked: where somebody looks after the server, a run is over as soon as they know of its end, and
// not only when the server was away for long. What they do not know decides nothing.
func TestWhoKeepsTheServerIsAsked(t *testing.T) {
	for name, c := range map[string]struct {
		says error
		soon bool
	}{
		"it died":         {backend.ErrCrashed, true},
		"it was ended":    {backend.ErrLost, true},
		"it is not ended": {backend.ErrNotEnded, false},
		"nobody knows":    {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.death = func(context.Context, time.Time) error { return c.says }
				a := b.begin("Wait")
				b.net.SetRefusing(true)
				went := time.Now()
				<-a.done
				if took := time.Since(went); (took < time.Second) != c.soon {
					b.Errorf("given up after %v, soon: %t", took, c.soon)
				}
				if !errors.Is(a.err, backend.ErrLost) {
					b.Error(a.err)
				}
				if err := a.run.Close(); err != nil {
					b.Error(err)
				}
			})
		})
	}
}
