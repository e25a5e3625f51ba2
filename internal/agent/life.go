package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/agent/flags"
	"github.com/ahelme/comfyume/internal/agent/proc"
	"github.com/ahelme/comfyume/internal/backend"
)

// life is one ComfyUI from its start to its end. asked: it was ended because a restart was asked for.
func (s *Supervisor) life(ctx context.Context) (cause Cause, asked bool) {
	s.set(func(st *Status) {
		st.ComfyUI.State, st.ComfyUI.NextTry, st.ComfyUI.PID = Starting, nil, 0
		st.ComfyUI.Restarts = s.starts
		s.starts++
	})
	python, cause := s.ready(ctx)
	if cause.Code != "" {
		s.blame(Crashed, cause)
		return cause, false
	}
	args := s.Command(python)
	from := s.o.Output.Last()
	s.o.Output.Note("starting %s %s", python.Path, strings.Join(args, " "))
	p, err := s.o.Starter.Start(proc.Spec{Path: python.Path, Args: args, Env: s.o.Env, Dir: s.o.Dir, Output: s.o.Output})
	if err != nil {
		cause = Cause{Code: CodeNoPython, Text: fmt.Sprintf("%s can't be started: %v.", python.Path, err), Remedy: "Name another Python with --python.", lasts: true}
		s.blame(Crashed, cause)
		return cause, false
	}
	s.set(func(st *Status) { st.ComfyUI.PID, st.ComfyUI.Python = p.PID(), python.Path })
	s.pulse.beat()
	end := s.watch(ctx, p, from)
	switch end.why {
	case endStuck:
		p.Stop(0)
		<-p.Done()
	case endBroken:
		s.blame(Restarting, end.cause)
		p.Stop(s.o.StopGrace)
		<-p.Done()
	case endAsked, endContext:
		if end.why == endAsked {
			s.setState(Restarting)
		}
		p.Stop(s.o.StopGrace)
		<-p.Done()
	}
	s.o.Output.EndLine()
	exit := p.Exit()
	s.o.Output.Note("ComfyUI ended: %s", exit)
	s.set(func(st *Status) { st.ComfyUI.PID, st.ComfyUI.Waiting = 0, 0 })
	switch end.why {
	case endItself:
		cause = causeOf(exit, s.o.Output.After(from), python.Path)
		s.blame(Crashed, cause)
	case endStuck, endBroken:
		cause = end.cause // it stays frozen, or restarting, until it is started again
	}
	return cause, end.why == endAsked
}

// Command is the command line behind Python.
func (s *Supervisor) Command(python Python) []string {
	args := []string{"main.py"}
	set := s.o.Flags
	if python.Portable { // as its own start files do
		args = []string{"-s", "main.py"}
		set = set.Clone()
		set.Put("windows-standalone-build") //nolint:errcheck // a switch takes no value
	}
	return append(args, set.Args()...)
}

// ready finds Python and looks at everything that may have changed since the last start. The cause is empty when the
// ComfyUI can be started.
func (s *Supervisor) ready(ctx context.Context) (Python, Cause) {
	python, err := FindPython(s.o.Dir, s.o.Python)
	if err != nil {
		return python, causeFromError(CodeNoPython, err)
	}
	found := s.o.check(ctx, &s.o)
	notes := make([]string, 0, len(found))
	for _, f := range found {
		if f.Fatal {
			return python, Cause{Code: CodeSettings, Text: f.Text, Remedy: f.Remedy, lasts: true}.about(f)
		}
		notes = append(notes, f.String())
	}
	s.set(func(st *Status) { st.Notes = notes })
	if who := s.o.holder(s.host); who != "" {
		return python, Cause{
			Code: CodePortTaken, Text: fmt.Sprintf("%s listens at %s already.", who, s.host),
			Remedy: "End it, choose another port with --comfyui-port N, or, if it is the ComfyUI that is meant, use it: --comfyui " + s.Address() + ".",
		}
	}
	return python, Cause{}
}

// about names the flag a finding is about.
func (c Cause) about(f flags.Finding) Cause {
	if f.Flag != "" {
		c.Text = "--comfyui-" + f.Flag + ": " + c.Text
	}
	return c
}

// Why watching ended.
type endWhy uint8

const (
	endItself  endWhy = iota // the program ended
	endStuck                 // it is there and has to be killed
	endBroken                // its GPU failed
	endAsked                 // a restart was asked for
	endContext               // the agent ends
)

type end struct {
	why   endWhy
	cause Cause // of endStuck and endBroken
}

// watch looks after a started program until it ends or has to. What it printed comes after line from.
func (s *Supervisor) watch(ctx context.Context, p proc.Process, from uint64) end {
	looking, stop := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer func() {
		stop()
		asking.Wait()
	}()
	w := watcher{
		pulse: &s.pulse, output: s.o.Output, process: p, o: &s.o, started: time.Now(), answers: make(chan answer, 1), learnt: &s.learnt, scanned: from,
	}
	w.ask = func(facts bool) { asking.Go(func() { s.ask(looking, w.answers, facts) }) }
	tick := time.NewTicker(s.o.tick)
	defer tick.Stop()
	for {
		select {
		case <-p.Done():
			return end{why: endItself}
		case <-ctx.Done():
			return end{why: endContext}
		case why := <-s.kick:
			s.o.Output.Note("A restart was asked for: %s.", why)
			return end{why: endAsked}
		case a := <-w.answers:
			w.asking = false
			if a.err == nil {
				s.took(&w, a)
			}
		case <-tick.C:
			switch verdict := w.look(); {
			case verdict.Code == "" && w.frozen:
				w.recovered()
				s.o.Output.Note("ComfyUI answers again.")
				s.setState(Ready)
			case verdict.Code == "":
			case !w.frozen:
				w.frozen, w.before = true, s.pulse.last()
				s.blame(Frozen, verdict)
				if !w.mayRecover() {
					return end{endStuck, verdict}
				}
			case !w.mayRecover():
				return end{endStuck, verdict}
			}
			if what := s.scan(&w); what != "" {
				return end{endBroken, Cause{
					Code: CodeGPUBroken, Text: fmt.Sprintf("The GPU failed in a run (%s), after which none works until ComfyUI is started anew.", what),
					Remedy: "If it comes again: look at the graph that ran, dmesg and nvidia-smi.",
				}}
			}
		}
	}
}

// took notes what ComfyUI answered.
func (s *Supervisor) took(w *watcher, a answer) {
	w.running = a.waiting > 0
	if !w.ready && a.facts != nil {
		w.ready = true
		s.o.Output.Note("ComfyUI is ready after %s.", time.Since(w.started).Round(100*time.Millisecond))
		defer s.setState(Ready)
	}
	s.set(func(st *Status) { a.note(st) })
}

// scan reads what ComfyUI printed. It counts runs that ended out of GPU memory, and returns what is wrong once the GPU
// has failed: at the next look, when ComfyUI has told that its run is over.
func (s *Supervisor) scan(w *watcher) (broken string) {
	broken = w.broken
	lines := s.o.Output.After(w.scanned)
	if len(lines) == 0 {
		return broken
	}
	w.scanned = lines[len(lines)-1].N
	for _, l := range lines {
		if what, ok := backend.BrokenGPU(l.Text); ok && raised(l.Text) {
			w.broken = what
		}
	}
	if n := len(slices.DeleteFunc(lines, func(l Line) bool { return !strings.HasPrefix(l.Text, "Got an OOM") })); n > 0 {
		s.set(func(st *Status) { st.ComfyUI.OOM += n })
	}
	return broken
}

// raised reports whether a line is ComfyUI's word of an exception, or the end of its traceback.
func raised(line string) bool {
	return strings.HasPrefix(line, "!!! Exception during processing !!! ") ||
		strings.HasPrefix(line, "RuntimeError: ") || strings.HasPrefix(line, "torch.AcceleratorError: ")
}
