// Package balanced drives plain ComfyUI servers behind a balancer without affinity: the POST of a prompt lands on some
// replica, and so does every question about it. Nothing has to be installed on them; what it takes instead is a folder
// that all of them and the studio share.
//
// A run's result is found by many fresh connections that ask whichever replica answers, and its files in the shared
// folder, where each saving node of each run writes into a folder of its own. Progress is shown when a web socket
// happens to reach the replica that has the run, and else not at all. A run that no replica knows any more is given up
// with what is known of the cause.
//
// This is for endpoints that can't have the agent, which has none of these troubles: one request is one job there.
package balanced

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/fault"
)

// Options of a driver. The zero value of each field is good.
type Options struct {
	Studio   string // tells this studio from others: letters, digits, dash and underscore
	Header   http.Header
	Log      *slog.Logger
	Changed  func() // called when a probe would tell something new; it must not block
	TLS      *tls.Config
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	Parallel int // about how many replicas there are: how many runs go on at the same time; 0: 1

	LookEvery      time.Duration // pause between rounds of looks for a run; 0: 500 ms
	Looks          int           // connections of a round; 0: half of Parallel, at least 4
	LostAfter      time.Duration // how long a run may be seen nowhere; 0: 45 s
	QueueFor       time.Duration // how long the provider may keep a request waiting for a replica; 0: 10 min
	PatienceFor    time.Duration // how long a busy endpoint (429, 503) is asked again to take a run; 0: 2 min
	VisibleFor     time.Duration // how long a file may be on its way through the caches of the shared folder; 0: 70 s
	ColdAfter      time.Duration // silence after which replicas are taken to sleep; 0: 5 min
	RequestTimeout time.Duration // of one look; 0: 10 s
}

func (o *Options) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.LookEvery, 500*time.Millisecond)
	def(&o.LostAfter, 45*time.Second)
	def(&o.QueueFor, 10*time.Minute)
	def(&o.PatienceFor, 2*time.Minute)
	def(&o.VisibleFor, 70*time.Second)
	def(&o.ColdAfter, 5*time.Minute)
	def(&o.RequestTimeout, 10*time.Second)
	o.Parallel = max(o.Parallel, 1)
	if o.Looks <= 0 {
		o.Looks = max(4, o.Parallel/2)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Studio == "" {
		o.Studio = "studio"
	}
}

// Driver is a backend.Driver for an endpoint. It is safe for concurrent use.
type Driver struct {
	o       Options
	log     *slog.Logger
	quick   *comfyui.Loose // for looks
	patient *comfyui.Loose // for what may wait for a replica to start
	shelf   *shelf
	epoch   string

	closed context.Context
	end    context.CancelFunc
	wg     sync.WaitGroup
	wgMu   sync.Mutex // nothing joins wg once closed has ended

	probe    prober
	deaf     atomic.Int64 // web sockets that were refused in a row
	answered atomic.Int64 // when a replica answered last, in Unix nanoseconds
	failed   atomic.Bool  // the endpoint did not answer when it was asked last
}

var _ backend.Driver = (*Driver)(nil)

// New returns a driver for the endpoint at address whose servers write their outputs to storage, such as
// file:///mnt/sfs/outputs, and read inputs from the folder that its parameter inputs names, if any:
// file:///mnt/sfs/outputs?inputs=/mnt/sfs/inputs. It does not connect.
func New(address, storage string, o Options) (*Driver, error) {
	o.setDefaults()
	u, err := url.Parse(storage)
	if err != nil || u.Scheme != "file" || u.Host != "" || !filepath.IsAbs(filepath.FromSlash(u.Path)) {
		return nil, fault.New(fault.Invalid, "Plain ComfyUI behind a balancer needs a folder that all its replicas write to and the studio reads.").
			WithRemedy("Set storage to file:///PATH of the folder that is mounted at both.")
	}
	inputs := u.Query().Get("inputs")
	for key := range u.Query() {
		if key != "inputs" || !filepath.IsAbs(inputs) {
			return nil, fault.New(fault.Invalid, "storage: %q is no parameter of a shared folder, or no absolute path.", key).
				WithRemedy("Write file:///mnt/sfs/outputs?inputs=/mnt/sfs/inputs.")
		}
	}
	base := comfyui.Options{
		Studio: o.Studio, Header: o.Header, Log: o.Log, TLS: o.TLS, Dial: o.Dial, RequestTimeout: o.RequestTimeout, PostTimeout: o.QueueFor,
	}
	quick, err := comfyui.NewLoose(address, base)
	if err != nil {
		return nil, err
	}
	base.RequestTimeout, base.StallTimeout = o.QueueFor, o.QueueFor
	patient, err := comfyui.NewLoose(address, base)
	if err != nil {
		return nil, err
	}
	d := &Driver{
		o: o, log: o.Log, quick: quick, patient: patient, shelf: newShelf(filepath.FromSlash(u.Path), inputs, o), epoch: "balanced-" + o.Studio,
	}
	d.closed, d.end = context.WithCancel(context.Background())
	d.background(d.keepTidy)
	return d, nil
}

// Close ends what goes on here. Runs go on at the replicas.
func (d *Driver) Close() error {
	d.wgMu.Lock()
	d.end()
	d.wgMu.Unlock()
	d.wg.Wait()
	d.quick.Close()
	d.patient.Close()
	return nil
}

// background runs f beside; Close waits for it.
func (d *Driver) background(f func()) {
	d.wgMu.Lock()
	defer d.wgMu.Unlock()
	if d.closed.Err() == nil {
		d.wg.Go(f)
	}
}

// keepTidy deletes from time to time what runs left whose owner never came back.
func (d *Driver) keepTidy() {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for now := time.Now(); ; {
		if d.shelf.ready() == nil { // a folder that is not mounted is the matter of Probe
			d.shelf.sweep(now)
		}
		select {
		case now = <-tick.C:
		case <-d.closed.Done():
			return
		}
	}
}

// note takes in how a request went.
func (d *Driver) note(err error) {
	if err == nil {
		d.answered.Store(time.Now().UnixNano())
	}
	if d.failed.Swap(err != nil) != (err != nil) {
		d.o.Changed()
	}
}

// ClientID returns a new id: no socket is open before a run.
func (*Driver) ClientID() string { return uuid.NewString() }

// Free does nothing: there is no way to tell a replica from another, and the provider puts idle ones to sleep.
func (*Driver) Free(context.Context, bool, bool) error { return nil }

// WebFile reads one file of a custom node's web directory from whichever replica answers.
func (d *Driver) WebFile(ctx context.Context, path string) (io.ReadCloser, string, error) {
	return d.patient.WebFile(ctx, path)
}

// Cancel has replicas asked to stop a run, as many times as it takes to have most likely reached the one that has it.
func (d *Driver) Cancel(runID string) {
	d.background(func() {
		d.stopEverywhere(d.closed, runID)
		d.shelf.remove(runID)
	})
}

// enough is how many looks it takes to have reached a certain replica with a chance of 99.9 %, if there are about as
// many as runs go on.
func (d *Driver) enough() int { return max(20, 7*d.o.Parallel) }

// stopEverywhere asks replicas to stop a run until most likely all were asked.
func (d *Driver) stopEverywhere(ctx context.Context, runID string) {
	tick := time.NewTicker(d.o.LookEvery / 4)
	defer tick.Stop()
	for range d.enough() {
		version, err := d.version(ctx)
		if err == nil {
			err = d.quick.Stop(ctx, runID, version)
		}
		if err != nil {
			d.log.Debug("a replica was not asked to stop a run", "req", runID, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// prober remembers what is known of the replicas, which nobody wakes to ask.
type prober struct {
	mu    sync.Mutex // one probe at a time
	known *backend.Snapshot
	word  atomic.Pointer[string]
}

// version returns the version of the replicas.
func (d *Driver) version(ctx context.Context) (string, error) {
	if v := d.probe.word.Load(); v != nil {
		return *v, nil
	}
	s, err := d.quick.Identify(ctx)
	if err == nil {
		d.probe.word.Store(&s.Version)
	}
	return s.Version, err
}

// Probe asks a replica what it is and can run when nothing is known yet, and whether any answers when one did not.
// Else it answers from what it knows: a request would wake the endpoint, or keep it awake.
func (d *Driver) Probe(ctx context.Context) (backend.Snapshot, error) {
	d.probe.mu.Lock()
	defer d.probe.mu.Unlock()
	if err := d.shelf.ready(); err != nil {
		return backend.Snapshot{}, fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
	}
	known := d.probe.known
	switch {
	case known == nil:
		d.log.Info("the endpoint is asked for the first time, which may wake it")
		s, err := d.patient.Identify(ctx)
		if err == nil {
			s.Epoch = d.epoch
			err = d.patient.Abilities(ctx, &s)
		}
		d.note(err)
		if err != nil {
			return backend.Snapshot{}, err
		}
		d.probe.word.Store(&s.Version)
		light := s
		light.ObjectInfo, light.Models, light.Embeddings, light.Extensions, light.WebTexts = nil, nil, nil, nil, nil
		d.probe.known = &light
		return s, nil
	case d.failed.Load():
		_, err := d.quick.Identify(ctx)
		d.note(err)
		if err != nil {
			return backend.Snapshot{}, err
		}
	}
	s := *known
	s.Taken = time.Now().UTC()
	if silent := time.Since(time.Unix(0, d.answered.Load())); silent > d.o.ColdAfter {
		s.Cold = "The endpoint has been silent for a while: the next run may have to wait until a replica has started and loaded its models."
	}
	return s, nil
}
