// Package backendtest has what is needed to try drivers and those who use them: a scripted ComfyUI server with
// faults at hand, and the suite that every driver passes.
//
// The fake speaks the protocol truthfully but computes nothing. What a node does is said by its class: see Fake.
package backendtest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"
)

// Fake is a ComfyUI server that plays. It runs one prompt at a time, its nodes in the order of their ids:
//
//	Text    gives its input "text" as output {"text": [...]}
//	Save    writes its input "text" as a file "<prefix>_0000n_.png" of type output and lists it under images
//	Preview as Save, of type temp
//	Audio   as Save, a .flac listed under audio
//	Animated as Save, a .webp, with "animated": [true] beside it
//	Big     as Save, of "size" bytes (a number in a text), which Content makes; see HoldBig
//	Wait    waits until Release is called, the run is interrupted or the server restarted
//	Step    sends progress and a preview
//	Tick    sends progress until the run is interrupted or the server restarted
//	Fail    ends the run with execution_error
//	Load    fails validation when the input file "file" is not there
//
// It is safe for concurrent use.
type Fake struct {
	// Version is told in /system_stats.
	Version string
	// LateHistory is how many looks at the history of an ended run find nothing.
	LateHistory int
	// LateAnswer has the answer to a prompt come after its run.
	LateAnswer bool

	mu         sync.Mutex
	wg         sync.WaitGroup
	frozen     chan struct{} // non-nil while frozen; closed to go on
	number     int
	pending    []*play
	running    *play
	late       map[string]int
	history    map[string]json.RawMessage
	files      map[string][]byte // type/subfolder/name
	sockets    map[string]*fakeSocket
	every      map[*fakeSocket]struct{}
	release    chan struct{}
	requests   map[string]int // by method and path
	clients    []string       // of the prompts
	closed     bool
	mute       bool
	lose       string
	cache      map[string]string // outputs by what made them; nil: nothing is cached
	lossy      bool              // files are reported and not written
	hideCached bool              // cached nodes are in no list of them
	big        map[string]int64  // sizes of files that are made while they are read
	holdBig    chan struct{}     // non-nil: their end is held back until it is closed
	mangled    map[string]http.HandlerFunc
}

// play is one prompt on the fake.
type play struct {
	ID        string
	ClientID  string
	number    int
	graph     map[string]fakeNode
	raw       json.RawMessage
	extra     json.RawMessage
	interrupt chan struct{}
	over      chan struct{} // closed when its last frame is out
	once      sync.Once
	gone      bool // the server was restarted meanwhile
}

type fakeNode struct {
	Class  string                     `json:"class_type"`
	Inputs map[string]json.RawMessage `json:"inputs"`
}

func (n fakeNode) text(key string) string {
	var s string
	if json.Unmarshal(n.Inputs[key], &s) != nil {
		return ""
	}
	return s
}

// NewFake returns a fake server. Close it.
func NewFake() *Fake {
	f := &Fake{Version: "0.3.64", late: map[string]int{}, requests: map[string]int{}, release: make(chan struct{}, 1000)}
	f.reset()
	return f
}

func (f *Fake) reset() {
	f.history, f.files, f.pending, f.running, f.number = map[string]json.RawMessage{}, keepInputs(f.files), nil, nil, 0
	f.big = map[string]int64{}
	clear(f.cache)
	f.sockets, f.every = map[string]*fakeSocket{}, map[*fakeSocket]struct{}{}
}

// keepInputs is what survives a start of the server: all but the temp folder.
func keepInputs(files map[string][]byte) map[string][]byte {
	kept := map[string][]byte{}
	for name, b := range files {
		if !strings.HasPrefix(name, "temp/") {
			kept[name] = b
		}
	}
	return kept
}

// Handler serves the fake's routes.
func (f *Fake) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ws", f.serveSocket)
	mux.HandleFunc("GET /system_stats", f.text(func() string {
		return `{"system":{"os":"posix","comfyui_version":` + strconv.Quote(f.Version) + `,"ram_total":1},"devices":[{"name":"fake","type":"cpu","index":null,"vram_total":10,"vram_free":5}]}`
	}))
	mux.HandleFunc("GET /object_info", f.text(func() string {
		return `{"Text":{"input":{"required":{"text":["STRING",{"max":Infinity}]}},"output":[],"output_node":true,"python_module":"nodes"}}`
	}))
	mux.HandleFunc("GET /models", f.text(func() string { return `["checkpoints"]` }))
	mux.HandleFunc("GET /models/checkpoints", f.text(func() string { return `["a.safetensors"]` }))
	mux.HandleFunc("GET /embeddings", f.text(func() string { return `[]` }))
	mux.HandleFunc("GET /extensions", f.text(func() string { return `["/extensions/pack/a%20b.js"]` }))
	mux.HandleFunc("GET /i18n", f.text(func() string { return `{}` }))
	mux.HandleFunc("GET /extensions/pack/{file}", f.text(func() string { return `export {}` }))
	mux.HandleFunc("GET /prompt", f.text(func() string {
		return fmt.Sprintf(`{"exec_info":{"queue_remaining":%d}}`, f.remaining())
	}))
	mux.HandleFunc("POST /prompt", f.postPrompt)
	mux.HandleFunc("GET /queue", f.getQueue)
	mux.HandleFunc("POST /queue", f.postQueue)
	mux.HandleFunc("GET /history/{id}", f.getHistory)
	mux.HandleFunc("POST /history", f.postHistory)
	mux.HandleFunc("POST /interrupt", f.postInterrupt)
	mux.HandleFunc("POST /free", f.text(func() string { return "" }))
	mux.HandleFunc("POST /upload/image", f.upload)
	mux.HandleFunc("GET /view", f.view)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests[r.Method+" "+r.URL.Path]++
		frozen := f.frozen
		lose := f.lose == r.Method+" "+r.URL.Path
		if lose {
			f.lose = ""
		}
		mangled := f.mangled[r.Method+" "+r.URL.Path]
		f.mu.Unlock()
		if frozen != nil {
			select {
			case <-frozen:
			case <-r.Context().Done():
				return
			}
		}
		if mangled != nil {
			mangled(w, r)
			return
		}
		if lose {
			mux.ServeHTTP(nowhere{}, r)
			panic(http.ErrAbortHandler) // how a handler cuts its connection
		}
		mux.ServeHTTP(w, r)
	})
}

// nowhere takes an answer that is not sent.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) WriteHeader(int)             {}

// LoseAnswer does what the next request of a route, such as "POST /prompt", asks for, and then cuts the
// connection instead of answering.
func (f *Fake) LoseAnswer(route string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lose = route
}

func (f *Fake) text(body func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, body()) }
}

func answer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func (f *Fake) remaining() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count()
}

func (f *Fake) count() int {
	n := len(f.pending)
	if f.running != nil {
		n++
	}
	return n
}

func (f *Fake) postPrompt(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Prompt    json.RawMessage `json:"prompt"`
		PromptID  string          `json:"prompt_id"`
		ClientID  string          `json:"client_id"`
		ExtraData json.RawMessage `json:"extra_data"`
	}
	p := &play{interrupt: make(chan struct{}), over: make(chan struct{})}
	raw, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(raw, &body)
	}
	if err == nil {
		err = json.Unmarshal(body.Prompt, &p.graph)
	}
	if err != nil {
		http.Error(w, "500", http.StatusInternalServerError)
		return
	}
	p.ID, p.ClientID, p.raw, p.extra = body.PromptID, body.ClientID, body.Prompt, body.ExtraData
	if p.ID == "" {
		p.ID = uuid.NewString()
	}
	if len(p.extra) == 0 {
		p.extra = json.RawMessage("{}")
	}
	f.mu.Lock()
	for id, n := range p.graph {
		if _, there := f.files["input/"+n.text("file")]; n.Class == "Load" && !there {
			f.mu.Unlock()
			answer(w, http.StatusBadRequest, fmt.Sprintf(`{"error":{"type":"prompt_outputs_failed_validation","message":"Prompt outputs failed validation","details":"","extra_info":{}},`+
				`"node_errors":{%q:{"errors":[{"type":"custom_validation_failed","message":"Custom validation failed for node","details":"file - Invalid file: %s","extra_info":{}}],"dependent_outputs":[%q],"class_type":"Load"}}}`, id, n.text("file"), id))
			return
		}
	}
	p.number = f.number
	f.number++
	f.clients = append(f.clients, p.ClientID)
	f.pending = append(f.pending, p)
	f.status()
	start := f.running == nil && len(f.pending) == 1 && !f.closed
	f.mu.Unlock()
	if start {
		f.wg.Go(f.work)
	}
	if f.LateAnswer {
		<-p.over
	}
	answer(w, http.StatusOK, fmt.Sprintf(`{"prompt_id":%q,"number":%d,"node_errors":{}}`, p.ID, p.number))
}

func (p *play) tuple() string {
	return fmt.Sprintf(`[%d, %q, %s, %s, []]`, p.number, p.ID, p.raw, p.extra)
}

func (f *Fake) getQueue(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var now, later []string
	if f.running != nil {
		now = append(now, f.running.tuple())
	}
	for _, p := range f.pending {
		later = append(later, p.tuple())
	}
	answer(w, http.StatusOK, `{"queue_running":[`+strings.Join(now, ",")+`],"queue_pending":[`+strings.Join(later, ",")+`]}`)
}

func (f *Fake) postQueue(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Delete []string `json:"delete"`
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		http.Error(w, "500", http.StatusInternalServerError)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = slices.DeleteFunc(f.pending, func(p *play) bool { return slices.Contains(body.Delete, p.ID) })
	f.status()
}

func (f *Fake) getHistory(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	f.mu.Lock()
	entry, ok := f.history[id]
	if ok && f.late[id] < f.LateHistory {
		f.late[id]++
		ok = false
	}
	f.mu.Unlock()
	if !ok {
		answer(w, http.StatusOK, "{}")
		return
	}
	answer(w, http.StatusOK, fmt.Sprintf(`{%q: %s}`, id, entry))
}

func (f *Fake) postHistory(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Delete []string `json:"delete"`
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		http.Error(w, "500", http.StatusInternalServerError)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range body.Delete {
		delete(f.history, id)
	}
}

func (f *Fake) postInterrupt(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ID string `json:"prompt_id"`
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil || (len(raw) > 0 && json.Unmarshal(raw, &body) != nil) {
		http.Error(w, "500", http.StatusInternalServerError)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if body.ID == "" {
		f.requests["POST /interrupt for whatever runs"]++
	}
	if p := f.running; p != nil && (body.ID == "" || body.ID == p.ID) {
		p.once.Do(func() { close(p.interrupt) })
	}
}

// Files lists the files of a type.
func (f *Fake) Files(typ string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		if rest, ok := strings.CutPrefix(name, typ+"/"); ok {
			names = append(names, rest)
		}
	}
	return names
}

// DeleteFile removes a file behind everybody's back.
func (f *Fake) DeleteFile(typ, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.files, typ+"/"+name)
}

// History lists the ids in the history.
func (f *Fake) History() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.history))
}

// Queue returns the id of the running prompt and those of the pending ones.
func (f *Fake) Queue() (running string, pending []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running != nil {
		running = f.running.ID
	}
	for _, p := range f.pending {
		pending = append(pending, p.ID)
	}
	return running, pending
}

// Requests tells how often a route, such as "POST /prompt", was asked for; one that ends with a slash stands for all
// below it. An interrupt that names no run counts as "POST /interrupt for whatever runs" as well. Runs that were begun
// count as "played".
func (f *Fake) Requests(route string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r, times := range f.requests {
		if r == route || strings.HasSuffix(route, "/") && strings.HasPrefix(r, route) {
			n += times
		}
	}
	return n
}

// Clients returns the client ids of the prompts that were taken, in order.
func (f *Fake) Clients() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.clients)
}

// Sockets counts the open sockets.
func (f *Fake) Sockets() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.every)
}
