package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/redis"
)

// Several servers of one studio: each has people's sockets, one of them leads. What happens where the leader runs jobs
// reaches the others by the relay, and changes of jobs reach everybody by the queue.

// leadFor is how long a server that does not answer any more stays the leader. Another one leads within it and a part of
// it more.
const leadFor = 3 * time.Second

// server is what a studio of several servers has beside; nil in one that is alone.
type server struct {
	lease *redis.Lease
	relay *redis.Relay

	mu   sync.Mutex
	told map[string]map[job.ID]event.Place // where people's waiting jobs stand, as the leader told it last
}

// newServer makes ready what joins this server to the others.
func (s *Studio) newServer() {
	name, err := os.Hostname()
	if err != nil {
		name = "?" // it is for people who read logs
	}
	s.server = &server{
		lease: redis.NewLease(s.stores.redis, "lead", redis.LeaseOptions{Holder: fmt.Sprintf("%s:%d %s", name, os.Getpid(), s.reachableAt()), For: leadFor}),
		relay: redis.NewRelay(s.stores.redis, s.bus),
		told:  map[string]map[job.ID]event.Place{},
	}
}

// publish tells everybody of an event, on whatever server their sockets are.
func (s *Studio) publish(e event.Event) {
	if s.server != nil {
		s.server.relay.Publish(e)
		return
	}
	s.bus.Publish(e)
}

// sessionBus is the bus as people's sessions want it: what one session tells the person reaches their sessions on other servers too.
type sessionBus struct {
	*event.Bus
	s *Studio
}

func (b sessionBus) Publish(e event.Event) { b.s.publish(e) }

// runBus is the bus as the dispatcher wants it. Whether somebody watches on another server is not known here: then
// somebody may.
type runBus struct{ s *Studio }

func (b runBus) Publish(e event.Event) { b.s.publish(e) }

func (b runBus) Watched(user string) bool { return b.s.server != nil || b.s.bus.Watched(user) }

// join keeps this server joined to the others until ctx ends.
func (s *Studio) join(ctx context.Context) error {
	var listening sync.WaitGroup
	defer listening.Wait()
	sub := s.bus.Subscribe("", event.Options{OnlyState: true})
	defer sub.Close()
	listening.Go(func() { s.hear(ctx, sub) })
	return s.server.relay.Run(ctx)
}

// hear takes in what other servers tell and no person's session hears.
func (s *Studio) hear(ctx context.Context, sub *event.Subscription) {
	for {
		e, err := sub.Next(ctx)
		if err != nil {
			return // ctx ends, or the subscription does
		}
		switch body := e.Body.(type) {
		case event.SignedOut:
			s.endedElsewhere(account.Ended{User: e.User, ID: body.ID})
		case event.Lagged:
			s.endedElsewhere(account.Ended{}) // whoever it was
		case event.Queued:
			s.server.tell(e.User, body.Places)
		}
	}
}

// endedElsewhere lets go of whoever was signed out on another server. Where nobody knows who that was, all are looked up
// again, and sockets stay: a page's next request tells it.
func (s *Studio) endedElsewhere(e account.Ended) {
	s.accounts.EndedElsewhere(e)
	if e.User != "" {
		s.live.End(e)
	}
}

// ended ends what a person has open here, and on the other servers.
func (s *Studio) ended(e account.Ended) {
	s.live.End(e)
	if s.server == nil {
		return
	}
	out := event.Event{User: e.User, Body: event.SignedOut{ID: e.ID}}
	if s.serving {
		s.server.relay.Publish(out)
		return
	}
	if err := s.server.relay.Tell(context.Background(), out); err != nil {
		s.log.Warn("servers that run were not told whose credentials ended; they find out within half a minute", "user", e.User, "err", err)
	}
}

func (v *server) tell(user string, places map[job.ID]event.Place) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(places) == 0 {
		delete(v.told, user)
		return
	}
	v.told[user] = places
}

// place is where a person's job stands, as the leader told it last.
func (v *server) place(user string, id job.ID) (event.Place, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, ok := v.told[user][id]
	return p, ok
}

// follows reports whether another server gives jobs to back ends.
func (s *Studio) follows() bool { return s.server != nil && s.dispatch.Load() == nil }

// leading runs what one server does for the studio while this one is it.
func (s *Studio) leading(ctx context.Context) error {
	return s.server.lease.Run(ctx, func(ctx context.Context, fence int64) error {
		if err := s.usage.Relearn(ctx); err != nil {
			return s.step(ctx, err)
		}
		return s.step(ctx, s.takeAgents(func() error { return s.lead(ctx) }))
	})
}

// step makes of the end of a leader what its server does then. A store that does not answer is no reason to end: somebody
// leads when it is back.
func (s *Studio) step(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || !fault.Is(err, fault.Unavailable) {
		return err
	}
	s.log.Warn("this server can't lead just now", "err", err)
	return nil
}

// lead does what one server does for the whole studio until ctx ends: it gives jobs to back ends, saves what people
// took, and clears away what is over.
func (s *Studio) lead(ctx context.Context) error {
	d := s.newDispatch()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	saving, saved := context.WithCancel(context.WithoutCancel(ctx))
	defer saved()
	var beside, ledger sync.WaitGroup
	var errs [3]error
	ledger.Go(func() { errs[0] = s.usage.Run(saving) })
	beside.Go(func() { errs[1] = s.sweep(ctx) })
	beside.Go(func() { errs[2] = s.verda.keep(ctx) })
	beside.Go(func() { s.tidy(ctx) })
	beside.Go(func() { s.awakeBooks().Run(ctx) })
	s.dispatch.Store(d)
	for _, b := range s.gpus.all() { // where others work: until now that said nothing, see follows
		s.fleet.Nudge(b.Name)
	}
	s.controlled(queue.Control{Mode: s.queue.Mode(), Pauses: s.queue.Pauses()})
	err := d.Run(ctx)
	s.dispatch.Store(nil)
	stop()
	beside.Wait()
	saved() // behind the last run, and the last count, of which the ledger learned
	ledger.Wait()
	return errors.Join(append(errs[:], err)...)
}
