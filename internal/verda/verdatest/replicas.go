package verdatest

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"
)

// deployment is what is known of a deployment, and its replicas. The fake's lock is held wherever it is used.
type deployment struct {
	fake     *Fake
	name     string
	facts    map[string]any
	fixed    string // status that a test set
	paused   bool
	replicas []*replica
	made     int // replicas so far
	turn     int // which replica is asked next: there is no affinity
	waiting  []*waiter
}

// replica is one container.
type replica struct {
	id      string
	started time.Time
	ready   bool
	busy    int
	serve   http.Handler
	lost    chan struct{} // closed when it ends
	timer   *time.Timer   // to its being ready, or to its sleep
}

// waiter is a request in the provider's queue.
type waiter struct {
	got chan *replica // it gets a replica, or is closed: the request is dropped
}

func (d *deployment) scaling(key string) int {
	n, _ := d.facts["scaling"].(map[string]any)[key].(float64)
	return int(n)
}

func (d *deployment) delay(policy string) time.Duration {
	p, _ := d.facts["scaling"].(map[string]any)[policy].(map[string]any)
	n, _ := p["delay_seconds"].(float64)
	return time.Duration(n * float64(time.Second))
}

// threshold is how many requests may be there for each replica before another one starts.
func (d *deployment) threshold() float64 {
	triggers, _ := d.facts["scaling"].(map[string]any)["scaling_triggers"].(map[string]any)
	queue, _ := triggers["queue_load"].(map[string]any)
	n, _ := queue["threshold"].(float64)
	return max(n, 0.01)
}

// scale starts replicas that are wanted: by the minimum, and by the requests that wait or are answered. Work that a
// container does after its answer is nothing that the provider sees.
func (d *deployment) scale() {
	if d.paused {
		return
	}
	requests := len(d.waiting)
	for _, r := range d.replicas {
		requests += r.busy
	}
	want := min(int(math.Ceil(float64(requests)/d.threshold())), d.scaling("max_replica_count"))
	want = max(want, d.scaling("min_replica_count"))
	for len(d.replicas) < want {
		d.start()
	}
	for _, r := range d.replicas {
		d.rest(r)
	}
}

// start starts a replica.
func (d *deployment) start() {
	d.made++
	id := fmt.Sprintf("%s-%d", d.name, d.made)
	r := &replica{id: id, started: time.Now(), lost: make(chan struct{}), serve: d.fake.o.Container(d.name, id)}
	d.replicas = append(d.replicas, r)
	if d.fake.o.Cold == 0 {
		d.up(r)
		return
	}
	r.timer = time.AfterFunc(d.fake.o.Cold, func() {
		d.fake.mu.Lock()
		defer d.fake.mu.Unlock()
		if slices.Contains(d.replicas, r) {
			d.up(r)
		}
	})
}

// up gives a replica that is ready its first requests.
func (d *deployment) up(r *replica) {
	r.ready = true
	d.pump()
	d.rest(r)
}

// rest lets a replica sleep after a while without a request.
func (d *deployment) rest(r *replica) {
	if !r.ready || r.busy > 0 {
		return
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.timer = time.AfterFunc(d.delay("scale_down_policy"), func() {
		d.fake.mu.Lock()
		defer d.fake.mu.Unlock()
		if r.busy == 0 && slices.Contains(d.replicas, r) && len(d.replicas) > d.scaling("min_replica_count") {
			d.stop(r)
		}
	})
}

// stop ends a replica with everything that it works on.
func (d *deployment) stop(r *replica) {
	if r.timer != nil {
		r.timer.Stop()
	}
	close(r.lost)
	d.replicas = slices.DeleteFunc(d.replicas, func(other *replica) bool { return other == r })
}

func (d *deployment) stopAll() {
	for _, r := range slices.Clone(d.replicas) {
		d.stop(r)
	}
}

// purge drops the requests that wait.
func (d *deployment) purge() {
	for _, w := range d.waiting {
		close(w.got)
	}
	d.waiting = nil
}

func (d *deployment) end() {
	d.purge()
	d.stopAll()
	d.paused = true
}

// pump gives requests that wait to replicas that have room, one after the other.
func (d *deployment) pump() {
	room := max(1, d.scaling("concurrent_requests_per_replica"))
	for len(d.waiting) > 0 {
		var free *replica
		for i := range d.replicas {
			if r := d.replicas[(d.turn+i)%len(d.replicas)]; r.ready && r.busy < room {
				free, d.turn = r, (d.turn+i+1)%len(d.replicas)
				break
			}
		}
		if free == nil {
			return
		}
		if free.timer != nil {
			free.timer.Stop()
		}
		free.busy++
		d.waiting[0].got <- free // it has room for one
		d.waiting = d.waiting[1:]
	}
}

// enter waits in the queue for a replica; nil: the request was dropped, waited too long, or nobody waits any more.
func (d *deployment) enter(ctx context.Context) *replica {
	f, w := d.fake, &waiter{got: make(chan *replica, 1)}
	f.mu.Lock()
	d.waiting = append(d.waiting, w)
	d.pump()
	d.scale()
	ttl := time.NewTimer(time.Duration(d.scaling("queue_message_ttl_seconds")) * time.Second)
	f.mu.Unlock()
	defer ttl.Stop()
	select {
	case r := <-w.got:
		return r
	case <-ttl.C:
	case <-ctx.Done():
	case <-f.closed:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d.waiting = slices.DeleteFunc(d.waiting, func(other *waiter) bool { return other == w })
	select {
	case r := <-w.got:
		if r != nil { // at the last moment
			d.leaveLocked(r)
		}
	default:
	}
	return nil
}

// leave gives a replica back.
func (d *deployment) leave(r *replica) {
	d.fake.mu.Lock()
	defer d.fake.mu.Unlock()
	d.leaveLocked(r)
}

func (d *deployment) leaveLocked(r *replica) {
	r.busy--
	if slices.Contains(d.replicas, r) {
		d.pump()
		d.rest(r)
	}
}

// status says how the deployment is.
func (d *deployment) status() string {
	ready := 0
	for _, r := range d.replicas {
		if r.ready {
			ready++
		}
	}
	switch {
	case d.fixed != "":
		return d.fixed
	case d.paused:
		return "paused"
	case ready == 0 && len(d.replicas) > 0:
		return "initializing"
	default:
		return "healthy"
	}
}

func (d *deployment) list() []any {
	out := []any{}
	for _, r := range d.replicas {
		status := "starting"
		if r.ready {
			status = "running"
		}
		out = append(out, map[string]any{"id": r.id, "status": status, "started_at": r.started.UTC().Format(time.RFC3339)})
	}
	return out
}

// Preempt takes a replica away, as happens to spot ones; empty: all of the deployment. It returns how many went.
func (f *Fake) Preempt(name, replica string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, n := f.deployments[name], 0
	for _, r := range slices.Clone(d.replicas) {
		if replica == "" || r.id == replica {
			d.stop(r)
			n++
		}
	}
	d.scale()
	return n
}

// Replicas returns the ids of a deployment's replicas that are ready, and how many start.
func (f *Fake) Replicas(name string) (ready []string, starting int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.deployments[name].replicas {
		if r.ready {
			ready = append(ready, r.id)
		} else {
			starting++
		}
	}
	return ready, starting
}

// Waiting returns how many requests wait in a deployment's queue.
func (f *Fake) Waiting(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.deployments[name].waiting)
}
