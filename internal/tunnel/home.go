package tunnel

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Home keeps an agent connected to its studio: it dials, says who it is, serves the streams that the studio opens, and
// dials again after a loss. Its fields are set before Run.
type Home struct {
	Server  string                                      // address of the studio, such as https://lab.example/studio; a path is kept
	Key     string                                      // from Join
	Hello   Hello                                       // Instance and Time are filled in
	ComfyUI func(ctx context.Context) (net.Conn, error) // opens a connection to the ComfyUI beside; an error says why there is none now
	Control http.Handler                                // the agent's own control interface; nil: it has none
	Log     *slog.Logger                                // nil: nowhere

	TLS   *tls.Config                           // nil: the system's authorities; see WithCA
	Proxy func(*http.Request) (*url.URL, error) // nil: HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment

	// Connected is told whenever the line is there or gone. It may be nil, and must not block.
	Connected func(bool)
}

// Pauses between two tries.
const (
	firstPause = 250 * time.Millisecond
	mostPause  = 5 * time.Second
	lastedLong = time.Second // a line that was up for so long was well
)

// Run stays connected until ctx ends, which is no error. What dialling again can't mend it returns: a key that is
// unknown or revoked, an agent of another version, an address that is none.
func (h *Home) Run(ctx context.Context) error {
	if h.Log == nil {
		h.Log = slog.New(slog.DiscardHandler)
	}
	if h.Hello.Instance == "" {
		h.Hello.Instance = rand.Text()
	}
	var told string
	var cuts cuts
	pause := firstPause
	for {
		began := time.Now()
		err := h.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if final(err) {
			return err
		}
		lasted := time.Since(began)
		if lost, ok := errors.AsType[wasUp](err); ok {
			err = lost.error
			if lasted > lastedLong {
				pause = firstPause
			}
			told = ""
			if trouble := cuts.note(lasted, err); trouble != nil {
				err = trouble
			}
		}
		if text := err.Error(); text != told { // the same trouble every few seconds is one line
			told = text
			h.Log.Warn("no line to the studio; it is tried again", "server", bare(h.Server), "err", err)
		}
		if fault.KindOf(err) == fault.Busy || codeOf(err) == CodeNotLeading {
			pause = min(pause, time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + mrand.N(pause/2)): // all agents of a studio that restarts come back, and not at once
		}
		pause = min(2*pause, mostPause)
	}
}

// wasUp is the error of a line that was up before it was lost.
type wasUp struct{ error }

// final reports whether dialling again can't mend it.
func final(err error) bool {
	switch codeOf(err) {
	case CodeKey, CodeVersion:
		return true
	case "":
		return false
	default:
		return fault.Is(err, fault.Invalid)
	}
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Code
	}
	return ""
}

// once dials and serves one line to its end.
func (h *Home) once(ctx context.Context) error {
	d, err := newDialer(h.Server, h.TLS, h.Proxy)
	if err != nil {
		return err
	}
	hello := h.Hello
	hello.Time = time.Now()
	l, clock, err := d.connect(ctx, h.Key, hello)
	if err != nil {
		return err
	}
	h.Log.Info("connected to the studio", "server", bare(h.Server))
	if off := clock.Abs(); off > clockOff {
		h.Log.Warn("the clocks of this machine and of the studio differ", "by", off.Round(time.Second),
			"remedy", "Set this machine's clock, or the studio's.")
	}
	if h.Connected != nil {
		h.Connected(true)
		defer h.Connected(false)
	}
	err = h.serve(ctx, d, l)
	return wasUp{fault.Wrap(fault.Unavailable, err, "The line to the studio was lost").WithCode(CodeOffline)}
}

// clockOff is how far two clocks may be apart before it is worth a word.
const clockOff = 30 * time.Second

// serve answers the streams of a line until it ends.
func (h *Home) serve(ctx context.Context, d *dialer, l *line) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	control := newInbox()
	server := &http.Server{Handler: h.control(), ReadHeaderTimeout: answerWithin, ErrorLog: slog.NewLogLogger(h.Log.Handler(), slog.LevelDebug)}
	serving.Go(func() { server.Serve(control) }) //nolint:errcheck // it ends with the line
	defer server.Close()                         //nolint:errcheck // its connections are streams of the line
	defer control.Close()                        //nolint:errcheck // it has no error
	streams, cut := context.WithCancel(ctx)
	defer cut()
	serving.Go(func() {
		defer cut()
		for {
			stream, err := l.session.AcceptStream()
			if err != nil {
				return
			}
			serving.Go(func() { h.stream(streams, d, stream, control) })
		}
	})
	return l.run(ctx)
}

// control answers requests on streams of kind Control.
func (h *Home) control() http.Handler {
	if h.Control != nil {
		return h.Control
	}
	return http.NotFoundHandler()
}

// stream leads one stream where it wants to go.
func (h *Home) stream(ctx context.Context, d *dialer, stream net.Conn, control *inbox) {
	defer stream.Close()                                      //nolint:errcheck // the line may have gone
	stop := context.AfterFunc(ctx, func() { stream.Close() }) //nolint:errcheck // likewise
	defer stop()
	var kind [1]byte
	if stream.SetDeadline(time.Now().Add(answerWithin)) != nil {
		return
	}
	if _, err := io.ReadFull(stream, kind[:]); err != nil {
		return
	}
	switch Kind(kind[0]) {
	case ComfyUI:
		h.comfy(ctx, stream, nil)
	case Large:
		h.comfy(ctx, stream, d)
	case Control:
		if answer(stream, nil) == nil {
			control.give(ctx, stream)
		}
	default:
		answer(stream, fault.New(fault.Invalid, "This agent knows no streams of %s.", Kind(kind[0])). //nolint:errcheck // the line may have gone
														WithCode(CodeVersion).WithRemedy("Update the agent."))
	}
}

// comfy joins a stream to the ComfyUI beside. apart, if any, dials the connection that carries the bytes in its place.
func (h *Home) comfy(ctx context.Context, stream net.Conn, apart *dialer) {
	dialing, cancel := context.WithTimeout(ctx, answerWithin-apartWithin-time.Second)
	conn, err := h.ComfyUI(dialing)
	cancel()
	if err != nil {
		if fault.KindOf(err) == fault.Internal {
			err = fault.Wrap(fault.Unavailable, err, "The ComfyUI beside the agent can't be reached: %s.", reason(err)).
				WithRemedy("See on the agent's machine that it runs, and at that address.")
		}
		answer(stream, err) //nolint:errcheck // the line may have gone
		return
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer conn.Close() //nolint:errcheck // nothing is lost
	carrier, large := stream, largeBuffers
	if apart != nil {
		large = fileBuffers
		if carrier, err = apart.apart(ctx, h.Key, stream); err != nil {
			answer(stream, err) //nolint:errcheck // the line may have gone
			return
		}
	}
	defer stream.Close()  //nolint:errcheck // the line may have gone
	defer carrier.Close() //nolint:errcheck // likewise
	if answer(stream, nil) != nil {
		return
	}
	if apart != nil {
		serving.Go(func() {
			io.Copy(io.Discard, stream) //nolint:errcheck // nothing comes but its end
			carrier.Close()             //nolint:errcheck // it lives as long as its stream
		})
	}
	serving.Go(func() {
		flow(conn, carrier, large)
		conn.Close() //nolint:errcheck // the other direction ends
	})
	flow(carrier, conn, large)
	// Either end ends both: the other direction may wait for somebody who reads no more.
}

// answer tells the studio whether the stream leads where it wanted, and takes the time limit off it.
func answer(stream net.Conn, err error) error {
	out := []byte{0}
	if err != nil {
		raw, encodeErr := json.Marshal(refusalOf(err))
		if encodeErr != nil || len(raw) > maxAnswer {
			raw = []byte(`{}`)
		}
		out = append([]byte{1, byte(len(raw) >> 8), byte(len(raw))}, raw...)
	}
	if _, err := stream.Write(out); err != nil {
		return err
	}
	return stream.SetDeadline(time.Time{})
}

// inbox is a listener whose connections are given to it.
type inbox struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newInbox() *inbox { return &inbox{conns: make(chan net.Conn), done: make(chan struct{})} }

// given is a connection that somebody waits for the end of.
type given struct {
	net.Conn
	over chan struct{}
	once sync.Once
}

func (g *given) Close() error {
	err := g.Conn.Close()
	g.once.Do(func() { close(g.over) })
	return err
}

// give hands a connection over and returns when it is closed.
func (i *inbox) give(ctx context.Context, c net.Conn) {
	g := &given{Conn: c, over: make(chan struct{})}
	select {
	case i.conns <- g:
	case <-i.done:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-g.over:
	case <-ctx.Done():
	}
}

func (i *inbox) Accept() (net.Conn, error) {
	select {
	case c := <-i.conns:
		return c, nil
	case <-i.done:
		return nil, net.ErrClosed
	}
}

func (i *inbox) Close() error {
	i.once.Do(func() { close(i.done) })
	return nil
}

func (i *inbox) Addr() net.Addr { return inboxAddr{} }

type inboxAddr struct{}

func (inboxAddr) Network() string { return "tunnel" }
func (inboxAddr) String() string  { return "tunnel" }
