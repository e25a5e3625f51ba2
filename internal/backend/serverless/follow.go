package serverless

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// follower is the state of Start: one run followed to its end.
type follower struct {
	*run
	update func(backend.Update) error
	tell   func() // posted, at most once

	stream *stream // what is read just now; nil: between two
	calls  *listener
	again  <-chan time.Time // when the next stream is to be opened
	open   func()           // how

	began     time.Time // when the job was first offered
	hello     *oneshot.Hello
	accepted  bool
	next      int64 // number of the next frame
	gap       bool
	result    *backend.Result
	coldTold  bool
	inputs    handing
	buffered  bool      // something between holds answers back
	broken    error     // why the run is looked for; nil: it is not
	until     time.Time // how long it is looked for
	breaks    int       // how often it was
	pause     time.Duration
	asked     bool          // the containers are asked to interrupt it
	giveUp    time.Time     // when an interrupted run is given up
	called    time.Time     // when the container last called back
	atEnd     chan struct{} // closed when Start returns
	notInLine chan struct{} // a call-back said that the run is over: the queue is to be asked
}

// Start sends the job and follows it to its end.
func (r *run) Start(ctx context.Context, tell func(), update func(backend.Update) error) (backend.Result, error) {
	f := &follower{
		run: r, update: update, tell: tell, began: time.Now(), atEnd: make(chan struct{}), notInLine: make(chan struct{}, 1),
	}
	defer close(f.atEnd)
	if r.stopping() && !r.resumed {
		return interrupted(r.id)
	}
	if u := r.d.options.Updates; u != nil {
		f.calls = u.listen(r.id)
		defer func() { u.leave(r.id, f.calls) }()
	}
	if !r.resumed {
		if err := r.write(false, func(n *note) { n.Sent = f.began.UTC() }); err != nil {
			return backend.Result{}, err
		}
		r.become(sentState)
	}
	result, err := f.follow(ctx)
	f.hangUp()
	r.box.end(err)
	if err != nil { // nobody fetches anything of it
		if bad := r.box.discard(); bad != nil {
			r.d.log.Warn("outputs of a run that was not finished stay on disk for now", "req", r.id, "err", bad)
		}
	}
	_, refused := errors.AsType[*backend.Refused](err)
	switch {
	case err == nil || refused:
		if !f.isLeft() {
			r.become(overState)
		}
		if err == nil {
			return *result, nil
		}
	case isUnsent(err):
		r.become(unsentState)
	}
	if !refused && ctx.Err() == nil && r.d.closed.Err() == nil {
		r.d.know.doubts(err)
	}
	return backend.Result{}, err
}

// isLeft reports whether the run was given up while a container may still have it.
func (f *follower) isLeft() bool { return !f.giveUp.IsZero() && f.result == nil }

// follow takes what comes until the run is over.
func (f *follower) follow(ctx context.Context) (*backend.Result, error) {
	f.first(ctx)
	tick := time.NewTicker(min(500*time.Millisecond, f.d.options.Silence/4))
	defer tick.Stop()
	for {
		var pieces <-chan piece
		if f.stream != nil {
			pieces = f.stream.pieces
		}
		var calls <-chan oneshot.Event
		if f.calls != nil {
			calls = f.calls.events
		}
		var result *backend.Result
		var err error
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-f.d.closed.Done():
			return nil, fmt.Errorf("%w: %w", backend.ErrUnreachable, errClosed)
		case p := <-pieces:
			result, err = f.take(ctx, p)
		case e := <-calls:
			err = f.call(e)
		case <-f.again:
			f.again = nil
			f.open()
		case <-f.wake:
			result, err = f.stopIfWanted()
		case <-tick.C:
			result, err = f.check(ctx)
		}
		if err != nil || result != nil {
			return result, err
		}
	}
}

// first opens the first stream.
func (f *follower) first(ctx context.Context) {
	switch {
	case f.found != nil:
		f.mu.Lock()
		found := f.found
		f.found = nil
		f.mu.Unlock()
		f.read(ctx, func(context.Context) (*http.Response, error) { return found, nil })
	case f.d.options.Mode == Async:
		f.read(ctx, nil)
	default:
		f.send(ctx)
	}
}

// send offers the job.
func (f *follower) send(ctx context.Context) {
	inputs := f.inputs
	if f.d.options.Mode == Async {
		f.read(ctx, nil)
		return
	}
	f.read(ctx, func(ctx context.Context) (*http.Response, error) { return f.post(ctx, inputs, nil) })
}

// take handles what came of the stream.
func (f *follower) take(ctx context.Context, p piece) (*backend.Result, error) {
	e := p.event
	switch {
	case p.err != nil:
		return nil, f.failed(ctx, p)
	case p.state != "":
		return nil, nil // the sign of life that check looks for
	case e.Hello != nil:
		return nil, f.greet(e.Hello)
	case e.Posted != nil:
		f.accept(e.Posted.Epoch)
	case e.Frame != nil:
		return nil, f.frame(*e.Frame)
	case e.Beat != nil:
		f.beat(*e.Beat)
	case e.Result != nil:
		f.result = e.Result
		f.result.Gap = f.result.Gap || f.gap || f.resumed
		f.accept("")
	case e.Trouble != nil:
		return nil, f.trouble(ctx, *e.Trouble)
	case e.End:
		return f.result, nil
	}
	return nil, nil
}

// call handles what came by a call-back.
func (f *follower) call(e oneshot.Event) error {
	f.called = time.Now()
	f.d.know.alive()
	switch {
	case e.Hello != nil:
		if f.d.options.Mode == Async {
			return f.greet(e.Hello)
		}
	case e.Posted != nil:
		f.accept(e.Posted.Epoch)
	case e.Frame != nil:
		return f.frame(*e.Frame)
	case e.Beat != nil && e.Beat.Phase == oneshot.PhaseOver:
		select {
		case f.notInLine <- struct{}{}:
		default:
		}
	}
	return nil
}

// greet takes in who has the run.
func (f *follower) greet(h *oneshot.Hello) error {
	if h.Run != f.id {
		return f.d.streamTrouble(fmt.Errorf("%w: the answer is that of another run", oneshot.ErrCorrupt))
	}
	if f.hello == nil && !f.resumed {
		if took := time.Since(f.began); took > f.d.options.ColdAfter && f.coldTold && f.inputs == byName {
			f.d.know.woke(took)
		}
	}
	fresh := f.hello == nil || f.hello.Container != h.Container
	if f.hello != nil && fresh { // the provider gave it to another one
		f.gap = true
	}
	f.hello, f.broken = h, nil
	if f.stream != nil {
		f.stream.hello = true
	}
	f.gap = f.gap || h.Gap || h.First > f.next && h.Again
	f.setEpoch(h.Epoch)
	f.d.know.hears(h.Container, h.Epoch, h.Info)
	if fresh && f.written().Container != h.Container {
		if err := f.write(false, func(n *note) { n.Container = h.Container }); err != nil {
			f.d.log.Warn("who has the run is not written down", "req", f.id, "err", err)
		}
	}
	_, err := f.stopIfWanted()
	return err
}

func (f *follower) setEpoch(epoch string) {
	if epoch == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch = epoch
}

// accept tells once that a ComfyUI has the prompt.
func (f *follower) accept(epoch string) {
	if f.setEpoch(epoch); epoch != "" && f.hello != nil {
		f.d.know.hears(f.hello.Container, epoch, "")
	}
	if !f.accepted {
		f.accepted = true
		f.tell()
	}
}

// frame passes a frame on, unless it came before.
func (f *follower) frame(fr oneshot.Frame) error {
	if fr.N < f.next {
		return nil
	}
	f.next = fr.N + 1
	f.accept("")
	return f.update(fr.Update)
}

// beat looks whether something between holds answers back.
func (f *follower) beat(b oneshot.Beat) {
	f.d.know.alive()
	if f.buffered || f.hello == nil || f.hello.Again || f.stream == nil {
		return
	}
	late := time.Duration(b.AfterMS)*time.Millisecond - time.Since(f.stream.opened)
	if f.buffered = late > 0 && late > time.Second; f.buffered {
		f.d.log.Warn("something between the studio and the endpoint holds answers back, so that progress comes late",
			"remedy", "switch its response buffering off for this address, or set backends.mode to async")
	}
}

// trouble handles that the run came to no result.
func (f *follower) trouble(ctx context.Context, t oneshot.Trouble) error {
	err := t.Err()
	if errors.Is(err, oneshot.ErrInputs) && f.inputs != byRequest {
		if f.inputs == byStorage {
			f.d.log.Warn("a container can't have inputs from the storage that is set: they go with requests for now", "req", f.id, "for", avoidFor)
			f.d.shelf.avoid(f.d.options.Studio, f.t.Uploads)
		}
		f.inputs, f.hello = f.nextHanding(), nil
		f.hangUp()
		if f.calls != nil {
			f.calls.release()
		}
		if err := f.write(true, func(n *note) { n.Inference, n.Status, n.Result = "", "", "" }); err != nil {
			return err
		}
		f.send(ctx)
		return nil
	}
	if errors.Is(err, oneshot.ErrInputs) {
		return fmt.Errorf("%w: %w", backend.ErrLost, err)
	}
	if errors.Is(err, backend.ErrLost) { // its ComfyUI was started anew
		f.d.know.restarted()
	}
	return err
}

// failed handles that a stream is over before its end.
func (f *follower) failed(ctx context.Context, p piece) error {
	f.hangUp()
	err := p.err
	if _, ours := errors.AsType[diskError](err); ours {
		return err
	}
	if f.d.options.Mode == Async {
		return err // the reader was patient
	}
	switch {
	case f.broken != nil: // it is looked for
		if f.hello != nil && p.gone == f.hello.Container {
			return f.broken
		}
	case f.hello == nil && isUnsent(err):
		return f.offerAgain(ctx, err)
	case errors.Is(err, backend.ErrNotComfyUI):
		return err
	case f.breaks == maxBreaks:
		return err
	default:
		f.breaks++
		f.broken, f.until, f.pause = err, time.Now().Add(f.d.options.LostAfter), searchFirst
	}
	if time.Now().After(f.until) {
		return f.broken
	}
	timer := time.NewTimer(f.pause)
	f.again, f.pause = timer.C, min(2*f.pause, searchMost)
	next := f.next
	f.open = func() {
		f.read(ctx, func(ctx context.Context) (*http.Response, error) { return f.rest(ctx, next) })
	}
	return nil
}

// How often the stream of one run may break, and how often the other side may hang up on the job.
const (
	maxBreaks  = 50
	maxHangUps = 5
)

// offerAgain offers the job once more to an endpoint that was full.
func (f *follower) offerAgain(ctx context.Context, err error) error {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind != fault.Busy || time.Since(f.began) > f.d.options.BusyFor || e.Code == CodeCut && f.breaks == maxHangUps {
		return err
	}
	if e.Code == CodeCut {
		f.breaks++
	}
	f.pause = min(max(2*f.pause, 200*time.Millisecond), 5*time.Second)
	timer := time.NewTimer(max(f.pause, min(e.RetryAfter, 30*time.Second)))
	f.again, f.open = timer.C, func() { f.send(ctx) }
	return nil
}
