package oneshot

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/handover"
)

// ContainerHeader names the container that answered, in every answer of a Jobs: an answer without it is a proxy's.
const ContainerHeader = "Comfyume-Container"

// HandlerOptions are the settings of an agent. The zero value of each field is good.
type HandlerOptions struct {
	Version   string        // of the agent
	Dir       string        // where inputs are on their way; empty: the system's folder of temporary files
	Parallel  int           // jobs at the same time, those that wait for the ComfyUI included; 0: 4
	MaxInputs int64         // bytes of the inputs of one job; 0: 4 GiB
	KeepFor   time.Duration // how long results are kept for a caller who was cut off; 0: 10 min
	Grace     time.Duration // how long a run goes on without a caller, where its request says nothing; 0: 1 min
	FindFor   time.Duration // how long an input that is in storage may take to show up there; 0: 10 s
	BeatEvery time.Duration // the longest silence in an answer; 0: 1.5 s
	Stall     time.Duration // how long a caller may send or take nothing; 0: 30 s
	Refresh   time.Duration // how often what the ComfyUI can run is read anew; 0: 5 min
	// Place is where outputs are left, and inputs are, for studios that ask for it. Nil: they go with the answer, and come
	// with the request.
	Place handover.Place
	// CallBack makes the requests that tell of progress. Nil: one that follows no redirects.
	CallBack *http.Client
	Log      *slog.Logger // nil: nowhere
}

func (o *HandlerOptions) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.KeepFor, 10*time.Minute)
	def(&o.Grace, time.Minute)
	def(&o.FindFor, 10*time.Second)
	def(&o.BeatEvery, 1500*time.Millisecond)
	def(&o.Stall, 30*time.Second)
	def(&o.Refresh, 5*time.Minute)
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.MaxInputs <= 0 {
		o.MaxInputs = 4 << 30
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.CallBack == nil { // the token goes to the address that was given, and nowhere else
		o.CallBack = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
}

// maxKept bounds how many results are kept, maxOver how many ids of runs that are never run again.
const (
	maxKept = 64
	maxOver = 10_000
)

// Jobs runs one job a request on the ComfyUI that a driver speaks to. It is safe for concurrent use. Whoever mounts it
// checks who asks, and gives it a driver that nobody else probes.
type Jobs struct {
	driver    backend.Driver
	options   HandlerOptions
	log       *slog.Logger
	mux       *http.ServeMux
	container string
	info      info

	ctx context.Context // ends with Close
	end context.CancelCauseFunc
	wg  sync.WaitGroup

	mu     sync.Mutex
	works  map[string]*work
	over   []string // ids of runs that were, oldest first
	gone   map[string]bool
	active int // requests being read, and runs that are not over
	closed bool
}

// Handler returns what runs the jobs of an agent. Close it.
func Handler(driver backend.Driver, o HandlerOptions) *Jobs {
	o.setDefaults()
	j := &Jobs{
		driver: driver, options: o, log: o.Log, mux: http.NewServeMux(), container: uuid.NewString(),
		works: make(map[string]*work), gone: make(map[string]bool),
	}
	j.ctx, j.end = context.WithCancelCause(context.Background())
	j.wg.Go(j.tidy)
	j.mux.HandleFunc("POST /run", j.post)
	j.mux.HandleFunc("GET /runs/{id}", j.get)
	j.mux.HandleFunc("DELETE /runs/{id}", j.interrupt)
	j.mux.HandleFunc("GET /info", j.getInfo)
	j.mux.HandleFunc("GET /web", j.web)
	j.mux.HandleFunc("POST /free", j.free)
	j.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "no_route", fault.New(fault.Missing, "The agent has no such address.").
			WithRemedy("The studio and the agent may be of different versions."))
	})
	return j
}

// ServeHTTP answers the studio.
func (j *Jobs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(ContainerHeader, j.container)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	j.mux.ServeHTTP(w, r)
}

// Container names this start of the agent.
func (j *Jobs) Container() string { return j.container }

// Close ends all runs and waits for them. The driver stays open.
func (j *Jobs) Close() error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.end(errStopped)
	j.wg.Wait()
	j.mu.Lock()
	all := j.works
	j.works = make(map[string]*work)
	j.mu.Unlock()
	for _, w := range all {
		w.discard()
	}
	return nil
}

// refuse answers with an error that is no stream.
func refuse(w http.ResponseWriter, status int, code string, err error) {
	text, remedy := fault.Public(err)
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Remedy  string `json:"remedy,omitempty"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message, body.Error.Remedy = code, text, remedy
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the caller is gone then
}

// enter takes a place for a request. It reports false when all are taken.
func (j *Jobs) enter() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || j.active >= j.options.Parallel {
		return false
	}
	j.active++
	return true
}

func (j *Jobs) leave() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.active--
}

// post takes a job and answers with its stream.
func (j *Jobs) post(w http.ResponseWriter, r *http.Request) {
	if !j.enter() {
		w.Header().Set("Retry-After", "2")
		refuse(w, http.StatusTooManyRequests, "busy", fault.New(fault.Busy, "The container has %d jobs already.", j.options.Parallel))
		return
	}
	ours := true // whose the place is
	defer func() {
		if ours {
			j.leave()
		}
	}()
	var folder string
	err := j.options.makeDir()
	if err == nil {
		folder, err = os.MkdirTemp(j.options.Dir, inputsPrefix)
	}
	if err != nil {
		j.log.Error("inputs can't be taken", "err", err)
		refuse(w, http.StatusInsufficientStorage, "no_room", fault.Wrap(fault.Unavailable, err, "The container has no room for inputs."))
		return
	}
	inputs := &inputs{folder: folder}
	q, err := ReadRequest(newPatient(w, r, j.options.Stall), j.options.MaxInputs, inputs.keep)
	if err != nil {
		inputs.discard()
		status, code := http.StatusBadRequest, "bad_request"
		if errors.Is(err, ErrForeign) {
			err = fault.New(fault.Invalid, "The body is no job.").WithRemedy("POST /run is for studios; see that both sides are of one version.")
		} else if !fault.Is(err, fault.Invalid) {
			if !errors.Is(err, ErrCut) && !errors.Is(err, ErrCorrupt) {
				status, code = http.StatusInsufficientStorage, "no_room"
				j.log.Error("inputs can't be taken", "err", err)
			}
			err = fault.Wrap(fault.Invalid, err, "The job did not arrive whole.")
		}
		refuse(w, status, code, err)
		return
	}
	work, fresh := j.take(q, inputs)
	switch {
	case work == nil:
		inputs.discard()
		refuse(w, http.StatusGone, "run_over", fault.New(fault.Conflict, "The run was here before, and is not run twice."))
		return
	case !fresh:
		inputs.discard()
	default:
		ours = false
	}
	work.stream(w, r, cursor{again: !fresh})
}

// take registers a job and lets it run, unless its run id was here before.
func (j *Jobs) take(q Request, in *inputs) (w *work, fresh bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if w := j.works[q.Run]; w != nil {
		return w, false
	}
	if j.gone[q.Run] || j.closed {
		return nil, false
	}
	w = newWork(j, q, in)
	j.works[q.Run] = w
	j.wg.Go(func() {
		w.do()
		j.leave()
	})
	return w, true
}

// find returns a run that is known.
func (j *Jobs) find(id string) *work {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.works[id]
}

// unlist lets the id of a run be run once more: nothing was run under it.
func (j *Jobs) unlist(w *work) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.works[w.q.Run] == w {
		delete(j.works, w.q.Run)
	}
}

// forget drops what is kept of a run. Its id is never run again.
func (j *Jobs) forget(w *work) {
	j.mu.Lock()
	known := j.works[w.q.Run] == w
	if known {
		delete(j.works, w.q.Run)
		j.remember(w.q.Run)
	}
	j.mu.Unlock()
	if known {
		w.discard()
	}
}

// remember keeps an id from being run again. The lock is held.
func (j *Jobs) remember(id string) {
	j.gone[id] = true
	if j.over = append(j.over, id); len(j.over) > maxOver {
		delete(j.gone, j.over[0])
		j.over = j.over[1:]
	}
}

// crowd makes room when too many results are kept: the one that ended first goes.
func (j *Jobs) crowd() {
	j.mu.Lock()
	var oldest *work
	n := 0
	for _, w := range j.works {
		if ended := w.endedAt(); !ended.IsZero() {
			if n++; oldest == nil || ended.Before(oldest.endedAt()) {
				oldest = w
			}
		}
	}
	j.mu.Unlock()
	if n > maxKept {
		j.forget(oldest)
	}
}

// get gives the rest of a run's stream.
func (j *Jobs) get(w http.ResponseWriter, r *http.Request) {
	work := j.find(r.PathValue("id"))
	if work == nil {
		j.unknown(w)
		return
	}
	c := cursor{again: true, have: make(map[int]bool)}
	var err error
	if s := r.URL.Query().Get("from"); s != "" {
		c.from, err = strconv.ParseInt(s, 10, 64)
	}
	if s := r.URL.Query().Get("have"); s != "" && err == nil {
		for word := range strings.SplitSeq(s, ",") {
			n, bad := strconv.Atoi(word)
			err = errors.Join(err, bad)
			if c.have[n] = true; len(c.have) > MaxFiles {
				break
			}
		}
	}
	if err != nil || c.from < 0 {
		refuse(w, http.StatusBadRequest, "bad_request", fault.New(fault.Invalid, "from and have have to be numbers."))
		return
	}
	work.stream(w, r, c)
}

func (j *Jobs) unknown(w http.ResponseWriter) {
	refuse(w, http.StatusNotFound, "unknown_run", fault.New(fault.Missing, "This container does not have the run."))
}

// interrupt stops a run.
func (j *Jobs) interrupt(w http.ResponseWriter, r *http.Request) {
	work := j.find(r.PathValue("id"))
	if work == nil {
		j.unknown(w)
		return
	}
	work.stop("the studio asked for it")
	w.WriteHeader(http.StatusNoContent)
}

// maxFree bounds the body of POST /free.
const maxFree = 4 << 10

// free has the ComfyUI give up memory.
func (j *Jobs) free(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Models bool `json:"unload_models"`
		Memory bool `json:"free_memory"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxFree)).Decode(&body); err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", fault.New(fault.Invalid, "The body is no JSON object with unload_models and free_memory."))
		return
	}
	if err := j.driver.Free(r.Context(), body.Models, body.Memory); err != nil {
		j.refuseDriver(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// web gives a web file of a custom node.
func (j *Jobs) web(w http.ResponseWriter, r *http.Request) {
	body, contentType, err := j.driver.WebFile(r.Context(), r.URL.Query().Get("path"))
	if err != nil {
		j.refuseDriver(w, r, err)
		return
	}
	defer body.Close()
	// It is for the studio alone, and never a page of the agent's.
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set(typeHeader, contentType)
	if _, err := io.Copy(w, body); err != nil && r.Context().Err() == nil {
		j.log.Warn("a web file broke off", "err", err)
		panic(http.ErrAbortHandler) // how a handler tells that an answer is not whole
	}
}

// typeHeader says of what media type a web file is.
const typeHeader = "Comfyume-Type"

// refuseDriver answers with what the driver met.
func (j *Jobs) refuseDriver(w http.ResponseWriter, r *http.Request, err error) {
	t := troubleOf(j.ctx, err)
	status := http.StatusBadGateway
	switch {
	case fault.Is(err, fault.Missing):
		status, t.Class = http.StatusNotFound, "missing"
	case fault.Is(err, fault.Invalid):
		status, t.Class = http.StatusBadRequest, "invalid"
	case r.Context().Err() != nil:
		return
	}
	refuse(w, status, t.Class, fault.Wrap(fault.Unavailable, err, "%s", t.Text).WithRemedy("%s", t.Remedy))
}

// makeDir makes the folder for inputs on their way, unless it is the system's.
func (o *HandlerOptions) makeDir() error {
	if o.Dir == "" {
		return nil
	}
	return os.MkdirAll(o.Dir, 0o700)
}
