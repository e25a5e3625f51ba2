package oneshot

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// How often a run calls back.
const (
	tellEvery  = 250 * time.Millisecond // at most, when there is news
	aliveEvery = 2 * time.Second        // at least
	tellWithin = 10 * time.Second       // one call
	maxTold    = 1 << 20                // bytes of frames of one call
	lastTries  = 5                      // of telling that the run is over
)

// MaxUpdates bounds the body of a call-back. One frame may be as large as a frame may be.
const MaxUpdates = maxFrame + maxTold + maxSmall

// Told is the answer to a call-back.
type Told struct {
	Next int64 `json:"next"` // number of the frame that is wanted next
	Stop bool  `json:"stop"` // the run is not wanted any more
}

// callBack tells the studio of the run, until it is over.
func (w *work) callBack() {
	next, failures := int64(0), 0
	for {
		w.mu.Lock()
		changed, ended, total := w.changed, !w.ended.IsZero(), w.next
		begun, lacking := w.run != nil, w.trouble != nil && w.trouble.Class == classInputs
		if !w.q.CallBack.Frames {
			total = 0
		}
		w.mu.Unlock()
		if lacking { // another container may have the run by now: nothing is to be said of this one
			return
		}
		if !begun && !ended {
			select {
			case <-changed:
				continue
			case <-w.ctx.Done():
				return
			}
		}
		told, status, err := w.tell(next)
		switch {
		case err == nil:
			failures = 0
			next = told.Next
			w.heard()
			if told.Stop {
				w.stop("the studio does not want it any more")
			}
			if ended && next >= total {
				return
			}
		case status == http.StatusUnauthorized || status == http.StatusForbidden:
			w.log.Warn("the studio does not take the call-backs of a run", "err", err)
			return
		default:
			if failures++; failures == 1 {
				w.log.Warn("the studio could not be told of a run", "err", err)
			}
			if ended && failures >= lastTries {
				return
			}
		}
		least := tellEvery << min(failures, 5)
		if !w.rest(least, changed) {
			return
		}
	}
}

// rest waits for news, at least for a while. It reports false when the run was let go of.
func (w *work) rest(least time.Duration, changed <-chan struct{}) bool {
	for _, wait := range []struct {
		d     time.Duration
		early <-chan struct{}
	}{{least, nil}, {aliveEvery, changed}} {
		if wait.early != nil && !w.q.CallBack.Frames {
			wait.early = w.done
		}
		t := time.NewTimer(wait.d)
		select {
		case <-t.C:
		case <-wait.early:
		case <-w.ctx.Done():
			t.Stop()
			return false
		}
		t.Stop()
	}
	return true
}

// tell makes one call.
func (w *work) tell(next int64) (told Told, status int, err error) {
	body, last, err := w.news(next)
	if err != nil {
		return told, 0, err
	}
	ctx, cancel := context.WithTimeout(w.ctx, tellWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.q.CallBack.URL, bytes.NewReader(body))
	if err != nil {
		return told, 0, err
	}
	req.Header.Set("Content-Type", ContentType)
	req.Header.Set("Authorization", "Bearer "+w.q.CallBack.Token)
	resp, err := w.j.options.CallBack.Do(req)
	if err != nil {
		return told, 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxSmall))
	if err != nil {
		return told, resp.StatusCode, err
	}
	if resp.StatusCode != http.StatusOK {
		return told, resp.StatusCode, fmt.Errorf("the call-back was answered with status %d", resp.StatusCode)
	}
	if err := json.Unmarshal(raw, &told); err != nil {
		return told, resp.StatusCode, fmt.Errorf("the answer to the call-back: %w", err)
	}
	told.Next = max(0, min(told.Next, last))
	return told, resp.StatusCode, nil
}

// news returns the body of a call: what happened from frame next on, and the number after its last frame.
func (w *work) news(next int64) (body []byte, last int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := Hello{
		Protocol: Version, Agent: w.j.options.Version, Container: w.j.container, Run: w.q.Run, Info: w.j.info.digest(),
		First: next, Gap: next < w.lost,
	}
	if w.run != nil {
		h.Epoch = w.run.Epoch()
	}
	body = append(body, preface...)
	add := func(k kind, v any) {
		b, bad := jsonRecord(k, v)
		if err == nil {
			err = bad
		}
		body = append(body, b...)
	}
	add(kindHello, h)
	if w.posted {
		add(kindPosted, Posted{Epoch: h.Epoch})
	}
	last = next
	if w.q.CallBack.Frames {
		body, last = w.appendNews(body, next)
	}
	add(kindBeat, Beat{AfterMS: time.Since(w.began).Milliseconds(), Phase: w.phase()})
	return body, last, err
}

// appendNews appends frames from number next on. When there are too many for one call, previews and progress that were
// overtaken stay away. The lock is held.
func (w *work) appendNews(body []byte, next int64) ([]byte, int64) {
	last, size := next, 0
	first := len(w.frames)
	for first > 0 && w.frames[first-1].n >= next {
		first--
		size += len(w.frames[first].record)
	}
	crowded, size := size > maxTold/2, 0
	for i, it := range w.frames[first:] {
		if crowded && it.minor && first+i < len(w.frames)-3 {
			last = it.n + 1
			continue
		}
		if size > 0 && size+len(it.record) > maxTold {
			return body, last
		}
		size += len(it.record)
		body = append(body, it.record...)
		last = it.n + 1
	}
	return body, last
}

// ReadUpdates reads the body of a call-back and hands it to take, one event at a time: a Hello, then at most one
// Posted, frames in the order of their numbers, and a Beat at its end.
func ReadUpdates(r io.Reader, take func(Event) error) error {
	a := NewAnswer(r, nil, 0)
	n := int64(-1)
	for i := 0; ; i++ {
		e, err := a.Next()
		if err != nil {
			return err
		}
		switch {
		case e.Frame != nil:
			if e.Frame.N <= n {
				return corrupt("frame %d after frame %d", e.Frame.N, n)
			}
			n = e.Frame.N
		case e.Hello == nil && e.Posted == nil && e.Beat == nil:
			return corrupt("a call-back has neither files nor a result")
		}
		if err := take(e); err != nil {
			return err
		}
		if e.Beat != nil {
			return nil
		}
	}
}
