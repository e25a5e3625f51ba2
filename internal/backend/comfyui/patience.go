package comfyui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// Patience knows how long nodes keep their server from giving any sign of life, by what they did before. It is safe for
// concurrent use.
type Patience interface {
	// Bound returns how long a node of a class may be silent. known says that enough of them ran to take a longer silence
	// for the server's end; 0: nothing is known.
	Bound(class string) (bound time.Duration, known bool)
	// Silent learns for how long a node of a class was silent at most, and the server went on.
	Silent(class string, longest time.Duration)
}

// span is what is known of one node's run.
type span struct {
	node   string
	silent time.Duration // the longest time without a sign of life of the server
}

// mostSpans bounds what is remembered of one run.
const mostSpans = 10_000

// errHurry is why a question was cut short: it is time to say that the server is silent.
var errHurry = errors.New("no answer within what the node may take")

// lives notes a sign of life.
func (f *follower) lives() {
	now := time.Now()
	if f.d.options.Patience != nil && f.node != "" && f.ended.IsZero() {
		if n := len(f.spans); n == 0 || f.spans[n-1].node != f.node {
			if n == mostSpans {
				f.spans = f.spans[:0]
			}
			f.spans = append(f.spans, span{node: f.node})
		}
		last := &f.spans[len(f.spans)-1]
		last.silent = max(last.silent, now.Sub(f.alive))
	}
	f.alive, f.doubted = now, false
}

// enters notes which node runs now.
func (f *follower) enters(node string) {
	f.node = node
	switch {
	case f.d.options.Patience == nil:
	case node == "":
		f.d.atWork.Delete(f.run)
	default:
		f.d.atWork.Store(f.run, node)
	}
	if f.d.options.Enters == nil || f.d.options.Patience == nil {
		return
	}
	if bound := f.d.Bound(); bound > f.d.options.SilentAfter {
		f.d.options.Enters(bound)
	} else {
		f.d.options.Enters(0)
	}
}

// class returns the class of a node; empty: nobody knows, as of one that another one brought in.
func (r *run) class(node string) string {
	raw, _ := pyjson.Get(r.t.Prompt, node, "class_type")
	return pyjson.TextOf(raw)
}

// learn teaches how long the nodes of a run that came to its end were silent.
func (f *follower) learn() {
	longest := map[string]time.Duration{}
	for _, s := range f.spans {
		if class := f.class(s.node); class != "" {
			longest[class] = max(longest[class], s.silent)
		}
	}
	for class, silent := range longest {
		f.d.options.Patience.Silent(class, silent)
	}
}

// limits returns for how long the server may give no sign of life until somebody is told, and until it is given up.
func (f *follower) limits() (told, given time.Duration) {
	o := &f.d.options
	told, given = o.SilentAfter, o.FrozenAfter
	if o.Patience == nil || f.node == "" {
		return min(told, given), given
	}
	bound, known := o.Patience.Bound(f.class(f.node))
	told, given = max(told, bound), max(given, bound)
	if known {
		given = told
	}
	return min(told, given), given
}

// hurry bounds what the server is asked next, so that its silence is noticed in time.
func (f *follower) hurry(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, max(f.left(), lastAsk), errHurry)
}

// lastAsk is how long an answer may take whatever was waited before.
const lastAsk = time.Second

// left is for how long the server may still give no sign of life until something is done.
func (f *follower) left() time.Duration {
	next, given := f.limits()
	if f.doubted {
		next = given
	}
	return next - time.Since(f.alive)
}

// unreachable decides whether a server that does not answer is given up.
func (f *follower) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	silent := time.Since(f.alive)
	if how := f.endedMeanwhile(ctx); how != nil {
		return fmt.Errorf("%w: %w", how, err)
	}
	frozen := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errHurry)
	told, given := f.limits()
	switch {
	case frozen && silent >= given:
		f.d.givenUp(f.class(f.node), f.Epoch(), f.alive)
		return fmt.Errorf("%w: no sign of life for %s: %w", backend.ErrFrozen, silent.Round(time.Second), err)
	case !frozen && silent > f.d.options.LostAfter:
		return fmt.Errorf("%w: %w", f.death(ctx, refused(err)), err)
	case frozen && silent >= told && !f.doubted:
		if err := f.doubt(silent); err != nil {
			return err
		}
	}
	f.pause = min(max(2*f.pause, redialFirst), redialMost)
	wait := f.pause
	if left := f.left(); frozen && left > 0 {
		wait = min(wait, left)
	}
	f.timer.Reset(wait)
	return nil
}

// doubt tells that the server is silent for longer than usual, once.
func (f *follower) doubt(silent time.Duration) error {
	f.doubted = true
	at := f.class(f.node)
	if at == "" {
		at = "its work"
	}
	text := fmt.Sprintf("gave no sign of life for %s, at %s", silent.Round(time.Second), at)
	f.d.log.Warn("the server "+text, "req", f.id)
	if f.d.options.Silent != nil {
		f.d.options.Silent(text)
	}
	data, err := json.Marshal(map[string]string{"text": "The GPU " + text + ". It may be busy, and is watched."})
	if err != nil {
		return err
	}
	return f.update(backend.Update{Type: backend.Notice, Data: data})
}

// givenUp is a server that was taken for frozen.
type givenUp struct {
	class, epoch string
	since        time.Time
}

func (d *Driver) givenUp(class, epoch string, since time.Time) {
	if d.options.Patience != nil && class != "" {
		d.frozen.Store(&givenUp{class, epoch, since})
	}
}

// back learns from a server that was taken for frozen and answers again, without having been started anew: it was not.
func (d *Driver) back(epoch string) {
	if g := d.frozen.Swap(nil); g != nil && g.epoch == epoch {
		d.options.Patience.Silent(g.class, time.Since(g.since))
	}
}

// Bound returns how long the server may give no sign of life, by the nodes at work now; 0: as long as any.
func (d *Driver) Bound() (bound time.Duration) {
	if d.options.Patience == nil {
		return 0
	}
	d.atWork.Range(func(r, node any) bool {
		b, _ := d.options.Patience.Bound(r.(*run).class(node.(string)))
		bound = max(bound, b)
		return true
	})
	return bound
}
