package redis_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/redis"
)

// TestLease lets three servers ask for a lease: one leads at a time, with a fence that grows; one that stops is followed
// at once, and one that is cut off within the time of its lease.
func TestLease(t *testing.T) {
	t.Parallel()
	s := startServer(t, "always")
	const ttl = time.Second
	var leads atomic.Int32
	var last atomic.Int64
	type contender struct {
		lease  *redis.Lease
		cancel context.CancelFunc
		leads  atomic.Bool
	}
	var wg sync.WaitGroup
	start := func(name string) *contender {
		db := s.open(t, redis.Options{})
		c := &contender{lease: redis.NewLease(db, "dispatch", redis.LeaseOptions{Holder: name, For: ttl})}
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		c.cancel = cancel
		wg.Go(func() {
			err := c.lease.Run(ctx, func(ctx context.Context, fence int64) error {
				if n := leads.Add(1); n > 1 {
					t.Errorf("%d servers lead", n)
				}
				if before := last.Swap(fence); fence <= before {
					t.Errorf("fence %d after %d", fence, before)
				}
				c.leads.Store(true)
				<-ctx.Done()
				c.leads.Store(false)
				leads.Add(-1)
				return nil
			})
			must(t, errors.Join(err, db.Close()))
		})
		return c
	}
	all := []*contender{start("one"), start("two"), start("three")}
	everybody := slices.Clone(all)
	defer func() {
		for _, c := range everybody {
			c.cancel()
		}
		wg.Wait()
	}()
	leader := func() *contender {
		t.Helper()
		var found *contender
		eventually(t, "somebody leads", func() bool {
			for _, c := range all {
				if c.leads.Load() {
					found = c
				}
			}
			return found != nil
		})
		return found
	}
	for range 2 {
		first := leader()
		eventually(t, "all know who leads", func() bool {
			for _, c := range all {
				if name := c.lease.Leader(); name == "" || name != first.lease.Leader() {
					return false
				}
			}
			return true
		})
		stopped := time.Now()
		first.cancel()
		eventually(t, "it stops", func() bool { return !first.leads.Load() })
		leader()
		if d := time.Since(stopped); d > ttl/2 {
			t.Errorf("the next leader came %s after a clean stop", d)
		}
		all = slices.DeleteFunc(all, func(c *contender) bool { return c == first })
		all = append(all, start("another"))
		everybody = append(everybody, all...)
	}
	s.kill() // nobody can renew: the leader stops by itself before its lease ends
	cut := time.Now()
	eventually(t, "the leader stops by itself", func() bool { return leads.Load() == 0 })
	if d := time.Since(cut); d > ttl {
		t.Errorf("it led on for %s without its lease", d)
	}
	s.start()
	leader()
}
