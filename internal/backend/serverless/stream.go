package serverless

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/oneshot"
)

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
