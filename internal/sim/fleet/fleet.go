// Package fleet is a simulated serverless endpoint: replicas of a simulated ComfyUI behind a simulated balancer that
// has no affinity. Requests wait in one queue and go to any replica that is free, replicas start when there is work,
// sleep when there is none, and die as spot machines do. Lines are slow and break, answers are cut, storage shows
// files late. It stands for what a provider sells, so that tests can break all of it; nothing in it is real.
//
// Like its providers it looks at requests only: a replica that works at a prompt whose POST has returned counts as idle.
package fleet

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Options are the knobs of a fleet. The zero value but Launch is four quick replicas that stay once started.
type Options struct {
	Launch Launcher // starts a replica; Local and Programs make some

	Replicas   int           // how many there are at most; 0: 4
	Warm       int           // how many are kept without work
	PerReplica int           // how many requests a replica gets at the same time; 0: 1
	ColdStart  time.Duration // from the order of a replica to its start
	IdleAfter  time.Duration // a replica without a request for so long is put to sleep; 0: never
	QueueFor   time.Duration // how long a request waits for a replica before it is answered with 504; 0: 1 min
	KeepResult time.Duration // how long the result of an asynchronous request is kept; 0: 10 min
	// FreeSockets has web sockets not count as requests: neither do they take a replica's place, nor keep it awake.
	FreeSockets bool

	Deployment string // first part of every path, as /status/NAME and /result/NAME have it; empty: none
	Key        string // asked for as a bearer token; empty: none

	Latency        time.Duration // added to every request
	BytesPerSecond int64         // of each connection, in each direction; 0: all there is

	// Staging and Shared simulate a slow shared disk: what a replica leaves in a folder of its own below Staging is in
	// Shared only VisibleAfter later. Empty: replicas write where their flags say.
	Staging, Shared string
	VisibleAfter    time.Duration

	RunLog string // file to which replicas add a line for each run that they begin; read by Counters
	Dir    string // where replicas keep what is theirs; empty: a temporary folder, removed at the end
	Log    *slog.Logger
}

// Fleet is a running endpoint. It is safe for concurrent use.
type Fleet struct {
	o       Options
	log     *slog.Logger
	scratch string // own folder, removed at the end

	closed context.Context
	close  context.CancelFunc
	parts  sync.WaitGroup
	ending sync.Once
	ended  error

	mu       sync.Mutex
	replicas map[int]*replica
	made     int       // number of the last replica
	waiting  []*ticket // the queue, first come first
	limit    int       // how many replicas the provider has just now
	faults   []*Fault
	counts   Counters
	lines    map[*line]struct{}
	later    map[string]*inference
}

// replica is one place for a server. It has one once it has started.
type replica struct {
	id    int
	unit  Unit
	used  int       // requests that it has
	since time.Time // when it had the last one
	gone  bool
}

// ticket is a request in the queue.
type ticket struct {
	given  chan *replica
	socket bool
}

// New starts a fleet. Close ends it.
func New(o Options) (*Fleet, error) {
	if o.Launch == nil {
		return nil, fault.New(fault.Invalid, "A simulated fleet needs to know how to start a replica.")
	}
	def := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&o.Replicas, 4)
	def(&o.PerReplica, 1)
	if o.Replicas < 0 || o.PerReplica < 0 || o.Warm < 0 || o.Warm > o.Replicas {
		return nil, fault.New(fault.Invalid, "%d replicas of %d requests, %d of them warm, are no fleet.", o.Replicas, o.PerReplica, o.Warm)
	}
	if o.QueueFor == 0 {
		o.QueueFor = time.Minute
	}
	if o.KeepResult == 0 {
		o.KeepResult = 10 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f := &Fleet{
		o: o, log: o.Log, limit: o.Replicas, replicas: map[int]*replica{}, lines: map[*line]struct{}{}, later: map[string]*inference{},
	}
	f.counts.Faults = map[string]int{}
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "comfyume-fleet-")
		if err != nil {
			return nil, fault.Wrap(fault.Unavailable, err, "No temporary folder can be made for the simulated fleet.")
		}
		f.scratch, f.o.Dir = dir, dir
	}
	f.closed, f.close = context.WithCancel(context.Background())
	f.mu.Lock()
	for range o.Warm {
		f.order()
	}
	f.mu.Unlock()
	f.parts.Go(f.scale)
	if o.Staging != "" {
		f.parts.Go(f.share)
	}
	return f, nil
}

// Close ends all replicas, and cuts all lines.
func (f *Fleet) Close() error {
	f.ending.Do(func() { f.ended = f.end() })
	return f.ended
}

func (f *Fleet) end() error {
	f.mu.Lock()
	f.close()
	for _, r := range f.replicas {
		f.drop(r)
	}
	f.mu.Unlock()
	f.Cut()
	f.parts.Wait()
	if f.scratch != "" {
		return os.RemoveAll(f.scratch)
	}
	return nil
}

// Serve answers at a listener, over lines that can be slowed and cut, until ctx ends. Then it closes the fleet.
func (f *Fleet) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: f.Handler(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 75 * time.Second}
	served := make(chan error, 1)
	f.parts.Go(func() { served <- server.Serve(&lossy{Listener: l, fleet: f}) })
	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		err = server.Close()
	}
	return errors.Join(err, f.Close())
}

// order has one more replica started. The lock is held.
func (f *Fleet) order() {
	f.made++
	r := &replica{id: f.made, since: time.Now()}
	f.replicas[r.id] = r
	f.counts.ColdStarts++
	f.parts.Go(func() { f.start(r) })
}

// start brings a replica up.
func (f *Fleet) start(r *replica) {
	wait := time.NewTimer(f.o.ColdStart)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-f.closed.Done():
		return
	}
	dir := filepath.Join(f.o.Dir, "replica-"+number(r.id))
	unit, err := f.o.Launch(f.closed, r.id, dir)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		delete(f.replicas, r.id)
		if f.closed.Err() == nil {
			f.counts.FailedStarts++
			f.log.Error("a simulated replica did not start", "replica", r.id, "err", err)
		}
		return
	}
	if r.gone || f.closed.Err() != nil {
		delete(f.replicas, r.id)
		f.parts.Go(func() { f.bury(r.id, unit, dir) })
		return
	}
	r.unit, r.since = unit, time.Now()
	f.log.Info("a simulated replica is ready", "replica", r.id, "at", unit.Address())
	f.parts.Go(func() { // it may die by itself
		select {
		case <-unit.Done():
		case <-f.closed.Done():
		}
		f.mu.Lock()
		f.drop(r)
		f.serve()
		f.mu.Unlock()
		f.bury(r.id, unit, dir)
	})
	f.serve()
}

// drop takes a replica out and kills it. The lock is held.
func (f *Fleet) drop(r *replica) {
	if r.gone {
		return
	}
	r.gone = true
	delete(f.replicas, r.id)
	if r.unit != nil {
		r.unit.Kill()
	}
}

// bury removes what a dead replica leaves.
func (f *Fleet) bury(id int, u Unit, dir string) {
	u.Kill()
	<-u.Done()
	if err := os.RemoveAll(dir); err != nil {
		f.log.Warn("a folder of a simulated replica stays", "replica", id, "err", err)
	}
}

// acquire waits for a place at any replica, first come first. ctx may end the waiting.
func (f *Fleet) acquire(ctx context.Context, socket bool) (*replica, error) {
	t := &ticket{given: make(chan *replica, 1), socket: socket}
	f.mu.Lock()
	f.waiting = append(f.waiting, t)
	f.serve()
	f.mu.Unlock()
	select {
	case r := <-t.given:
		return r, nil
	case <-ctx.Done():
	case <-f.closed.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case r := <-t.given: // just now
		return r, nil
	default:
	}
	for i, w := range f.waiting {
		if w == t {
			f.waiting = append(f.waiting[:i:i], f.waiting[i+1:]...)
			break
		}
	}
	return nil, context.Cause(ctx)
}

// release gives a place back.
func (f *Fleet) release(r *replica, socket bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if socket && f.o.FreeSockets {
		return
	}
	r.used--
	r.since = time.Now()
	f.serve()
}

// serve gives waiting requests to free replicas, at random, and orders more of these. The lock is held.
func (f *Fleet) serve() {
	for len(f.waiting) > 0 {
		t := f.waiting[0]
		free := make([]*replica, 0, len(f.replicas))
		starting := 0
		for _, r := range f.replicas {
			switch {
			case r.unit == nil:
				starting++
			case r.used < f.o.PerReplica, t.socket && f.o.FreeSockets:
				free = append(free, r)
			}
		}
		if len(free) == 0 {
			for ; starting < len(f.waiting) && len(f.replicas) < f.limit && f.closed.Err() == nil; starting++ {
				f.order()
			}
			return
		}
		r := free[rand.IntN(len(free))]
		if !t.socket || !f.o.FreeSockets {
			r.used++
			r.since = time.Now()
		}
		f.waiting = f.waiting[1:]
		t.given <- r
	}
}

// scale puts replicas to sleep that have had no request for a while, whatever they work at.
func (f *Fleet) scale() {
	every := min(max(f.o.IdleAfter/4, 20*time.Millisecond), time.Second)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-f.closed.Done():
			return
		}
		f.forget()
		if f.o.IdleAfter <= 0 {
			continue
		}
		f.mu.Lock()
		over := len(f.replicas) - f.o.Warm
		for _, r := range f.replicas {
			if over > 0 && r.unit != nil && r.used == 0 && time.Since(r.since) > f.o.IdleAfter {
				over--
				f.counts.ScaledDown++
				if r.unit.Busy() {
					f.counts.ScaledDownAtWork++
				}
				f.log.Info("a simulated replica is put to sleep", "replica", r.id)
				f.drop(r)
			}
		}
		f.mu.Unlock()
	}
}
