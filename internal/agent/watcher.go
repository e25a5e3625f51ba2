package agent

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/agent/proc"
)

// pulse is when a ComfyUI answered for the last time. It is safe for concurrent use.
type pulse struct {
	mu      sync.Mutex
	at      time.Time
	carried atomic.Int64 // bytes that went to and fro on connections of others
}

func (p *pulse) beat() {
	p.mu.Lock()
	p.at = time.Now()
	p.mu.Unlock()
}

func (p *pulse) last() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// watched is a connection whose other end is alive whenever something arrives.
type watched struct {
	net.Conn
	pulse *pulse
}

func (c *watched) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.pulse.beat()
		c.pulse.carried.Add(int64(n))
	}
	return n, err
}

func (c *watched) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.pulse.carried.Add(int64(n))
	return n, err
}

// How often a ComfyUI is asked.
const (
	askSilent = 2 * time.Second  // after so long without an answer
	askAlways = 5 * time.Second  // though others hear from it all the time
	askFacts  = 15 * time.Second // about devices and memory
	slept     = 5 * time.Second  // between two ticks: the agent itself stood still, so that silence means nothing
)

// A program that uses less than this share of a processor does nothing but wait.
const idleShare = 50 // one fiftieth

// watcher decides whether a ComfyUI lives. It is owned by the loop of watch.
type watcher struct {
	pulse   *pulse
	output  *Log
	process proc.Process
	o       *Own
	ask     func(facts bool) // asks in the background; the answer comes by answers
	answers chan answer
	started time.Time
	ready   bool
	frozen  bool           // said so already
	running bool           // a run was in its queue when it answered for the last time
	learnt  *time.Duration // how long it was silent in a run and answered again after all, with something on top
	asking  bool
	asked   time.Time // when we asked for the last time
	facts   time.Time // when we asked for facts
	before  time.Time // its last answer before it was called frozen
	ticked  time.Time
	scanned uint64 // output that was looked at
	broken  string // how the GPU failed; empty: it did not

	seen  [5]sample // work of the last ticks, newest last
	knows bool      // the system tells of work
	work  time.Time // when the program computed or waited for a disk for the last time
}

type sample struct {
	at   time.Time
	used time.Duration
}

// look is called each second. A cause with a code says that the ComfyUI gives no sign of life.
func (w *watcher) look() Cause {
	now := time.Now()
	if !w.ticked.IsZero() && now.Sub(w.ticked) > slept {
		w.pulse.beat()
	}
	w.ticked = now
	w.lookAtWork(now)
	answered, heard := w.pulse.last(), w.output.Heard()
	w.askIfDue(now, answered)
	if !w.ready {
		return w.lookAtStart(now, heard)
	}
	bound := w.bound()
	mute := now.Sub(answered)
	silent := min(mute, now.Sub(heard))
	switch {
	case mute > max(w.o.HungAfter, bound):
		return Cause{Code: CodeFrozen, Text: fmt.Sprintf("ComfyUI did not answer for %s, though its program runs.", mute.Round(time.Second)), Remedy: frozenRemedy}
	case silent > max(w.o.FrozenAfter, bound):
		return Cause{Code: CodeFrozen, Text: fmt.Sprintf("ComfyUI gave no sign of life for %s.", silent.Round(time.Second)), Remedy: frozenRemedy}
	}
	return Cause{}
}

// bound is how long the run that goes on now may take without a sign of life.
func (w *watcher) bound() time.Duration {
	if w.running {
		return max(w.o.Bound(), *w.learnt)
	}
	return w.o.Bound()
}

// recovered learns from a ComfyUI that was called frozen and answers again.
func (w *watcher) recovered() {
	w.frozen = false
	if silence := w.pulse.last().Sub(w.before); w.running && silence > 0 {
		*w.learnt = max(*w.learnt, min(silence*3/2, mostLearnt))
	}
}

// mostLearnt bounds what is learnt: a ComfyUI that is silent for longer is of no use to anybody.
const mostLearnt = 10 * time.Minute

const frozenRemedy = "It is started again by itself. If it comes again: look for the custom node that was at work last in the log."

// mayRecover reports whether a ComfyUI without a sign of life still does something, and should be left some time.
func (w *watcher) mayRecover() bool {
	now := time.Now()
	return w.ready && w.knows && now.Sub(w.work) < 3*time.Second && now.Sub(w.pulse.last()) <= max(w.o.HungAfter, w.bound())
}

// lookAtStart gives up a ComfyUI that does not get ready.
func (w *watcher) lookAtStart(now, heard time.Time) Cause {
	life := w.started
	for _, t := range []time.Time{heard, w.work, w.pulse.last()} {
		if t.After(life) {
			life = t
		}
	}
	switch {
	case now.Sub(w.started) > w.o.StartLimit:
		return Cause{Code: CodeStuck, Text: fmt.Sprintf("ComfyUI did not get ready within %s.", w.o.StartLimit), Remedy: stuckRemedy}
	case now.Sub(life) > w.o.StartSilence:
		return Cause{Code: CodeStuck, Text: fmt.Sprintf("ComfyUI stands still while starting: nothing printed and nothing computed for %s.", now.Sub(life).Round(time.Second)), Remedy: stuckRemedy}
	}
	return Cause{}
}

const stuckRemedy = "The last lines of the log name what it was at; --comfyui-disable-all-custom-nodes tells whether a custom node is the trouble."

// lookAtWork samples what the program does.
func (w *watcher) lookAtWork(now time.Time) {
	work, ok := w.process.Work()
	w.knows = ok
	if !ok {
		return
	}
	before := w.seen[0]
	copy(w.seen[:], w.seen[1:])
	w.seen[len(w.seen)-1] = sample{now, work.Used}
	busy := !before.at.IsZero() && work.Used-before.used > now.Sub(before.at)/idleShare
	if busy || work.Disk {
		w.work = now
	}
}

// askIfDue asks the ComfyUI unless a question is out.
func (w *watcher) askIfDue(now, answered time.Time) {
	if w.asking || (w.ready && now.Sub(answered) < askSilent && now.Sub(w.asked) < askAlways) {
		return
	}
	first := !w.ready || now.Sub(w.facts) >= askFacts
	w.asking, w.asked = true, now
	if first {
		w.facts = now
	}
	w.ask(first)
}
