package serverless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// knowledge is what is known of an endpoint: what it can run, and whether it is awake. It is safe for concurrent use.
type knowledge struct {
	notes notes

	mu         sync.Mutex
	memory     memory
	known      bool                  // memory holds
	told       bool                  // what it can run was handed out
	looked     time.Time             // when it was last looked at
	heard      time.Time             // when a container last answered
	open       int                   // requests that a container answers just now
	containers map[string]*container // those that were heard
	seen       string                // hash of what a container that answered can run
	suspect    error                 // what the last request met; a probe has to look
	waking     bool                  // a first look is under way
}

// container is one that was heard.
type container struct {
	epoch string
	at    time.Time
}

// maxContainers bounds how many are remembered; the ones not heard of for long go first.
const maxContainers = 256

func (k *knowledge) start(n notes) {
	k.notes, k.containers = n, make(map[string]*container)
	k.memory, k.known = n.recall()
	if !k.known {
		k.memory.Epoch = uuid.NewString()
	}
}

// hears takes in that a container answered, and under which start its ComfyUI runs. The endpoint's own epoch changes
// when a ComfyUI was started anew in a container that stays: of containers that come and go nothing is kept.
func (k *knowledge) hears(id, epoch, hash string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	k.heard, k.suspect = now, nil
	if hash != "" {
		k.seen = hash
	}
	if id == "" || epoch == "" {
		return
	}
	c := k.containers[id]
	if c == nil {
		if len(k.containers) >= maxContainers {
			k.forgetOldest()
		}
		c = &container{epoch: epoch}
		k.containers[id] = c
	}
	if c.at = now; c.epoch != epoch {
		c.epoch, k.memory.Epoch = epoch, uuid.NewString()
	}
}

// restarted takes in that a ComfyUI was started anew in some container.
func (k *knowledge) restarted() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.memory.Epoch = uuid.NewString()
}

func (k *knowledge) forgetOldest() {
	oldest := ""
	for id, c := range k.containers {
		if oldest == "" || c.at.Before(k.containers[oldest].at) {
			oldest = id
		}
	}
	delete(k.containers, oldest)
}

// alive takes in a sign of life.
func (k *knowledge) alive() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.heard = time.Now()
}

// doubts takes in trouble: the next probe has to look for itself.
func (k *knowledge) doubts(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.suspect = err
}

// answering counts a request that a container answers, until what it returns is called.
func (k *knowledge) answering() (over func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.open--
		k.heard = time.Now()
	}
}

// awake reports whether a container may be taken to be there.
func (k *knowledge) awake(warmFor time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open > 0 || !k.heard.IsZero() && time.Since(k.heard) < warmFor
}

func (k *knowledge) epoch() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.memory.Epoch
}

// woke takes in how long a cold start took.
func (k *knowledge) woke(took time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.memory.Cold = took.Seconds()
}

// cold says what a person has to know of an endpoint that sleeps.
func (k *knowledge) cold(name string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := name + " sleeps: the next job wakes it"
	if k.memory.Cold > 0 {
		return s + fmt.Sprintf(", which took %v the last time.", time.Duration(k.memory.Cold*float64(time.Second)).Round(time.Second))
	}
	return s + ", which may take minutes."
}

// Probe tells what is known. It asks the endpoint only when that is awake, after trouble, or when nothing is known.
func (d *Driver) Probe(ctx context.Context) (backend.Snapshot, error) {
	k := &d.know
	awake := k.awake(d.options.WarmFor)
	if !awake && d.options.Awake != nil {
		if n, err := d.options.Awake(ctx); err == nil {
			awake = n > 0
		} else if ctx.Err() == nil {
			d.log.Warn("the provider did not say whether containers are awake", "err", err)
		}
	}
	k.mu.Lock()
	known, suspect := k.known, k.suspect
	due := time.Since(k.looked) > d.options.RefreshEvery || k.seen != "" && k.seen != k.memory.Info.Hash
	k.mu.Unlock()
	switch {
	case !known:
		if err := d.firstLook(ctx); err != nil {
			return backend.Snapshot{}, err
		}
	case suspect != nil || awake && due:
		if err := d.look(ctx, d.options.ProbeTimeout); err != nil {
			k.doubts(err)
			return backend.Snapshot{}, err
		}
		awake = true
	}
	return d.snapshot(awake || k.awake(d.options.WarmFor))
}

// firstWait is how long a probe waits for a first look, which may wake the endpoint.
const firstWait = 8 * time.Second

// firstLook looks at an endpoint of which nothing is known, which wakes it. It goes on beside when that takes long.
func (d *Driver) firstLook(ctx context.Context) error {
	k := &d.know
	k.mu.Lock()
	suspect, waking := k.suspect, k.waking
	k.waking = true
	k.mu.Unlock()
	if waking { // a probe before this one began it
		return nil
	}
	if suspect == nil {
		d.log.Info("nothing is known of the endpoint: it is woken for a first look")
	}
	done := make(chan error, 1)
	look := func() {
		err := d.look(d.closed, d.options.WakeTimeout)
		k.mu.Lock()
		k.waking = false
		k.mu.Unlock()
		if err != nil {
			k.doubts(err)
		}
		done <- err
		d.options.Changed()
	}
	if !d.background(look) {
		return fmt.Errorf("%w: %w", backend.ErrUnreachable, errClosed)
	}
	wait := time.NewTimer(firstWait)
	defer wait.Stop()
	select {
	case err := <-done:
		return err
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", backend.ErrUnreachable, context.Cause(ctx))
	}
}

// look asks a container what it is.
func (d *Driver) look(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	k := &d.know
	k.mu.Lock()
	hash := k.memory.Info.Hash
	k.mu.Unlock()
	resp, err := d.send(ctx, http.MethodGet, "/info?hash="+url.QueryEscape(hash), nil, nil, 0)
	if err != nil {
		return err
	}
	defer drop(resp)
	if resp.StatusCode != http.StatusOK || !fromContainer(resp) {
		err := d.refusal(resp)
		if e, ok := errors.AsType[*fault.Error](err); ok && e.Code == CodeBusy && hash != "" {
			k.alive() // so busy that it has no time to say so
			return nil
		}
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, oneshot.MaxInfo+1))
	var info oneshot.Info
	switch {
	case err != nil:
		return d.lineTrouble(ctx, err)
	case len(raw) > oneshot.MaxInfo:
		err = errTooLong
	default:
		err = json.Unmarshal(raw, &info)
	}
	if err != nil || info.Version == "" || info.Epoch == "" {
		return d.streamTrouble(errors.Join(oneshot.ErrForeign, err))
	}
	return d.learn(info)
}

// learn takes in what a container said of itself.
func (d *Driver) learn(info oneshot.Info) error {
	k := &d.know
	k.hears(info.Container, info.Epoch, info.Hash)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looked = time.Now()
	changed := info.Hash != k.memory.Info.Hash
	if !changed {
		info.Packed = k.memory.Info.Packed
	} else if _, err := info.Unpack(); err != nil {
		return d.streamTrouble(err)
	}
	fresh := !k.known || changed
	k.memory.Info, k.known = info, true
	if changed {
		k.told = false
	}
	if !fresh {
		return nil
	}
	if err := k.notes.remember(k.memory); err != nil {
		d.log.Warn("what the endpoint can run is not written down", "err", err)
	}
	return nil
}

// snapshot tells what is known.
func (d *Driver) snapshot(awake bool) (backend.Snapshot, error) {
	k := &d.know
	s := backend.Snapshot{Taken: time.Now().UTC()}
	if !awake {
		s.Cold = k.cold(d.options.Name)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Epoch = k.memory.Epoch
	if !k.known {
		s.Cold = d.options.Name + " is being woken for a first look: what it can run is known then."
		return s, nil
	}
	info := k.memory.Info
	s.Version, s.Devices, s.System = info.Version, info.Devices, info.System
	if k.told {
		return s, nil
	}
	a, err := info.Unpack()
	if err != nil {
		return s, d.streamTrouble(err)
	}
	k.told = true
	s.ObjectInfo, s.Models, s.Embeddings, s.Extensions, s.WebTexts = a.ObjectInfo, a.Models, a.Embeddings, a.Extensions, a.WebTexts
	return s, nil
}

// keepWarm keeps one container awake in the times of the plan, by light requests.
func (d *Driver) keepWarm() {
	warm := false
	for d.closed.Err() == nil {
		least, next := d.options.KeepWarm(time.Now())
		if (least > 0) != warm {
			warm = least > 0
			d.log.Info("the plan of when the endpoint is kept awake", "awake", warm, "until", next)
		}
		pause := d.options.WarmEvery
		if !warm {
			pause = time.Hour
		} else if !d.know.awake(d.options.WarmEvery / 2) {
			if err := d.look(d.closed, d.options.WakeTimeout); err != nil && d.closed.Err() == nil {
				d.know.doubts(err)
				d.log.Warn("the endpoint could not be kept awake", "err", err)
			}
			d.options.Changed()
		}
		if !next.IsZero() {
			pause = min(pause, max(time.Until(next), time.Second))
		}
		select {
		case <-time.After(pause):
		case <-d.closed.Done():
		}
	}
}
