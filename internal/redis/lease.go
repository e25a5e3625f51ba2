package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// leaseFor is how long a lease is held without being renewed.
const leaseFor = 4 * time.Second

// errLeaseLost is why the context of who led is over.
var errLeaseLost = errors.New("the lease is lost")

// LeaseOptions are the optional settings of NewLease.
type LeaseOptions struct {
	Holder string        // names this server to people; empty: a random name
	For    time.Duration // how long the lease is held without being renewed; 0: 4 s
}

// Lease is the right of one of several servers to lead: to run what may run once, such as the dispatcher. At any time at
// most one server leads, as long as clocks run equally fast: a holder that can't renew stops before its lease ends. What
// it did is fenced beside that. It is safe for concurrent use.
type Lease struct {
	db     *DB
	keys   []string
	holder string
	ttl    time.Duration

	mu      sync.Mutex
	leader  string // who led when it was last looked at
	highest int64  // fence that was seen
}

// NewLease returns the lease of that name. Servers that share the database and the name share the lease.
func NewLease(db *DB, name string, o LeaseOptions) *Lease {
	if o.For <= 0 {
		o.For = leaseFor
	}
	return &Lease{
		db: db, keys: db.keys("meta", "lease:"+name, "fences:"+name),
		holder: rand.Text() + " " + o.Holder, ttl: o.For,
	}
}

// Run waits for the lease, and leads whenever it has it, until the context ends; then it gives it back, so that another
// server takes over at once. lead gets a context that ends when the right does, and a fence that is greater than those of
// all leaders before; Run waits for it to return. When lead returns by itself its error ends Run.
func (l *Lease) Run(ctx context.Context, lead func(ctx context.Context, fence int64) error) error {
	wait, led := time.NewTimer(0), int64(0)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		sent := time.Now()
		fence, mine, err := l.take(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			l.db.log.Warn("who leads can't be told; trying again", "err", err)
		case mine && fence == led: // it could not be given back
			l.give()
		case mine:
			led = fence
			l.db.log.Info("this server leads", "fence", fence)
			err := l.hold(ctx, sent, fence, lead)
			if err != nil || ctx.Err() != nil {
				return err
			}
			l.db.log.Warn("this server does not lead any more")
		}
		wait.Reset(l.ttl / 8)
	}
}

// hold leads and renews until one of both is over.
func (l *Lease) hold(ctx context.Context, sent time.Time, fence int64, lead func(context.Context, int64) error) error {
	leading, stop := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	go func() { ended <- lead(leading, fence) }()
	defer l.give()
	renew, over := time.NewTimer(l.ttl/4), time.NewTimer(l.surely(sent))
	defer renew.Stop()
	defer over.Stop()
	for {
		select {
		case err := <-ended:
			stop(nil)
			return err
		case <-over.C:
		case <-renew.C:
			asked := time.Now()
			again, mine, err := l.take(leading)
			if err == nil && mine && again == fence {
				over.Reset(l.surely(asked))
				renew.Reset(l.ttl / 4)
				continue
			}
			if err != nil {
				renew.Reset(l.ttl / 16)
				continue
			}
		case <-ctx.Done():
		}
		stop(errLeaseLost)
		err := <-ended
		if ctx.Err() != nil {
			return err
		}
		return nil // what it returned follows from the end of its right
	}
}

// surely is for how long from now the lease is held that was asked for at a time: the last quarter is for ending what
// was begun under it.
func (l *Lease) surely(asked time.Time) time.Duration { return time.Until(asked.Add(l.ttl * 3 / 4)) }

// take takes the lease or renews it, and says whose it is.
func (l *Lease) take(ctx context.Context) (fence int64, mine bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/4)
	defer cancel()
	return l.ask(ctx, l.ttl)
}

// give gives the lease back if this server has it. Where that does not reach Redis it ends by itself.
func (l *Lease) give() {
	ctx, cancel := context.WithTimeout(context.Background(), l.ttl/4)
	defer cancel()
	if _, _, err := l.ask(ctx, 0); err != nil {
		l.db.log.Warn("the lease can't be given back; it ends by itself", "err", err)
	}
}

func (l *Lease) ask(ctx context.Context, ttl time.Duration) (fence int64, mine bool, err error) {
	l.mu.Lock()
	highest := l.highest
	l.mu.Unlock()
	reply, err := l.db.exec(ctx, scriptLease, l.keys,
		[]string{l.db.generation, l.holder, decimal(ttl.Milliseconds()), decimal(highest)}).ToArray()
	if err != nil {
		return 0, false, l.db.fail(ctx, err)
	}
	fence, err = reply[0].AsInt64()
	if err != nil {
		return 0, false, fmt.Errorf("read the fence of a lease: %w", err)
	}
	holder, err := reply[1].ToString()
	if err != nil {
		return 0, false, fmt.Errorf("read the holder of a lease: %w", err)
	}
	if fence < 0 {
		return 0, false, l.db.lost()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leader, l.highest = holder, max(l.highest, fence)
	return fence, holder == l.holder, nil
}

// Leader returns the name of who led when this server last looked; empty: nobody.
func (l *Lease) Leader() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, name, _ := strings.Cut(l.leader, " ")
	return name
}
