// Package serverless drives containers behind a balancer without affinity: each job goes in one request to whichever
// container the balancer chooses, where an agent runs it on the ComfyUI beside it (package oneshot).
//
// In mode Agent the request stays open until the job is done, and everything comes with its answer. In mode Async it is
// put into the provider's queue (header Prefer: respond-async), progress comes by call-backs, and the answer is fetched
// by its inference id. Either way what is needed to find the run again is written down before it is needed, so that a
// restart of ours loses no result.
//
// An endpoint sleeps when nobody uses it, and every request wakes it, so that a probe asks it nothing while it may
// sleep: it is judged by its work.
package serverless

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/handover"
)

// Mode says how a job's answer comes back.
type Mode string

// The modes.
const (
	Agent Mode = "agent" // with the request
	Async Mode = "async" // from the provider's queue
)

// Options of a driver. The zero value of each field but Name is good.
type Options struct {
	Name string // what people call the back end
	Mode Mode   // empty: Agent
	Key  string // bearer token of the endpoint
	// Studio tells this studio from others that use the same storage. Letters, digits, dash and underscore.
	Studio string
	// Folder is where it is written down which runs are under way and what the endpoint can run. Empty: nowhere, and a
	// restart of ours loses both.
	Folder string
	// Spool is where outputs are until they are fetched. Empty: the system's folder of temporary files.
	Spool string
	// CallBack is the address below which Updates is reached from the containers, such as
	// https://lab.example/studio/agents/v1/runs. Empty: they can't call back.
	CallBack string
	Updates  *Updates
	// Place is where containers leave outputs and find large inputs. Nil: they come with the answer, and go with the
	// request.
	Place     handover.Place
	StoreFrom int64         // bytes from which an input goes by Place; 0: 1 MiB
	MaxRun    time.Duration // a run that takes longer is interrupted by its container; 0: never
	MaxBytes  int64         // of the outputs of one run; 0: 8 GiB
	// KeepWarm returns how many containers are to be kept awake at a time, and when that may change next. One is kept
	// by light requests of ours. Nil: none.
	KeepWarm func(now time.Time) (least int, next time.Time)
	// Awake asks the provider how many containers there are, without waking one. Nil: nobody knows.
	Awake func(ctx context.Context) (containers int, err error)
	// Changed is called when a probe would tell something new. It must not block.
	Changed func()
	Log     *slog.Logger // nil: nowhere
	TLS     *tls.Config  // nil: the system's authorities
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)

	Silence      time.Duration // after which a stream that began is taken for cut; 0: 5 s
	LostAfter    time.Duration // how long a run is looked for after its stream was cut; 0: 5 s
	FindFor      time.Duration // how long a run is looked for after a restart of ours; 0: 20 s
	ColdAfter    time.Duration // from which wait on its owner is told of a cold start; 0: 4 s
	WarmFor      time.Duration // how long after its last answer an endpoint counts as awake; 0: 1 min
	WarmEvery    time.Duration // pause of the requests that keep one awake; 0: 45 s
	BusyFor      time.Duration // how long a job is offered again to an endpoint that is full; 0: 2 min
	StopWithin   time.Duration // how long an interrupted run may take to say so; 0: 15 s
	PollEvery    time.Duration // pause between looks into the provider's queue; 0: 1 s
	ProbeTimeout time.Duration // of a light request to an endpoint that is awake; 0: 10 s
	WakeTimeout  time.Duration // of one that wakes it; 0: 20 min
	RefreshEvery time.Duration // how often an endpoint that is awake is looked at; 0: 5 min
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		d *time.Duration
		v time.Duration
	}{
		{&o.Silence, 5 * time.Second},
		{&o.LostAfter, 5 * time.Second},
		{&o.FindFor, 20 * time.Second},
		{&o.ColdAfter, 4 * time.Second},
		{&o.WarmFor, time.Minute},
		{&o.WarmEvery, 45 * time.Second},
		{&o.BusyFor, 2 * time.Minute},
		{&o.StopWithin, 15 * time.Second},
		{&o.PollEvery, time.Second},
		{&o.ProbeTimeout, 10 * time.Second},
		{&o.WakeTimeout, 20 * time.Minute},
		{&o.RefreshEvery, 5 * time.Minute},
	} {
		if *d.d <= 0 {
			*d.d = d.v
		}
	}
	if o.Mode == "" {
		o.Mode = Agent
	}
	if o.StoreFrom <= 0 {
		o.StoreFrom = 1 << 20
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 8 << 30
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Dial == nil { // a peer that is gone without a word is noticed within 5 s
		o.Dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3,
		}}).DialContext
	}
}

// Driver is a backend.Driver for one endpoint. It is safe for concurrent use.
type Driver struct {
	base    *url.URL
	options Options
	log     *slog.Logger
	client  *http.Client
	notes   notes
	know    knowledge
	shelf   inputShelf

	unstored sync.Once // it was said that containers leave nothing in storage

	closed context.Context // ends with Close
	end    context.CancelFunc
	wg     sync.WaitGroup
	wgMu   sync.Mutex // nothing joins wg once closed has ended
}

var _ backend.Driver = (*Driver)(nil)

// New returns a driver for the endpoint at address, such as https://containers.example/DEPLOYMENT. It does not
// connect.
func New(address string, o Options) (*Driver, error) {
	o.setDefaults()
	base, err := url.Parse(strings.TrimRight(address, "/"))
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" || base.RawQuery != "" || base.User != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The address of %s is not that of an endpoint.", o.Name).
			WithRemedy("Write it like https://containers.example/DEPLOYMENT, and the key under key.")
	}
	if o.Mode != Agent && o.Mode != Async {
		return nil, fault.New(fault.Invalid, "The mode %q of %s is neither agent nor async.", o.Mode, o.Name)
	}
	d := &Driver{base: base, options: o, log: o.Log}
	d.shelf.inputs = make(map[string]*stored)
	d.client = &http.Client{
		// A connection of its own for each request: a balancer that chooses by connection chooses anew, and none is one
		// that the other side is about to close.
		Transport: &http.Transport{
			DialContext: o.Dial, TLSClientConfig: o.TLS, DisableKeepAlives: true, DisableCompression: true,
			TLSHandshakeTimeout: 10 * time.Second, ExpectContinueTimeout: 2 * time.Second, MaxResponseHeaderBytes: 64 << 10, Proxy: http.ProxyFromEnvironment,
			WriteBufferSize: 64 << 10, ReadBufferSize: 256 << 10,
		},
		// A redirect would carry the job, or the key, elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if d.notes, err = openNotes(o.Folder, o.Log); err != nil {
		return nil, err
	}
	if err := openSpool(o.Spool, o.Log); err != nil {
		return nil, err
	}
	d.know.start(d.notes)
	d.closed, d.end = context.WithCancel(context.Background())
	if o.KeepWarm != nil {
		d.background(d.keepWarm)
	}
	return d, nil
}

// Close ends what goes on. Runs go on in their containers for a while and can be resumed by another driver.
func (d *Driver) Close() error {
	d.wgMu.Lock()
	d.end()
	d.wgMu.Unlock()
	d.wg.Wait()
	d.client.CloseIdleConnections()
	return nil
}

// errClosed is the cause of what ends with the driver.
var errClosed = errors.New("the driver is closed")

// background runs f beside; Close waits for it. After Close it does not run and background reports false.
func (d *Driver) background(f func()) bool {
	d.wgMu.Lock()
	defer d.wgMu.Unlock()
	if d.closed.Err() != nil {
		return false
	}
	d.wg.Go(f)
	return true
}

// ClientID returns an id. Containers choose their own.
func (d *Driver) ClientID() string { return uuid.NewString() }

// Prepare readies a run. Everything travels with the request, so that nothing is sent yet.
func (d *Driver) Prepare(_ context.Context, t backend.Task) (backend.Run, error) {
	return d.newRun(t), nil
}

// Resume takes up a run that was written down before a restart of ours.
func (d *Driver) Resume(ctx context.Context, t backend.Task) (backend.Run, error) {
	note, ok, err := d.notes.run(t.Attempt.RunID)
	if err != nil {
		return nil, err
	}
	if !ok { // it is written down before it is sent
		return nil, backend.ErrUnknownRun
	}
	r := d.newRun(t)
	r.resumed, r.note = true, note
	if note.Inference == "" {
		if err := r.find(ctx); err != nil {
			r.forget()
			return nil, err
		}
	}
	return r, nil
}

// How a run that nobody holds is taken off.
const (
	cancelTries = 20
	cancelFirst = 200 * time.Millisecond
	cancelMost  = 10 * time.Second
)

// Cancel has a run interrupted that nobody here holds. Which container has it is not known: it is asked for with fresh
// connections, and told when it calls back. One that never hears of it stops by itself, because nobody is connected.
func (d *Driver) Cancel(runID string) {
	if d.options.Updates != nil {
		d.options.Updates.stop(runID)
	}
	d.background(func() {
		pause := cancelFirst
		for range cancelTries {
			if done, err := d.interrupt(d.closed, runID); done || d.closed.Err() != nil {
				return
			} else if err != nil {
				d.log.Debug("a run could not be taken off yet", "req", runID, "err", err)
			}
			select {
			case <-time.After(pause):
				pause = min(2*pause, cancelMost)
			case <-d.closed.Done():
				return
			}
			if !d.know.awake(d.options.WarmFor) {
				return // it would be woken for that
			}
		}
	})
}

// interrupt asks whichever container answers to interrupt a run. done reports that it was the right one.
func (d *Driver) interrupt(ctx context.Context, runID string) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.options.ProbeTimeout)
	defer cancel()
	resp, err := d.send(ctx, http.MethodDelete, "/runs/"+runID, nil, nil, 0)
	if err != nil {
		return false, err
	}
	drop(resp)
	if resp.StatusCode == http.StatusNoContent {
		return true, nil
	}
	return false, nil
}

// Free asks the container that answers to give up memory. One that sleeps has given up all of it.
func (d *Driver) Free(ctx context.Context, unloadModels, freeMemory bool) error {
	if !d.know.awake(d.options.WarmFor) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.options.ProbeTimeout)
	defer cancel()
	body := `{"unload_models":` + word(unloadModels) + `,"free_memory":` + word(freeMemory) + `}`
	resp, err := d.send(ctx, http.MethodPost, "/free", nil, strings.NewReader(body), int64(len(body)))
	if err != nil {
		return err
	}
	defer drop(resp)
	if resp.StatusCode != http.StatusNoContent {
		return d.refusal(resp)
	}
	return nil
}

func word(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// maxWebFile bounds a web file of a custom node.
const maxWebFile = 64 << 20

// WebFile reads one file of a custom node's web directory from whichever container answers.
func (d *Driver) WebFile(ctx context.Context, path string) (io.ReadCloser, string, error) {
	if !d.know.awake(d.options.WarmFor) {
		return nil, "", fault.New(fault.Unavailable, "%s sleeps, and is not woken for the file %s.", d.options.Name, path)
	}
	ctx, cancel := context.WithCancel(ctx)
	resp, err := d.send(ctx, http.MethodGet, "/web?path="+url.QueryEscape(path), nil, nil, 0)
	if err == nil && resp.StatusCode != http.StatusOK {
		if resp.StatusCode == http.StatusNotFound && fromContainer(resp) {
			err = fault.New(fault.Missing, "The back end has no web file %s.", path)
		} else {
			err = d.refusal(resp)
		}
		drop(resp)
	}
	if err != nil {
		cancel()
		return nil, "", err
	}
	return &bounded{resp.Body, maxWebFile, cancel}, resp.Header.Get("Comfyume-Type"), nil
}

// bounded is the body of an answer that may not be larger than it should be.
type bounded struct {
	io.ReadCloser
	left int64
	free func()
}

// Read reads from the body.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// Close ends the transfer.
func (b *bounded) Close() error {
	b.free()
	return b.ReadCloser.Close()
}

var errTooLong = errors.New("the answer is longer than it may be")
