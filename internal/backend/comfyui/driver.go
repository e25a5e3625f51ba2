// Package comfyui drives a plain ComfyUI server by its address. Nothing has to be installed on it.
//
// One socket is open all the time, and runs follow one another on it: it tells at once when the server goes away or
// somebody else puts work into its queue, and no run waits for a handshake. Frames name their run. Where nodes of
// custom packs may say something that names none, even after their run, that run is the last one on its socket, so
// that frames of two people's runs can never be mixed up.
//
// A run is over when its end frame came or, whatever the socket says, when the server's history has it. The result
// is what the frames told if they told all of it, and else what the history has. What the server knows of a run is
// looked up in the order history, queue, history, so that a run that ends meanwhile is not taken for lost.
package comfyui

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/apart"
	"github.com/ahelme/comfyume/internal/fault"
)

// Options of a driver. The zero value of each field but Log is good.
type Options struct {
	// Studio tells this studio from others that use the same server: it names the file that marks the server's
	// start. Letters, digits, dash and underscore.
	Studio string
	// Header is sent with every request, for servers behind a door of their own.
	Header http.Header
	// Folders knows which servers of the studio write their outputs to one folder. Nil: this one has its own.
	Folders *apart.Folders
	// Changed is called when the driver noticed that a probe would tell something new: the server went away, or
	// somebody else's work came or went. It must not block.
	Changed func()
	// Log is where the driver tells of what it saw. Nil: nowhere.
	Log *slog.Logger
	// TLS is for servers at https addresses. Nil: the system's authorities.
	TLS *tls.Config
	// Dial opens connections. Nil: the network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// DialLarge opens connections of which each carries one file of 16 MB or more. Nil: such files are like others.
	DialLarge func(ctx context.Context, network, address string) (net.Conn, error)
	// Death says why the server was started anew since a time, where somebody looks after it: an error of the class
	// backend.ErrCrashed when it died by itself, backend.ErrFrozen when it was ended for that, backend.ErrLost when
	// it was ended from outside, or on purpose; backend.ErrNotEnded when nothing is known of an end since then. Nil, as
	// a function or an answer: nobody knows.
	Death func(ctx context.Context, since time.Time) error

	// Patience knows how long nodes may be silent. Nil: nobody does.
	Patience Patience
	// Silent is called when a server gave no sign of life in mid-run for longer than its node may take: what it did, as
	// words behind its name. It must not block, and may be nil.
	Silent func(text string)
	// Enters is called when a node begins that may be silent for longer than SilentAfter, with its bound, and with 0 when
	// one begins that may not, or the run is over. It must not block, and may be nil.
	Enters func(bound time.Duration)

	PollAfter      time.Duration // silence after which the server is asked about a run; 0: 5 s
	LostAfter      time.Duration // how long a server may refuse connections in mid-run; 0: 30 s
	SilentAfter    time.Duration // how long a server may give no sign of life in mid-run until Silent is called, unless its node may take longer; 0: 12 s
	FrozenAfter    time.Duration // how long it may until it is given up, unless Patience knows better; 0: 2 min
	RequestTimeout time.Duration // of one light request; 0: 10 s
	PostTimeout    time.Duration // of handing over a prompt; 0: 1 min
	StallTimeout   time.Duration // of a file transfer that stands still; 0: 1 min
	RefreshEvery   time.Duration // how often nodes and models are read anew without a restart; 0: 5 min
	HistoryGrace   time.Duration // how long an ended run may be missing from the history; 0: 5 s
}

func (o *Options) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.PollAfter, 5*time.Second)
	def(&o.LostAfter, 30*time.Second)
	def(&o.FrozenAfter, 2*time.Minute)
	def(&o.SilentAfter, 12*time.Second)
	def(&o.RequestTimeout, 10*time.Second)
	def(&o.PostTimeout, time.Minute)
	def(&o.StallTimeout, time.Minute)
	def(&o.RefreshEvery, 5*time.Minute)
	def(&o.HistoryGrace, 5*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Dial == nil {
		// Silence of a server is noticed by asking it, so that connections, of which every run has one, need no
		// probes of the system's.
		o.Dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}).DialContext
	}
	if o.Studio == "" {
		o.Studio = "studio"
	}
}

// Driver is a backend.Driver for one ComfyUI server. It is safe for concurrent use.
type Driver struct {
	prefix  string      // of every address, without a slash at its end
	header  http.Header // of every request
	options Options
	log     *slog.Logger
	wire    *wire
	large   *wire        // for large files; it may be the same
	upgrade *http.Client // socket handshakes

	closed context.Context // ends with Close
	end    context.CancelFunc
	wg     sync.WaitGroup
	wgMu   sync.Mutex // nothing joins wg once closed has ended

	probe   prober
	epochs  epochs
	sockets sockets
	tidy    tidier
	row     row
	own     atomic.Int64            // prompts of ours that the server has and that are not over
	foreign atomic.Int64            // what the last status frame said beyond ours
	frozen  atomic.Pointer[givenUp] // the last run that was given up with its server; nil: none
	atWork  sync.Map                // run → the node that runs, where Patience is asked
}

var _ backend.Driver = (*Driver)(nil)

// New returns a driver for the server at address, such as http://gpu1:8188. It does not connect.
func New(address string, o Options) (*Driver, error) {
	o.setDefaults()
	base, err := url.Parse(strings.TrimRight(address, "/"))
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" || base.RawQuery != "" {
		return nil, fault.Wrap(fault.Invalid, err, "%q is not the address of a ComfyUI server.", address).
			WithRemedy("Write it like http://gpu1:8188.")
	}
	user := base.User
	base.User = nil
	d := &Driver{prefix: base.String(), options: o, log: o.Log}
	d.header = o.Header.Clone()
	if d.header == nil {
		d.header = make(http.Header)
	}
	if user != nil && d.header.Get("Authorization") == "" {
		password, _ := user.Password()
		d.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	d.closed, d.end = context.WithCancel(context.Background())
	d.wire = &wire{dial: o.Dial, tls: o.TLS}
	d.large = d.wire
	if o.DialLarge != nil {
		d.large = &wire{dial: o.DialLarge, tls: o.TLS, fresh: true}
	}
	d.upgrade = &http.Client{Transport: d.wire}
	d.epochs.have, d.epochs.asking = make(map[string]int64), make(chan struct{}, 1)
	d.tidy.known = make(map[string]struct{})
	d.tidy.kick = make(chan struct{}, 1)
	return d, nil
}

// Close cuts every socket and ends what goes on in the background. Runs go on at the server.
func (d *Driver) Close() error {
	d.halt()
	d.lastTidy()
	d.wire.close()
	return nil
}

// halt ends what goes on in the background.
func (d *Driver) halt() {
	d.options.Folders.Leave(d)
	d.wgMu.Lock()
	d.end()
	d.wgMu.Unlock()
	d.sockets.close()
	d.wg.Wait()
}

// stop is Close without a last word to the server.
func (d *Driver) stop() {
	d.halt()
	d.wire.close()
}

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

// ClientID returns the id of the common socket, on which the next run will be.
func (d *Driver) ClientID() string { return d.sockets.id() }

// Free asks the server to give up memory once it is idle.
func (d *Driver) Free(ctx context.Context, unloadModels, freeMemory bool) error {
	ctx, cancel := context.WithTimeout(ctx, d.options.RequestTimeout)
	defer cancel()
	body := fmt.Appendf(nil, `{"unload_models":%t,"free_memory":%t}`, unloadModels, freeMemory)
	return d.post(ctx, "/free", body)
}

// webPaths are where custom nodes and the server's packages keep what a page may read.
var webPaths = []string{"/extensions/", "/api/workflow_templates/", "/docs/"}

// WebFile reads one file of a custom node's web directory, or of its templates or help pages.
func (d *Driver) WebFile(ctx context.Context, path string) (io.ReadCloser, string, error) {
	allowed := false
	for _, p := range webPaths {
		allowed = allowed || strings.HasPrefix(path, p)
	}
	decoded, err := url.PathUnescape(path)
	if err != nil || !allowed || strings.Contains(decoded, "..") || strings.ContainsAny(decoded, "\\\x00?#") {
		return nil, "", fault.New(fault.Invalid, "%q is not the path of a web file.", path)
	}
	resp, cancel, err := d.open(ctx, http.MethodGet, path, "", nil, 0)
	if err != nil {
		return nil, "", err
	}
	if resp.StatusCode != http.StatusOK {
		drop(resp)
		cancel(nil)
		return nil, "", fault.Wrap(fault.Missing, errStatus("GET "+path, resp), "The back end has no web file %s.", path)
	}
	return newStream(resp.Body, d.options.StallTimeout, cancel), resp.Header.Get("Content-Type"), nil
}

// Route asks the server for an address that a custom node answers at. Which ones may be asked for is the caller's
// matter.
func (d *Driver) Route(ctx context.Context, path, query string) (io.ReadCloser, string, error) {
	address := (&url.URL{Path: path}).EscapedPath()
	if query != "" {
		address += "?" + query
	}
	resp, cancel, err := d.open(ctx, http.MethodGet, address, "", nil, 0)
	if err != nil {
		return nil, "", err
	}
	switch code := resp.StatusCode; {
	case code >= 500:
		err = fmt.Errorf("%w: %w", backend.ErrUnreachable, errStatus("GET "+path, resp))
	case code != http.StatusOK: // no redirect is followed: it could lead anywhere
		err = fault.Wrap(fault.Missing, errStatus("GET "+path, resp), "The back end has nothing at %s.", path)
	default:
		return newStream(resp.Body, d.options.StallTimeout, cancel), resp.Header.Get("Content-Type"), nil
	}
	drop(resp)
	cancel(nil)
	return nil, "", err
}
