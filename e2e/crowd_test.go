package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// crowd is people who load a studio, each with a browser that only ever connects again.
type crowd struct {
	s           *studio
	people      []*loader
	left        *atomic.Int64 // orders that nobody has sent yet; nil: they go on until they are stopped
	stop        context.CancelFunc
	load, watch sync.WaitGroup
}

// crowdOf returns people of a studio.
func crowdOf(t *testing.T, s *studio, names []string) *crowd {
	t.Helper()
	c := &crowd{s: s}
	var colours atomic.Int64
	for i, name := range names {
		l := &loader{
			name: name, base: "http://" + s.host, token: s.token(t, name), http: &http.Client{Timeout: 10 * time.Second},
			sid: uuid.NewString(), acked: map[string]*order{}, uploads: map[string]int{}, colours: &colours, log: s.server.log.Name(),
		}
		l.watch = newWatcher(l, i%2 == 0)
		c.people = append(c.people, l)
	}
	return c
}

// start has them load the studio, with so many orders altogether; 0: until they are stopped.
func (c *crowd) start(t *testing.T, orders int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c.stop = stop
	if orders > 0 {
		c.left = new(atomic.Int64)
		c.left.Store(int64(orders))
	}
	for _, l := range c.people {
		l.left = c.left
		c.load.Go(func() { l.load(ctx, t) })
		c.watch.Go(func() { l.watch.run(t.Context(), t) })
	}
}

// check waits for the end of all jobs and holds what the studio has against what was acknowledged: every job finished
// once, with its own outputs, and no file is missing, there twice, or without a name.
func (c *crowd) check(t *testing.T) tally {
	t.Helper()
	if c.left == nil {
		c.stop()
	}
	c.load.Wait()
	c.stop()
	var sum tally
	for _, l := range c.people {
		l.settle(t)
		l.watch.settle(t)
	}
	for _, l := range c.people {
		l.check(t, &sum)
		l.watch.stop()
	}
	c.watch.Wait()
	c.s.sweepAll(t)
	for _, l := range c.people {
		l.checkBytes(t, c.s)
	}
	if sum.jobs == 0 {
		t.Fatal("no job was acknowledged: the test proved nothing")
	}
	return sum
}

// names returns names of so many people.
func names(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("p%02d", i))
	}
	return all
}
