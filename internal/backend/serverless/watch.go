package serverless

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/oneshot"
)

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
	if f.inputs != byName {
		text = "The files that the job reads are on their way to " + name + "."
	} else if !k.awake(f.d.options.WarmFor) {
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
