package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
)

// names knows what the files of a run are called by their owner. It is safe for concurrent use.
type names struct {
	attempt *attempt
	taken   atomic.Int64 // bytes that came

	mu     sync.Mutex
	cached map[string]bool // nodes that were not run: what they report was made before
	known  map[reported]file.Ref
	gone   map[reported]bool // files that can't be had
}

// reported is a file as a node reported it.
type reported struct {
	node string
	ref  backend.FileRef
}

// noteCached takes in an execution_cached frame or message.
func (n *names) noteCached(data json.RawMessage) {
	var body struct {
		Nodes []string `json:"nodes"`
	}
	if err := json.Unmarshal(data, &body); err != nil || len(body.Nodes) == 0 {
		return
	}
	n.mark(body.Nodes...)
}

// mark takes nodes for cached.
func (n *names) mark(nodes ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cached == nil {
		n.cached = make(map[string]bool, len(nodes))
	}
	for _, id := range nodes {
		n.cached[id] = true
	}
}

// lookup is Names for what has been brought home.
func (n *names) lookup(node string, f backend.FileRef) (file.Ref, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ref, ok := n.known[reported{node, f}]
	return ref, ok
}

// bring makes one file its owner's, unless it is already.
func (n *names) bring(f Found) error {
	key := reported{f.Node, f.Ref}
	n.mu.Lock()
	_, have := n.known[key]
	have = have || n.gone[key]
	cached := n.cached[f.Node]
	n.mu.Unlock()
	if have {
		return nil
	}
	a := n.attempt
	lost, took := false, func() int64 { return 0 }
	out := Output{
		User: a.user, Job: a.id, Fence: a.fence.Load(), Attempt: a.job.Attempt.N, Found: f,
		Origin: Origin{BackEnd: a.backEnd, Epoch: a.run.Epoch(), Ref: f.Ref},
		Open: func(ctx context.Context) (io.ReadCloser, error) {
			r, err := a.run.Fetch(ctx, f.Ref)
			lost = fault.Is(err, fault.Missing)
			if err != nil {
				return nil, err
			}
			r, took = n.weigh(r)
			return r, nil
		},
		PNG: a.tr.PNG(),
	}
	if cached {
		info, err := a.deps.Deliver.Resolve(a.ctx, out)
		if err == nil {
			n.learn(key, info.Ref)
			return nil
		}
		if !fault.Is(err, fault.Missing) {
			return err
		}
		if !f.Marked { // it may come of another person's like graph, and holds their workflow then
			n.lose(key, fmt.Sprintf("An output of node %s was not made anew, and is not known to be yours. Change an input of the node.", f.Node))
			return nil
		}
	}
	info, err := a.deps.Deliver.Deliver(a.ctx, out)
	switch {
	case err == nil:
		n.learn(key, info.Ref)
		return nil
	case errors.Is(err, errTooMuch):
		n.taken.Add(-took())
		a.note().Warn("a back end gave more than is taken of one run", "node", f.Node, "max", a.options.MaxOutput)
		n.lose(key, fmt.Sprintf("An output of node %s was not taken: the files of one run may have %d MB.", f.Node, a.options.MaxOutput>>20))
		return nil
	case lost:
		a.note().Warn("the back end reported a file that it does not have", "node", f.Node, "err", err)
		n.lose(key, fmt.Sprintf("An output of node %s could not be fetched: the GPU no longer has the file.", f.Node))
		return nil
	}
	n.taken.Add(-took()) // it comes again
	return err
}

// lose notes that a file can't be had, and tells its owner why.
func (n *names) lose(key reported, why string) {
	n.mu.Lock()
	if n.gone == nil {
		n.gone = make(map[reported]bool)
	}
	n.gone[key] = true
	n.mu.Unlock()
	a := n.attempt
	a.deps.Bus.Publish(event.Event{User: a.user, Body: event.Notice{Severity: "warn", Text: why}})
}

func (n *names) learn(key reported, ref file.Ref) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil {
		n.known = make(map[reported]file.Ref)
	}
	n.known[key] = ref
}

// maxReport is how many bytes of JSON a run may report, files aside. Graphs can make texts of any length, and each is
// in memory several times on its way to everybody who looks.
const maxReport = 32_000_000

// bringHome makes a result its owner's: files first, then the frames that name them, then the outcome.
func (a *attempt) bringHome(r backend.Result) (job.Outcome, error) {
	sent := a.frames.wait()
	if n := len(r.Outputs) + len(r.Messages); n > maxReport {
		return a.failed("", "", typeTooMuch, fmt.Sprintf(
			"The run reported %d MB of text; the studio takes %d MB. Save long texts to a file.", n/1_000_000, maxReport/1_000_000)), nil
	}
	found := a.tr.ResultFiles(r)
	if len(found) > 0 {
		eachMessage(r.Messages, func(typ string, data json.RawMessage) {
			if typ == "execution_cached" { // in case the frame was missed
				a.names.noteCached(data)
			}
		})
	}
	for _, f := range found {
		if err := a.bringPatiently(f); err != nil {
			return job.Outcome{}, err
		}
	}
	if !sent || r.Gap {
		a.announceMissed(r)
	}
	own, err := a.tr.Result(r, a.names.lookup)
	if err != nil {
		return job.Outcome{}, fmt.Errorf("translating the result: %w", err)
	}
	out := job.Outcome{State: own.State, Outputs: own.Outputs, Messages: own.Messages, Meta: own.Meta}
	out.Summary, out.Error = comfy.Summarize(out.Outputs, out.Messages)
	out.ExecSeconds = comfy.ExecSeconds(out.Summary)
	a.whole = true
	return out, nil
}

// show adds to an outcome what any attempt of the job brought home and it does not name: earlier attempts were lost, and
// the last one may have come less far. Its owner was told of those files, and has them.
func (d *Dispatcher) show(ctx context.Context, j *job.Job, out *job.Outcome) error {
	came, err := d.deps.Deliver.OfJob(ctx, j.User, j.ID)
	if err != nil || len(came) == 0 {
		return err
	}
	files := make([]comfy.Placed, len(came))
	for i, c := range came {
		files[i] = comfy.Placed{
			FileSite:  comfy.FileSite{Node: c.Node, Key: c.Key},
			FileEntry: comfy.FileEntry{Filename: c.Ref.Name, Subfolder: c.Ref.Subfolder, Type: c.Ref.Type},
		}
	}
	all, err := comfy.AddFiles(out.Outputs, files)
	if err != nil { // it would be the same the next time
		d.log.Error("outputs of earlier attempts can't be shown", "job", string(j.ID), "user", j.User, "err", err)
		return nil
	}
	out.Outputs = all
	out.Summary, out.Error = comfy.Summarize(out.Outputs, out.Messages)
	return nil
}

// fetchFor is how long a back end may fail to give a file of a run that is over. After that the job runs again.
const fetchFor = time.Minute

// bringPatiently brings one file home. A back end is given a while, our own disk longer: only its operator can
// make room, and the work is done already.
func (a *attempt) bringPatiently(f Found) error {
	began := time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := a.names.bring(f)
		if err == nil || a.ctx.Err() != nil || errors.Is(err, backend.ErrLost) {
			return err
		}
		limit := a.options.DeliverFor
		if ofBackEnd(err) {
			limit = fetchFor
		}
		switch {
		case fault.Is(err, fault.Conflict): // the fence: the job has moved on
			return errLeaseLost
		case time.Since(began) > limit:
			return fmt.Errorf("bringing an output home: %w", err)
		}
		a.note().Warn("an output could not be brought home yet", "node", f.Node, "err", err)
		select {
		case <-time.After(pause):
		case <-a.ctx.Done():
			return errors.Join(err, context.Cause(a.ctx))
		}
	}
}

// announceMissed sends executed frames for outputs of which the owner's session was not told.
func (a *attempt) announceMissed(r backend.Result) {
	var outputs map[string]json.RawMessage
	if err := json.Unmarshal(r.Outputs, &outputs); err != nil {
		a.note().Warn("outputs that are no object", "err", err)
		return
	}
	var meta map[string]struct {
		Display string `json:"display_node"`
	}
	_ = json.Unmarshal(r.Meta, &meta) // without it nodes are shown as themselves
	a.frames.mu.Lock()
	defer a.frames.mu.Unlock()
	for _, node := range sortedKeys(outputs) {
		if a.frames.announced[node] {
			continue
		}
		display := meta[node].Display
		if display == "" {
			display = node
		}
		data, err := json.Marshal(map[string]any{
			"node": node, "display_node": display, "output": outputs[node], "prompt_id": a.job.Attempt.RunID,
		})
		if err != nil {
			a.note().Warn("an output could not be told", "node", node, "err", err)
			continue
		}
		a.frames.announce(backend.Update{Type: "executed", Node: node, Data: data})
	}
}
