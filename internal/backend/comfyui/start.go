package comfyui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// Pauses of the loop that follows a run.
const (
	historyDelay = 25 * time.Millisecond // after the end frame: the history is written right after it
	historyRetry = 2 * time.Millisecond  // first pause when it was not there yet; doubled each time
	redialFirst  = 50 * time.Millisecond // first pause after a connection could not be opened again; doubled
	redialMost   = 5 * time.Second
	lastFrames   = 250 * time.Millisecond // a result that was found by asking waits this long for its end frame
)

// errUnknown is the cause of a run that is in neither queue nor history.
var errUnknown = errors.New("the server knows nothing of it any more")

// errClosed is the cause of what ends with the driver.
var errClosed = errors.New("the driver is closed")

// follower is the state of Start: one run followed to its end.
type follower struct {
	*run
	update func(backend.Update) error
	tell   func() // posted, at most once

	ear      *ear            // on sock; nil: it does not listen
	held     *backend.Result // what it gave; the last frames, or the answer to our POST, are still on their way
	told     *backend.Result // the result as the frames told it
	putAway  func()          // to be called when the server has put the run away; nil: it has, or nothing is known
	handed   time.Time       // when it was, or was taken up
	reposted bool
	gap      bool      // frames may have been missed
	replied  bool      // the answer to our POST came, or was given up
	postErr  error     // how the POST failed without saying whether the server took it
	accepted bool      // posted was called
	began    bool      // execution_start came
	node     string    // the one that runs, as far as we know
	ended    time.Time // when the end frame came
	record   record    // what frames told, should the history never tell
	alive    time.Time // when the server last gave a sign of life
	doubted  bool      // somebody was told that it did not for long
	spans    []span    // of the nodes that ran
	looked   time.Time // when the queue was last looked at
	heard    time.Time // when the socket was opened, or last gave a frame
	pause    time.Duration
	timer    *time.Timer
}

// Start hands over the prompt and follows the run to its end.
func (r *run) Start(ctx context.Context, tell func(), update func(backend.Update) error) (backend.Result, error) {
	r.mu.Lock()
	r.started = true
	r.mu.Unlock()
	f := &follower{run: r, update: update, tell: tell, began: r.running, alive: time.Now(), looked: time.Now(), heard: time.Now()}
	f.timer = time.NewTimer(r.d.options.PollAfter)
	defer f.timer.Stop()
	// What the server still sends must not hold up the runs that follow.
	defer func() { f.enters(""); f.leave(f.putAway) }()
	if r.result != nil {
		f.accept()
		r.result.Gap = true
		return *r.result, nil
	}
	f.handed = time.Now()
	if r.resumed {
		f.replied = true
		f.accept()
		if f.attend(ctx) != nil { // it is tried again while the run goes on
			f.gap = true
			f.timer.Reset(0)
		}
		return f.follow(ctx, nil)
	}
	if r.stop.Load() {
		return interrupted(r.id), nil
	}
	if err := f.attend(ctx); err != nil {
		return backend.Result{}, err
	}
	if err := r.ready(ctx); err != nil { // the socket told by now if it was cut
		return backend.Result{}, err
	}
	if r.d.foreign.Load() > 0 {
		if _, others, err := r.d.look(ctx, r.id); err != nil {
			return backend.Result{}, err
		} else if others > 0 {
			return backend.Result{}, backend.ErrForeign
		}
	}
	r.become(posted)
	f.handed = time.Now()
	replies := make(chan reply, 1)
	handing, cancel := context.WithCancel(ctx)
	var hand sync.WaitGroup
	defer hand.Wait()
	defer cancel()
	hand.Go(func() { replies <- r.d.hand(handing, r.id, r.body()) })
	return f.follow(ctx, replies)
}

// follow takes frames, answers and silence until the run is over.
func (f *follower) follow(ctx context.Context, replies <-chan reply) (backend.Result, error) {
	for {
		var frames <-chan []frame
		if f.ear != nil {
			frames = f.ear.frames
		}
		var result *backend.Result
		var err error
		select {
		case <-ctx.Done():
			return backend.Result{}, context.Cause(ctx)
		case <-f.d.closed.Done():
			return backend.Result{}, fmt.Errorf("%w: %w", backend.ErrUnreachable, errClosed)
		case batch, ok := <-frames:
			for i := 0; i < len(batch) && result == nil && err == nil; i++ {
				result, err = f.take(ctx, batch[i])
			}
			if !ok {
				f.gap = true
				f.d.row.settle(f.seat, f.d.foreign.Load() > 0) // as the server said last
				f.leave(nil)
				f.pause = 0
				f.timer.Reset(0)
			}
		case rep := <-replies:
			replies = nil
			result, err = f.answered(ctx, rep)
		case <-f.wake:
			f.timer.Reset(0)
		case <-f.timer.C:
			result, err = f.check(ctx)
		}
		if err != nil || result != nil {
			return f.over(result, err)
		}
	}
}

// over settles what the server has of the run.
func (f *follower) over(result *backend.Result, err error) (backend.Result, error) {
	if err == nil || errors.Is(err, errUnknown) {
		f.d.row.leave(f.id, err == nil)
	}
	switch {
	case err == nil && result == f.told:
		f.putAway = f.end()
	case err == nil, errors.Is(err, errUnknown):
		f.become(over)
	case !f.accepted && f.postErr == nil && f.replied:
		f.become(unposted) // it certainly did not take it
		f.d.row.leave(f.id, false)
	}
	if err != nil {
		return backend.Result{}, err
	}
	if f.spans != nil {
		f.learn()
	}
	result.Gap = f.gap || f.resumed || f.ended.IsZero()
	return *result, nil
}

// attend listens on the socket. One that takes no more runs, or was cut while this one waited for its turn, is
// replaced.
func (f *follower) attend(ctx context.Context) error {
	if f.ear = f.d.sockets.listen(f.sock, f.id, f.resumed); f.ear == nil {
		f.leave(nil)
		hold := f.d.holdCommon
		if f.resumed {
			hold = f.holdOwn
		}
		if err := f.connect(ctx, hold); err != nil {
			return err
		}
	}
	if !f.t.Core {
		f.d.sockets.retire(f.sock)
	}
	return nil
}

// holdOwn holds a socket under the client id with which the run was posted.
func (f *follower) holdOwn(ctx context.Context) (*socket, error) {
	return f.d.holdSocket(ctx, f.client, newEar(f.id, nil))
}

// connect listens on the socket that hold gives.
func (f *follower) connect(ctx context.Context, hold func(context.Context) (*socket, error)) error {
	s, err := hold(ctx)
	if err != nil {
		return err
	}
	f.sock, f.client = s, s.id
	if f.ear = f.d.sockets.listen(s, f.id, f.resumed || f.accepted); f.ear == nil {
		f.leave(nil)
		return fmt.Errorf("%w: the web socket was cut", backend.ErrUnreachable)
	}
	return nil
}

// leave listens no more. putAway, if any, is called when the server has put the run away.
func (f *follower) leave(putAway func()) {
	if f.sock == nil {
		if putAway != nil {
			putAway()
		}
		return
	}
	if f.ear != nil {
		f.d.sockets.unlisten(f.sock, f.ear, putAway)
	}
	f.d.sockets.drop(f.sock)
	f.sock, f.ear = nil, nil
}

// accept tells that the server has the prompt.
func (f *follower) accept() {
	if f.accepted {
		return
	}
	f.accepted = true
	f.d.row.settle(f.seat, f.d.foreign.Load() > 0)
	f.tell()
	if !f.t.Core { // the next run needs another socket, and the server is busy now: a good time for the handshake
		f.d.openLater()
	}
}

// answered takes the answer to our POST.
func (f *follower) answered(ctx context.Context, rep reply) (*backend.Result, error) {
	f.replied = true
	switch {
	case rep.err == nil:
		f.lives()
		f.accept()
		return f.held, f.interruptIfWanted(ctx)
	case f.accepted: // frames of the run came already
		return nil, nil
	case rep.unsent:
		return f.retryRefused(ctx, rep.err)
	default: // the connection broke: the server may have it or not
		f.postErr = rep.err
		f.d.row.settle(f.seat, f.d.foreign.Load() > 0)
		f.pause = 0
		f.timer.Reset(0)
		return nil, nil
	}
}

// retryRefused posts once more when the refusal may be due to inputs that we believed the server to have.
func (f *follower) retryRefused(ctx context.Context, refused error) (*backend.Result, error) {
	if _, ok := errors.AsType[*backend.Refused](refused); !ok || len(f.t.Uploads) == 0 {
		return nil, refused
	}
	if err := f.d.ensureUploads(ctx, f.Epoch(), f.t.Uploads, true); err != nil {
		return nil, err
	}
	rep := f.d.hand(ctx, f.id, f.body())
	if rep.unsent {
		return nil, rep.err
	}
	f.t.Uploads = nil
	return f.answered(ctx, rep)
}

// interruptIfWanted stops a run whose owner changed their mind while it was handed over.
func (f *follower) interruptIfWanted(ctx context.Context) error {
	if !f.stop.Load() || !f.ended.IsZero() {
		return nil
	}
	return f.Interrupt(ctx)
}

// take handles one frame.
func (f *follower) take(ctx context.Context, fr frame) (*backend.Result, error) {
	f.lives()
	f.heard = f.alive
	mine := fr.runID == f.id
	if mine && fr.kind == frameNull {
		if f.ended.IsZero() {
			f.ended = f.alive
		}
		switch {
		case f.held == nil:
			return f.read(ctx) // the history is written before it is sent
		case f.held == f.told && !f.replied:
			return nil, nil
		}
		return f.held, nil
	}
	if f.ended.IsZero() {
		f.pause = 0
		f.timer.Reset(f.d.options.PollAfter)
	}
	// A frame without an id can only be of the run that runs now; others' frames carry theirs.
	if !mine && (fr.runID != "" || !f.began || !f.ended.IsZero()) {
		return nil, nil
	}
	if fr.kind == frameNull {
		return nil, nil
	}
	f.accept()
	f.began = f.began || mine
	if fr.Type == "executing" && !mine { // a socket that comes back is told the present node, and nothing else
		fr.Data = pyjson.AppendObject(nil, []pyjson.Member{
			{Key: "node", Value: pyjson.Quote(fr.Node)},
			{Key: "display_node", Value: pyjson.Quote(fr.Node)},
			{Key: "prompt_id", Value: pyjson.Quote(f.id)},
		})
	}
	switch {
	case fr.Type == "executing":
		f.enters(fr.Node)
	case fr.Binary != nil && fr.Node == "":
		fr.Node = f.node
	}
	if fr.kind == frameEnd {
		f.ended = f.alive
		f.pause = 0
		f.timer.Reset(historyDelay)
	}
	f.record.note(fr)
	if err := f.update(fr.Update); err != nil {
		return nil, err
	}
	if f.ended.IsZero() || f.held != nil {
		return f.held, nil
	}
	if f.told = f.tells(); f.told == nil || f.replied {
		return f.told, nil
	}
	f.held = f.told // the answer to our POST is on its way
	f.timer.Reset(lastFrames)
	return nil, nil
}

// tells returns the result as the frames told it, nil when they may not have told all: what each output of the graph
// gave, by nodes of the graph itself.
func (f *follower) tells() *backend.Result {
	if f.gap || f.resumed || len(f.t.Outputs) == 0 || !f.record.whole(f.t.Prompt, f.t.Outputs) {
		return nil
	}
	result := f.record.result()
	return &result
}

// read asks the history for the result of a run that has ended.
func (f *follower) read(ctx context.Context) (*backend.Result, error) {
	entry, ok, err := f.d.history(ctx, f.id)
	if err == nil {
		f.lives()
	}
	if ok {
		result := readEntry(entry)
		return &result, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if time.Since(f.ended) > f.d.options.HistoryGrace && f.record.end != "" {
		f.d.log.Warn("an ended run is not in the back end's history", "req", f.id, "err", err)
		result := f.record.result()
		return &result, nil
	}
	f.pause = min(max(2*f.pause, historyRetry), time.Second)
	f.timer.Reset(f.pause)
	return nil, nil
}

// found takes a result that was found by asking, and the start that has it. The frames that led to it were sent before it
// could be found.
func (f *follower) found(entry json.RawMessage, epoch string) *backend.Result {
	f.moved(epoch)
	result := readEntry(entry)
	if f.sock == nil || !f.ended.IsZero() {
		return &result
	}
	f.held = &result
	f.timer.Reset(lastFrames)
	return nil
}

// check looks after a run of which nothing was heard: it may have ended, be lost, or just take its time.
func (f *follower) check(ctx context.Context) (*backend.Result, error) {
	if f.held != nil {
		return f.held, nil
	}
	if !f.ended.IsZero() {
		if result, err := f.read(ctx); result != nil || err != nil || f.sock != nil {
			return result, err
		}
	}
	asking, cancel := f.hurry(ctx)
	defer cancel()
	reconnected := false
	if f.sock != nil && (f.gap || f.resumed) && time.Since(f.heard) >= f.d.options.PollAfter {
		// A server that gets a client's second socket before it notices the end of the first one forgets the
		// second one then, and sends it nothing more.
		f.sock.bye()
		f.leave(nil)
	}
	if f.sock == nil {
		if err := f.connect(asking, f.holdOwn); err != nil {
			return nil, f.unreachable(ctx, err)
		}
		f.heard = time.Now()
		reconnected = true
	}
	// A server forgets its runs when it ends: whichever start knows this one has it, and has its files. The word is read
	// first: should another start follow, it is that one's no more.
	epoch, err := f.d.epoch(asking, false)
	if err != nil { // whoever fetches asks again
		epoch = f.Epoch()
	}
	entry, ok, err := f.d.history(asking, f.id)
	if err != nil {
		return nil, f.unreachable(ctx, err)
	}
	f.lives()
	if ok {
		return f.found(entry, epoch), nil
	}
	f.pause = 0
	f.timer.Reset(f.d.options.PollAfter)
	if !f.replied {
		return nil, nil // it has not had the chance to know of it
	}
	if !reconnected && f.postErr == nil && !f.removed.Load() && time.Since(f.looked) < 6*f.d.options.PollAfter {
		return nil, nil
	}
	return f.search(ctx, epoch)
}

// search looks for the run in the queue and then once more in the history: in neither, it is lost. The epoch is the one
// before.
func (f *follower) search(ctx context.Context, epoch string) (*backend.Result, error) {
	at, _, err := f.d.look(ctx, f.id)
	if err != nil {
		return nil, f.unreachable(ctx, err)
	}
	f.looked = time.Now()
	if at != absent {
		f.moved(epoch)
		f.postErr = nil
		f.accept()
		return nil, f.interruptIfWanted(ctx)
	}
	entry, ok, err := f.d.history(ctx, f.id)
	switch {
	case err != nil:
		return nil, f.unreachable(ctx, err)
	case ok:
		return f.found(entry, epoch), nil
	case f.removed.Load():
		result := interrupted(f.id)
		return &result, nil
	case !f.ended.IsZero() && f.record.end != "":
		return nil, nil // read gives it its grace
	}
	how := backend.ErrLost
	if word, err := f.d.epoch(ctx, true); err == nil && word != f.Epoch() {
		how = f.death(ctx, true)
	}
	if f.postErr != nil && !f.accepted && !errors.Is(how, backend.ErrCrashed) {
		return f.repost(ctx)
	}
	return nil, fmt.Errorf("%w: %w", how, errUnknown)
}

// repost hands the prompt over once more after the connection broke and the server turned out not to have it: it
// may have been a kept connection that the server was about to close.
func (f *follower) repost(ctx context.Context) (*backend.Result, error) {
	if f.reposted {
		return nil, f.postErr
	}
	f.reposted, f.postErr = true, nil
	return f.answered(ctx, f.d.hand(ctx, f.id, f.body()))
}
