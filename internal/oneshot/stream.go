package oneshot

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
)

// cursor is what a caller has of a stream already.
type cursor struct {
	from  int64        // number of the first frame that is wanted
	have  map[int]bool // files, by number
	again bool         // the run was here before the request
}

// sender writes the stream of a run to one caller.
type sender struct {
	w       *work
	out     http.ResponseWriter
	rc      *http.ResponseController
	c       cursor
	wrote   time.Time // last write
	patient time.Time // until when the write deadline need not be moved
	dirty   bool      // something is to be flushed

	posted bool // told
	ended  bool // the result was told
	gap    bool // frames that matter were missed
	files  int  // of the run, as far as they are known here
	at     int  // number of the file that is sent now, or next
	pump   *pump
}

// state is what a sender has to tell next.
type state struct {
	posted  bool
	epoch   string
	frames  []item
	files   []backend.FileRef
	result  *backend.Result
	trouble *Trouble
	changed <-chan struct{}
	beat    Beat
}

// stream answers with what there is of a run, and with the rest as it comes.
func (w *work) stream(out http.ResponseWriter, r *http.Request, c cursor) {
	defer w.attach()()
	s := &sender{w: w, out: out, rc: http.NewResponseController(out), c: c}
	defer func() {
		if s.pump != nil {
			s.pump.stop()
		}
	}()
	out.Header().Set("Content-Type", ContentType)
	out.WriteHeader(http.StatusOK)
	if err := s.run(r.Context()); err != nil {
		if r.Context().Err() == nil {
			w.log.Warn("an answer broke off", "err", err)
		}
		panic(http.ErrAbortHandler) // how a handler tells that an answer is not whole
	}
}

// run sends until all is said.
func (s *sender) run(ctx context.Context) error {
	if err := s.hello(); err != nil {
		return err
	}
	beat := time.NewTicker(s.w.j.options.BeatEvery / 2)
	defer beat.Stop()
	for {
		now := s.look()
		if err := s.tell(now); err != nil {
			return err
		}
		if now.trouble != nil {
			return s.trouble(*now.trouble)
		}
		if err := s.nextFile(now.files); err != nil {
			return err
		}
		var chunks <-chan chunk
		switch {
		case s.pump != nil:
			chunks = s.pump.chunks
		case s.ended && s.at >= s.files:
			if err := s.json(kindEnd, ending{Files: s.files}); err != nil {
				return err
			}
			return s.flush()
		}
		if err := s.flush(); err != nil {
			return err
		}
		select {
		case c := <-chunks:
			if err := s.chunk(c); err != nil {
				return err
			}
		case <-now.changed:
		case <-beat.C:
			if time.Since(s.wrote) < s.w.j.options.BeatEvery/2 {
				continue
			}
			if err := s.json(kindBeat, now.beat); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.w.ctx.Done():
			if now = s.look(); now.trouble != nil {
				return s.trouble(*now.trouble)
			}
			return s.trouble(Trouble{Class: classStopped, Text: "The agent was stopped, or let go of the run."})
		}
	}
}

// hello begins the stream.
func (s *sender) hello() error {
	w := s.w
	h := Hello{
		Protocol: Version, Agent: w.j.options.Version, Container: w.j.container, Run: w.q.Run, Info: w.j.info.digest(),
		Again: s.c.again,
	}
	w.mu.Lock()
	if w.run != nil {
		h.Epoch = w.run.Epoch()
	}
	h.First, h.Gap = w.next, s.c.from < w.lost
	for _, it := range w.frames {
		if it.n >= s.c.from {
			h.First = it.n
			break
		}
	}
	w.mu.Unlock()
	s.c.from = max(s.c.from, h.First)
	if err := s.write([]byte(preface)); err != nil {
		return err
	}
	if err := s.json(kindHello, h); err != nil {
		return err
	}
	return s.flush()
}

// look takes what is new.
func (s *sender) look() state {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	now := state{
		posted: w.posted, files: w.files, result: w.result, trouble: w.trouble, changed: w.changed,
		beat: Beat{AfterMS: time.Since(w.began).Milliseconds(), Phase: w.phase()},
	}
	if w.run != nil {
		now.epoch = w.run.Epoch()
	}
	s.gap = s.gap || w.lost > s.c.from
	i := len(w.frames)
	for i > 0 && w.frames[i-1].n >= s.c.from {
		i--
	}
	now.frames = append(now.frames, w.frames[i:]...)
	s.c.from = w.next
	return now
}

// tell sends what is new, files aside.
func (s *sender) tell(now state) error {
	if now.posted && !s.posted {
		s.posted = true
		if err := s.json(kindPosted, Posted{Epoch: now.epoch}); err != nil {
			return err
		}
	}
	for _, it := range now.frames {
		if err := s.write(it.record); err != nil {
			return err
		}
	}
	s.files = len(now.files)
	if r := now.result; r != nil && !s.ended {
		s.ended = true
		return s.json(kindResult, result{
			State: r.State, Outputs: r.Outputs, Messages: r.Messages, Meta: r.Meta, Gap: r.Gap || s.gap,
		})
	}
	return nil
}

func (s *sender) trouble(t Trouble) error {
	if err := s.json(kindTrouble, t); err != nil {
		return err
	}
	return s.flush()
}

// nextFile begins to read the next file that the caller does not have. Those in storage are only named.
func (s *sender) nextFile(files []backend.FileRef) error {
	for s.pump == nil && s.at < len(files) {
		entry, ready := s.w.keptAt(s.at)
		switch {
		case s.c.have[s.at]:
			s.at++
		case !ready:
			return nil
		case entry != nil:
			err := s.json(kindKept, kept{opening{s.at, files[s.at]}, closing{entry.Size, entry.SHA256}, entry.Name})
			if err != nil {
				return err
			}
			s.at++
		default:
			s.pump = newPump(s.w.ctx, s.w.run, s.at, files[s.at])
		}
	}
	return nil
}

// chunk sends what the pump gave.
func (s *sender) chunk(c chunk) error {
	if c.err != nil {
		s.w.log.Warn("an output can't be read", "file", clip(s.pump.ref.Filename), "err", c.err)
		if err := s.trouble(troubleOf(s.w.ctx, c.err)); err != nil {
			return err
		}
		return c.err
	}
	if err := s.write(c.record); err != nil {
		return err
	}
	select {
	case s.pump.free <- c.record:
	default:
	}
	if c.last {
		s.pump.stop()
		s.pump = nil
		s.at++
	}
	return nil
}

// write sends a record to a caller who has to take it in time.
func (s *sender) write(b []byte) error {
	now := time.Now()
	if now.After(s.patient) {
		s.rc.SetWriteDeadline(now.Add(s.w.j.options.Stall)) //nolint:errcheck // a writer without deadlines, as in tests, has none
		s.patient = now.Add(s.w.j.options.Stall / 4)
	}
	s.wrote, s.dirty = now, true
	_, err := s.out.Write(b)
	return err
}

func (s *sender) json(k kind, v any) error {
	b, err := jsonRecord(k, v)
	if err != nil {
		return err
	}
	return s.write(b)
}

// flush sends what is in buffers, unless bytes of a file push it along.
func (s *sender) flush() error {
	if !s.dirty {
		return nil
	}
	s.dirty = false
	if err := s.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// pump reads one file of a run, so that frames and beats go on meanwhile.
type pump struct {
	n      int
	ref    backend.FileRef
	run    backend.Run
	chunks chan chunk
	free   chan []byte // buffers that can be used again
	cancel context.CancelFunc
	done   chan struct{}
}

// chunk is a record of a file, or why there is none.
type chunk struct {
	record []byte
	last   bool
	err    error
}

// tries is how often a file is read anew after it broke off.
const tries = 3

func newPump(ctx context.Context, run backend.Run, n int, ref backend.FileRef) *pump {
	p := &pump{n: n, ref: ref, run: run, chunks: make(chan chunk), free: make(chan []byte, 8), done: make(chan struct{})}
	ctx, p.cancel = context.WithCancel(ctx)
	go func() {
		defer close(p.done)
		p.work(ctx)
	}()
	return p
}

// stop ends the reading and waits for it.
func (p *pump) stop() {
	p.cancel()
	<-p.done
}

func (p *pump) work(ctx context.Context) {
	var err error
	for pause := 500 * time.Millisecond; ; pause *= 2 {
		if err = p.file(ctx); err == nil || ctx.Err() != nil {
			return
		}
		if errors.Is(err, backend.ErrLost) || pause >= 500*time.Millisecond<<(tries-1) {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
	p.send(ctx, chunk{err: fmt.Errorf("reading %s: %w", clip(p.ref.Filename), err)})
}

// file reads the file once. A caller takes what it got before for void when the file begins anew.
func (p *pump) file(ctx context.Context) error {
	body, err := p.run.Fetch(ctx, p.ref)
	if fault.Is(err, fault.Missing) {
		return p.json(ctx, kindAbsent, opening{p.n, p.ref}, true)
	}
	if err != nil {
		return err
	}
	defer body.Close()
	if err := p.json(ctx, kindOpen, opening{p.n, p.ref}, false); err != nil {
		return err
	}
	sum, size := newAside(), int64(0)
	defer sum.wait()
	var ready []byte // read and hashed next, sent while the one after is read
	for {
		b := p.buffer()
		n, err := fill(body, b[headSize:])
		sum.wait()
		if ready != nil && !p.send(ctx, chunk{record: seal(kindData, ready)}) {
			return context.Cause(ctx)
		}
		if ready = nil; n > 0 {
			ready = b[:headSize+n]
			sum.add(ready[headSize:])
			size += int64(n)
		}
		switch {
		case err == io.EOF:
			sum.wait()
			if ready != nil && !p.send(ctx, chunk{record: seal(kindData, ready)}) {
				return context.Cause(ctx)
			}
			return p.json(ctx, kindClose, closingOf(size, sum.hash), true)
		case err != nil:
			return err
		}
	}
}

// fill reads until b is full. Only io.EOF is the end of a file: one that was cut says so by another error.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

func closingOf(size int64, sum hash.Hash) closing {
	return closing{Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))}
}

// buffer returns room for a full data record.
func (p *pump) buffer() []byte {
	for {
		select {
		case b := <-p.free:
			if cap(b) == headSize+chunkSize {
				return b[:cap(b)]
			}
		default:
			return make([]byte, headSize+chunkSize)
		}
	}
}

func (p *pump) json(ctx context.Context, k kind, v any, last bool) error {
	b, err := jsonRecord(k, v)
	if err == nil && !p.send(ctx, chunk{record: b, last: last}) {
		err = context.Cause(ctx)
	}
	return err
}

func (p *pump) send(ctx context.Context, c chunk) bool {
	select {
	case p.chunks <- c:
		return true
	case <-ctx.Done():
		return false
	}
}
