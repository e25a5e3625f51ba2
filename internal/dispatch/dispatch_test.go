package dispatch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/sqlite"
)

// gpu is one fake server on a network of its own.
type gpu struct {
	*backendtest.Fake
	net *backendtest.Net
}

// studio is the part of a studio that runs jobs: the real queue on the real database, the real fleet and driver,
// against fake servers, in virtual time.
type studio struct {
	*testing.T
	gpus    []*gpu
	path    string
	files   *files
	missing func(backEnd string, classes []string) []string
	room    func() error
	claim   func() error // when it gives an error, that is what claims end with
	load    error        // what the next look at an earlier attempt ends with
	posted  error        // what the next report that a run was posted ends with
	ran     func(j job.Job, backEnd string, ran time.Duration, ok bool)
	taught  []byte // what the schedule learnt
	options dispatch.Options

	// Of one start.
	db      *sqlite.DB
	store   *sqlite.Queue
	queue   *queue.Service
	bus     *event.Bus
	all     *event.Subscription
	disp    *dispatch.Dispatcher
	drivers []*comfyui.Driver
	stop    func()
}

func inBubble(t *testing.T, gpus int, f func(s *studio)) {
	t.Helper()
	// The database keeps requests with their channels in a pool of the whole process, and a channel belongs to its
	// bubble: one bubble at a time, and two collections, which empty such a pool.
	runtime.GC()
	runtime.GC()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &studio{T: t, path: filepath.Join(dir, "studio.db"), files: &files{names: map[owned]file.Ref{}}}
		var serving sync.WaitGroup
		var servers []*http.Server
		for range gpus {
			g := &gpu{backendtest.NewFake(), backendtest.NewNet()}
			srv := &http.Server{Handler: g.Handler()}
			serving.Go(func() { srv.Serve(g.net) })
			s.gpus, servers = append(s.gpus, g), append(servers, srv)
		}
		s.start()
		f(s)
		s.stop()
		for i, g := range s.gpus {
			g.Close()
			g.net.Close()
			servers[i].Close()
		}
		serving.Wait()
	})
}

// start begins a server process.
func (s *studio) start() {
	s.Helper()
	ctx := s.Context()
	var err error
	check := func(err error) {
		s.Helper()
		if err != nil {
			s.Fatal(err)
		}
	}
	s.db, err = sqlite.Open(ctx, s.path, sqlite.Options{})
	check(err)
	s.store, err = sqlite.NewQueue(ctx, s.db)
	check(err)
	s.bus = event.New()
	s.all = s.bus.Subscribe("ann", event.Options{})
	var disp *dispatch.Dispatcher
	s.queue, err = queue.New(ctx, s.store, queue.Options{Mode: queue.RoundRobin, Notify: func(c job.Changed) {
		s.bus.Publish(event.Event{User: c.Job.User, Body: event.JobChanged{Changed: c}})
		disp.JobChanged(c)
	}, Place: func(j job.Job) (job.ClaimParams, bool) { return disp.Place(j) }})
	check(err)
	var members []fleet.Member
	var fl *fleet.Fleet
	s.drivers = nil
	for i, g := range s.gpus {
		name := fmt.Sprintf("gpu%d", i+1)
		d, err := comfyui.New("http://"+name, comfyui.Options{Studio: "t", Dial: g.net.Dial, Changed: func() { fl.Nudge(name) }})
		check(err)
		members = append(members, fleet.Member{Name: name, Driver: d})
		s.drivers = append(s.drivers, d)
	}
	fl, err = fleet.New(members, nothing{}, fleet.Options{Changed: func() { disp.FleetChanged() }})
	check(err)
	disp = dispatch.New(dispatch.Deps{
		Queue: claims{s.queue, s}, Fleet: fl, Deliver: s.files, Rewriter: mirror{}, Bus: s.bus, Missing: s.missing, Room: s.room, Ran: s.ran,
		Taught: func() []byte { return s.taught }, Teach: func(b []byte) { s.taught = b },
	}, s.options)
	s.disp = disp
	run, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := fl.Run(run); err != nil {
			s.Error(err)
		}
	})
	parts.Go(func() {
		if err := disp.Run(run); err != nil {
			s.Error(err)
		}
	})
	s.stop = func() {
		cancel()
		parts.Wait()
		for _, d := range s.drivers {
			if err := d.Close(); err != nil {
				s.Error(err)
			}
		}
		s.all.Close()
		if err := s.store.Close(); err != nil {
			s.Error(err)
		}
		if err := s.db.Close(); err != nil {
			s.Error(err)
		}
	}
	synctest.Wait()
}

// claims is a queue on a disk that may have trouble.
type claims struct {
	*queue.Service
	s *studio
}

func (c claims) Claim(ctx context.Context, id job.ID, p job.ClaimParams) (job.Entry, map[string]string, error) {
	if c.s.claim != nil {
		if err := c.s.claim(); err != nil {
			return job.Entry{}, nil, err
		}
	}
	return c.Service.Claim(ctx, id, p)
}

func (c claims) Load(ctx context.Context, id job.ID, fence int64) (job.Entry, map[string]string, error) {
	if err := c.s.load; err != nil {
		c.s.load = nil
		return job.Entry{}, nil, err
	}
	return c.Service.Load(ctx, id, fence)
}

func (c claims) Posted(id job.ID, fence int64) error {
	if err := c.s.posted; err != nil {
		c.s.posted = nil
		return err
	}
	return c.Service.Posted(id, fence)
}

// nothing is a catalog.
type nothing struct{}

func (nothing) Update(string, backend.Snapshot) (bool, error) { return false, nil }

// submit accepts a job of nodes: "Class text", in order.
func (s *studio) submit(user string, nodes ...string) job.Job {
	s.Helper()
	graph := map[string]any{}
	var outputs []string
	for i, n := range nodes {
		class, text, _ := strings.Cut(n, " ")
		inputs := map[string]any{"text": text}
		if class == "Load" {
			inputs = map[string]any{"file": text}
		}
		graph[fmt.Sprint(i+1)] = map[string]any{"class_type": class, "inputs": inputs}
		if slices.Contains([]string{"Text", "Save", "Preview"}, class) {
			outputs = append(outputs, fmt.Sprint(i+1))
		}
	}
	raw, err := json.Marshal(graph)
	if err != nil {
		s.Fatal(err)
	}
	j, _, err := s.queue.Submit(s.Context(), job.Submission{
		ID: job.ID(uuid.Must(uuid.NewV7()).String()), User: user, ClientID: "sid", Created: time.Now(),
		Request: job.Request{Prompt: raw, ExtraData: json.RawMessage(`{}`), Outputs: outputs},
	})
	if err != nil {
		s.Fatal(err)
	}
	return j
}

// get returns the job with its outcome as it is once nothing moves any more.
func (s *studio) get(j job.Job) job.Entry {
	s.Helper()
	synctest.Wait()
	e, err := s.queue.Entry(s.Context(), j.User, j.PromptID)
	if err != nil {
		s.Fatal(err)
	}
	return e
}

func (s *studio) want(j job.Job, state job.State) job.Entry {
	s.Helper()
	e := s.get(j)
	if e.Job.State != state {
		s.Errorf("job is %s (attempt %+v, error %q), want %s", e.Job.State, e.Job.Attempt, e.Job.Error, state)
	}
	return e
}

// events returns what ann was told since the last call: words such as "submitted", "executed 2", "finished".
func (s *studio) events() []string {
	synctest.Wait()
	var out []string
	for _, e := range s.all.TryBatch(nil) {
		switch b := e.Body.(type) {
		case event.JobChanged:
			out = append(out, string(b.Change))
		case event.RunFrame:
			out = append(out, strings.TrimSpace(b.Type+" "+b.Node))
		case event.RunBinary:
			out = append(out, "binary "+b.Node)
		case event.Notice:
			out = append(out, "notice "+b.Text)
		}
	}
	return out
}

// mirror translates ids only.
type mirror struct{}

func (mirror) Out(_ context.Context, e job.Entry, _ map[string]string) (dispatch.Translation, error) {
	var graph map[string]struct {
		Class  string            `json:"class_type"`
		Inputs map[string]string `json:"inputs"`
	}
	if err := json.Unmarshal(e.Request.Prompt, &graph); err != nil {
		return nil, err
	}
	t := &translation{e: e}
	for _, n := range graph {
		if n.Inputs["text"] == "deleted input" {
			return nil, fault.New(fault.Missing, "The input file is gone.")
		}
		t.classes = append(t.classes, n.Class)
	}
	return t, nil
}

type translation struct {
	e       job.Entry
	classes []string
}

func (t *translation) Task(task *backend.Task) {
	task.Prompt, task.ExtraData = t.e.Request.Prompt, t.e.Request.ExtraData
	task.Outputs, task.Core = t.e.Request.Outputs, true
}
func (t *translation) Needs() []string { return t.classes }

func (t *translation) own(raw json.RawMessage) json.RawMessage {
	return json.RawMessage(strings.ReplaceAll(string(raw), t.e.Job.Attempt.RunID, t.e.Job.PromptID))
}

// images lists the files of a node. Those of Save carry their owner's mark, those of Preview do not.
func images(node string, output json.RawMessage) (found []dispatch.Found) {
	var o struct{ Images []backend.FileRef }
	if json.Unmarshal(output, &o) == nil {
		for i, ref := range o.Images {
			found = append(found, dispatch.Found{Node: node, Key: "images", Index: i, Ref: ref, Marked: ref.Type == "output"})
		}
	}
	return found
}

func (t *translation) Files(u backend.Update) []dispatch.Found {
	var d struct{ Output json.RawMessage }
	if json.Unmarshal(u.Data, &d) != nil {
		return nil
	}
	return images(u.Node, d.Output)
}

func named(raw json.RawMessage, found []dispatch.Found, names dispatch.Names) json.RawMessage {
	for _, f := range found {
		if ref, ok := names(f.Node, f.Ref); ok {
			raw = json.RawMessage(strings.ReplaceAll(string(raw), f.Ref.Filename, ref.Name))
		}
	}
	return raw
}

func (t *translation) In(u backend.Update, names dispatch.Names) (backend.Update, error) {
	u.Data = named(t.own(u.Data), t.Files(u), names)
	return u, nil
}

func (t *translation) ResultFiles(r backend.Result) (found []dispatch.Found) {
	var outputs map[string]json.RawMessage
	if json.Unmarshal(r.Outputs, &outputs) == nil {
		for node, o := range outputs {
			found = append(found, images(node, o)...)
		}
	}
	return found
}

func (t *translation) Result(r backend.Result, names dispatch.Names) (backend.Result, error) {
	r.Outputs = named(r.Outputs, t.ResultFiles(r), names)
	r.Messages = t.own(r.Messages)
	return r, nil
}
func (t *translation) Refused(body json.RawMessage) json.RawMessage { return body }
func (t *translation) PNG() func(io.Reader) io.Reader               { return nil }

// owned is a file that came from a back end for somebody.
type owned struct {
	user string
	from dispatch.Origin
}

// files takes deliveries.
type files struct {
	mu       sync.Mutex
	got      []string // job/node/key/index=bytes
	names    map[owned]file.Ref
	slots    map[job.ID]map[dispatch.Found]file.Ref // what came, by its place
	resolved int
	hold     chan struct{} // when set, deliveries wait for it
	fail     []error       // for the next deliveries
}

func (f *files) Deliver(ctx context.Context, o dispatch.Output) (file.Info, error) {
	f.mu.Lock()
	hold := f.hold
	var fail error
	if len(f.fail) > 0 {
		fail, f.fail = f.fail[0], f.fail[1:]
	}
	f.mu.Unlock()
	if fail != nil {
		return file.Info{}, fail
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return file.Info{}, context.Cause(ctx)
		}
	}
	r, err := o.Open(ctx)
	if err != nil {
		return file.Info{}, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return file.Info{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, fmt.Sprintf("%s/%s/%d=%s", o.Node, o.Key, o.Index, b))
	slot := dispatch.Found{Node: o.Node, Key: o.Key, Index: o.Index}
	ref, there := f.slots[o.Job][slot]
	if !there {
		ref = file.Ref{Type: o.Ref.Type, Name: fmt.Sprintf("own_%d.png", len(f.got))}
	}
	if f.slots == nil {
		f.slots = map[job.ID]map[dispatch.Found]file.Ref{}
	}
	if f.slots[o.Job] == nil {
		f.slots[o.Job] = map[dispatch.Found]file.Ref{}
	}
	f.slots[o.Job][slot] = ref
	f.names[owned{o.User, o.Origin}] = ref
	return file.Info{Ref: ref}, nil
}

func (f *files) OfJob(_ context.Context, _ string, id job.ID) (list []dispatch.Delivered, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for slot, ref := range f.slots[id] {
		list = append(list, dispatch.Delivered{Node: slot.Node, Key: slot.Key, Ref: ref})
	}
	return list, nil
}

func (f *files) Resolve(_ context.Context, o dispatch.Output) (file.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ref, ok := f.names[owned{o.User, o.Origin}]; ok {
		f.resolved++
		return file.Info{Ref: ref}, nil
	}
	return file.Info{}, fault.New(fault.Missing, "not known")
}

// places returns the last places ann was told since the last call.
func (s *studio) places() (last map[job.ID]event.Place) {
	synctest.Wait()
	for _, e := range s.all.TryBatch(nil) {
		if q, ok := e.Body.(event.Queued); ok {
			last = q.Places
		}
	}
	return last
}

// outsider is a driver of a program that is not ours.
func (s *studio) outsider(name string) *comfyui.Driver {
	s.Helper()
	for i, g := range s.gpus {
		if fmt.Sprintf("gpu%d", i+1) == name {
			d, err := comfyui.New("http://"+name, comfyui.Options{Studio: "other", Dial: g.net.Dial})
			if err != nil {
				s.Fatal(err)
			}
			return d
		}
	}
	s.Fatalf("no %s", name)
	return nil
}

// pick returns one member of an object.
func pick(object json.RawMessage, key string) json.RawMessage {
	var m map[string]json.RawMessage
	if json.Unmarshal(object, &m) != nil {
		return nil
	}
	return m[key]
}
