package serverless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
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
	inputs    bool      // they were sent along
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

// stream is one answer being read.
type stream struct {
	pieces chan piece
	cancel context.CancelFunc
	done   chan struct{}
	opened time.Time
	hello  bool
	heard  atomic.Int64 // Unix nanoseconds of the last bytes
}

// piece is what comes of a stream.
type piece struct {
	event oneshot.Event
	state string // word of the provider's queue
	err   error  // it is over
	gone  string // with err: the container that said that it does not have the run
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
		if err := r.write(true, func(n *note) { n.Sent = f.began.UTC() }); err != nil {
			return backend.Result{}, err
		}
		r.become(sentState)
	}
	result, err := f.follow(ctx)
	f.hangUp()
	r.box.end(err)
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

// read opens a stream: get gives its answer, nil stands for the provider's queue.
func (f *follower) read(ctx context.Context, get func(context.Context) (*http.Response, error)) {
	f.hangUp()
	s := &stream{pieces: make(chan piece), done: make(chan struct{}), opened: time.Now()}
	ctx, s.cancel = context.WithCancel(ctx)
	f.stream = s
	inputs := f.inputs
	go func() {
		defer close(s.done)
		var p piece
		if get == nil {
			p = f.queued(ctx, s, inputs)
		} else {
			p = f.receive(ctx, s, get, f.box.whole())
		}
		s.send(ctx, p)
	}()
}

// hangUp ends the present stream and waits for its reader.
func (f *follower) hangUp() {
	if f.stream == nil {
		return
	}
	f.stream.cancel()
	<-f.stream.done
	f.stream = nil
}

func (s *stream) send(ctx context.Context, p piece) bool {
	select {
	case s.pieces <- p:
		return true
	case <-ctx.Done():
		return false
	}
}

// receive reads one answer and returns its last piece. Files go into the box.
func (f *follower) receive(ctx context.Context, s *stream, get func(context.Context) (*http.Response, error), have map[int]bool) piece {
	resp, err := get(ctx)
	if err != nil {
		return piece{err: err}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != oneshot.ContentType {
		p := piece{err: f.d.refusal(resp)}
		if fromContainer(resp) && resp.StatusCode == http.StatusNotFound {
			p.gone = resp.Header.Get(oneshot.ContainerHeader)
		}
		return p
	}
	stop := context.AfterFunc(ctx, func() { resp.Body.Close() }) // a found stream has another context
	defer stop()
	defer f.d.know.answering()()
	answer := oneshot.NewAnswer(resp.Body, have, f.d.options.MaxBytes)
	for {
		e, err := answer.Next()
		if err != nil {
			return piece{err: f.d.streamTrouble(err)}
		}
		s.heard.Store(time.Now().UnixNano())
		if e.Data != nil || e.Open != nil || e.Close != nil || e.Absent != nil || e.Kept != nil {
			if err := f.box.take(e); err != nil {
				return piece{err: err}
			}
			continue
		}
		if e.End || e.Trouble != nil {
			return piece{event: e}
		}
		if !s.send(ctx, piece{event: e}) {
			return piece{err: context.Cause(ctx)}
		}
	}
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
		if took := time.Since(f.began); took > f.d.options.ColdAfter && f.coldTold {
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
	if errors.Is(err, oneshot.ErrInputs) && !f.inputs {
		f.inputs, f.hello = true, nil
		f.hangUp()
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

// maxBreaks is how often the stream of one run may break.
const maxBreaks = 50

// offerAgain offers the job once more to an endpoint that was full.
func (f *follower) offerAgain(ctx context.Context, err error) error {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind != fault.Busy || time.Since(f.began) > f.d.options.BusyFor {
		return err
	}
	f.pause = min(max(2*f.pause, 200*time.Millisecond), 5*time.Second)
	timer := time.NewTimer(max(f.pause, min(e.RetryAfter, 30*time.Second)))
	f.again, f.open = timer.C, func() { f.send(ctx) }
	return nil
}

// searchWithin is how long one request may take that looks for a run.
const searchWithin = 3 * time.Second

// bufferedPatience is by how much longer a silence may be where answers are held back.
const bufferedPatience = 12

// lostCalls is how long a container that called back may be silent while the provider says that it works.
const lostCalls = time.Minute

// check looks at what has not come.
func (f *follower) check(ctx context.Context) (*backend.Result, error) {
	now := time.Now()
	if !f.giveUp.IsZero() && now.After(f.giveUp) {
		result, err := interrupted(f.id)
		return &result, err
	}
	if f.hello == nil {
		return nil, f.tellCold(now)
	}
	o := &f.d.options
	s := f.stream
	switch {
	case o.Mode == Async:
		if f.result == nil && !f.called.IsZero() && now.Sub(f.called) > lostCalls {
			return nil, fmt.Errorf("%w: its container does not call back any more", backend.ErrLost)
		}
	case s != nil && s.hello:
		silence := o.Silence
		if f.buffered {
			silence *= bufferedPatience
		}
		if now.UnixNano()-s.heard.Load() > int64(silence) && now.Sub(f.called) > silence {
			s.cancel()
			return nil, f.failed(ctx, piece{err: f.d.streamTrouble(fmt.Errorf("%w: nothing came for %v", oneshot.ErrCut, silence))})
		}
	case s != nil && f.broken != nil && now.Sub(s.opened) > searchWithin:
		s.cancel()
	}
	return nil, nil
}

// tellCold tells the run's owner why nothing happens.
func (f *follower) tellCold(now time.Time) error {
	if f.coldTold || f.resumed || now.Sub(f.began) < f.d.options.ColdAfter {
		return nil
	}
	f.coldTold = true
	k, name := &f.d.know, f.d.options.Name
	text := "All containers of " + name + " are busy: the job waits for one."
	if !k.awake(f.d.options.WarmFor) {
		text = name + " is being woken"
		k.mu.Lock()
		if k.memory.Cold > 0 {
			text += fmt.Sprintf(", which took %v the last time", time.Duration(k.memory.Cold*float64(time.Second)).Round(time.Second))
		}
		k.mu.Unlock()
		text += ". The job runs as soon as a container is up."
	}
	data, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return err
	}
	f.d.log.Info("a run waits for a container", "req", f.id, "reason", text)
	return f.update(backend.Update{Type: backend.Notice, Data: data})
}

// stopIfWanted has a run stopped that its owner does not want any more.
func (f *follower) stopIfWanted() (*backend.Result, error) {
	if !f.stopping() || f.asked {
		return nil, nil
	}
	if f.hello == nil { // nobody has it, as far as we know
		f.giveUp = time.Now()
		result, err := interrupted(f.id)
		return &result, err
	}
	f.asked = true
	f.giveUp = time.Now().Add(f.d.options.StopWithin)
	if f.calls != nil {
		f.calls.unwanted.Store(true)
	}
	f.d.background(func() {
		for pause := searchFirst; ; pause = min(2*pause, searchMost) {
			if done, err := f.d.interrupt(f.d.closed, f.id); done {
				return
			} else if err != nil {
				f.d.log.Debug("a run could not be interrupted yet", "req", f.id, "err", err)
			}
			select {
			case <-time.After(pause):
			case <-f.atEnd:
				return
			case <-f.d.closed.Done():
				return
			}
		}
	})
	return nil, nil
}
